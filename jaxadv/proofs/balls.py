"""The least value of a linear function over a norm ball that is intersected with a box.

The ball is relaxed by one multiplier mu >= 0: every mu gives a lower bound. In L1 a sort gives the
best one, in L2 a bisection one that is nearly the best. Linf balls are boxes themselves.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

NORMS = ("linf", "l2", "l1")
HALVINGS = 20


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
        The bound, and a d of the box at which it is nearly attained.
    """
    corner = jnp.where(slope > 0, low, high)
    if norm == "linf":
        return (slope * corner).sum(), corner
    size, fits = jnp.abs(slope), _length(norm, corner) <= radius
    if norm == "l1":  # the steepest entries go all the way, until the radius is spent
        order = jnp.argsort(-size.ravel())
        spent = jnp.cumsum(jnp.abs(corner).ravel()[order])
        mu = size.ravel()[order][jnp.searchsorted(spent, radius).clip(max=size.size - 1)]
    else:
        mu = _multiplier(slope, low, high, radius)
    mu = lax.stop_gradient(jnp.where(fits, 0, mu))
    d = corner if norm == "l1" else jnp.clip(-slope / jnp.maximum(2 * mu, 1e-30), low, high)
    d = jnp.where(fits, corner, jnp.where(size > mu, corner, 0) if norm == "l1" else d)
    d = lax.stop_gradient(d)
    excess = _length(norm, d) - radius if norm == "l1" else jnp.square(d).sum() - radius**2
    return (slope * d).sum() + jnp.where(fits, 0, mu * excess), d


def _length(norm: str, d: Float[Array, "..."]) -> Float[Array, ""]:
    return jnp.abs(d).sum() if norm == "l1" else jnp.sqrt(jnp.square(d).sum())


def _multiplier(
    slope: Float[Array, "..."],
    low: Float[Array, "..."],
    high: Float[Array, "..."],
    radius: Float[Array, ""],
) -> Float[Array, ""]:
    """Return the multiplier of an L2 ball, by bisection of the length that it leaves."""

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (ends[0] + ends[1]) / 2
        d = jnp.clip(-slope / jnp.maximum(2 * middle, 1e-30), low, high)
        long = jnp.square(d).sum() > radius**2
        return jnp.where(long, middle, ends[0]), jnp.where(long, ends[1], middle)

    most = jnp.sqrt(jnp.square(slope).sum()) / (2 * radius)
    return lax.fori_loop(0, HALVINGS, halve, (jnp.zeros_like(most), most))[1]
