"""SimBA: one direction after the other, up or down, kept where the answer gets worse."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.core.attack import Answer, Attack, Problem
from jaxadv.core.cosines import cosines
from jaxadv.core.goals import Goal
from jaxadv.core.losses import get_loss
from jaxadv.core.pytree import pytree, static

BASES = ("pixel", "dct")


class SimBAState(NamedTuple):
    """image: the best so far; value: its loss; trial: the next image asked; order [H * W * C]: the
    directions in their order; number: which is being tried; up: whether `trial` goes up it; step:
    images asked so far."""

    image: Any
    value: Any
    trial: Any
    order: Any
    number: Any
    up: Any
    step: Any


@pytree
class SimBA(Attack):
    """Simple black-box attack (Guo et al. 2019, arXiv 1905.07121): answers alone, no gradients.

    norm: "l2" or "linf"; steps: images asked at most; step_size: the L2 length of a step, as a
    share of the box's side; basis: "pixel" (one entry of the image at a time) or "dct" (one cosine
    of one channel, those among the lowest `frequencies` of each axis first); loss: what is to
    rise, by name or a function (goal, logits [K]) -> scalar (the log-odds do as the label's
    probability, the paper's, falls, and do not level off); restarts: other orders.

    The directions come in random order, none twice before all were tried. A step up the direction
    is kept where it raises the loss, else one down; each is projected onto ball and box (the paper
    has the box only: there the ball is bounded by the number of steps). What the box undoes
    entirely is not asked. Per restart at most `steps` forward passes, one a tick. Raises ValueError
    for an unknown norm, basis or loss, and for settings out of range.

    >>> import jaxadv as ja
    >>> attack = ja.SimBA(norm="l2", basis="dct", steps=5000)
    """

    norm: str = static(default="l2")
    steps: int = static(default=10_000)
    step_size: Any = 0.2
    basis: str = static(default="pixel")
    frequencies: Any = 0.125
    loss: Any = static(default="log_odds")
    restarts: int = static(default=1)
    pullbacks = 0
    norms: ClassVar[tuple[str, ...]] = ("l2", "linf")

    def __post_init__(self) -> None:
        self.check_norm()
        get_loss(self.loss)
        if self.basis not in BASES:
            raise ValueError(f"basis={self.basis!r} is not known: pass one of {', '.join(BASES)}")
        self.check_least(steps=1, restarts=1)
        if isinstance(self.step_size, np.floating) and not 0 < self.step_size < np.inf:
            raise ValueError(f"step_size={self.step_size:g}: pass a number above 0")
        if isinstance(self.frequencies, np.floating) and not 0 < self.frequencies <= 1:
            raise ValueError(f"frequencies={self.frequencies:g}: pass a share, above 0 and up to 1")

    @property
    def ticks(self) -> int:
        return self.steps

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        return get_loss(self.loss)(goal, logits)

    def init(self, problem: Problem, key: Array) -> SimBAState:
        later = jax.random.uniform(key, problem.image.shape)
        if self.basis == "dct":
            height, width, _ = problem.image.shape
            rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
            low = (rows < self.frequencies * height) & (columns < self.frequencies * width)
            later += ~low[..., None]
        order, up = jnp.argsort(later.ravel()).astype(jnp.int32), jnp.bool_(True)
        none = jnp.int32(0)
        if problem.start is None:
            value = self.objective(problem.goal, problem.clean_logits)
            trial = self.moved(problem, problem.image, order[0], up)
            return SimBAState(problem.image, value, trial, order, none, up, none)
        start = self.project(problem, problem.start)
        return SimBAState(start, -jnp.float32(jnp.inf), start, order, none - 1, up, none)

    def direction(self, shape: tuple[int, ...], which: Int[Array, ""]) -> Float[Array, "..."]:
        """The direction [H, W, C] of that number: of unit length, orthogonal to all others."""
        row, column, channel = jnp.unravel_index(which, shape)
        if self.basis == "pixel":
            return jnp.zeros(shape).at[row, column, channel].set(1.0)
        height, width, channels = shape
        down, along = (jnp.asarray(cosines(size, size)) for size in (height, width))
        wave = down[:, row, None] * along[:, column]
        return wave[..., None] * (jnp.arange(channels) == channel)

    def moved(self, problem: Problem, image: Array, which: Array, up: Array) -> Array:
        """The image a step up or down the direction of that number."""
        step = self.step_size * (problem.upper - problem.lower) * jnp.where(up, 1, -1)
        return self.project(problem, image + step * self.direction(image.shape, which))

    def ask(self, problem: Problem, state: SimBAState) -> Float[Array, "Q ..."]:
        return state.trial[None]

    def tell(self, problem: Problem, state: SimBAState, answer: Answer) -> SimBAState:
        value = self.objective(problem.goal, answer.logits[0])
        better = (value > state.value) | answer.adversarial[0]
        image = jnp.where(better, state.trial, state.image)
        value = jnp.where(better, value, state.value)

        def which(number: Array) -> Array:
            return state.order[number % len(state.order)]

        down = self.moved(problem, image, which(state.number), jnp.bool_(False))
        up = better | ~state.up | (down == image).all()  # this direction is done with
        number = state.number + up
        trial = jnp.where(up, self.moved(problem, image, which(number), jnp.bool_(True)), down)
        return SimBAState(image, value, trial, state.order, number, up, state.step + 1)

    def done(self, problem: Problem, state: SimBAState) -> Bool[Array, ""]:
        return state.step >= self.steps
