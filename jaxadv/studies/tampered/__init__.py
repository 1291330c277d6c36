"""A class, or a detector, for images that were tampered with or are not natural: what it is worth
against who knows of it."""

from jaxadv.studies.tampered.defences import Defence, detector_defence, extra_class
from jaxadv.studies.tampered.families import Fooling, Made, Noise, Perturbed, Universal
from jaxadv.studies.tampered.outcome import Confrontation, Outcome, confront

__all__ = [
    "Confrontation", "Defence", "Fooling", "Made", "Noise", "Outcome", "Perturbed", "Universal",
    "confront", "detector_defence", "extra_class",
]  # fmt: skip
