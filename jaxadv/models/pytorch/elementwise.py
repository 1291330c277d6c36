"""Operators that compute each entry from the entries at the same position.

Where a function has a kink, its derivative there is torch's.
"""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxadv.core.typing import ArrayLike
from jaxadv.models.pytorch.node import Operator, operators

Scalar = Any  # a number or an array


def _add(x: Scalar, other: Scalar, *, alpha: float = 1) -> ArrayLike:
    return jnp.add(x, other if alpha == 1 else alpha * other)


def _subtract(x: Scalar, other: Scalar, alpha: float = 1) -> ArrayLike:
    return jnp.subtract(x, other if alpha == 1 else alpha * other)


def _multiply(x: Scalar, other: Scalar) -> ArrayLike:
    return jnp.multiply(x, other)


def _divide(x: Scalar, other: Scalar, *, rounding_mode: str | None = None) -> ArrayLike:
    if rounding_mode is None:
        return jnp.true_divide(x, other)
    return jnp.floor_divide(x, other) if rounding_mode == "floor" else jnp.trunc(x / other)


def _power(x: Scalar, exponent: Scalar) -> ArrayLike:
    if isinstance(exponent, float) and exponent.is_integer():
        exponent = int(exponent)
    return lax.integer_pow(x, exponent) if isinstance(exponent, int) else jnp.power(x, exponent)


def _clamp(x: ArrayLike, min: Scalar = None, max: Scalar = None) -> ArrayLike:
    """Clip; the derivative at the limits is 1."""
    x = x if min is None else jnp.where(x < min, jnp.asarray(min, x.dtype), x)
    return x if max is None else jnp.where(x > max, jnp.asarray(max, x.dtype), x)


def _hardtanh(x: ArrayLike, min: float = -1.0, max: float = 1.0) -> ArrayLike:
    """Clip; the derivative at the limits is 0."""
    return jnp.where(x <= min, min, jnp.where(x >= max, max, x)).astype(x.dtype)


def _hardsigmoid(x: ArrayLike) -> ArrayLike:
    return _hardtanh(x + 3, 0, 6) / 6


def _leaky_relu(x: ArrayLike, slope: float = 0.01) -> ArrayLike:
    return jnp.where(x > 0, x, slope * x)


def _elu(x: ArrayLike, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> ArrayLike:
    below = jnp.expm1(jnp.where(x > 0, 0, x) * input_scale)
    return scale * jnp.where(x > 0, x, alpha * below)


def _gelu(x: ArrayLike, *, approximate: str = "none") -> ArrayLike:
    return jax.nn.gelu(x, approximate=approximate == "tanh")


def _softplus(x: ArrayLike, beta: float = 1, threshold: float = 20) -> ArrayLike:
    return jnp.where(x * beta > threshold, x, jax.nn.softplus(x * beta) / beta)


def _prelu(x: ArrayLike, weight: ArrayLike) -> ArrayLike:
    return jnp.where(x > 0, x, weight * x)


def _threshold(x: ArrayLike, threshold: float, value: float) -> ArrayLike:
    return jnp.where(x <= threshold, value, x).astype(x.dtype)


def _round(x: ArrayLike, *, decimals: int = 0) -> ArrayLike:
    return jnp.round(x, decimals)


def _truth(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, *other: function(jnp.asarray(x) != 0, *(jnp.asarray(o) != 0 for o in other))


OPERATORS: dict[str, Operator] = operators(
    {
        "_prelu_kernel": _prelu,
        "abs": jnp.abs,
        "acos": jnp.arccos,
        "add": _add,
        "addcdiv": lambda x, a, b, *, value=1: x + value * (a / b),
        "addcmul": lambda x, a, b, *, value=1: x + value * (a * b),
        "asin": jnp.arcsin,
        "atan": jnp.arctan,
        "atan2": jnp.arctan2,
        "bitwise_and": jnp.bitwise_and,
        "bitwise_not": jnp.bitwise_not,
        "bitwise_or": jnp.bitwise_or,
        "bitwise_xor": jnp.bitwise_xor,
        "ceil": jnp.ceil,
        "clamp": _clamp,
        "clamp_max": lambda x, max: _clamp(x, None, max),
        "clamp_min": _clamp,
        "cos": jnp.cos,
        "cosh": jnp.cosh,
        "div": _divide,
        "elu": _elu,
        "eq": jnp.equal,
        "erf": lax.erf,
        "exp": jnp.exp,
        "expm1": jnp.expm1,
        "floor": jnp.floor,
        "floor_divide": jnp.floor_divide,
        "fmod": jnp.fmod,
        "ge": jnp.greater_equal,
        "gelu": _gelu,
        "gt": jnp.greater,
        "hardsigmoid": _hardsigmoid,
        "hardswish": lambda x: x * _hardsigmoid(x),
        "hardtanh": _hardtanh,
        "isinf": jnp.isinf,
        "isnan": jnp.isnan,
        "le": jnp.less_equal,
        "leaky_relu": _leaky_relu,
        "lerp": lambda x, end, weight: x + weight * (end - x),
        "log": jnp.log,
        "log10": jnp.log10,
        "log1p": jnp.log1p,
        "log2": jnp.log2,
        "log_sigmoid_forward": lambda x: (jax.nn.log_sigmoid(x), None),
        "logical_and": _truth(jnp.logical_and),
        "logical_not": _truth(jnp.logical_not),
        "logical_or": _truth(jnp.logical_or),
        "logical_xor": _truth(jnp.logical_xor),
        "lt": jnp.less,
        "masked_fill": lambda x, mask, value: jnp.where(mask, value, x).astype(x.dtype),
        "maximum": jnp.maximum,
        "minimum": jnp.minimum,
        "mish": jax.nn.mish,
        "mul": _multiply,
        "ne": jnp.not_equal,
        "neg": operator.neg,
        "pow": _power,
        "reciprocal": lambda x: 1 / x,
        "relu": jax.nn.relu,
        "remainder": jnp.remainder,
        "round": _round,
        "rsqrt": lax.rsqrt,
        "rsub": lambda x, other, alpha=1: _subtract(other, x, alpha),
        "sigmoid": jax.nn.sigmoid,
        "sign": jnp.sign,
        "silu": jax.nn.silu,
        "sin": jnp.sin,
        "sinh": jnp.sinh,
        "softplus": _softplus,
        "sqrt": jnp.sqrt,
        "square": jnp.square,
        "sub": _subtract,
        "tan": jnp.tan,
        "tanh": jnp.tanh,
        "threshold": _threshold,
        "trunc": jnp.trunc,
        "where": jnp.where,
    },
    "pointwise",
)
