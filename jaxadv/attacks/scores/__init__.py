"""Score-based attacks, which see logits and no gradients."""

from jaxadv.attacks.scores.nes import NES, SPSA
from jaxadv.attacks.scores.one_pixel import OnePixel
from jaxadv.attacks.scores.simba import SimBA
from jaxadv.attacks.scores.sparse_rs import SparseRS
from jaxadv.attacks.scores.square import Square
from jaxadv.attacks.scores.zoo import ZOO

__all__ = ["NES", "SPSA", "ZOO", "OnePixel", "SimBA", "SparseRS", "Square"]
