"""jaxadv: finds out how a classifier can be fooled, and says so in numbers that can be trusted.

>>> import jaxadv as ja
>>> ja.list_attacks()[:3]
['ALMA', 'APGD', 'BIM']
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jaxadv import data, models, report
    from jaxadv.attacks import (
        ALMA,
        APGD,
        BIM,
        CW,
        DDN,
        EAD,
        FAB,
        FGA,
        FGM,
        FGSM,
        FMN,
        JSMA,
        LBFGS,
        MIFGSM,
        PDGD,
        PDPGD,
        PGD,
        VFGA,
        BrendelBethge,
        DeepFool,
        Diverse,
        EachTarget,
        GaussianNoise,
        MinimalEpsilon,
        NewtonFool,
        SigmaZero,
        SparseFool,
        Square,
        SuperDeepFool,
        TrustRegion,
        UniformNoise,
        list_attacks,
    )
    from jaxadv.core.attack import Answer, Attack, Problem, Reads
    from jaxadv.core.goals import Targeted, Untargeted
    from jaxadv.core.model import EOT, Model, from_function
    from jaxadv.core.optimizer import Optimizer
    from jaxadv.core.result import Cost, Result, Status
    from jaxadv.data import load_data
    from jaxadv.engine.batch import drive_batch, make_table, perturb
    from jaxadv.engine.cascades import Hardest
    from jaxadv.engine.certify import Certificates, Smoothed, certify, smoothed_predict
    from jaxadv.engine.checks import CheckWarning
    from jaxadv.engine.cure import cured
    from jaxadv.engine.devices import use_cpu_cores
    from jaxadv.engine.diagnose import Finding, check
    from jaxadv.engine.evaluate import Report, evaluate
    from jaxadv.engine.exact import ExactDistance, ReLUNetwork, exact_distance, relu_network
    from jaxadv.engine.lanes import drive_lanes
    from jaxadv.engine.minimal import Nearest, minimal_distance
    from jaxadv.engine.portfolios import Refine
    from jaxadv.engine.run import Budget, run
    from jaxadv.models import (
        from_keras,
        from_linen,
        from_nnx,
        from_onnx,
        from_torch_arrays,
        load_weights,
        save_weights,
    )

# A name is imported on first use: what only asks for help or a version waits for no compiler.
_MODULES = {
    "attacks": "ALMA APGD BIM BrendelBethge CW DDN DeepFool Diverse EachTarget EAD FAB FGA FGM "
    "FGSM FMN GaussianNoise JSMA LBFGS MIFGSM MinimalEpsilon NewtonFool PDGD PDPGD PGD "
    "SigmaZero SparseFool Square SuperDeepFool TrustRegion UniformNoise VFGA list_attacks",
    "core.attack": "Answer Attack Problem Reads",
    "core.goals": "Targeted Untargeted",
    "core.model": "EOT Model from_function",
    "core.optimizer": "Optimizer",
    "core.result": "Cost Result Status",
    "data": "load_data",
    "engine.batch": "drive_batch make_table perturb",
    "engine.cascades": "Hardest",
    "engine.certify": "Certificates Smoothed certify smoothed_predict",
    "engine.checks": "CheckWarning",
    "engine.cure": "cured",
    "engine.devices": "use_cpu_cores",
    "engine.diagnose": "Finding check",
    "engine.evaluate": "Report evaluate",
    "engine.exact": "ExactDistance ReLUNetwork exact_distance relu_network",
    "engine.lanes": "drive_lanes",
    "engine.minimal": "Nearest minimal_distance",
    "engine.portfolios": "Refine",
    "engine.run": "Budget run",
    "models": "from_keras from_linen from_nnx from_onnx from_torch_arrays load_weights "
    "save_weights",
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(importlib.import_module(f"jaxadv.{_WHERE[name]}"), name)
    elif name in ("attacks", "core", "data", "engine", "models", "report"):
        return importlib.import_module(f"jaxadv.{name}")
    else:
        raise AttributeError(f"module 'jaxadv' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "ALMA",
    "APGD",
    "BIM",
    "CW",
    "DDN",
    "EAD",
    "EOT",
    "FAB",
    "FGA",
    "FGM",
    "FGSM",
    "FMN",
    "JSMA",
    "LBFGS",
    "MIFGSM",
    "PDGD",
    "PDPGD",
    "PGD",
    "VFGA",
    "Answer",
    "Attack",
    "BrendelBethge",
    "Budget",
    "Certificates",
    "CheckWarning",
    "Cost",
    "DeepFool",
    "Diverse",
    "EachTarget",
    "ExactDistance",
    "Finding",
    "GaussianNoise",
    "Hardest",
    "MinimalEpsilon",
    "Model",
    "Nearest",
    "NewtonFool",
    "Optimizer",
    "Problem",
    "ReLUNetwork",
    "Reads",
    "Refine",
    "Report",
    "Result",
    "SigmaZero",
    "Smoothed",
    "SparseFool",
    "Square",
    "Status",
    "SuperDeepFool",
    "Targeted",
    "TrustRegion",
    "UniformNoise",
    "Untargeted",
    "certify",
    "check",
    "cured",
    "data",
    "drive_batch",
    "drive_lanes",
    "evaluate",
    "exact_distance",
    "from_function",
    "from_keras",
    "from_linen",
    "from_nnx",
    "from_onnx",
    "from_torch_arrays",
    "list_attacks",
    "load_data",
    "load_weights",
    "make_table",
    "minimal_distance",
    "models",
    "perturb",
    "relu_network",
    "report",
    "run",
    "save_weights",
    "smoothed_predict",
    "use_cpu_cores",
]
