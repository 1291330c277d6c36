"""jaxadv: finds out how a classifier can be fooled, and says so in numbers that can be trusted.

>>> import jaxadv as ja
>>> ja.list_attacks()[:3]
['BIM', 'FGM', 'FGSM']
"""

import importlib
from typing import Any

from jaxadv.attacks import (
    BIM,
    FGM,
    FGSM,
    MIFGSM,
    PGD,
    GaussianNoise,
    MinimalEpsilon,
    UniformNoise,
    list_attacks,
)
from jaxadv.core.attack import Answer, Attack, Problem, Reads
from jaxadv.core.goals import Targeted, Untargeted
from jaxadv.core.model import Model, from_function
from jaxadv.core.optimizer import Optimizer
from jaxadv.core.result import Cost, Result, Status
from jaxadv.engine.batch import drive_batch, make_table, perturb
from jaxadv.engine.checks import CheckWarning
from jaxadv.engine.cure import cured
from jaxadv.engine.devices import use_cpu_cores
from jaxadv.engine.lanes import drive_lanes
from jaxadv.engine.evaluate import Report, evaluate
from jaxadv.engine.run import Budget, run

__version__ = "0.1.0"

_LAZY = {  # what needs flax or a data library is imported on first use
    "from_linen": "jaxadv.models",
    "from_nnx": "jaxadv.models",
    "load_weights": "jaxadv.models",
    "save_weights": "jaxadv.models",
    "load_data": "jaxadv.data",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in ("models", "data", "report"):
        return importlib.import_module(f"jaxadv.{name}")
    raise AttributeError(f"module 'jaxadv' has no attribute {name!r}")


__all__ = [
    "BIM", "FGM", "FGSM", "MIFGSM", "PGD", "Answer", "Attack", "Budget", "CheckWarning", "Cost",
    "GaussianNoise", "MinimalEpsilon", "Model", "Optimizer", "Problem", "Reads", "Report", "Result", "Status",
    "Targeted", "UniformNoise", "Untargeted", "cured", "drive_batch", "drive_lanes", "evaluate",
    "from_function", "list_attacks", "make_table", "perturb", "run", "use_cpu_cores", *_LAZY,
]  # fmt: skip
