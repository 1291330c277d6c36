"""SimBA: steps up or down single directions, kept where the loss rises."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.core.attack import Answer, Attack, Problem
from jaxadv.core.dct import cosines
from jaxadv.core.goals import Goal
from jaxadv.core.losses import Loss, get_loss
from jaxadv.core.pytree import pytree, static
from jaxadv.core.random import draw
from jaxadv.core.typing import Number

BASES = ("pixel", "dct")


class SimBAState(NamedTuple):
    """State of SimBA.

    Attributes:
        image: [H, W, C], the best image so far.
        value: Scalar, the loss of `image`.
        trial: [H, W, C], the image of the next query.
        order: Integers [H * W * C], the directions in the order in which they are tried.
        number: Integer scalar, the position in `order` of the current direction.
        up: Boolean scalar: whether `trial` steps up this direction.
        step: Integer scalar, queries so far.
    """

    image: Float[Array, "H W C"]
    value: Float[Array, ""]
    trial: Float[Array, "H W C"]
    order: Int[Array, " H*W*C"]
    number: Int[Array, ""]
    up: Bool[Array, ""]
    step: Int[Array, ""]


@pytree
class SimBA(Attack):
    """Simple black-box attack (SimBA; Guo et al. 2019, arXiv 1905.07121): a score-based attack.

    The directions come in random order, none twice before all have been tried. A step up the
    direction is kept where it raises the loss, else a step down; each is projected onto ball and
    box (the paper has the box only, where the number of steps bounds the ball). A step that the box
    undoes entirely is not queried. Per restart at most `steps` forward passes, one a tick.

    Attributes:
        norm: "l2" or "linf".
        steps: Largest number of queries per restart.
        step_size: L2 length of a step, as a fraction of the side of the box.
        basis: "pixel" (one entry of the image at a time) or "dct" (one cosine of one channel).
        frequencies: Fraction of the DCT frequencies along each axis that are tried first, in (0,
            1].
        loss: The loss that is maximised: a name, or a function (goal, logits [K]) -> scalar. The
            log-odds rise as the paper's objective, the label's probability, falls, and do not
            saturate.
        restarts: Runs with other orders of the directions.

    Raises:
        ValueError: If the norm, the basis or the loss is unknown, steps or restarts is below 1,
            step_size is not positive, or frequencies is outside (0, 1].

    >>> import jaxadv as ja
    >>> attack = ja.SimBA(norm="l2", basis="dct", steps=5000)
    """

    norm: str = static(default="l2")
    steps: int = static(default=10_000)
    step_size: Number = 0.2
    basis: str = static(default="pixel")
    frequencies: Number = 0.125
    loss: str | Loss = static(default="log_odds")
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
            raise ValueError(
                f"frequencies={self.frequencies:g}: pass a fraction, above 0 and up to 1"
            )

    @property
    def ticks(self) -> int:
        return self.steps

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        return get_loss(self.loss)(goal, logits)

    def init(self, problem: Problem, key: Array) -> SimBAState:
        later = draw(jax.random.uniform, key, problem.image.shape)
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
        """The direction [H, W, C] of this index: of unit length, orthogonal to all others."""
        row, column, channel = jnp.unravel_index(which, shape)
        if self.basis == "pixel":
            return jnp.zeros(shape).at[row, column, channel].set(1.0)
        height, width, channels = shape
        down, along = (jnp.asarray(cosines(size, size)) for size in (height, width))
        wave = down[:, row, None] * along[:, column]
        return wave[..., None] * (jnp.arange(channels) == channel)

    def moved(self, problem: Problem, image: Array, which: Array, up: Array) -> Array:
        """The image after a step up or down the direction of this index, projected."""
        step = self.step_size * problem.sides * jnp.where(up, 1, -1)
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
        up = better | ~state.up | (down == image).all()  # this direction is finished
        number = state.number + up
        trial = jnp.where(up, self.moved(problem, image, which(number), jnp.bool_(True)), down)
        return SimBAState(image, value, trial, state.order, number, up, state.step + 1)

    def done(self, problem: Problem, state: SimBAState) -> Bool[Array, ""]:
        return state.step >= self.steps
