"""Convolution and pooling of arrays [N, C, space...]."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxadv.models.onnx.node import Node, Operator, integers, per_channel
from jaxadv.models.windows import Windows, average_pool, max_pool, reach, transposed_kernel


def _halves(total: Sequence[int], mode: str) -> list[tuple[int, int]]:
    """Padding before and after; all modes but SAME_UPPER put the odd pixel before."""
    before = [t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in total]
    return [(low, t - low) for low, t in zip(before, total, strict=True)]


def _windows(node: Node, space: Sequence[int], kernel: Sequence[int]) -> Windows:
    ones = (1,) * len(space)
    strides, dilations = node.get("strides", ones), node.get("dilations", ones)
    mode = node.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        sizes = zip(space, strides, reach(kernel, dilations), strict=True)
        total = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in sizes]
        padding = _halves(total, mode)
    else:
        pads = node.get("pads", (0,) * 2 * len(space))
        padding = list(zip(pads[: len(space)], pads[len(space) :], strict=True))
    return Windows(kernel, strides, dilations, padding)


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
    _, strides, dilations, padding = _windows(node, x.shape[2:], weight.shape[2:])
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
    _, strides, dilations, padding = _windows(node, space, weight.shape[2:])
    spans = reach(weight.shape[2:], dilations)
    more = node.get("output_padding", (0,) * len(space))
    mode, wanted = node.get("auto_pad", "NOTSET"), integers(node, "output_shape")
    if mode.startswith("SAME") and wanted is None:
        wanted = [n * s for n, s in zip(space, strides, strict=True)]
    if wanted is not None:
        sizes = zip(space, strides, more, spans, wanted[-len(space) :], strict=True)
        padding = _halves([max(s * (n - 1) + m + r - w, 0) for n, s, m, r, w in sizes], mode)
        sizes = zip(space, strides, more, spans, wanted[-len(space) :], padding, strict=True)
        more = [w + sum(p) - s * (n - 1) - r for n, s, _, r, w, p in sizes]
    edges = [
        (r - 1 - low, r - 1 - high + m)
        for r, m, (low, high) in zip(spans, more, padding, strict=True)
    ]
    return _convolve(
        x,
        transposed_kernel(weight, groups),
        bias,
        (1,) * len(space),
        edges,
        lhs_dilation=strides,
        rhs_dilation=dilations,
        feature_group_count=groups,
    )


def _pooling(node: Node, x: Array) -> Windows:
    windows = _windows(node, x.shape[2:], node.get("kernel_shape"))
    return windows.rounded_up(x.shape[2:]) if node.get("ceil_mode", 0) else windows


def _max_pool(node: Node, x: Array) -> Array:
    return max_pool(x, _pooling(node, x), 2)


def _average_pool(node: Node, x: Array) -> Array:
    counted = None
    if node.get("count_include_pad", 0):  # padding added by ceil_mode is never counted
        counted = _windows(node, x.shape[2:], node.get("kernel_shape")).padding
    return average_pool(x, _pooling(node, x), 2, counted)


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
