"""Rejection of tampered or unnatural images by an extra class or a detector, under attack."""

from jaxadv.studies.tampered.defences import Defence, detector_defence, extra_class
from jaxadv.studies.tampered.families import Fooling, Made, Noise, Perturbed, Universal
from jaxadv.studies.tampered.outcome import Confrontation, Outcome, confront

__all__ = [
    "Confrontation",
    "Defence",
    "Fooling",
    "Made",
    "Noise",
    "Outcome",
    "Perturbed",
    "Universal",
    "confront",
    "detector_defence",
    "extra_class",
]
