"""Convolution and pooling of arrays [N, C, space...]."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxadv.models.onnx.node import Node, Operator, integers, per_channel


class _Windows(NamedTuple):
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: list[tuple[int, int]]


def _reach(kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """Return the number of pixels that each side of a kernel spans."""
    return [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]


def _halves(total: Sequence[int], mode: str) -> list[tuple[int, int]]:
    """Padding before and after; all modes but SAME_UPPER put the odd pixel before."""
    before = [t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in total]
    return [(low, t - low) for low, t in zip(before, total, strict=True)]


def _windows(node: Node, space: Sequence[int], kernel: Sequence[int]) -> _Windows:
    ones = (1,) * len(space)
    strides, dilations = node.get("strides", ones), node.get("dilations", ones)
    mode = node.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        sizes = zip(space, strides, _reach(kernel, dilations), strict=True)
        total = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in sizes]
        padding = _halves(total, mode)
    else:
        pads = node.get("pads", (0,) * 2 * len(space))
        padding = list(zip(pads[: len(space)], pads[len(space) :], strict=True))
    return _Windows(strides, dilations, padding)


def _convolve(
    x: Array,
    weight: Array,
    bias: Array | None,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options: Any,
) -> Array:
    space = "DHW"[5 - x.ndim :]
    numbers = (f"NC{space}", f"OI{space}", f"NC{space}")
    y = lax.conv_general_dilated(x, weight, strides, padding, dimension_numbers=numbers, **options)
    return y if bias is None else y + per_channel(bias, x.ndim)


def _convolution(node: Node, x: Array, weight: Array, bias: Array | None = None) -> Array:
    strides, dilations, padding = _windows(node, x.shape[2:], weight.shape[2:])
    return _convolve(
        x,
        weight,
        bias,
        strides,
        padding,
        rhs_dilation=dilations,
        feature_group_count=node.get("group", 1),
    )


def _transposed(node: Node, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Convolution with a flipped kernel over an image whose pixels are spread by the strides."""
    space, groups = x.shape[2:], node.get("group", 1)
    strides, dilations, padding = _windows(node, space, weight.shape[2:])
    reach = _reach(weight.shape[2:], dilations)
    more = node.get("output_padding", (0,) * len(space))
    mode, wanted = node.get("auto_pad", "NOTSET"), integers(node, "output_shape")
    if mode.startswith("SAME") and wanted is None:
        wanted = [n * s for n, s in zip(space, strides, strict=True)]
    if wanted is not None:
        sizes = zip(space, strides, more, reach, wanted[-len(space) :], strict=True)
        padding = _halves([max(s * (n - 1) + m + r - w, 0) for n, s, m, r, w in sizes], mode)
        sizes = zip(space, strides, more, reach, wanted[-len(space) :], padding, strict=True)
        more = [w + sum(p) - s * (n - 1) - r for n, s, _, r, w, p in sizes]
    edges = [
        (r - 1 - low, r - 1 - high + m)
        for r, m, (low, high) in zip(reach, more, padding, strict=True)
    ]
    inputs, outputs, *kernel = weight.shape  # of all groups, of one group
    weight = weight.reshape(groups, inputs // groups, outputs, *kernel).swapaxes(1, 2)
    weight = weight.reshape(groups * outputs, inputs // groups, *kernel)
    weight = jnp.flip(weight, range(2, x.ndim))
    return _convolve(
        x,
        weight,
        bias,
        (1,) * len(space),
        edges,
        lhs_dilation=strides,
        rhs_dilation=dilations,
        feature_group_count=groups,
    )


def _pooling(node: Node, space: Sequence[int]) -> _Windows:
    """Return the windows, padded at the end as ceil_mode requires."""
    kernel = node.get("kernel_shape")
    windows = _windows(node, space, kernel)
    if not node.get("ceil_mode", 0):
        return windows
    padding = []
    reach = _reach(kernel, windows.dilations)
    for n, r, s, (low, high) in zip(space, reach, windows.strides, windows.padding, strict=True):
        steps = -(-(n + low + high - r) // s)
        steps -= steps * s >= n + low  # a last window may reach over the end, not begin there
        padding.append((low, max(high, steps * s + r - n - low)))
    return windows._replace(padding=padding)


def _sum(node: Node, x: Array, windows: _Windows) -> Array:
    return lax.reduce_window(
        x,
        0.0,
        lax.add,
        (1, 1, *node.get("kernel_shape")),
        (1, 1, *windows.strides),
        [(0, 0), (0, 0), *windows.padding],
        window_dilation=(1, 1, *windows.dilations),
    )


def _max_pool(node: Node, x: Array) -> Array:
    kernel = node.get("kernel_shape")
    strides, dilations, padding = _pooling(node, x.shape[2:])
    edges = [(0, 0), (0, 0), *padding]
    if max(dilations) == 1:
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, *kernel), (1, 1, *strides), edges)
    # jax has no gradient of a dilated maximum: take one slice for each entry of the window.
    x = jnp.pad(x, edges, constant_values=-jnp.inf)
    last = [n - r for n, r in zip(x.shape[2:], _reach(kernel, dilations), strict=True)]
    slices = []
    for place in itertools.product(*map(range, kernel)):
        starts = [i * d for i, d in zip(place, dilations, strict=True)]
        ends = [start + end + 1 for start, end in zip(starts, last, strict=True)]
        index = (slice(*part) for part in zip(starts, ends, strides, strict=True))
        slices.append(x[(slice(None), slice(None), *index)])
    return functools.reduce(jnp.maximum, slices)


def _average_pool(node: Node, x: Array) -> Array:
    windows = _pooling(node, x.shape[2:])
    counted = jnp.ones((1, 1, *x.shape[2:]), x.dtype)
    if node.get("count_include_pad", 0):  # padding added by ceil_mode is never counted
        stated = _windows(node, x.shape[2:], node.get("kernel_shape")).padding
        counted = jnp.pad(counted, [(0, 0), (0, 0), *stated], constant_values=1)
        more = [
            (0, high - given) for (_, high), (_, given) in zip(windows.padding, stated, strict=True)
        ]
        return _sum(node, x, windows) / _sum(node, counted, windows._replace(padding=more))
    return _sum(node, x, windows) / _sum(node, counted, windows)


def _global_pool(name: str) -> Operator:
    return lambda node, x: getattr(jnp, name)(x, axis=tuple(range(2, x.ndim)), keepdims=True)


def _depth_to_space(node: Node, x: Array) -> Array:
    n, c, h, w = x.shape
    size = node.get("blocksize")
    if node.get("mode", "DCR") == "DCR":
        blocks = x.reshape(n, size, size, c // size**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        blocks = x.reshape(n, c // size**2, size, size, h, w).transpose(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, c // size**2, h * size, w * size)


def _space_to_depth(node: Node, x: Array) -> Array:
    n, c, h, w = x.shape
    size = node.get("blocksize")
    blocks = x.reshape(n, c, h // size, size, w // size, size).transpose(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, c * size**2, h // size, w // size)


OPERATORS: dict[str, Operator] = {
    "AveragePool": _average_pool,
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "DepthToSpace": _depth_to_space,
    "GlobalAveragePool": _global_pool("mean"),
    "GlobalMaxPool": _global_pool("max"),
    "MaxPool": _max_pool,
    "SpaceToDepth": _space_to_depth,
}
