"""Score-based attacks, which see logits and no gradients."""

from jaxadv.attacks.score_based.nes import NES, SPSA
from jaxadv.attacks.score_based.one_pixel import OnePixel
from jaxadv.attacks.score_based.simba import SimBA
from jaxadv.attacks.score_based.sparse_rs import SparseRS
from jaxadv.attacks.score_based.square import Square
from jaxadv.attacks.score_based.zoo import ZOO

__all__ = ["NES", "SPSA", "ZOO", "OnePixel", "SimBA", "SparseRS", "Square"]
