"""VFGA and FGA: each step moves one entry by the best of a few random lengths.

The gradient times the slack that the box leaves determines the entry. The length is drawn from a
folded Gaussian whose width is the slack, and the logits of the network choose among the draws.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxadv.attacks.common.gradient_iteration import MinimumNorm
from jaxadv.core.attack import Answer, Needs, Problem
from jaxadv.core.goals import Goal
from jaxadv.core.losses import log_odds
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Key, Number


class FoldedState(NamedTuple):
    """State of one run of `VFGA` or `FGA`.

    Attributes:
        image: [H, W, C] float32, the next query.
        current: [H, W, C] float32, the image after the steps so far.
        best: [H, W, C] float32, the best draw of this step.
        gain: float32 scalar, the loss at `best`.
        up: int32 scalar, flat index of the entry of this step that may grow.
        down: int32 scalar, flat index of the entry of this step that may shrink.
        draw: int32 scalar; 0 queries the gradient, from 1 on the draws.
        step: int32 scalar, steps done.
        key: Random key of this run.
        over: bool scalar, whether the run has ended.
    """

    image: Float[Array, "H W C"]
    current: Float[Array, "H W C"]
    best: Float[Array, "H W C"]
    gain: Float[Array, ""]
    up: Int[Array, ""]
    down: Int[Array, ""]
    draw: Int[Array, ""]
    step: Int[Array, ""]
    key: Key
    over: Bool[Array, ""]


@pytree
class VFGA(MinimumNorm):
    """Voting folded Gaussian attack (Hajri et al. 2020, arXiv 2011.12423): few entries (L0).

    Each step takes the entry with the largest expected gain if it grows, and the one with the
    largest expected gain if it shrinks (gradient times slack). It draws `samples` lengths for each
    from |N(0, slack^2)|, clipped to the box, and keeps the draw at which the label is least likely
    (targeted: the target most likely). An entry moves once. A run ends at its first adversarial
    image, since further draws of that step move as many entries. An epsilon (entries) ends a run
    that reaches it.

    Gradients and choices are those of the label's log-odds: the same entries and draws as by its
    probability, which would lose them where it is 1 in float32. An entry without slack is never
    chosen (in adv-lib it can be, endlessly). A step costs one backward and at most
    `1 + 2 * samples` forward passes.

    Attributes:
        norm: "l0".
        steps: Largest number of entries moved.
        restarts: Runs per image, each with its own draws.
        samples: Draws per entry (paper: 10).

    Raises:
        ValueError: If `norm` is not "l0", or `steps`, `restarts` or `samples` is below 1.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(4)[:, :2])
    >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.7)
    >>> goal = ja.Untargeted(jnp.array([0]))
    >>> ja.run(ja.VFGA(), model, images, goal, key=jax.random.key(0)).distance
    array([1.])
    """

    norm: str = static(default="l0")
    steps: int = static(default=1000)
    samples: int = static(default=10)
    norms: ClassVar[tuple[str, ...]] = ("l0",)
    needs_box: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(samples=1)

    @property
    def ways(self) -> tuple[int, ...]:
        """Directions in which entries move, in the order of the draws."""
        return (1, -1)

    @property
    def draws(self) -> int:
        """Number of draws per step."""
        return self.samples * len(self.ways)

    @property
    def ticks(self) -> int:
        return self.steps * (1 + self.draws)

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        return log_odds(goal, logits)

    def init(self, problem: Problem, key: Array) -> FoldedState:
        image, none = self.begin(problem), jnp.int32(0)
        return FoldedState(
            image=image,
            current=image,
            best=image,
            gain=jnp.float32(-jnp.inf),
            up=none,
            down=none,
            draw=none,
            step=none,
            key=key,
            over=jnp.bool_(False),
        )

    def needs(self, problem: Problem, state: FoldedState) -> Needs:
        return Needs(jnp.ones(1, bool), (state.draw == 0)[None])

    def tell(self, problem: Problem, state: FoldedState, answer: Answer) -> FoldedState:
        looked, current = state.draw == 0, state.current

        # Gradient tick: choose the entry to grow and the one to shrink.
        slope = answer.gradients[0, 0]
        rise, fall = slope * (problem.upper - current), -slope * (current - problem.lower)
        up = jnp.where(self._movable(problem, current, 1), rise, -jnp.inf).argmax()
        down = jnp.where(self._movable(problem, current, -1), fall, -jnp.inf).argmax()
        up, down = jnp.where(looked, up, state.up), jnp.where(looked, down, state.down)

        # Draw tick: keep the best draw; after the last draw it becomes the image.
        gain = log_odds(problem.goal, answer.logits[0])
        better = ~looked & (gain > state.gain) & (state.image != current).any()
        best, gain = jnp.where(better, state.image, state.best), jnp.where(better, gain, state.gain)
        turn = state.draw == self.draws
        current = jnp.where(turn, best, current)
        gain, draw = jnp.where(turn, -jnp.inf, gain), jnp.where(turn, 0, state.draw + 1)

        # End: success, no entry can move, or one more entry would exceed epsilon.
        movable = jnp.stack([self._movable(problem, current, way).any() for way in self.ways])
        farther = self.geometry.distance(current - problem.image) + 1
        over = (answer.adversarial[0] & ~looked) | ~movable.any() | (farther > problem.epsilon)
        state = FoldedState(
            image=current,
            current=current,
            best=best,
            gain=gain,
            up=up,
            down=down,
            draw=draw,
            step=state.step + turn,
            key=state.key,
            over=over,
        )
        drawn = self._draw(problem, state)
        # Pass a non-finite gradient on to the next query, where the engine checks for it.
        return state._replace(image=jnp.where(looked, drawn + 0 * slope, drawn))

    def done(self, problem: Problem, state: FoldedState) -> Bool[Array, ""]:
        return state.over | (state.step >= self.steps)

    def _movable(self, problem: Problem, current: Array, way: Number) -> Bool[Array, "..."]:
        """Return the mask of entries that have not moved yet and have slack in this direction."""
        room = jnp.where(jnp.int32(way) > 0, current < problem.upper, current > problem.lower)
        return room & (current == problem.image)

    def _draw(self, problem: Problem, state: FoldedState) -> Float[Array, "..."]:
        """Return the image of this draw; draw 0 is the current image."""
        current, size = state.current, state.current.size
        way = jnp.asarray(self.ways)[jnp.maximum(state.draw - 1, 0) // self.samples]
        entry = jnp.arange(size) == jnp.where(way > 0, state.up, state.down)
        chosen = entry.reshape(current.shape) & self._movable(problem, current, way)
        key = jax.random.fold_in(state.key, state.step * (1 + self.draws) + state.draw)
        room = jnp.where(way > 0, problem.upper - current, current - problem.lower)
        moved = current + way * room * jnp.abs(jax.random.normal(key))
        moved = jnp.clip(moved, problem.lower, problem.upper)
        return jnp.where(chosen & (state.draw > 0), moved, current)


@pytree
class FGA(VFGA):
    """Folded Gaussian attack (Hajri et al. 2020, arXiv 2011.12423): `VFGA` in one direction only.

    A step costs one backward and at most `1 + samples` forward passes; all other choices are those
    of `VFGA`.

    Attributes:
        norm: "l0".
        steps: Largest number of entries moved.
        restarts: Runs per image, each with its own draws.
        samples: Draws per entry.
        direction: "up" (entries grow; the paper's) or "down" (entries shrink).

    Raises:
        ValueError: If `direction` is neither "up" nor "down", `norm` is not "l0", or `steps`,
            `restarts` or `samples` is below 1.

    >>> import jaxadv as ja
    >>> attack = ja.FGA(direction="down")
    """

    direction: str = static(default="up")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.direction not in ("up", "down"):
            raise ValueError(f"direction={self.direction!r}: pass 'up' or 'down'")

    @property
    def ways(self) -> tuple[int, ...]:
        return (1,) if self.direction == "up" else (-1,)
