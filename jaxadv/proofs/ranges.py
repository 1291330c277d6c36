"""The least and the largest value of each nonlinearity on an interval."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxadv.proofs.rules import FUNCTIONS


def _rising(kind: str) -> Callable[[Any, Any], tuple[Any, Any]]:
    function = FUNCTIONS[kind]
    return lambda low, high: (function(low), function(high))


def _square(low: Any, high: Any) -> tuple[Any, Any]:
    least, most = jnp.square(low), jnp.square(high)
    inside = (low <= 0) & (high >= 0)
    return jnp.where(inside, 0, jnp.minimum(least, most)), jnp.maximum(least, most)


def _reciprocal(low: Any, high: Any) -> tuple[Any, Any]:
    apart = (low > 0) | (high < 0)
    low, high = jnp.where(apart, low, 1), jnp.where(apart, high, 1)
    return jnp.where(apart, 1 / high, -jnp.inf), jnp.where(apart, 1 / low, jnp.inf)


def _rsqrt(low: Any, high: Any) -> tuple[Any, Any]:
    safe = jnp.where(low > 0, low, 1)
    least = jnp.where(high > 0, jax.lax.rsqrt(jnp.where(high > 0, high, 1)), jnp.inf)
    return least, jnp.where(low > 0, jax.lax.rsqrt(safe), jnp.inf)


RANGES: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    **{kind: _rising(kind) for kind in ("relu", "exp", "logistic", "tanh", "erf")},
    "square": _square,
    "reciprocal": _reciprocal,
    "rsqrt": _rsqrt,
    "sqrt": lambda low, high: (jnp.sqrt(jnp.maximum(low, 0)), jnp.sqrt(jnp.maximum(high, 0))),
    "log": lambda low, high: (
        jnp.where(low > 0, jnp.log(jnp.where(low > 0, low, 1)), -jnp.inf),
        jnp.where(high > 0, jnp.log(jnp.where(high > 0, high, 1)), -jnp.inf),
    ),
}
