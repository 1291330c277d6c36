"""Attacks that see the predicted class and no more."""

from jaxadv.attacks.labels.boundary import Boundary
from jaxadv.attacks.labels.geoda import GeoDA
from jaxadv.attacks.labels.hopskipjump import HopSkipJump
from jaxadv.attacks.labels.noises import BlendedNoise, SaltAndPepper

__all__ = ["BlendedNoise", "Boundary", "GeoDA", "HopSkipJump", "SaltAndPepper"]
