"""VFGA and FGA: one entry a step, moved by the best of a few random lengths.

The gradient, times the room that the box leaves, says which entry; how far it goes is drawn from a
Gaussian folded to one side, as wide as the room, and the network's answers choose among the draws.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxadv.attacks.iterate import MinimumNorm
from jaxadv.core.attack import Answer, Problem, Reads
from jaxadv.core.goals import Goal
from jaxadv.core.losses import log_odds
from jaxadv.core.pytree import pytree, static


class FoldedState(NamedTuple):
    """image: what is asked next [H, W, C]; current: the image so far; best, gain: the best draw of
    this step and its loss; up, down: the two entries of this step (flat indices); draw: 0 asks for
    the gradient, from 1 on for the draws; step: steps done; key: this run's; over: nothing is left
    to be done."""

    image: Any
    current: Any
    best: Any
    gain: Any
    up: Any
    down: Any
    draw: Any
    step: Any
    key: Any
    over: Any


@pytree
class VFGA(MinimumNorm):
    """Voting folded Gaussian attack (Hajri et al. 2020, arXiv 2011.12423): few entries (L0).

    Each step takes the entry that promises most if it grows, and the one that promises most if it
    shrinks (gradient times room), draws `samples` lengths for each from |N(0, room^2)|, cut at the
    box, and keeps the draw at which the label is least likely (the target, most). An entry moves
    once. steps: entries moved at most; samples: 10 in the paper; restarts: independent draws.

    A run ends at its first adversarial image: further draws of that step move as many entries.
    Gradients and choices are of the label's log-odds: the same entries and draws as by its
    probability, but not lost where that is 1 in float32. An entry without room is never chosen (in
    adv-lib it can be, for ever). Per step one backward and at most 1 + 2 `samples` forward passes.
    An epsilon (entries) ends a run that reaches it. Raises ValueError for settings that are not
    listed here.

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
        """The directions in which entries are tried, in the order of the draws."""
        return (1, -1)

    @property
    def draws(self) -> int:
        """Draws per step."""
        return self.samples * len(self.ways)

    @property
    def ticks(self) -> int:
        return self.steps * (1 + self.draws)

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        return log_odds(goal, logits)

    def init(self, problem: Problem, key: Array) -> FoldedState:
        image, none = self.begin(problem), jnp.int32(0)
        return FoldedState(
            image=image, current=image, best=image, gain=jnp.float32(-jnp.inf), up=none, down=none,
            draw=none, step=none, key=key, over=jnp.bool_(False),
        )  # fmt: skip

    def reads(self, problem: Problem, state: FoldedState) -> Reads:
        return Reads(jnp.ones(1, bool), (state.draw == 0)[None])

    def tell(self, problem: Problem, state: FoldedState, answer: Answer) -> FoldedState:
        looked, current = state.draw == 0, state.current

        # The gradient: which entry is to grow, and which to shrink.
        slope = answer.gradients[0, 0]
        rise, fall = slope * (problem.upper - current), -slope * (current - problem.lower)
        up = jnp.where(self._movable(problem, current, 1), rise, -jnp.inf).argmax()
        down = jnp.where(self._movable(problem, current, -1), fall, -jnp.inf).argmax()
        up, down = jnp.where(looked, up, state.up), jnp.where(looked, down, state.down)

        # A draw: is it the best so far? After the last one the best becomes the image.
        gain = log_odds(problem.goal, answer.logits[0])
        better = ~looked & (gain > state.gain) & (state.image != current).any()
        best, gain = jnp.where(better, state.image, state.best), jnp.where(better, gain, state.gain)
        turn = state.draw == self.draws
        current = jnp.where(turn, best, current)
        gain, draw = jnp.where(turn, -jnp.inf, gain), jnp.where(turn, 0, state.draw + 1)

        # Nothing more to win: it is done, or no entry can move, or one more is too many.
        movable = jnp.stack([self._movable(problem, current, way).any() for way in self.ways])
        farther = self.geometry.distance(current - problem.image) + 1
        over = (answer.adversarial[0] & ~looked) | ~movable.any() | (farther > problem.epsilon)
        state = FoldedState(
            image=current, current=current, best=best, gain=gain, up=up, down=down, draw=draw,
            step=state.step + turn, key=state.key, over=over,
        )  # fmt: skip
        drawn = self._draw(problem, state)
        # A gradient that is not finite is to show in the next answer: the engine looks there.
        return state._replace(image=jnp.where(looked, drawn + 0 * slope, drawn))

    def done(self, problem: Problem, state: FoldedState) -> Bool[Array, ""]:
        return state.over | (state.step >= self.steps)

    def _movable(self, problem: Problem, current: Array, way: Any) -> Bool[Array, "..."]:
        """The entries that have not moved yet and have room to."""
        room = jnp.where(jnp.int32(way) > 0, current < problem.upper, current > problem.lower)
        return room & (current == problem.image)

    def _draw(self, problem: Problem, state: FoldedState) -> Float[Array, "..."]:
        """The image of this draw; that of draw 0 is the current one."""
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

    direction: "up" (entries grow; the paper's) or "down". The other fields and choices are those of
    `VFGA`; per step one backward and at most 1 + `samples` forward passes. Raises ValueError for
    settings that are not listed here.

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
