"""The straight lines below and above each nonlinearity on an interval.

Each function takes the ends of the interval and alpha in [0, 1], which chooses among the lines
below a ReLU, and returns the slope and the height at 0 of the line below and of that above.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxadv.proofs.walk import FUNCTIONS


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
    function = FUNCTIONS[kind]
    narrow = high - low < 1e-6 * (1 + jnp.abs(low))
    slope = (function(high) - function(low)) / jnp.where(narrow, 1, high - low)
    return jnp.where(narrow, 0, slope), narrow


def _convex(kind: str, slope_at: Callable[[Any], Any]) -> Callable[[Any, Any, Any], Lines]:
    """Return the lines of a convex function: the chord above, the tangent at the middle below."""

    def lines(low: Any, high: Any, alpha: Any) -> Lines:
        del alpha
        function, middle = FUNCTIONS[kind], (low + high) / 2
        above, narrow = _chord(kind, low, high)
        below = slope_at(middle)
        top = jnp.maximum(function(low), function(high))
        height = jnp.where(narrow, top, function(low) - above * low)
        return Lines(below, function(middle) - below * middle, above, height)

    return lines


LINES: dict[str, Callable[[Any, Any, Any], Lines]] = {
    "relu": relu,
    "square": _convex("square", lambda x: 2 * x),
    "exp": _convex("exp", jnp.exp),
}
