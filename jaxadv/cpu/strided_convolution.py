"""Strided convolutions, and their gradients, as convolutions of stride one over blocks of pixels.

Every s x s block of pixels becomes one pixel with s^2 times the channels (Shi et al. 2016, arXiv
1609.05158). A strided convolution of an image becomes a plain one with the kernel cut into blocks
likewise. Its gradient, which would spread its input with zeros between and multiply by them,
becomes a plain one whose output is assembled from blocks. XLA's CPU backend runs both faster than
the original, which has few channels or zeros to work on.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn

from jaxadv.cpu.convolution import convolve, is_simple, kind_of, pad

FEW = 64  # entries of a kernel per output channel; larger strided ones are left alone


def is_strided(eqn: JaxprEqn) -> bool:
    """Return whether this is an ungrouped 2-D convolution with strides and a small kernel."""
    p = eqn.params
    strides, (_, channels, *axes) = p["window_strides"], p["dimension_numbers"][1]
    kernel: Any = eqn.invars[1].aval
    space = [kernel.shape[axis] for axis in axes]
    entries = np.prod(space) * kernel.shape[channels]
    fits = all(s <= k for s, k in zip(strides, space, strict=True)) and entries <= FEW
    return is_simple(eqn) and fits and max(strides) > 1 and max(p["lhs_dilation"]) == 1


def is_spread(eqn: JaxprEqn) -> bool:
    """Return whether this is an ungrouped 2-D convolution of an input with zeros in between."""
    p = eqn.params
    return is_simple(eqn) and max(p["lhs_dilation"]) > 1 and max(p["window_strides"]) == 1


def strided(
    image: jax.Array, kernel: jax.Array, params: dict[str, Any], gradients: bool
) -> jax.Array:
    """Convolve images [N, H, W, C] by a kernel [h, w, C, D] with strides.

    Args:
        image: Images [N, H, W, C].
        kernel: Kernel [h, w, C, D].
        params: Parameters of the convolution, in canonical layout.
        gradients: Whether the program differentiates.

    Returns:
        The convolution [N, H', W', D].
    """
    (down, across), edges = params["window_strides"], []
    sizes = zip(image.shape[1:3], kernel.shape[:2], (down, across), params["padding"], strict=True)
    for size, length, step, (low, high) in sizes:
        places = (size + low + high - length) // step + 1
        edges.append((low, (places - 1 - (-length // step)) * step - size - low))
    image = pad(image, edges)
    n, height, width, channels = image.shape
    image = image.reshape(n, height // down, down, width // across, across, channels)
    image = image.transpose(0, 1, 3, 2, 4, 5).reshape(n, height // down, width // across, -1)
    image = lax.optimization_barrier(image)  # else XLA gathers the blocks for every output
    rest = -kernel.shape[0] % down, -kernel.shape[1] % across
    kernel = jnp.pad(kernel, ((0, rest[0]), (0, rest[1]), (0, 0), (0, 0)))
    height, width, *_ = kernel.shape
    kernel = kernel.reshape(height // down, down, width // across, across, channels, -1)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
    kernel = kernel.reshape(*kernel.shape[:2], image.shape[-1], -1)
    return convolve(image, kernel, [(0, 0), (0, 0)], gradients, *kind_of(params))


class _Phases(NamedTuple):
    """The convolution of one axis of a spread input.

    The s outputs of a block meet different entries of the kernel.

    Attributes:
        first: First entry of the kernel that meets no zero, for each output of a block, int [s].
        begin: Place of the input that this entry meets, relative to the block, int [s].
        window: Number of places of the input that any output meets.
        before: Padding before the input.
        after: Padding after the input.
        kept: Slice of the outputs of all blocks that are kept.
    """

    first: np.ndarray
    begin: np.ndarray
    window: int
    before: int
    after: int
    kept: slice


def _phases(size: int, length: int, step: int, low: int, high: int, more: int) -> _Phases:
    """Return the phases of one axis.

    Args:
        size: Number of entries of the input.
        length: Number of entries of the kernel.
        step: Distance of the input's entries, zeros in between.
        low: Padding before.
        high: Padding after.
        more: Outputs made before the first one, which shifts the blocks.
    """
    outputs = (size - 1) * step + low + high - length + 2
    phase = np.arange(step)
    first = (low + more - phase) % step
    begin = (phase + first - low - more) // step
    window = max(1, int((begin - begin.min() - (first - length) // step).max()))
    after = -(-(outputs + more) // step) - 1 + int(begin.min()) + window - size
    kept = slice(more, more + outputs)
    return _Phases(first, begin - begin.min(), window, -int(begin.min()), after, kept)


def spread(image: jax.Array, kernel: jax.Array, params: dict[str, Any]) -> jax.Array:
    """Convolve images [N, H, W, C], spread with zeros in between, by a kernel [h, w, C, D].

    Args:
        image: Images [N, H, W, C].
        kernel: Kernel [h, w, C, D].
        params: Parameters of the convolution, in canonical layout.

    Returns:
        The convolution [N, H', W', D].
    """
    axes = []
    sizes = zip(
        image.shape[1:3], kernel.shape, params["lhs_dilation"], params["padding"], strict=False
    )
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
    """Return a kernel whose entries along `axis` are laid out as [window, s]."""
    pieces, zero = [], jnp.zeros((), kernel.dtype)
    for first, begin in zip(phases.first, phases.begin, strict=True):
        start = min(int(first), kernel.shape[axis])  # a step may exceed the kernel
        piece = lax.slice_in_dim(kernel, start, None, len(phases.first), axis)
        edges = [(0, 0, 0)] * kernel.ndim
        edges[axis] = (int(begin), phases.window - int(begin) - piece.shape[axis], 0)
        pieces.append(lax.pad(piece, zero, edges))
    return jnp.stack(pieces, axis + 1)
