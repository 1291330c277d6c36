"""The straight lines below and above each nonlinearity on an interval.

Each function takes the ends of the interval and alpha in [0, 1], which chooses among the lines
below a ReLU, and returns the slope and the height at 0 of the line below and of that above.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxadv.proofs.rules import FUNCTIONS


class Lines(NamedTuple):
    """Lines below and above a nonlinearity, entry by entry.

    Attributes:
        below: Slope of the line below.
        below_height: Its value at 0.
        above: Slope of the line above.
        above_height: Its value at 0.
    """

    below: Any
    below_height: Any
    above: Any
    above_height: Any


def relu(low: Any, high: Any, alpha: Any) -> Lines:
    """Return the chord above, and below the line through 0 of slope alpha (Zhang et al. 2018)."""
    off, on = high <= 0, low >= 0
    width = jnp.where(off | on, 1, high - low)
    slope = jnp.where(on, 1, jnp.where(off, 0, high / width))
    height = jnp.where(off | on, 0, -slope * low)
    return Lines(jnp.where(off | on, slope, alpha), jnp.zeros_like(slope), slope, height)


def adaptive(low: Any, high: Any) -> Any:
    """Return CROWN's alpha: 1 where that line leaves the smaller area, else 0."""
    return jnp.where(high > -low, 1.0, 0.0).astype(jnp.result_type(low))


def _chord(kind: str, low: Any, high: Any) -> tuple[Any, Any]:
    """Return slope and height of the line through both ends."""
    function = FUNCTIONS[kind]
    apart = high > low
    slope = jnp.where(apart, (function(high) - function(low)) / jnp.where(apart, high - low, 1), 0)
    return slope, jnp.maximum(function(low) - slope * low, function(high) - slope * high)


def _clear(kind: str, low: Any, high: Any, lines: Lines) -> Lines:
    """Return the lines, moved apart by their own rounding."""
    function, eps = FUNCTIONS[kind], float(jnp.finfo(jnp.result_type(low)).eps)
    size = jnp.abs(function(low)) + jnp.abs(function(high))
    steep = jnp.maximum(jnp.abs(lines.below), jnp.abs(lines.above))
    room = 16 * eps * (size + steep * jnp.maximum(jnp.abs(low), jnp.abs(high)))
    return lines._replace(
        below_height=lines.below_height - room, above_height=lines.above_height + room
    )


def _convex(
    kind: str, slope_at: Callable[[Any], Any], least: float = -jnp.inf
) -> Callable[[Any, Any, Any], Lines]:
    """Return the lines of a function convex above `least`: the chord, and the middle's tangent.

    Below `least` they are NaN, which proves nothing.
    """

    def lines(low: Any, high: Any, alpha: Any) -> Lines:
        del alpha
        low = jnp.where(low > least, low, jnp.nan)
        middle = (low + high) / 2
        below = slope_at(middle)
        height = FUNCTIONS[kind](middle) - below * middle
        return _clear(kind, low, high, Lines(below, height, *_chord(kind, low, high)))

    return lines


def _concave(kind: str, slope_at: Callable[[Any], Any]) -> Callable[[Any, Any, Any], Lines]:
    """Return the lines of a function that is concave above 0."""

    def lines(low: Any, high: Any, alpha: Any) -> Lines:
        del alpha
        function = FUNCTIONS[kind]
        low = jnp.where(low > 0, low, jnp.nan)
        apart, middle = high > low, (low + high) / 2
        slope = (function(high) - function(low)) / jnp.where(apart, high - low, 1)
        slope = jnp.where(apart, slope, 0)
        height = jnp.minimum(function(low) - slope * low, function(high) - slope * high)
        above = slope_at(middle)
        over = function(middle) - above * middle
        return _clear(kind, low, high, Lines(slope, height, above, over))

    return lines


def _above(function: Any, slope_at: Any, low: Any, high: Any) -> tuple[Any, Any]:
    """Return a line above a function that is convex below 0, concave above, and rises.

    Of the tangents at points d >= 0 those are above whose value at `low` is above the function;
    the others have their d too near to 0. Bisection finds one at which that changes.
    """

    def over(d: Any) -> Any:
        return function(d) + slope_at(d) * (low - d) >= function(low)

    near, far = jnp.maximum(low, 0), jnp.maximum(high, 0)
    for _ in range(12):
        middle = (near + far) / 2
        near, far = jnp.where(over(middle), near, middle), jnp.where(over(middle), middle, far)
    point = jnp.maximum(far, (low + high) / 2)
    apart = high > low
    chord = jnp.where(apart, (function(high) - function(low)) / jnp.where(apart, high - low, 1), 0)
    tangent = (high > 0) & over(point)
    slope = jnp.where(tangent, slope_at(point), chord)
    through = jnp.where(tangent, function(point) - slope * point, function(high) - slope * high)
    return slope, through


def _s_shaped(
    kind: str, slope_at: Callable[[Any], Any], middle: float
) -> Callable[[Any, Any, Any], Lines]:
    """Return the lines of a rising function that is odd around (0, middle); Zhang et al. 2018."""

    def lines(low: Any, high: Any, alpha: Any) -> Lines:
        del alpha
        odd = lambda z: FUNCTIONS[kind](z) - middle  # noqa: E731
        above, over = _above(odd, slope_at, low, high)
        below, under = _above(odd, slope_at, -high, -low)
        found = Lines(below, middle - under, above, middle + over)
        return _clear(kind, low, high, found)

    return lines


def _logistic_slope(z: Any) -> Any:
    value = FUNCTIONS["logistic"](z)
    return value * (1 - value)


LINES: dict[str, Callable[[Any, Any, Any], Lines]] = {
    "relu": relu,
    "square": _convex("square", lambda z: 2 * z),
    "exp": _convex("exp", jnp.exp),
    "reciprocal": _convex("reciprocal", lambda z: -1 / jnp.square(z), 0),
    "rsqrt": _convex("rsqrt", lambda z: -0.5 / (z * jnp.sqrt(z)), 0),
    "sqrt": _concave("sqrt", lambda z: 0.5 / jnp.sqrt(z)),
    "log": _concave("log", lambda z: 1 / z),
    "tanh": _s_shaped("tanh", lambda z: 1 - jnp.square(jnp.tanh(z)), 0),
    "logistic": _s_shaped("logistic", _logistic_slope, 0.5),
    "erf": _s_shaped("erf", lambda z: 2 / math.sqrt(math.pi) * jnp.exp(-jnp.square(z)), 0),
}
