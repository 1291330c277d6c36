"""jaxadv: finds out how a classifier can be fooled, and says so in numbers that can be trusted.

>>> import jaxadv as ja
>>> ja.list_attacks()[:3]
['ALMA', 'APGD', 'Admix']
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jaxadv import data, models, report, sweep
    from jaxadv.attacks import (
        ALMA,
        APGD,
        BIM,
        CW,
        DDN,
        DIFGSM,
        EAD,
        FAB,
        FGA,
        FGM,
        FGSM,
        FMN,
        ILA,
        JSMA,
        LBFGS,
        MIFGSM,
        NES,
        NIFGSM,
        PDGD,
        PDPGD,
        PGD,
        SIFGSM,
        SINIFGSM,
        SPSA,
        TIFGSM,
        VFGA,
        VMIFGSM,
        VNIFGSM,
        ZOO,
        Admix,
        AdversarialPatch,
        BlendedNoise,
        Boundary,
        BrendelBethge,
        DeepFool,
        Diverse,
        EachTarget,
        GaussianNoise,
        GeoDA,
        HopSkipJump,
        Masked,
        MinimalEpsilon,
        NewtonFool,
        OnePixel,
        Pointwise,
        ReColorAdv,
        Repeated,
        SaltAndPepper,
        SigmaZero,
        SignOPT,
        SimBA,
        SparseFool,
        SparseRS,
        Spatial,
        Square,
        StAdv,
        SuperDeepFool,
        Transfer,
        TrustRegion,
        UniformNoise,
        Wasserstein,
        list_attacks,
    )
    from jaxadv.core.attack import Answer, Attack, Problem, Reads
    from jaxadv.core.goals import Evading, Targeted, Untargeted
    from jaxadv.core.model import EOT, Model, ensemble, from_features, from_function, with_detector
    from jaxadv.core.optimizer import Optimizer
    from jaxadv.core.result import Cost, Result, Status
    from jaxadv.core.transforms import (
        JPEG,
        Brightness,
        Contrast,
        Cropping,
        GaussianBlur,
        Identity,
        Noise,
        Rescaling,
        Rounding,
        Shifting,
        Transform,
        transformed,
    )
    from jaxadv.core.window import windowed
    from jaxadv.data import load_data
    from jaxadv.engine.batch import drive_batch, make_table, perturb
    from jaxadv.engine.cascades import Hardest, Nearly
    from jaxadv.engine.certify import Certificates, Smoothed, certify, smoothed_predict
    from jaxadv.engine.checks import CheckWarning
    from jaxadv.engine.chunk import Budget
    from jaxadv.engine.cure import cured
    from jaxadv.engine.curves import Asked, QueryCurve, compare_queries, query_curve
    from jaxadv.engine.devices import use_cpu_cores
    from jaxadv.engine.diagnose import Finding, check
    from jaxadv.engine.evaluate import Report, evaluate
    from jaxadv.engine.exact import (
        ExactDistance,
        LinearClassifier,
        ReLUNetwork,
        TreeEnsemble,
        exact_distance,
        linear_classifier,
        relu_network,
        tree_ensemble,
    )
    from jaxadv.engine.lanes import drive_lanes
    from jaxadv.engine.minimal import Nearest, minimal_distance
    from jaxadv.engine.run import run
    from jaxadv.engine.smoothed import AttackedSmoothed, attack_smoothed, soft_smoothed
    from jaxadv.engine.stage import Refine
    from jaxadv.models import (
        from_keras,
        from_linen,
        from_nnx,
        from_onnx,
        from_sklearn,
        from_torch_arrays,
        load_weights,
        save_weights,
    )
    from jaxadv.studies.fooling import FoolingImages, fooling_images
    from jaxadv.studies.streams import Streams, streams
    from jaxadv.studies.survival import Survival, survival
    from jaxadv.studies.universal import (
        PatchAscent,
        UniversalAggregation,
        UniversalAscent,
        data_free_perturbation,
        universal_patch,
        universal_perturbation,
        universal_training,
    )
    from jaxadv.sweep import SweepStore, compare_stores, run_sweep

# A name is imported on first use: what only asks for help or a version waits for no compiler.
_MODULES = {
    "attacks": "Admix AdversarialPatch ALMA APGD BIM BlendedNoise Boundary BrendelBethge CW DDN "
    "DeepFool DIFGSM Diverse EachTarget EAD FAB FGA FGM FGSM FMN GaussianNoise GeoDA "
    "HopSkipJump ILA JSMA LBFGS Masked MIFGSM MinimalEpsilon NES NewtonFool NIFGSM "
    "OnePixel PDGD PDPGD PGD Pointwise ReColorAdv Repeated SaltAndPepper SIFGSM SigmaZero "
    "SignOPT SimBA SINIFGSM SparseFool SparseRS Spatial SPSA Square StAdv SuperDeepFool "
    "TIFGSM Transfer TrustRegion UniformNoise VFGA VMIFGSM VNIFGSM Wasserstein ZOO "
    "list_attacks",
    "core.attack": "Answer Attack Problem Reads",
    "core.goals": "Evading Targeted Untargeted",
    "core.model": "EOT Model ensemble from_features from_function with_detector",
    "core.optimizer": "Optimizer",
    "core.result": "Cost Result Status",
    "core.transforms": "Brightness Contrast Cropping GaussianBlur Identity JPEG Noise Rescaling "
    "Rounding Shifting Transform transformed",
    "core.window": "windowed",
    "data": "load_data",
    "engine.batch": "drive_batch make_table perturb",
    "engine.cascades": "Hardest Nearly",
    "engine.certify": "Certificates Smoothed certify smoothed_predict",
    "engine.checks": "CheckWarning",
    "engine.cure": "cured",
    "engine.curves": "Asked QueryCurve compare_queries query_curve",
    "engine.devices": "use_cpu_cores",
    "engine.diagnose": "Finding check",
    "engine.evaluate": "Report evaluate",
    "engine.exact": "ExactDistance LinearClassifier ReLUNetwork TreeEnsemble exact_distance "
    "linear_classifier relu_network tree_ensemble",
    "engine.lanes": "drive_lanes",
    "engine.minimal": "Nearest minimal_distance",
    "engine.stage": "Refine",
    "engine.chunk": "Budget",
    "engine.run": "run",
    "engine.smoothed": "AttackedSmoothed attack_smoothed soft_smoothed",
    "studies.fooling": "FoolingImages fooling_images",
    "studies.streams": "Streams streams",
    "studies.survival": "Survival survival",
    "models": "from_keras from_linen from_nnx from_onnx from_sklearn from_torch_arrays "
    "load_weights save_weights",
    "studies.universal": "PatchAscent UniversalAggregation UniversalAscent "
    "data_free_perturbation universal_patch universal_perturbation universal_training",
    "sweep": "SweepStore compare_stores run_sweep",
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(importlib.import_module(f"jaxadv.{_WHERE[name]}"), name)
    elif name in ("attacks", "core", "data", "engine", "models", "report", "sweep"):
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
    "DIFGSM",
    "EAD",
    "EOT",
    "FAB",
    "FGA",
    "FGM",
    "FGSM",
    "FMN",
    "ILA",
    "JPEG",
    "JSMA",
    "LBFGS",
    "MIFGSM",
    "NES",
    "NIFGSM",
    "PDGD",
    "PDPGD",
    "PGD",
    "SIFGSM",
    "SINIFGSM",
    "SPSA",
    "TIFGSM",
    "VFGA",
    "VMIFGSM",
    "VNIFGSM",
    "ZOO",
    "Admix",
    "AdversarialPatch",
    "Answer",
    "Asked",
    "Attack",
    "AttackedSmoothed",
    "BlendedNoise",
    "Boundary",
    "BrendelBethge",
    "Brightness",
    "Budget",
    "Certificates",
    "CheckWarning",
    "Contrast",
    "Cost",
    "Cropping",
    "DeepFool",
    "Diverse",
    "EachTarget",
    "Evading",
    "ExactDistance",
    "Finding",
    "FoolingImages",
    "GaussianBlur",
    "GaussianNoise",
    "GeoDA",
    "Hardest",
    "HopSkipJump",
    "Identity",
    "LinearClassifier",
    "Masked",
    "MinimalEpsilon",
    "Model",
    "Nearest",
    "Nearly",
    "NewtonFool",
    "Noise",
    "OnePixel",
    "Optimizer",
    "PatchAscent",
    "Pointwise",
    "Problem",
    "QueryCurve",
    "ReColorAdv",
    "ReLUNetwork",
    "Reads",
    "Refine",
    "Repeated",
    "Report",
    "Rescaling",
    "Result",
    "Rounding",
    "SaltAndPepper",
    "Shifting",
    "SigmaZero",
    "SignOPT",
    "SimBA",
    "Smoothed",
    "SparseFool",
    "SparseRS",
    "Spatial",
    "Square",
    "StAdv",
    "Status",
    "Streams",
    "SuperDeepFool",
    "Survival",
    "SweepStore",
    "Targeted",
    "Transfer",
    "Transform",
    "TreeEnsemble",
    "TrustRegion",
    "UniformNoise",
    "UniversalAggregation",
    "UniversalAscent",
    "Untargeted",
    "Wasserstein",
    "attack_smoothed",
    "certify",
    "check",
    "compare_queries",
    "compare_stores",
    "cured",
    "data",
    "data_free_perturbation",
    "drive_batch",
    "drive_lanes",
    "ensemble",
    "evaluate",
    "exact_distance",
    "fooling_images",
    "from_features",
    "from_function",
    "from_keras",
    "from_linen",
    "from_nnx",
    "from_onnx",
    "from_sklearn",
    "from_torch_arrays",
    "linear_classifier",
    "list_attacks",
    "load_data",
    "load_weights",
    "make_table",
    "minimal_distance",
    "models",
    "perturb",
    "query_curve",
    "relu_network",
    "report",
    "run",
    "run_sweep",
    "save_weights",
    "smoothed_predict",
    "soft_smoothed",
    "streams",
    "survival",
    "sweep",
    "transformed",
    "tree_ensemble",
    "universal_patch",
    "universal_perturbation",
    "universal_training",
    "use_cpu_cores",
    "windowed",
    "with_detector",
]
