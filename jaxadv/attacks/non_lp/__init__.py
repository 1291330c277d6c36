"""Attacks outside the Lp balls: spatial changes, changes of colour and transport of brightness."""

from jaxadv.attacks.non_lp.recoloradv import ReColorAdv
from jaxadv.attacks.non_lp.spatial import Spatial
from jaxadv.attacks.non_lp.stadv import StAdv
from jaxadv.attacks.non_lp.wasserstein import Wasserstein

__all__ = ["ReColorAdv", "Spatial", "StAdv", "Wasserstein"]
