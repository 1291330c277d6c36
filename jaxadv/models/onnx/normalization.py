"""Normalisation layers and softmax."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxadv.core.typing import ArrayLike
from jaxadv.models.onnx.node import Node, Operator, per_channel

TRAINING = "it is in training mode: export the model in evaluation mode"


def _standardized(x: ArrayLike, axes: Sequence[int], epsilon: float) -> ArrayLike:
    centred = x - x.mean(axes, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(axes, keepdims=True) + epsilon)


def _batch_normalization(
    node: Node,
    x: ArrayLike,
    scale: ArrayLike,
    bias: ArrayLike,
    mean: ArrayLike,
    variance: ArrayLike,
) -> ArrayLike:
    # Before opset 14 further outputs mean training mode.
    if node.get("training_mode", 0) or any(node.outputs[1:]):
        raise ValueError(TRAINING)
    node.only(spatial=1)
    slope = scale / jnp.sqrt(variance + node.get("epsilon", 1e-5))
    shift = bias - mean * slope
    return x * per_channel(slope, x.ndim) + per_channel(shift, x.ndim)


def _instance_normalization(
    node: Node, x: ArrayLike, scale: ArrayLike, bias: ArrayLike
) -> ArrayLike:
    y = _standardized(x, range(2, x.ndim), node.get("epsilon", 1e-5))
    return y * per_channel(scale, x.ndim) + per_channel(bias, x.ndim)


def _group_normalization(node: Node, x: ArrayLike, scale: ArrayLike, bias: ArrayLike) -> ArrayLike:
    groups = x.reshape(x.shape[0], node.get("num_groups"), -1, *x.shape[2:])
    y = _standardized(groups, range(2, groups.ndim), node.get("epsilon", 1e-5))
    if node.opset < 21:  # one scale for each group, not for each channel
        y = y * per_channel(scale, y.ndim) + per_channel(bias, y.ndim)
        return y.reshape(x.shape)
    return y.reshape(x.shape) * per_channel(scale, x.ndim) + per_channel(bias, x.ndim)


def _layer_normalization(
    node: Node, x: ArrayLike, scale: ArrayLike, bias: ArrayLike | None = None
) -> ArrayLike:
    axes = range(node.get("axis", -1) % x.ndim, x.ndim)
    y = _standardized(x, axes, node.get("epsilon", 1e-5)) * scale
    return y if bias is None else y + bias


def _rms_normalization(node: Node, x: ArrayLike, scale: ArrayLike) -> ArrayLike:
    axes = range(node.get("axis", -1) % x.ndim, x.ndim)
    square = (x**2).mean(axes, keepdims=True)
    return x / jnp.sqrt(square + node.get("epsilon", 1e-5)) * scale


def _local_response(node: Node, x: ArrayLike) -> ArrayLike:
    size = node.get("size")
    before = (size - 1) // 2
    edges = [(0, 0), (before, size - 1 - before), *[(0, 0)] * (x.ndim - 2)]
    window = (1, size, *(1,) * (x.ndim - 2))
    squares = lax.reduce_window(x * x, 0.0, lax.add, window, (1,) * x.ndim, edges)
    scale = node.get("bias", 1.0) + node.get("alpha", 1e-4) / size * squares
    return x * scale ** -node.get("beta", 0.75)


def vector_length(x: ArrayLike, axis: int | tuple[int, ...] | None, keepdims: bool) -> ArrayLike:
    """The L2 norm, with a gradient of zero where it is zero."""
    squares = (x * x).sum(axis, keepdims=keepdims)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def _lp_normalization(node: Node, x: ArrayLike) -> ArrayLike:
    axis, p = node.get("axis", -1), node.get("p", 2)
    length = jnp.abs(x).sum(axis, keepdims=True) if p == 1 else vector_length(x, axis, True)
    return x / jnp.where(length > 0, length, 1)


def _dropout(
    node: Node, x: ArrayLike, ratio: ArrayLike | None = None, training: ArrayLike | None = None
) -> ArrayLike:
    if training is not None and (isinstance(training, jax.Array) or training.any()):
        raise ValueError(TRAINING)
    return x


def _softmax(function: Operator) -> Operator:
    def apply(node: Node, x: ArrayLike) -> ArrayLike:
        if node.opset >= 13:
            return function(x, axis=node.get("axis", -1))
        axis = node.get("axis", 1) % x.ndim  # older opsets: over this and all later axes together
        return function(x.reshape(*x.shape[:axis], -1), axis=-1).reshape(x.shape)

    return apply


OPERATORS: dict[str, Operator] = {
    "BatchNormalization": _batch_normalization,
    "Dropout": _dropout,
    "GroupNormalization": _group_normalization,
    "InstanceNormalization": _instance_normalization,
    "LRN": _local_response,
    "LayerNormalization": _layer_normalization,
    "LogSoftmax": _softmax(jax.nn.log_softmax),
    "LpNormalization": _lp_normalization,
    "RMSNormalization": _rms_normalization,
    "Softmax": _softmax(jax.nn.softmax),
}
