"""Decision-based attacks, which see only the predicted class."""

from jaxadv.attacks.decision_based.boundary import Boundary
from jaxadv.attacks.decision_based.geoda import GeoDA
from jaxadv.attacks.decision_based.hopskipjump import HopSkipJump
from jaxadv.attacks.decision_based.noises import BlendedNoise, SaltAndPepper
from jaxadv.attacks.decision_based.pointwise import Pointwise
from jaxadv.attacks.decision_based.sign_opt import SignOPT

__all__ = [
    "BlendedNoise",
    "Boundary",
    "GeoDA",
    "HopSkipJump",
    "Pointwise",
    "SaltAndPepper",
    "SignOPT",
]
