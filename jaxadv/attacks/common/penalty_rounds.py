"""Rounds of gradient descent on distance + c * max(margin + confidence, 0), one c at a time.

Shared by the Carlini-Wagner attacks and the elastic-net attack: the end of a round, the criterion
of success, and the search for c. Each image has its own c and its own end of a round.
"""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.core.attack import Attack, Needs, Problem, State
from jaxadv.core.goals import Goal
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Number

CHECKS = 10  # number of checks of the loss in a round
FALLEN = 0.9999  # a lowest loss above this fraction of that at the last check has stopped falling


class Weight(NamedTuple):
    """Search for the smallest c that succeeds; every field is a float32 scalar.

    Attributes:
        c: The value of the current round.
        low: Largest c that failed.
        high: Smallest c that succeeded (infinite: none yet).
    """

    c: Float[Array, ""]
    low: Float[Array, ""]
    high: Float[Array, ""]

    @classmethod
    def begin(cls, c: Number) -> "Weight":
        """Return the search before the first round."""
        c = jnp.asarray(c, jnp.float32)
        return cls(c, jnp.float32(0), jnp.float32(jnp.inf))

    def after(self, success: Bool[Array, ""]) -> "Weight":
        """Return the next c: ten times as large until a success, then the middle of the ends."""
        low = jnp.where(success, self.low, self.c)
        high = jnp.where(success, self.c, self.high)
        return Weight(jnp.where(high < jnp.inf, (low + high) / 2, 10 * self.c), low, high)


class RoundsState(NamedTuple):
    """State of the rounds of one run: the counts, and the best success so far.

    Attributes:
        step: int32 scalar, gradients taken in this round.
        round: int32 scalar, rounds that are over.
        lowest: float32 scalar, the lowest loss of this round.
        checked: float32 scalar, the lowest loss up to the last check.
        reached: bool scalar, whether this round has had a success.
        best: [H, W, C] float32, the best success of all rounds.
        length: float32 scalar, the distance of `best`.
        last: bool scalar, whether the search is over and `best` is the next query.
        done: bool scalar, whether `best` was queried.
    """

    step: Int[Array, ""]
    round: Int[Array, ""]
    lowest: Float[Array, ""]
    checked: Float[Array, ""]
    reached: Bool[Array, ""]
    best: Float[Array, "H W C"]
    length: Float[Array, ""]
    last: Bool[Array, ""]
    done: Bool[Array, ""]

    @classmethod
    def begin(cls, image: Float[Array, "..."]) -> "RoundsState":
        """Return the state before the first round."""
        none, infinite, no = jnp.int32(0), jnp.float32(jnp.inf), jnp.bool_(False)
        return cls(none, none, infinite, infinite, no, image, infinite, no, no)


@pytree
class Rounds(Attack):
    """Base of attacks whose state has a field `progress`.

    Attributes:
        steps: Largest number of steps of a round.
        rounds: Largest number of rounds.
        learning_rate: Step size of the optimizer.
        initial_c: First value of c.
        confidence: Required distance beyond the boundary, in logits.
        abort_early: End a round when the loss no longer falls and nothing nearer is found.

    Raises:
        ValueError: If `steps` or `rounds` is below 1, `learning_rate` or `initial_c` is not above
            0, or `confidence` is below 0.
    """

    steps: int = static(default=1000)
    rounds: int = static(default=9)
    learning_rate: Number = 0.01
    initial_c: Number = 1e-3
    confidence: Number = 0.0
    abort_early: bool = static(default=True)
    needs_box: ClassVar[bool] = True
    needs_epsilon: ClassVar[bool] = False
    asks_inside: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check_least(steps=1, rounds=1)
        for field in ("learning_rate", "initial_c"):
            value = getattr(self, field)
            if isinstance(value, np.floating) and not 0 < value < np.inf:
                raise ValueError(f"{field}={value}: pass a number above 0")
        if isinstance(self.confidence, np.floating) and not 0 <= self.confidence < np.inf:
            raise ValueError(f"confidence={self.confidence}: pass 0 or more")

    @property
    def keep(self) -> str:  # type: ignore[override]
        # The engine does not know the confidence: confident images are kept in the state.
        confident = isinstance(self.confidence, np.floating) and self.confidence > 0
        return "last" if confident else "distance"

    @property
    def gradients(self) -> int:
        return self.rounds * self.steps

    @property
    def ticks(self) -> int:
        return self.rounds * self.steps + 1

    def needs(self, problem: Problem, state: State) -> Needs:
        first = jnp.arange(self.queries) == 0
        return Needs(first | ~state.progress.last, first & ~state.progress.last)

    def done(self, problem: Problem, state: State) -> Bool[Array, ""]:
        return state.progress.done

    def shortfall(
        self, goal: Goal, logits: Float[Array, " K"]
    ) -> tuple[Float[Array, ""], Bool[Array, ""]]:
        """Return max(margin + confidence, 0), and whether the image is a success."""
        margin = goal.margin(logits)
        return jnp.maximum(margin + self.confidence, 0), margin < -self.confidence

    def seen(
        self,
        progress: RoundsState,
        success: Bool[Array, ""],
        image: Float[Array, "..."],
        length: Float[Array, ""],
    ) -> RoundsState:
        """Return the progress after one more image; `best` has the least `length`."""
        better = success & (length < progress.length)
        return progress._replace(
            reached=progress.reached | success,
            best=jnp.where(better, image, progress.best),
            length=jnp.where(better, length, progress.length),
            checked=jnp.where(better, jnp.inf, progress.checked),  # progress, whatever the loss
        )

    def stepped(
        self, progress: RoundsState, loss: Float[Array, ""], ends: Bool[Array, ""] | bool = False
    ) -> tuple[RoundsState, Bool[Array, ""]]:
        """Count one gradient step; return the progress and whether this round has ended.

        Args:
            progress: The progress before the step.
            loss: float32 scalar, the loss at the iterate.
            ends: bool scalar that ends the round, beside the number of steps and the early abort.

        Returns:
            The progress and a bool scalar.
        """
        check = progress.step % max(self.steps // CHECKS, 1) == 0
        lowest = jnp.minimum(progress.lowest, loss)  # descent with momentum is not monotone
        stalled = check & (lowest > FALLEN * progress.checked) & self.abort_early
        over = ends | stalled | (progress.step + 1 >= self.steps)
        progress = progress._replace(
            step=jnp.where(over, 0, progress.step + 1),
            round=progress.round + over,
            lowest=jnp.where(over, jnp.inf, lowest),
            checked=jnp.where(over, jnp.inf, jnp.where(check, lowest, progress.checked)),
            done=progress.last,
        )
        return progress._replace(last=progress.last | (progress.round >= self.rounds)), over
