"""Fooling images: meaningless images that a network classifies confidently (Nguyen et al. 2014)."""

from jaxadv.studies.fooling.encodings import CPPN, Direct, Encoding
from jaxadv.studies.fooling.evolution import FoolingImages, fooling_images

__all__ = ["CPPN", "Direct", "Encoding", "FoolingImages", "fooling_images"]
