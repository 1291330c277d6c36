"""Fooling images: meaningless images that a network classifies confidently (Nguyen et al. 2014)."""

from jaxadv.fooling.encodings import CPPN, Direct, Encoding
from jaxadv.fooling.evolution import FoolingImages, fooling_images
from jaxadv.fooling.resemblance import Resemblance

__all__ = ["CPPN", "Direct", "Encoding", "FoolingImages", "Resemblance", "fooling_images"]
