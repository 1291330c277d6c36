"""Convolution, pooling and padding of images [N, space..., C]."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxadv.models.pytorch.node import Operator, operators
from jaxadv.models.windows import Windows, average_pool, max_pool, reach, transposed_kernel

Sizes = Sequence[int]


def _each(values: Sizes, rank: int, default: int = 1) -> tuple[int, ...]:
    """Return one number for each of `rank` axes; none is the default, a single one is for all."""
    values = tuple(values) or (default,)
    return values * rank if len(values) == 1 else values


def _convolution(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    *more: Any,
) -> Array:
    transposed, output_padding, groups = more
    rank = x.ndim - 2
    strides, dilations = _each(stride, rank), _each(dilation, rank)
    edges = [(p, p) for p in _each(padding, rank, 0)]
    spread = (1,) * rank
    if transposed:  # a convolution of an image whose pixels are spread by the strides
        more, spread, strides = _each(output_padding, rank, 0), strides, (1,) * rank
        spans = reach(weight.shape[2:], dilations)
        edges = [
            (r - 1 - p, r - 1 - p + m) for r, (p, _), m in zip(spans, edges, more, strict=True)
        ]
        weight = transposed_kernel(weight, groups)
    dtype = jnp.promote_types(x.dtype, weight.dtype)
    space = "DHW"[3 - rank :]
    y = lax.conv_general_dilated(
        x.astype(dtype),
        jnp.moveaxis(weight, (0, 1), (-1, -2)).astype(dtype),
        strides,
        edges,
        lhs_dilation=spread,
        rhs_dilation=dilations,
        dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
        feature_group_count=groups,
    )
    return y if bias is None else y + bias


def _pooling(
    x: Array, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, ceil_mode: bool
) -> Windows:
    rank = x.ndim - 2
    kernel = _each(kernel, rank)
    edges = [(p, p) for p in _each(padding, rank, 0)]
    windows = Windows(kernel, _each(stride or kernel, rank), _each(dilation, rank), edges)
    return windows.rounded_up(x.shape[1:-1]) if ceil_mode else windows


def _max_pool(
    x: Array,
    kernel_size: Sizes,
    stride: Sizes = (),
    padding: Sizes = (0,),
    dilation: Sizes = (1,),
    ceil_mode: bool = False,
) -> tuple[Array, None]:
    windows = _pooling(x, kernel_size, stride, padding, dilation, ceil_mode)
    return max_pool(x, windows, 1), None  # without the indices


def _average_pool(
    x: Array,
    kernel_size: Sizes,
    stride: Sizes = (),
    padding: Sizes = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    windows = _pooling(x, kernel_size, stride, padding, (1,), ceil_mode)
    counted = _pooling(x, kernel_size, stride, padding, (1,), False).padding
    y = average_pool(x, windows, 1, counted if count_include_pad or divisor_override else None)
    if divisor_override is None:
        return y
    if windows.padding != counted:
        raise ValueError("divisor_override with ceil_mode is not supported")
    return y * (math.prod(windows.kernel) / divisor_override)


def _cells(old: int, new: int) -> list[tuple[int, int]]:
    """Return where each of `new` cells over `old` entries begins and ends; they may overlap."""
    return [(i * old // new, -(-(i + 1) * old // new)) for i in range(new)]


def _adaptive_average_pool(x: Array, output_size: Sizes) -> Array:
    for axis, new in enumerate(output_size, 1):
        old = x.shape[axis]
        if new == 1:
            x = x.mean(axis, keepdims=True)
        elif old % new == 0:
            parts = x.reshape(*x.shape[:axis], new, old // new, *x.shape[axis + 1 :])
            x = parts.mean(axis + 1)
        else:
            parts = [lax.slice_in_dim(x, *cell, axis=axis) for cell in _cells(old, new)]
            x = jnp.concatenate([part.mean(axis, keepdims=True) for part in parts], axis)
    return x


def _adaptive_max_pool(x: Array, output_size: Sizes) -> tuple[Array, None]:
    for axis, new in enumerate(output_size, 1):
        cells = _cells(x.shape[axis], new)
        parts = [lax.slice_in_dim(x, *cell, axis=axis) for cell in cells]
        x = jnp.concatenate([part.max(axis, keepdims=True) for part in parts], axis)
    return x, None


def _edges(pad: Sizes, rank: int) -> list[tuple[int, int]]:
    """Return the padding of each axis [N, space..., C]; torch begins with the last axis."""
    pairs = [*zip(pad[::2], pad[1::2], strict=True)]
    edges = [(0, 0)] * (rank - len(pairs)) + pairs[::-1]
    return [edges[0], *edges[2:], edges[1]]


def _constant_pad(x: Array, pad: Sizes, value: float = 0) -> Array:
    edges = [(*edge, 0) for edge in _edges(pad, x.ndim)]
    return lax.pad(x, jnp.asarray(value, x.dtype), edges)


def _pad(x: Array, pad: Sizes, mode: str) -> Array:
    edges = _edges(pad, x.ndim)
    if any(side < 0 for edge in edges for side in edge):
        raise ValueError(f"negative padding {pad} with mode={mode!r} is not supported")
    return jnp.pad(x, edges, mode=mode)


def _channel_shuffle(x: Array, groups: int) -> Array:
    return x.reshape(*x.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(x.shape)


def _pixel_shuffle(x: Array, factor: int) -> Array:
    n, h, w, c = x.shape
    blocks = x.reshape(n, h, w, c // factor**2, factor, factor).transpose(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, h * factor, w * factor, c // factor**2)


def _pixel_unshuffle(x: Array, factor: int) -> Array:
    n, h, w, c = x.shape
    blocks = x.reshape(n, h // factor, factor, w // factor, factor, c).transpose(0, 1, 3, 5, 2, 4)
    return blocks.reshape(n, h // factor, w // factor, c * factor**2)


def _patches(x: Array, kernel_size: Sizes, dilation: Sizes, padding: Sizes, stride: Sizes) -> Array:
    """Return the entries of each window, as unfold does: [N, C * kernel, windows]."""
    n, *_, channels = x.shape
    edges = [(p, p) for p in _each(padding, 2, 0)]
    patches = lax.conv_general_dilated_patches(
        x,
        _each(kernel_size, 2),
        _each(stride, 2),
        edges,
        rhs_dilation=_each(dilation, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    size = channels * int(np.prod(_each(kernel_size, 2)))
    return patches.reshape(n, -1, size)


OPERATORS: dict[str, Operator] = operators(
    {
        "_adaptive_avg_pool2d": _adaptive_average_pool,
        "_adaptive_avg_pool3d": _adaptive_average_pool,
        "adaptive_avg_pool1d": _adaptive_average_pool,
        "adaptive_avg_pool2d": _adaptive_average_pool,
        "adaptive_max_pool2d": _adaptive_max_pool,
        "avg_pool1d": _average_pool,
        "avg_pool2d": _average_pool,
        "avg_pool3d": _average_pool,
        "channel_shuffle": _channel_shuffle,
        "constant_pad_nd": _constant_pad,
        "convolution": _convolution,
        "im2col": _patches,
        "max_pool2d_with_indices": _max_pool,
        "max_pool3d_with_indices": _max_pool,
        "native_channel_shuffle": _channel_shuffle,
        "pixel_shuffle": _pixel_shuffle,
        "pixel_unshuffle": _pixel_unshuffle,
        "reflection_pad1d": lambda x, pad: _pad(x, pad, "reflect"),
        "reflection_pad2d": lambda x, pad: _pad(x, pad, "reflect"),
        "replication_pad1d": lambda x, pad: _pad(x, pad, "edge"),
        "replication_pad2d": lambda x, pad: _pad(x, pad, "edge"),
    },
    "images",
)
