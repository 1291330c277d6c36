"""Attacks outside the Lp balls: spatial changes, changes of colour and transport of brightness."""

from jaxadv.attacks.beyond.recoloradv import ReColorAdv
from jaxadv.attacks.beyond.spatial import Spatial
from jaxadv.attacks.beyond.stadv import StAdv
from jaxadv.attacks.beyond.wasserstein import Wasserstein

__all__ = ["ReColorAdv", "Spatial", "StAdv", "Wasserstein"]
