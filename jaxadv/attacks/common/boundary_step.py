"""The step of the Brendel-Bethge attack: along the linearised boundary, within an L2 ball.

With b the gradient of the margin at the iterate x, x0 the image, and z the next iterate, the
problem is to minimise ||z - x0||_p such that <b, z - x> = c, ||z - x||_2 <= r, and z lies in the
box. Its Lagrangian has two multipliers. One weighs the distance against the length of the step;
given it, every entry of the optimal z follows from the other, s, which belongs to the hyperplane,
and <b, z> does not decrease in s. Two nested one-dimensional searches therefore solve the problem.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxadv.attacks.common.hyperplane import hyperplane_step, smallest
from jaxadv.core.norms import get_norm, mean_side
from jaxadv.core.pytree import where
from jaxadv.core.typing import Number

Scalar = Float[Array, ""]
DOUBLINGS = -30.0, 24.0  # the range of s in powers of two, in units of the box's side


def falsi(
    f: Callable[[Array], tuple[Array, PyTree]],
    low: Number,
    high: Number,
    at_low: Number,
    at_high: Number,
    rounds: int,
    extra: PyTree = (),
) -> tuple[Scalar, PyTree]:
    """Run `rounds` Illinois iterations (regula falsi) on a bracket [low, high] with a sign change.

    Args:
        f: Function that maps an argument to its value and an auxiliary pytree.
        low: Lower end of the bracket.
        high: Upper end of the bracket.
        at_low: Value of f at `low`.
        at_high: Value of f at `high`, of the opposite sign.
        rounds: Number of iterations.
        extra: Auxiliary pytree that belongs to the first `low`.

    Returns:
        The argument with the least |f|, and the auxiliary pytree of the last `low`.
    """

    def turn(_: Number, carry: tuple[PyTree, ...]) -> tuple[PyTree, ...]:
        low, high, at_low, at_high, side, best, least, extra = carry
        fall = at_high - at_low
        fraction = jnp.where(fall == 0, 0.5, -at_low / jnp.where(fall == 0, 1.0, fall))
        middle = low + jnp.clip(fraction, 0.01, 0.99) * (high - low)
        value, more = f(middle)
        below = (value > 0) == (at_high <= 0)  # on the side of `low`
        at_high = jnp.where(below & (side < 0), at_high / 2, at_high)
        at_low = jnp.where(~below & (side > 0), at_low / 2, at_low)
        low, at_low = jnp.where(below, middle, low), jnp.where(below, value, at_low)
        high, at_high = jnp.where(below, high, middle), jnp.where(below, at_high, value)
        nearer, side = jnp.abs(value) < least, jnp.where(below, -1, 1)
        best, least = jnp.where(nearer, middle, best), jnp.where(nearer, jnp.abs(value), least)
        return low, high, at_low, at_high, side, best, least, where(below, more, extra)

    best = jnp.where(jnp.abs(at_low) <= jnp.abs(at_high), low, high)
    least = jnp.minimum(jnp.abs(at_low), jnp.abs(at_high))
    start = (low, high, at_low, at_high, jnp.int32(0), best, least, extra)
    *_, best, _, extra = lax.fori_loop(0, rounds, turn, start)
    return best, extra


def multiplier(gap: Callable[[Array], Array], unit: Number) -> Scalar:
    """Return the s at which the non-decreasing `gap` is (nearly) 0; `unit` is the scale of s."""
    at_zero = gap(jnp.float32(0))
    way = -jnp.sign(at_zero)

    def at(power: Array) -> Array:
        return way * unit * jnp.exp2(power)

    def halve(_: Number, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        low, high, at_low, at_high = carry
        middle = (low + high) / 2
        value = gap(at(middle))
        beyond = way * value >= 0
        low, at_low = jnp.where(beyond, low, middle), jnp.where(beyond, at_low, value)
        high, at_high = jnp.where(beyond, middle, high), jnp.where(beyond, value, at_high)
        return low, high, at_low, at_high

    first, last = jnp.float32(DOUBLINGS[0]), jnp.float32(DOUBLINGS[1])
    start = (first, last, at_zero, way * jnp.float32(1e30))
    low, high, at_low, at_high = lax.fori_loop(0, 10, halve, start)
    low = jnp.where(low == first, 0.0, at(low))
    return falsi(lambda s: (gap(s), ()), low, at(high), at_low, at_high, 6)[0]


def boundary_step(
    norm: str,
    image: Float[Array, "..."],
    original: Float[Array, "..."],
    normal: Float[Array, "..."],
    change: Number,
    radius: Number,
    lower: Number,
    upper: Number,
) -> Float[Array, "..."]:
    """Return the point nearest to `original` among those that one step from `image` can reach.

    If the hyperplane lies beyond the ball or the box, the result is the point of them that comes
    nearest to it. If `normal` is 0, the result lies on the way to `original`, as far as the ball
    reaches. L0 is not convex: its result is the best for some weight of one changed entry against
    squared length. After Brendel et al. 2019 (arXiv 1907.01003).

    The hyperplane is met to about 1e-6 of sum |b (z - x)|, and the ball is never left. The function
    costs about 250 sums over the image, sorts nothing and calls no model.

    Args:
        norm: "linf", "l2", "l1" or "l0", in which the distance to `original` is measured.
        image: [...] float32, the iterate x, within the box.
        original: [...] float32, the image x0, within the box.
        normal: [...] float32, the gradient b of the margin at x.
        change: Scalar c, by which <b, .> is to change.
        radius: Radius r of the L2 ball around x.
        lower: Lower bound of the box.
        upper: Upper bound of the box.

    Returns:
        [...] float32, the next iterate z.

    >>> import jax.numpy as jnp
    >>> from jaxadv.attacks.common.boundary_step import boundary_step
    >>> image, original = jnp.array([0.9, 0.1]), jnp.array([0.2, 0.2])
    >>> normal = jnp.array([-1.0, 0.0])  # the margin falls as the first entry grows
    >>> boundary_step("l2", image, original, normal, 0.5, 1.0, 0.0, 1.0).round(3)
    Array([0.4, 0.2], dtype=float32)
    """
    # As vectors: on a CPU a loop of sums over [28, 28, 1] takes twenty times as long.
    shape, lengths = image.shape, get_norm("l2").distance
    image, original, normal = image.ravel(), original.ravel(), normal.ravel()
    scale = jnp.maximum(jnp.abs(normal).max(), 1e-37)  # keeps squares and sums finite
    normal, change = normal / scale, jnp.clip(change / scale, -1e30, 1e30)
    lower, upper = (jnp.ravel(end) if jnp.ndim(end) else end for end in (lower, upper))
    back, span = original - image, mean_side(lower, upper)
    low, high = lower - original, upper - original  # from here on in e = z - x0
    infinite = jnp.float32(jnp.inf)

    def gap(e: Array) -> Array:
        return (normal * (e + back)).sum() - change

    def on(entries: Array) -> Array:
        """Return the point nearest to x on the hyperplane where only these entries change."""

        def point(s: Array) -> Array:
            return jnp.where(entries, jnp.clip(s * normal - back, low, high), 0.0)

        return point(multiplier(lambda s: gap(point(s)), span))

    # The two ends: nearest to the iterate, and nearest to the image regardless of the ball.
    first = hyperplane_step("l2", image, normal, change, lower, upper) - back
    missing = change - (normal * back).sum()
    if norm == "l0":
        gains = jnp.maximum(jnp.sign(missing) * normal * low, jnp.sign(missing) * normal * high)
        wanted = jnp.abs(missing)
        least = smallest(lambda g: jnp.where(gains > g, gains, 0.0).sum() <= wanted)
        last = on((gains >= least) & (gains > 0))
    else:
        last = hyperplane_step(norm, original, normal, missing, lower, upper)
    nearest = jnp.abs(last).max()
    farthest = jnp.maximum(jnp.abs(first).max(), nearest)

    def between(weight: Array) -> Array:
        """Return the optimal e for this weight of the distance, from 0 (`first`) to 1 (`last`)."""
        threshold = span * weight / jnp.maximum(1 - weight, 1e-6)
        epsilon = nearest + (1 - weight) * (farthest - nearest) if norm == "linf" else infinite
        least, most = jnp.maximum(low, -epsilon), jnp.minimum(high, epsilon)

        def changes(s: Array) -> Array:
            # L0: entries whose change saves more length than it costs.
            free = jnp.clip(s * normal - back, low, high)
            return jnp.square(s * normal - back) - jnp.square(s * normal - back - free) > (
                2 * span * threshold
            )

        def point(s: Array) -> Array:
            moved = s * normal - back
            if norm == "l2":
                moved = moved + weight * back
            elif norm == "l1":
                moved = jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - threshold, 0.0)
            elif norm == "l0":
                moved = jnp.where(changes(s), moved, 0.0)
            return jnp.clip(moved, least, most)

        s = multiplier(lambda s: gap(point(s)), span + threshold)
        return on(changes(s)) if norm == "l0" else point(s)

    def excess(e: Array) -> Array:
        """Return a value above 0 if the step is too long or off the plane (L0: too few entries)."""
        hair = 0.01 * jnp.abs(change) + 1e-6 * jnp.abs(normal * (e + back)).sum()
        missed = jnp.abs(gap(e)) > jnp.abs(gap(first)) + hair
        return jnp.where(missed, radius, lengths(e + back) - radius)

    def trial(weight: Array) -> tuple[Array, Array]:
        e = between(weight)
        return excess(e), e

    too_far, too_far_last = excess(first), excess(last)
    _, middle = falsi(trial, jnp.float32(0), jnp.float32(1), too_far, too_far_last, 8, extra=first)
    e = jnp.where(too_far_last <= 0, last, middle)
    towards = image + jnp.sign(change) * 1e6 * span * normal
    cut = get_norm("l2").project(towards, image, radius, lower, upper)
    return jnp.where(too_far > 0, cut, jnp.clip(original + e, lower, upper)).reshape(shape)
