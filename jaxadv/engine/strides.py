"""Convolutions with strides, and their gradients, as convolutions of stride one over blocks.

Every s x s block of pixels becomes one pixel with s^2 times the channels (Shi et al. 2016, arXiv
1609.05158). A strided convolution of an image becomes a plain one with the kernel cut into blocks
likewise; its gradient, which by itself spreads its input with zeros between and multiplies by them,
becomes a plain one whose output is put together from blocks. XLA's CPU backend runs both of these
faster than the original where it would have few channels to work on, or zeros.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn

from jaxadv.engine.convolution import convolve, is_simple, kind_of, pad

FEW = 64  # entries of a kernel per output channel; with more, a strided convolution is left alone


def is_strided(eqn: JaxprEqn) -> bool:
    """Whether this is an ungrouped 2-D convolution with strides and a small kernel."""
    p = eqn.params
    strides, (_, channels, *axes) = p["window_strides"], p["dimension_numbers"][1]
    kernel: Any = eqn.invars[1].aval
    space = [kernel.shape[axis] for axis in axes]
    entries = np.prod(space) * kernel.shape[channels]
    fits = all(s <= k for s, k in zip(strides, space, strict=True)) and entries <= FEW
    return is_simple(eqn) and fits and max(strides) > 1 and max(p["lhs_dilation"]) == 1


def is_spread(eqn: JaxprEqn) -> bool:
    """Whether this is an ungrouped 2-D convolution of an input with zeros in between."""
    p = eqn.params
    return is_simple(eqn) and max(p["lhs_dilation"]) > 1 and max(p["window_strides"]) == 1


def strided(
    image: jax.Array, kernel: jax.Array, params: dict[str, Any], gradients: bool
) -> jax.Array:
    """The convolution of images [N, H, W, C] by a kernel [h, w, C, D] with params' strides."""
    (down, across), edges = params["window_strides"], []
    sizes = zip(image.shape[1:3], kernel.shape[:2], (down, across), params["padding"], strict=True)
    for size, length, step, (low, high) in sizes:
        places = (size + low + high - length) // step + 1
        edges.append((low, (places - 1 - (-length // step)) * step - size - low))
    image = pad(image, edges)
    n, height, width, channels = image.shape
    image = image.reshape(n, height // down, down, width // across, across, channels)
    image = image.transpose(0, 1, 3, 2, 4, 5).reshape(n, height // down, width // across, -1)
    image = lax.optimization_barrier(image)  # else the blocks are gathered once for every output
    rest = -kernel.shape[0] % down, -kernel.shape[1] % across
    kernel = jnp.pad(kernel, ((0, rest[0]), (0, rest[1]), (0, 0), (0, 0)))
    height, width, *_ = kernel.shape
    kernel = kernel.reshape(height // down, down, width // across, across, channels, -1)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
    kernel = kernel.reshape(*kernel.shape[:2], image.shape[-1], -1)
    return convolve(image, kernel, [(0, 0), (0, 0)], gradients, *kind_of(params))


class _Phases(NamedTuple):
    """How one axis of a spread input is convolved: its s outputs of a block meet different entries
    of the kernel.

    first, begin [s]: the first entry of the kernel that meets no zero, and the place of the input
    that it meets, relative to the block; window: places that any of them meets; before, after:
    padding of the input; kept: of the outputs of all blocks.
    """

    first: np.ndarray
    begin: np.ndarray
    window: int
    before: int
    after: int
    kept: slice


def _phases(size: int, length: int, step: int, low: int, high: int, more: int) -> _Phases:
    """more: outputs that are made before the first one, so that the blocks lie otherwise."""
    outputs = (size - 1) * step + low + high - length + 2
    phase = np.arange(step)
    first = (low + more - phase) % step
    begin = (phase + first - low - more) // step
    window = max(1, int((begin - begin.min() - (first - length) // step).max()))
    after = -(-(outputs + more) // step) - 1 + int(begin.min()) + window - size
    kept = slice(more, more + outputs)
    return _Phases(first, begin - begin.min(), window, -int(begin.min()), after, kept)


def spread(image: jax.Array, kernel: jax.Array, params: dict[str, Any]) -> jax.Array:
    """The convolution of images [N, H, W, C], with zeros in between, by a kernel [h, w, C, D]."""
    axes = []
    sizes = zip(image.shape[1:3], kernel.shape, params["lhs_dilation"], params["padding"],
                strict=False)  # fmt: skip
    for size, length, step, (low, high) in sizes:
        choices = [_phases(size, length, step, low, high, more) for more in range(step)]
        axes.append(min(choices, key=lambda one: one.window))  # the first of the least
    rows, columns = axes
    kernel = _phased(_phased(kernel, 0, rows), 2, columns)  # [m, s, m', s', C, D]
    kernel = kernel.transpose(0, 2, 4, 1, 3, 5)
    kernel = kernel.reshape(*kernel.shape[:3], -1)
    edges = [(rows.before, rows.after), (columns.before, columns.after)]
    out = convolve(image, kernel, edges, True, *kind_of(params))
    (n, height, width, _), (down, across) = out.shape, params["lhs_dilation"]
    out = out.reshape(n, height, width, down, across, -1).transpose(0, 1, 3, 2, 4, 5)
    return out.reshape(n, height * down, width * across, -1)[:, rows.kept, columns.kept]


def _phased(kernel: jax.Array, axis: int, phases: _Phases) -> jax.Array:
    """A kernel with its entries along an axis as [window, s]."""
    pieces, zero = [], jnp.zeros((), kernel.dtype)
    for first, begin in zip(phases.first, phases.begin, strict=True):
        start = min(int(first), kernel.shape[axis])  # a step longer than the kernel has no more
        piece = lax.slice_in_dim(kernel, start, None, len(phases.first), axis)
        edges = [(0, 0, 0)] * kernel.ndim
        edges[axis] = (int(begin), phases.window - int(begin) - piece.shape[axis], 0)
        pieces.append(lax.pad(piece, zero, edges))
    return jnp.stack(pieces, axis + 1)
