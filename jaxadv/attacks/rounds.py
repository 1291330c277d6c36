"""Rounds of gradient descent on distance + c * max(margin + confidence, 0), one c after the other.

What the attacks of Carlini and Wagner and the elastic-net attack share: when a round is over, what
counts as a success, and the search for c. Each image has its own c and its own end of a round.
"""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxadv.core.attack import Attack, Problem, Reads
from jaxadv.core.goals import Goal
from jaxadv.core.pytree import pytree, static

CHECKS = 10  # how often in a round the loss is looked at
FALLEN = 0.9999  # a loss above this share of the last one looked at falls no more


class Weight(NamedTuple):
    """The search for the smallest c that succeeds: low failed, high succeeded (infinite: none)."""

    c: Any
    low: Any
    high: Any

    @classmethod
    def begin(cls, c: Any) -> "Weight":
        """Before the first round."""
        c = jnp.asarray(c, jnp.float32)
        return cls(c, jnp.float32(0), jnp.float32(jnp.inf))

    def after(self, success: Bool[Array, ""]) -> "Weight":
        """Ten times as much until a round succeeds, then the middle of the two ends."""
        low = jnp.where(success, self.low, self.c)
        high = jnp.where(success, self.c, self.high)
        return Weight(jnp.where(high < jnp.inf, (low + high) / 2, 10 * self.c), low, high)


class Progress(NamedTuple):
    """step: gradients taken in this round; round: rounds that are over; checked: the loss when it
    was last looked at; reached: whether this round has had a success; best [H, W, C], length: the
    best success of all rounds; last: the search is over, and `best` is asked; done: it was."""

    step: Any
    round: Any
    checked: Any
    reached: Any
    best: Any
    length: Any
    last: Any
    done: Any

    @classmethod
    def begin(cls, image: Any) -> "Progress":
        """Before the first round."""
        none, infinite, no = jnp.int32(0), jnp.float32(jnp.inf), jnp.bool_(False)
        return cls(none, none, infinite, no, image, infinite, no, no)


@pytree
class Rounds(Attack):
    """Base of attacks whose state has a field `progress`."""

    steps: int = static(default=1000)
    rounds: int = static(default=9)
    learning_rate: Any = 0.01
    initial_c: Any = 1e-3
    confidence: Any = 0.0
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
        # The engine knows adversarial images, not confident ones: those are kept in the state.
        confident = isinstance(self.confidence, np.floating) and self.confidence > 0
        return "last" if confident else "distance"

    @property
    def ticks(self) -> int:
        return self.rounds * self.steps + 1

    def reads(self, problem: Problem, state: Any) -> Reads:
        first = jnp.arange(self.queries) == 0
        return Reads(first | ~state.progress.last, first & ~state.progress.last)

    def done(self, problem: Problem, state: Any) -> Bool[Array, ""]:
        return state.progress.done

    def shortfall(self, goal: Goal, logits: Float[Array, " K"]) -> tuple[Any, Any]:
        """What the margin lacks, max(margin + confidence, 0), and whether that is a success."""
        margin = goal.margin(logits)
        return jnp.maximum(margin + self.confidence, 0), margin < -self.confidence

    def seen(self, progress: Progress, success: Any, image: Any, length: Any) -> Progress:
        """With one more image taken in; `length` is what the best one has least of."""
        better = success & (length < progress.length)
        return progress._replace(
            reached=progress.reached | success,
            best=jnp.where(better, image, progress.best),
            length=jnp.where(better, length, progress.length),
        )

    def stepped(self, progress: Progress, loss: Any, ends: Any = False) -> tuple[Progress, Any]:
        """With one more gradient taken, and whether the round is over: by its steps, because the
        loss falls no more, or by `ends`."""
        check = progress.step % max(self.steps // CHECKS, 1) == 0
        stalled = check & (loss > FALLEN * progress.checked) & self.abort_early
        over = ends | stalled | (progress.step + 1 >= self.steps)
        progress = progress._replace(
            step=jnp.where(over, 0, progress.step + 1),
            round=progress.round + over,
            checked=jnp.where(over, jnp.inf, jnp.where(check, loss, progress.checked)),
            done=progress.last,
        )
        return progress._replace(last=progress.last | (progress.round >= self.rounds)), over
