"""Operators that compute each entry from the entries at the same position."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxadv.core.typing import ArrayLike
from jaxadv.models.onnx.node import Node, Operator, either, fold, library, plain


def _divide(node: Node, a: ArrayLike, b: ArrayLike) -> ArrayLike:
    if jnp.issubdtype(a.dtype, jnp.integer):  # towards zero, as in C
        return (a - library(a, b).fmod(a, b)) // b
    return a / b


def _modulo(node: Node, a: ArrayLike, b: ArrayLike) -> ArrayLike:
    """Remainder: with fmod=1 it has the sign of a; else that of b."""
    return getattr(library(a, b), "fmod" if node.get("fmod", 0) else "mod")(a, b)


def _power(node: Node, a: ArrayLike, b: ArrayLike) -> ArrayLike:
    return library(a, b).power(a, b).astype(a.dtype)


def _clip(
    node: Node, x: ArrayLike, least: ArrayLike | None = None, greatest: ArrayLike | None = None
) -> ArrayLike:
    least = node.get("min") if least is None else least
    greatest = node.get("max") if greatest is None else greatest
    return library(x, least, greatest).clip(x, least, greatest)


def _leaky_relu(node: Node, x: ArrayLike) -> ArrayLike:
    return jnp.where(x >= 0, x, node.get("alpha", 0.01) * x)


def _hard_sigmoid(node: Node, x: ArrayLike) -> ArrayLike:
    return jnp.clip(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0, 1)


def _selu(node: Node, x: ArrayLike) -> ArrayLike:
    alpha, gamma = node.get("alpha", 1.6732632423543772), node.get("gamma", 1.0507009873554805)
    return gamma * jax.nn.elu(x, alpha)


def _shrink(node: Node, x: ArrayLike) -> ArrayLike:
    limit, bias = node.get("lambd", 0.5), node.get("bias", 0.0)
    return jnp.where(x < -limit, x + bias, jnp.where(x > limit, x - bias, 0))


def _cast(node: Node, x: ArrayLike, like: ArrayLike | None = None) -> ArrayLike:
    to = node.get("to") if like is None else like.dtype
    return x.astype(to if isinstance(x, np.ndarray) else jax.dtypes.canonicalize_dtype(to))


OPERATORS: dict[str, Operator] = {
    "Abs": either("abs"),
    "Add": plain(operator.add),
    "And": either("logical_and"),
    "Cast": _cast,
    "CastLike": _cast,
    "Ceil": either("ceil"),
    "Celu": lambda node, x: jax.nn.celu(x, node.get("alpha", 1.0)),
    "Clip": _clip,
    "Cos": plain(jnp.cos),
    "Div": _divide,
    "Elu": lambda node, x: jax.nn.elu(x, node.get("alpha", 1.0)),
    "Equal": either("equal"),
    "Erf": plain(lax.erf),
    "Exp": plain(jnp.exp),
    "Floor": either("floor"),
    "Gelu": lambda node, x: jax.nn.gelu(x, node.get("approximate", "none") == "tanh"),
    "Greater": either("greater"),
    "GreaterOrEqual": either("greater_equal"),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": plain(lambda x: x * jnp.clip(x / 6 + 0.5, 0, 1)),
    "IsNaN": either("isnan"),
    "LeakyRelu": _leaky_relu,
    "Less": either("less"),
    "LessOrEqual": either("less_equal"),
    "Log": plain(jnp.log),
    "Max": fold("maximum"),
    "Mean": lambda node, *inputs: functools.reduce(operator.add, inputs) / len(inputs),
    "Min": fold("minimum"),
    "Mish": plain(jax.nn.mish),
    "Mod": _modulo,
    "Mul": plain(operator.mul),
    "Neg": plain(operator.neg),
    "Not": either("logical_not"),
    "Or": either("logical_or"),
    "PRelu": plain(lambda x, slope: jnp.where(x >= 0, x, slope * x)),
    "Pow": _power,
    "Reciprocal": plain(lambda x: 1 / x),
    "Relu": plain(jax.nn.relu),
    "Round": either("round"),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": plain(jax.nn.sigmoid),
    "Sign": either("sign"),
    "Sin": plain(jnp.sin),
    "Softplus": plain(jax.nn.softplus),
    "Softsign": plain(jax.nn.soft_sign),
    "Sqrt": plain(jnp.sqrt),
    "Sub": plain(operator.sub),
    "Sum": fold("add"),
    "Tanh": plain(jnp.tanh),
    "ThresholdedRelu": lambda node, x: jnp.where(x > node.get("alpha", 1.0), x, 0),
    "Xor": either("logical_xor"),
}
