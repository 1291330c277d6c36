"""Points of a polytope within a box and a ball: the nearest one, and the one of least cost.

In Linf and L1 these are linear programs, for SciPy's HiGHS. In L2 the nearest point is a
least-distance program, which is a non-negative least-squares problem (Lawson and Hanson 1974,
"Solving Least Squares Problems", chapter 23); the box is met by a primal-dual active set
(Hintermueller, Ito and Kunisch 2002). The least cost in L2 is the largest value of its dual.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import sparse
from scipy.optimize import linprog, minimize, nnls

from jaxadv.core.precision import x64
from jaxadv.proofs.balls import least

TINY = 1e-12  # a shorter gradient is none
ROUNDS = 50  # of the active set
NORMS = {"linf": 1, "l2": 2, "l1": np.inf}  # the orders of their dual norms
Box = tuple[np.ndarray, np.ndarray]
_least = jax.jit(least, static_argnums=0)


class Lowest(NamedTuple):
    """A least cost, and what shows it.

    Attributes:
        value: A lower bound of the cost, to HiGHS's tolerance the least one.
        multipliers: Floats [R] of 0 or more: `value` is the least of cost @ d - multipliers @
            (rows @ d - needs) over the box and the ball.
        point: Floats [D], where it is attained; None if no point is feasible.
    """

    value: float
    multipliers: np.ndarray
    point: np.ndarray | None


def nearest(
    norm: str, rows: np.ndarray, needs: np.ndarray, box: Box, radius: float
) -> np.ndarray | None:
    """Return the shortest d [D] with rows @ d >= needs, within the box and the radius.

    All is solved in units of the radius, with rows of length 1, to HiGHS's tolerance of about 1e-7.

    Args:
        norm: "linf", "l2" or "l1".
        rows: Floats [R, D].
        needs: Floats [R].
        box: The least and the largest d, each [D].
        radius: The largest length, above 0 and finite.

    Returns:
        The point; None if there is none.

    Example:
        >>> import numpy as np
        >>> from jaxadv.proofs.polytopes import nearest
        >>> box = np.array([-1.0, -1.0]), np.array([1.0, 0.5])
        >>> nearest("linf", np.array([[1.0, 1.0]]), np.array([1.2]), box, 2.0).round(3).tolist()
        [0.7, 0.5]
    """
    length = dual_norm(norm, rows)
    steep = length > TINY
    if (needs[~steep] > 0).any():
        return None
    rows, needs = rows[steep] / length[steep, None], needs[steep] / (length[steep] * radius)
    low, high = (end / radius for end in box)
    if norm == "l2":
        d = _project(rows, needs, low, high)
        return None if d is None or np.linalg.norm(d) > 1 else radius * d
    count, size = rows.shape
    if norm == "linf":
        one, edge = sparse.eye_array(size), np.ones((size, 1))
        blocks = [[-rows, np.zeros((count, 1))], [one, -edge], [-one, -edge]]
        matrix = sparse.csc_array(sparse.block_array(blocks))
        limits = np.concatenate([-needs, np.zeros(2 * size)])
        bounds = np.c_[np.r_[np.maximum(low, -1), 0.0], np.r_[np.minimum(high, 1), 1.0]]
        cost = np.r_[np.zeros(size), 1.0]
        found = linprog(cost, matrix, limits, bounds=bounds, method="highs")
        return None if found.x is None else radius * found.x[:size]
    matrix = np.concatenate([np.c_[-rows, rows], np.ones((1, 2 * size))])  # d's two parts
    bounds = np.c_[np.zeros(2 * size), np.clip(np.r_[high, -low], 0, 1)]
    found = linprog(np.ones(2 * size), matrix, np.r_[-needs, 1.0], bounds=bounds, method="highs")
    return None if found.x is None else radius * (found.x[:size] - found.x[size:])


def lowest(
    norm: str,
    cost: np.ndarray,
    rows: np.ndarray,
    needs: np.ndarray,
    box: Box,
    radius: float,
    enough: float = np.inf,
) -> Lowest:
    """Return the least cost @ d with rows @ d >= needs, within the box and the ball.

    Args:
        norm: "linf" (whose ball the box is within), "l2" or "l1".
        cost: Floats [D].
        rows: Floats [R, D].
        needs: Floats [R].
        box: The least and the largest d, each [D]; 0 is within.
        radius: The radius of the ball.
        enough: A value that suffices. Where no point is feasible, the multipliers reach it, or are
            as large as float64 can tell that from rounding.

    Returns:
        The value, the multipliers and the point.

    Example:
        >>> import numpy as np
        >>> from jaxadv.proofs.polytopes import lowest
        >>> box = np.array([-1.0, -1.0]), np.array([1.0, 1.0])
        >>> cost, rows, needs = np.array([1.0, 2.0]), np.array([[0.0, 1.0]]), np.array([0.5])
        >>> found = lowest("l1", cost, rows, needs, box, 1.0)
        >>> found.value, found.multipliers.tolist()
        (0.5, [3.0])
    """
    length = dual_norm(norm, rows)
    length = np.where(length > TINY, length, 1.0)
    rows, needs = rows / length[:, None], needs / length
    if norm == "l2":
        found = _dual_ascent(cost, rows, needs, box, radius, enough)
        return found._replace(multipliers=found.multipliers / length)
    if norm == "linf":
        parts, ends = rows, np.stack(box, 1)
        lengths, limit = np.zeros((0, len(cost))), np.zeros(0)
    else:  # d is the difference of two non-negative parts, whose sum is limited
        room = np.clip(np.r_[box[1], -box[0]], 0, radius)
        parts, ends, cost = np.c_[rows, -rows], np.c_[0 * room, room], np.r_[cost, -cost]
        lengths, limit = np.ones((1, len(room))), np.array([float(radius)])
    most = np.r_[-needs, limit]
    found = linprog(cost, np.r_[-parts, lengths], most, bounds=ends, method="highs")
    if found.x is not None:
        multipliers = np.maximum(-found.ineqlin.marginals[: len(rows)], 0)
        point = found.x if norm == "linf" else np.subtract(*np.split(found.x, 2))
        return Lowest(float(found.fun), multipliers / length, point)
    # No point is feasible: by how much do all miss the inequalities at least, and what shows it?
    matrix = np.c_[np.r_[-parts, lengths], np.r_[-np.ones(len(rows)), 0 * limit]]
    missed = linprog(
        np.r_[0 * cost, 1.0], matrix, most, bounds=np.r_[ends, [[0, np.inf]]], method="highs"
    )
    if missed.x is None or missed.fun < TINY:
        return Lowest(-np.inf, np.zeros(len(rows)), None)
    worst = np.minimum(cost * ends[:, 0], cost * ends[:, 1]).sum()
    scale = 2 * max(1.0, (enough if np.isfinite(enough) else 0.0) - worst) / missed.fun
    multipliers = scale * np.maximum(-missed.ineqlin.marginals[: len(rows)], 0)
    return Lowest(worst + scale * missed.fun, multipliers / length, None)


def _dual_ascent(
    cost: np.ndarray, rows: np.ndarray, needs: np.ndarray, box: Box, radius: float, enough: float
) -> Lowest:
    """Return the least cost in L2: the dual, concave in the multipliers, by L-BFGS-B."""

    def value(multipliers: np.ndarray) -> tuple[float, np.ndarray]:
        with x64():
            taken, d = _least("l2", cost - multipliers @ rows, *box, radius)
        return float(taken) + float(multipliers @ needs), np.asarray(d)

    def negative(multipliers: np.ndarray) -> tuple[float, np.ndarray]:
        best, d = value(multipliers)
        return -best, rows @ d - needs

    def stop(intermediate_result: Any) -> None:
        if -intermediate_result.fun > enough:
            raise StopIteration

    start = np.zeros(len(rows))
    if len(rows):
        limits, options = [(0, None)] * len(rows), {"maxiter": 500}
        start = minimize(
            negative,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=limits,
            options=options,
            callback=stop,
        ).x
    best, d = value(start)
    return Lowest(best, start, d)


def dual_norm(norm: str, rows: np.ndarray) -> np.ndarray:
    """Return the lengths [R] of gradients [R, D] in the dual norm."""
    return np.linalg.norm(rows, NORMS[norm], axis=1)


def _project(
    rows: np.ndarray, needs: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray | None:
    """Return the shortest d with rows @ d >= needs and low <= d <= high; None if none was found."""
    side = np.zeros(rows.shape[1], int)  # -1: held at low, 1: at high
    for _ in range(ROUNDS):
        free = side == 0
        held = np.where(side < 0, low, np.where(side > 0, high, 0.0))
        left = needs - rows @ held
        matrix = np.r_[rows[:, free].T, left[None]]
        wanted = np.r_[np.zeros(free.sum()), 1.0]
        multiplier, _ = nnls(matrix, wanted)
        residual = matrix @ multiplier - wanted
        if -residual[-1] < 1e-12:
            return None
        wished = rows.T @ (multiplier / -residual[-1])
        now = np.where(wished < low, -1, np.where(wished > high, 1, 0))
        if (now == side).all():
            return np.clip(wished, low, high)
        side = now
    return None
