"""Decision-based attacks, which see only the predicted class."""

from jaxadv.attacks.labels.boundary import Boundary
from jaxadv.attacks.labels.geoda import GeoDA
from jaxadv.attacks.labels.hopskipjump import HopSkipJump
from jaxadv.attacks.labels.noises import BlendedNoise, SaltAndPepper
from jaxadv.attacks.labels.pointwise import Pointwise
from jaxadv.attacks.labels.sign_opt import SignOPT

__all__ = [
    "BlendedNoise",
    "Boundary",
    "GeoDA",
    "HopSkipJump",
    "Pointwise",
    "SaltAndPepper",
    "SignOPT",
]
