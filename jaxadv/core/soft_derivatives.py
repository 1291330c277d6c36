"""Values with the derivative of a smooth function in place of a ReLU's or a maximum's.

The first argument of each is the value, which is returned as it is. A negative width turns a
maximum into a minimum.
"""

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxadv.core.typing import ArrayLike, Number

MOST_ENTRIES = 64  # of a pooling window; a larger one would need too many slices


def _apart(a: Number, b: Number, width: Number) -> Array:
    """Return (a - b) / width; 0 for two equal infinities."""
    return jnp.where(a == b, 0, a - b) / width


def _like(value: Array, tangent: Array) -> Array:
    return jnp.broadcast_to(tangent, value.shape).astype(value.dtype)


@jax.custom_jvp
def rectified(value: Array, x: Number, below: Number, above: Number, width: Number) -> Array:
    """Return the value of a leaky ReLU of x whose derivative goes smoothly from `below` to `above`.

    Args:
        value: The value.
        x: The input.
        below: The slope for x far below 0.
        above: The slope for x far above 0.
        width: The x at which the derivative has gone 0.73 of the way.
    """
    return value


@rectified.defjvp
def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    value, x, below, above, width = primals
    weight = jax.nn.sigmoid(x / width)
    return value, _like(value, tangents[1] * (below + (above - below) * weight))


@jax.custom_jvp
def larger(value: Array, a: Number, b: Number, width: Number) -> Array:
    """Return the value of max(a, b) with the derivative of a mean of a and b.

    Args:
        value: The value.
        a: One of the two.
        b: The other.
        width: The a - b at which a has 0.73 of the weight.
    """
    return value


@larger.defjvp
def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    value, a, b, width = primals
    weight = jax.nn.sigmoid(_apart(a, b, width))
    return value, _like(value, tangents[1] * weight + tangents[2] * (1 - weight))


@jax.custom_jvp
def clipped(value: Array, low: Number, x: Number, high: Number, width: Number) -> Array:
    """Return the value of x clipped to [low, high], with a derivative by x alone.

    Args:
        value: The value.
        low: The least value.
        x: The input.
        high: The largest value.
        width: The distance from an end at which its part of the derivative is 0.73.
    """
    return value


@clipped.defjvp
def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    value, low, x, high, width = primals
    weight = jax.nn.sigmoid(_apart(x, low, width)) * jax.nn.sigmoid(_apart(high, x, width))
    return value, _like(value, tangents[2] * weight)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def largest(axes: tuple[int, ...], value: Array, x: ArrayLike, width: Number) -> Array:
    """Return the value of a maximum along axes with the derivative of a mean of the entries.

    Args:
        axes: The axes.
        value: The value.
        x: The entries.
        width: The width of the softmax that weights them.
    """
    return value


@largest.defjvp
def _(
    axes: tuple[int, ...], primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Array, Array]:
    value, x, width = primals
    weights = jnp.exp(_apart(x, jnp.expand_dims(value, axes), width))
    mean = (weights * tangents[1]).sum(axes) / weights.sum(axes)
    return value, _like(value, mean)


class Window(NamedTuple):
    """The settings of a pooling, one number for each axis.

    Attributes:
        size: Entries of a window.
        strides: Steps between windows.
        padding: Entries before and after the image.
        spread: Steps between the entries of the image.
        dilation: Steps between the entries of a window.
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    spread: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(cls, params: dict[str, Any]) -> "Window":
        """Return the settings of a `reduce_window_max` equation."""
        return cls(
            tuple(params["window_dimensions"]),
            tuple(params["window_strides"]),
            tuple(map(tuple, params["padding"])),
            tuple(params["base_dilation"]),
            tuple(params["window_dilation"]),
        )

    def entries(self, x: ArrayLike, outside: float, out: tuple[int, ...]) -> list[Array]:
        """Return the first entry of all windows, the second, and so on, each [*out]."""
        edges = [(*pad, d - 1) for pad, d in zip(self.padding, self.spread, strict=True)]
        padded = lax.pad(x, jnp.asarray(outside, x.dtype), edges)
        slices = []
        for place in itertools.product(*map(range, self.size)):
            start = [p * d for p, d in zip(place, self.dilation, strict=True)]
            last = [
                s + (n - 1) * stride + 1
                for s, n, stride in zip(start, out, self.strides, strict=True)
            ]
            slices.append(lax.slice(padded, start, last, self.strides))
        return slices


def has_slices(params: dict[str, Any]) -> bool:
    """Return whether a pooling window is small enough for `pooled`."""
    return math.prod(params["window_dimensions"]) <= MOST_ENTRIES


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def pooled(window: Window, value: Array, x: ArrayLike, width: Number) -> Array:
    """Return the value of a max-pooling with the derivative of a mean of each window's entries.

    Args:
        window: The settings of the pooling.
        value: The value.
        x: The image.
        width: The width of the softmax that weights the entries of a window.
    """
    return value


@pooled.defjvp
def _(window: Window, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    value, x, width = primals
    entries = window.entries(x, -jnp.inf, value.shape)
    weights = [jnp.exp(_apart(entry, value, width)) for entry in entries]
    moves = window.entries(tangents[1], 0.0, value.shape)
    moved = [weight * move for weight, move in zip(weights, moves, strict=True)]
    return value, _like(
        value, functools.reduce(lax.add, moved) / functools.reduce(lax.add, weights)
    )
