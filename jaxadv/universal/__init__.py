"""Universal perturbations: one change that fools a network on most images."""

from jaxadv.universal.aggregation import UniversalAggregation
from jaxadv.universal.ascent import UniversalAscent
from jaxadv.universal.data_free import activations, data_free_perturbation
from jaxadv.universal.fooling import Fooling, compare, judge
from jaxadv.universal.patch import Patch, PatchAscent, paste, universal_patch
from jaxadv.universal.perturbation import Universal, universal_perturbation
from jaxadv.universal.training import universal_training

__all__ = [
    "Fooling",
    "Patch",
    "PatchAscent",
    "Universal",
    "UniversalAggregation",
    "UniversalAscent",
    "activations",
    "compare",
    "data_free_perturbation",
    "judge",
    "paste",
    "universal_patch",
    "universal_perturbation",
    "universal_training",
]
