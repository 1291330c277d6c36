"""All supported operators by name, those that are kept whole, and those that draw at random."""

import math
import operator

from jaxadv.models.pytorch import (
    convolution,
    elementwise,
    indexing,
    normalization,
    reductions,
    resize,
    shapes,
)
from jaxadv.models.pytorch.node import Operator, operators

# Of sizes, which are numbers when the program is traced. Names of Python functions.
_SIZES = operators(
    {
        "add": operator.add,
        "and_": operator.and_,
        "ceil": math.ceil,
        "eq": operator.eq,
        "floor": math.floor,
        "floordiv": operator.floordiv,
        "ge": operator.ge,
        "getitem": operator.getitem,
        "gt": operator.gt,
        "le": operator.le,
        "lt": operator.lt,
        "mod": operator.mod,
        "mul": operator.mul,
        "ne": operator.ne,
        "neg": operator.neg,
        "pow": operator.pow,
        "sub": operator.sub,
        "sym_float": float,
        "sym_int": int,
        "sym_max": max,
        "sym_min": min,
        "sym_not": operator.not_,
        "sym_sum": sum,
        "trunc": math.trunc,
        "truediv": operator.truediv,
    },
    "held",
)

PYTHON = "python."  # what a name of `_SIZES` begins with in a program

OPERATORS: dict[str, Operator] = (
    convolution.OPERATORS
    | elementwise.OPERATORS
    | indexing.OPERATORS
    | normalization.OPERATORS
    | reductions.OPERATORS
    | resize.OPERATORS
    | shapes.OPERATORS
    | operators({"sym_size": lambda x, axis: x.shape[axis]}, "held")
    | {PYTHON + name: function for name, function in _SIZES.items()}
)

# Torch would write these as several smaller ones, which compile longer and run more slowly; and
# "detach", which stops gradients, as one that does not.
WHOLE = (
    "detach",
    "linear",
    "matmul",
    "scaled_dot_product_attention",
    "_upsample_nearest_exact2d",
    "upsample_bicubic2d",
    "upsample_bilinear2d",
    "upsample_nearest2d",
    "pixel_shuffle",
    "pixel_unshuffle",
    "hardswish",
    "hardsigmoid",
    "mish",
    "silu",
    "softplus",
    "native_group_norm",
    "native_layer_norm",
)

RANDOM = (
    "bernoulli",
    "multinomial",
    "normal",
    "normal_functional",
    "poisson",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "randperm",
    "rrelu_with_noise",
    "uniform",
)


def find(name: str) -> Operator | None:
    """Return the operator of a name with its overload, or None if it is not supported."""
    plain = "" if name.startswith(PYTHON) else name.partition(".")[0]
    return OPERATORS.get(name) or OPERATORS.get(plain)
