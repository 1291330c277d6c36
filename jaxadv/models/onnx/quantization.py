"""Quantised tensors: integers represented as floats, so that gradients can pass.

Values are exact. The gradient of rounding is zero almost everywhere and useless to an attack, so a
straight-through estimate is used, except beyond the range of the integers, as in quantisation-aware
training (Bengio et al. 2013, arXiv 1308.3432; Jacob et al. 2018, arXiv 1712.05877).
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxadv.core.typing import ArrayLike
from jaxadv.models.onnx.node import Node, Operator, per_channel


@jax.custom_jvp
def _rounded(x: ArrayLike) -> ArrayLike:
    return jnp.round(x)  # half to even


@_rounded.defjvp
def _(primals: tuple[ArrayLike], tangents: tuple[ArrayLike]) -> tuple[ArrayLike, ArrayLike]:
    return _rounded(*primals), tangents[0]


def _along(node: Node, values: ArrayLike, x: ArrayLike) -> ArrayLike:
    return (
        per_channel(values, x.ndim, node.get("axis", 1)) if values.size > 1 else values.reshape(())
    )


def _quantize(
    node: Node, x: ArrayLike, scale: ArrayLike, zero: ArrayLike | None = None
) -> ArrayLike:
    node.only(block_size=0, saturate=1)
    kind = node.get("output_dtype") or "uint8" if zero is None else zero.dtype
    if not jnp.issubdtype(kind, jnp.integer):
        raise ValueError(f"quantisation to {kind} is not supported: only to integers")
    shift = 0 if zero is None else _along(node, jnp.asarray(zero, x.dtype), x)
    limits = jnp.iinfo(kind)
    integers = _rounded(x / _along(node, scale, x)) + shift
    return jnp.clip(integers, int(limits.min), int(limits.max))


def _dequantize(
    node: Node, x: ArrayLike, scale: ArrayLike, zero: ArrayLike | None = None
) -> ArrayLike:
    node.only(block_size=0)
    values = jnp.asarray(x, jnp.float32)
    if zero is not None:
        values = values - _along(node, jnp.asarray(np.asarray(zero), jnp.float32), values)
    return values * _along(node, scale, values)


OPERATORS: dict[str, Operator] = {"DequantizeLinear": _dequantize, "QuantizeLinear": _quantize}
