"""Attacks that leave the norms' balls: the picture is moved, or its colours are."""

from jaxadv.attacks.beyond.recoloradv import ReColorAdv
from jaxadv.attacks.beyond.spatial import Spatial
from jaxadv.attacks.beyond.stadv import StAdv
from jaxadv.attacks.beyond.wasserstein import Wasserstein

__all__ = ["ReColorAdv", "Spatial", "StAdv", "Wasserstein"]
