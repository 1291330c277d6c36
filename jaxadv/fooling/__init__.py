"""Fooling images: meaningless images that a network classifies confidently (Nguyen et al. 2014)."""

from jaxadv.fooling.encodings import CPPN, Direct, Encoding
from jaxadv.fooling.evolution import FoolingImages, fooling_images

__all__ = ["CPPN", "Direct", "Encoding", "FoolingImages", "fooling_images"]
