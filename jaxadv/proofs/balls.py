"""The least value of a linear function over a norm ball that is intersected with a box.

The ball is relaxed by one multiplier mu >= 0: every mu gives a lower bound, and one bisection nearly
the best one. Linf balls are boxes themselves.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

NORMS = ("linf", "l2", "l1")
HALVINGS = 40


def least(
    norm: str,
    slope: Float[Array, "..."],
    low: Float[Array, "..."],
    high: Float[Array, "..."],
    radius: Float[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, "..."]]:
    """Return a lower bound of <slope, d> over low <= d <= high, |d| <= radius, and a d near it.

    Args:
        norm: "linf", "l2" or "l1".
        slope: The coefficients.
        low: The least d, at most 0.
        high: The largest d, at least 0.
        radius: The radius of the ball; "linf" takes it from `low` and `high`.

    Returns:
        The bound (attained in Linf, and up to the bisection in the others), and a d in the box.
    """
    corner = jnp.where(slope > 0, low, high)
    if norm == "linf":
        return (slope * corner).sum(), corner
    size = jnp.abs(slope)

    def best(mu: Array) -> Array:
        """Return the d that minimises <slope, d> + mu (penalty of d)."""
        if norm == "l1":
            return jnp.where(size > mu, corner, 0)
        return jnp.clip(-slope / jnp.maximum(2 * mu, 1e-30), low, high)

    def length(d: Array) -> Array:
        return jnp.abs(d).sum() if norm == "l1" else jnp.square(d).sum()

    allowed = radius if norm == "l1" else jnp.square(radius)
    largest = size.max() if norm == "l1" else jnp.sqrt(jnp.square(slope).sum()) / (2 * radius)
    fits = length(corner) <= allowed

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (ends[0] + ends[1]) / 2
        long = length(best(middle)) > allowed
        return jnp.where(long, middle, ends[0]), jnp.where(long, ends[1], middle)

    _, mu = lax.fori_loop(0, HALVINGS, halve, (jnp.zeros_like(largest), largest))
    mu = lax.stop_gradient(jnp.where(fits, 0, mu))
    d = lax.stop_gradient(jnp.where(fits, corner, best(mu)))
    penalty = mu * (length(d) - allowed)
    return (slope * d).sum() + jnp.where(fits, 0, penalty), d
