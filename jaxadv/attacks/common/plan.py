"""The schedule of `AutoStep`: radii, stages and checkpoints, tick by tick.

The queries, the radius and the checkpoints of every tick are known beforehand: they form one table
(`Plan`), and a run reads its rows one after the other.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.core.typing import ArrayLike


class Row(NamedTuple):
    """One row of a `Plan`, its fields as scalars."""

    radius: Float[Array, ""]
    ahead: Float[Array, ""]
    begins: Bool[Array, ""]
    ends: Bool[Array, ""]
    window: Int[Array, ""]


class Plan(NamedTuple):
    """Schedule of a run of `AutoStep`, one row a tick; every field has the shape [ticks].

    Attributes:
        radius: float32, the radius in epsilons.
        ahead: float32, the radius of the next tick in epsilons.
        begins: bool, whether a stage begins with the image of this tick.
        ends: bool, whether a stage ends with the image of this tick.
        window: int, number of steps that a checkpoint at this tick looks back on (0: no
            checkpoint).
    """

    radius: Float[ArrayLike, " ticks"]
    ahead: Float[ArrayLike, " ticks"]
    begins: Bool[ArrayLike, " ticks"]
    ends: Bool[ArrayLike, " ticks"]
    window: Int[ArrayLike, " ticks"]

    def at(self, step: Int[Array, ""]) -> Row:
        """Return the row of a tick; all columns are read at once, which compiles faster."""
        columns = np.stack([np.asarray(column, np.float32) for column in self], 1)
        radius, ahead, begins, ends, window = jnp.asarray(columns)[step]
        return Row(radius, ahead, begins > 0, ends > 0, window.astype(jnp.int32))


def checkpoints(steps: int, norm: str) -> np.ndarray:
    """Return the number of steps on which each of the iterates 0 to `steps` looks back.

    In L1 there is a checkpoint every 4 % of the steps. In the other norms the first one comes after
    22 % of the steps, and each interval is 3 percentage points shorter than the one before, down to
    6 %.

    Args:
        steps: Number of steps of the stage.
        norm: "linf", "l2" or "l1".

    Returns:
        [steps + 1] integers, 0 where there is no checkpoint.
    """
    window = np.zeros(steps + 1, int)
    length = max(int((0.04 if norm == "l1" else 0.22) * steps), 1)
    at = length
    while at <= steps:
        window[at] = length
        if norm != "l1":
            length = max(length - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
        at += length
    return window
