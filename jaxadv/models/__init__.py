"""Models: adapters, definitions, weights on disk, published networks and training.

Importing this package imports neither Flax nor optax until a name that needs them is used.
"""

import importlib
from typing import Any

_WHERE = {
    "from_linen": "adapters",
    "from_nnx": "adapters",
    "from_onnx": "onnx",
    "in_bfloat16": "adapters",
    "normalized": "adapters",
    "from_keras": "adapters",
    "from_sklearn": "scikit_learn",
    "from_torch_arrays": "torch_arrays",
    "DEFINITIONS": "definitions",
    "get_definition": "definitions",
    "save_weights": "weights",
    "load_weights": "weights",
    "PUBLISHED": "published",
    "load_published": "published",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
