"""Projection onto the Wasserstein ball by Sinkhorn iterations, with a feasible transport plan.

A plan [O, H, W, C] is the mass that goes from each pixel by each of the O offsets of a window.
Channels exchange no mass, and none leaves the image.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxadv.core.typing import Number

BACKTRACKS = 6  # halvings of a Newton step on the fare, which may not fall below 0
FITTINGS = 12  # rounds in which inflows are reduced to the capacity


def offsets(window: int) -> np.ndarray:
    """(down, right) of all pixels of a square window, [O, 2]; the middle one stays in place."""
    half = window // 2
    steps = np.arange(-half, half + 1)
    return np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)


def costs(window: int, power: Number) -> Float[Array, "O 1 1 1"]:
    """Cost of moving one unit of mass by each offset: its length in pixels, to this power."""
    length = np.sqrt(np.square(offsets(window)).sum(1)).reshape(-1, 1, 1, 1)
    return jnp.where(length > 0, jnp.asarray(length, jnp.float32) ** power, 0.0)


def windows(values: Float[Array, "H W C"], window: int, beyond: float) -> Float[Array, "O H W C"]:
    """At each pixel the values of those within its window; outside the image: `beyond`."""
    height, width, _ = values.shape
    half = window // 2
    wide = jnp.pad(values, ((half, half), (half, half), (0, 0)), constant_values=beyond)
    return jnp.stack(
        [
            wide[d + half : d + half + height, r + half : r + half + width]
            for d, r in offsets(window)
        ]
    )


def arrived(plan: Float[Array, "O H W C"], window: int) -> Float[Array, "H W C"]:
    """The mass that arrives at each pixel."""
    _, height, width, _ = plan.shape
    half = window // 2
    wide = jnp.pad(plan, ((0, 0), (half, half), (half, half), (0, 0)))
    return sum(
        wide[offset, half - down : half - down + height, half - right : half - right + width]
        for offset, (down, right) in enumerate(offsets(window))
    )  # type: ignore[return-value]


class Prices(NamedTuple):
    """The dual variables of the projection.

    Attributes:
        worth: [H, W, C], price of the mass that arrives at a pixel.
        fare: Scalar, price of a unit of cost, not negative.
    """

    worth: Float[Array, "H W C"]
    fare: Float[Array, ""]


def plan_of(mass: Array, prices: Prices, cost: Array, window: int) -> Float[Array, "O H W C"]:
    """The plan of these dual variables; exactly `mass` leaves each pixel."""
    gain = windows(prices.worth, window, -jnp.inf) - prices.fare * cost
    odds = jnp.exp(gain - gain.max(0))
    return mass * odds / odds.sum(0)


def lambert(log: Float[Array, "..."]) -> Float[Array, "..."]:
    """The v with log v + v = log, Lambert's W of exp(log), by Newton's method on log v."""
    small = jnp.minimum(log, 0.0)  # there v is nearly exp(log)
    start = jnp.where(log > 1, jnp.log(jnp.maximum(log, 1.0)), small - jnp.exp(small) / 2)

    def newton(_: Number, logv: Array) -> Array:
        v = jnp.exp(logv)
        return logv - (logv + v - log) / (1 + v)

    return jnp.exp(lax.fori_loop(0, 4, newton, start))


def sinkhorn(
    mass: Float[Array, "H W C"],
    wanted: Float[Array, "H W C"],
    radius: Number,
    prices: Prices,
    cost: Float[Array, "O 1 1 1"],
    window: int,
    sharpness: Number,
    iterations: int,
) -> Prices:
    """Run Sinkhorn iterations towards the projection onto the Wasserstein ball.

    Minimises sharpness / 2 |arrived - wanted|^2 - entropy(plan), the plan's cost at most radius,
    over plans from `mass` (Wong, Schmidt and Kolter 2019, arXiv 1902.07906, algorithm 2), by block
    ascent: every plan satisfies the constraint on the mass that leaves; then `worth` is maximised
    at all pixels; then a Newton step is taken on `fare`.

    Args:
        mass: [H, W, C], the mass at each pixel.
        wanted: [H, W, C], the target of the projection.
        radius: Largest cost of the plan.
        prices: Dual variables to start from.
        cost: [O, 1, 1, 1], from `costs`.
        window: Side of the window in pixels, an odd number.
        sharpness: Weight of the distance against the entropy.
        iterations: Number of dual steps.

    Returns:
        The dual variables after these steps; `plan_of` gives their plan.
    """

    def step(_: Number, prices: Prices) -> Prices:
        gain = windows(prices.worth, window, -jnp.inf) - prices.fare * cost
        most = gain.max(0)
        total = jnp.log(jnp.exp(gain - most).sum(0)) + most
        # log of sum_i mass_i exp(-fare cost - total_i), that is, of what arrives per exp(worth).
        left = jnp.where(mass > 0, jnp.log(jnp.maximum(mass, 1e-30)) - total, -jnp.inf)
        coming = windows(left, window, -jnp.inf) - prices.fare * cost
        peak = jnp.maximum(coming.max(0), -1e4)
        inflow = jnp.log(jnp.maximum(jnp.exp(coming - peak).sum(0), 1e-30)) + peak
        aim = wanted * sharpness
        worth = aim - lambert(jnp.log(sharpness) + aim + inflow)
        plan = plan_of(mass, Prices(worth, prices.fare), cost, window)
        slope, bend = (plan * cost).sum() - radius, (plan * jnp.square(cost)).sum()
        move = slope / jnp.maximum(bend, 1e-30)
        factors = jnp.exp2(-jnp.arange(BACKTRACKS, dtype=jnp.float32))
        fares = prices.fare + factors * move
        fare = jnp.where((fares >= 0).any(), fares[jnp.argmax(fares >= 0)], 0.0)
        return Prices(worth, fare)

    return lax.fori_loop(0, iterations, step, prices)


def affordable(
    plan: Float[Array, "O H W C"],
    room: Float[Array, "H W C"],
    radius: Number,
    cost: Float[Array, "O 1 1 1"],
    window: int,
) -> Float[Array, "H W C"]:
    """The mass that arrives by the part of a plan that the radius and the capacities allow.

    All inflows of one pixel are reduced by the same factor, until no pixel overflows; then all
    moves by the same factor, until their cost is at most the radius.

    Args:
        plan: [O, H, W, C], the transport plan.
        room: [H, W, C], the mass that each pixel can hold beyond what it has now.
        radius: Largest cost of the plan.
        cost: [O, 1, 1, 1], from `costs`.
        window: Side of the window in pixels, an odd number.

    Returns:
        The mass at each pixel, [H, W, C].
    """
    stay = cost == 0
    moves, mass = jnp.where(stay, 0.0, plan), plan.sum(0)

    def overflow(moves: Array) -> tuple[Array, Array]:
        return arrived(moves, window), moves.sum(0)

    def cut(moves: Array, allowed: Array, coming: Array) -> Array:
        fraction = jnp.where(coming > allowed, allowed / jnp.maximum(coming, 1e-30), 1.0)
        return moves * windows(fraction, window, 0.0)

    def fit(number: Number, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        # Outflow makes room too; a pixel that overflows again later may not rely on it.
        moves, wary = carry
        coming, leaving = overflow(moves)
        over = coming > room + leaving
        wary |= over & (number > FITTINGS // 2)
        return cut(moves, jnp.where(wary, room, room + leaving), coming), wary

    fitted, _ = lax.fori_loop(0, FITTINGS, fit, (moves, jnp.zeros(room.shape, bool)))
    coming, leaving = overflow(fitted)
    # If a pixel is still too full, no pixel may rely on its outflow: then all fit.
    coming_all, _ = overflow(moves)
    careful = cut(moves, room, coming_all)
    fits = (coming <= room + leaving + 1e-6 * (room + mass)).all()
    moves = jnp.where(fits, fitted, careful)
    fraction = jnp.minimum(radius / jnp.maximum((moves * cost).sum(), 1e-30), 1.0)
    moves = fraction * moves
    return mass - moves.sum(0) + arrived(moves, window)
