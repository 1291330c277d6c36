"""All supported operators, by domain and by name."""

from types import ModuleType

from jaxadv.models.onnx import (
    classical,
    convolution,
    elementwise,
    indexing,
    normalization,
    quantization,
    recurrent,
    reductions,
    resize,
    shapes,
)
from jaxadv.models.onnx.node import Operator


def _all(*families: ModuleType) -> dict[str, Operator]:
    return dict(sorted(pair for family in families for pair in family.OPERATORS.items()))


_STANDARD = _all(
    convolution,
    elementwise,
    indexing,
    normalization,
    quantization,
    recurrent,
    reductions,
    resize,
    shapes,
)
DOMAINS = {"": _STANDARD, "ai.onnx": _STANDARD, "ai.onnx.ml": classical.OPERATORS}
OPERATORS = _STANDARD | classical.OPERATORS

# The inputs that must be known before the program runs, by their position.
DECIDING = {
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "Expand": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
} | {name: (1,) for name in _STANDARD if name.startswith("Reduce")}
