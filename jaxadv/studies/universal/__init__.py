"""Universal perturbations: one change that fools a network on most images."""

from jaxadv.studies.universal.aggregation import UniversalAggregation
from jaxadv.studies.universal.ascent import UniversalAscent
from jaxadv.studies.universal.data_free import activations, data_free_perturbation
from jaxadv.studies.universal.fooling import Fooling, compare, judge
from jaxadv.studies.universal.patch import Patch, PatchAscent, paste, universal_patch
from jaxadv.studies.universal.perturbation import Universal, universal_perturbation
from jaxadv.studies.universal.training import universal_training

__all__ = [
    "Fooling", "Patch", "PatchAscent", "Universal", "UniversalAggregation", "UniversalAscent",
    "activations", "compare", "data_free_perturbation", "judge", "paste", "universal_patch",
    "universal_perturbation", "universal_training",
]  # fmt: skip
