"""Pooling over windows, for formats that state kernels, strides and padding of their own."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

Edges = Sequence[tuple[int, int]]


class Windows(NamedTuple):
    """Windows over the spatial axes of an array, one entry for each of these axes.

    Attributes:
        kernel: Entries of a window.
        strides: Steps from one window to the next.
        dilations: Steps from one entry of a window to the next.
        padding: Entries added before and after.
    """

    kernel: Sequence[int]
    strides: Sequence[int]
    dilations: Sequence[int]
    padding: Edges

    @property
    def reach(self) -> list[int]:
        """The number of entries that a window spans."""
        return reach(self.kernel, self.dilations)

    def rounded_up(self, space: Sequence[int]) -> "Windows":
        """Return windows padded at the end, so that a last one may reach over it."""
        padding = []
        sizes = zip(space, self.reach, self.strides, self.padding, strict=True)
        for n, r, s, (low, high) in sizes:
            steps = -(-(n + low + high - r) // s)
            steps -= steps * s >= n + low  # it must not begin there
            padding.append((low, max(high, steps * s + r - n - low)))
        return self._replace(padding=padding)


def reach(kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """Return the number of entries that each side of a kernel spans."""
    return [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]


def transposed_kernel(weight: Array, groups: int) -> Array:
    """Return the kernel [O, I, space...] of the convolution that a transposed one is.

    Args:
        weight: The kernel [inputs of all groups, outputs of one, space...].
        groups: Number of groups.
    """
    inputs, outputs, *kernel = weight.shape
    weight = weight.reshape(groups, inputs // groups, outputs, *kernel).swapaxes(1, 2)
    weight = weight.reshape(groups * outputs, inputs // groups, *kernel)
    return jnp.flip(weight, range(2, weight.ndim))


def max_pool(x: Array, windows: Windows, first: int) -> Array:
    """Return the largest entry of each window; `first` is the first spatial axis of x."""
    edges = _around(windows.padding, x, first, (0, 0))
    if max(windows.dilations) == 1:
        kernel = _around(windows.kernel, x, first)
        strides = _around(windows.strides, x, first)
        return lax.reduce_window(x, -jnp.inf, lax.max, kernel, strides, edges)
    # jax has no gradient of a dilated maximum: take one slice for each entry of the window.
    x = jnp.pad(x, edges, constant_values=-jnp.inf)
    space = x.shape[first : first + len(windows.kernel)]
    last = [n - r for n, r in zip(space, windows.reach, strict=True)]
    slices = []
    for place in itertools.product(*map(range, windows.kernel)):
        starts = [i * d for i, d in zip(place, windows.dilations, strict=True)]
        ends = [start + end + 1 for start, end in zip(starts, last, strict=True)]
        parts = [slice(*part) for part in zip(starts, ends, windows.strides, strict=True)]
        slices.append(x[tuple(_around(parts, x, first, slice(None)))])
    return functools.reduce(jnp.maximum, slices)


def average_pool(x: Array, windows: Windows, first: int, counted: Edges | None = None) -> Array:
    """Return the mean of each window over its entries in x, and in the padding `counted`."""
    space = x.shape[first : first + len(windows.kernel)]
    ones = jnp.ones(_around(space, x, first), x.dtype)
    if counted is None:
        return _sum(x, windows, first) / _sum(ones, windows, first)
    ones = jnp.pad(ones, _around(counted, x, first, (0, 0)), constant_values=1)
    more = [
        (0, high - given) for (_, high), (_, given) in zip(windows.padding, counted, strict=True)
    ]
    return _sum(x, windows, first) / _sum(ones, windows._replace(padding=more), first)


def _sum(x: Array, windows: Windows, first: int) -> Array:
    return lax.reduce_window(
        x,
        0.0,
        lax.add,
        _around(windows.kernel, x, first),
        _around(windows.strides, x, first),
        _around(windows.padding, x, first, (0, 0)),
        window_dilation=_around(windows.dilations, x, first),
    )


def _around(values: Sequence[Any], x: Array, first: int, other: Any = 1) -> list[Any]:
    """Return a value for each axis of x: those given from axis `first` on, `other` elsewhere."""
    return [*[other] * first, *values, *[other] * (x.ndim - first - len(values))]
