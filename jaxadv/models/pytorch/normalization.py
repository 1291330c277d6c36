"""Normalisation layers in evaluation mode, and softmax."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxadv.models.pytorch.node import Operator, operators

TRAINING = "it is in training mode: call module.eval() before the export"
Affine = Array | None


def _standardized(x: Array, axes: Sequence[int], epsilon: float) -> Array:
    centred = x - x.mean(axes, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(axes, keepdims=True) + epsilon)


def _scaled(x: Array, weight: Affine, bias: Affine) -> Array:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _batch_norm(
    x: Array,
    weight: Affine,
    bias: Affine,
    mean: Array,
    variance: Array,
    momentum: float,
    epsilon: float,
) -> tuple[Array, None, None]:
    slope = lax.rsqrt(variance + epsilon)
    slope = slope if weight is None else slope * weight
    shift = -mean * slope
    return x * slope + (shift if bias is None else shift + bias), None, None


def _instance_norm(
    x: Array, weight: Affine, bias: Affine, training: bool, momentum: float, epsilon: float
) -> tuple[Array, None, None]:
    """Batch normalisation by the input's own statistics: of one image alone, as channels."""
    if x.shape[0] != 1:
        raise ValueError(TRAINING)
    y = _standardized(x, range(x.ndim - 1), epsilon)
    return _scaled(y, weight, bias), None, None


def _training(*_: object, **__: object) -> None:
    raise ValueError(TRAINING)


def _dropout(x: Array, p: float, train: bool | None = None) -> Array:
    if train and p:
        raise ValueError(TRAINING)
    return x


def _group_norm(
    x: Array, weight: Affine, bias: Affine, n: int, c: int, space: int, groups: int, epsilon: float
) -> tuple[Array, None, None]:
    parts = x.reshape(*x.shape[:-1], groups, -1)
    axes = (*range(1, x.ndim - 1), x.ndim)
    return _scaled(_standardized(parts, axes, epsilon).reshape(x.shape), weight, bias), None, None


def _layer_norm(
    x: Array,
    shape: Sequence[int],
    weight: Affine = None,
    bias: Affine = None,
    epsilon: float = 1e-5,
) -> tuple[Array, None, None]:
    y = _standardized(x, range(x.ndim - len(shape), x.ndim), epsilon)
    return _scaled(y, weight, bias), None, None


def _rms_norm(
    x: Array, shape: Sequence[int], weight: Affine = None, epsilon: float | None = None
) -> Array:
    axes = range(x.ndim - len(shape), x.ndim)
    epsilon = float(jnp.finfo(x.dtype).eps) if epsilon is None else epsilon
    y = x * lax.rsqrt((x**2).mean(tuple(axes), keepdims=True) + epsilon)
    return _scaled(y, weight, None)


def _softmax(x: Array, dim: int, half_to_float: bool = False) -> Array:
    return jax.nn.softmax(x, dim)


def _log_softmax(x: Array, dim: int, half_to_float: bool = False) -> Array:
    return jax.nn.log_softmax(x, dim)


OPERATORS: dict[str, Operator] = (
    operators(
        {
            "_native_batch_norm_legit_no_training": _batch_norm,
            "_native_batch_norm_legit.no_stats": _instance_norm,
            "native_group_norm": _group_norm,
        },
        "images",
    )
    | operators(
        {
            "_log_softmax": _log_softmax,
            "_native_batch_norm_legit": _training,
            "_native_batch_norm_legit_functional": _training,
            "_softmax": _softmax,
            "native_batch_norm": _training,
            "native_layer_norm": _layer_norm,
            "rms_norm": _rms_norm,
        }
    )
    | operators(
        {
            "dropout": _dropout,
            "native_dropout": lambda x, p, train: (_dropout(x, p, train), None),
        },
        "pointwise",
    )
)
