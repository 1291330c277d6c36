"""Gradients estimated from answers, for any optimiser: NES and SPSA.

Both ask for pairs x + width * v and x - width * v, and take the mean of
(f(x + width * v) - f(x - width * v)) / (2 * width) * v for the gradient of the loss f; they differ
in how v is drawn. A tick asks for the iterate, so that it is judged, and for all pairs.
"""

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxadv.attacks.gradient import GradientAttack
from jaxadv.core.attack import Answer, Problem, Reads
from jaxadv.core.pytree import pytree, static

if TYPE_CHECKING:
    import optax


class EstimateState(NamedTuple):
    """As `GradientState`; key: this run's."""

    image: Any
    optimizer: Any
    step: Any
    key: Any


@pytree
class Estimate(GradientAttack):
    """Base of the two: projected ascent along an estimated gradient."""

    steps: int = static(default=100)
    loss: Any = static(default="log_odds")
    samples: int = static(default=50)
    width: Any = 0.001
    pullbacks = 0
    asks_inside: ClassVar[bool] = False  # the samples may leave the ball

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 2 or self.samples % 2:
            raise ValueError(f"samples={self.samples}: pass an even number, they come in pairs")
        if isinstance(self.width, np.floating) and not 0 < self.width < np.inf:
            raise ValueError(f"width={self.width:g}: pass a number above 0")

    @property
    def queries(self) -> int:  # type: ignore[override]
        return 1 + self.samples

    @property
    def passes(self) -> int:
        return self.entries * (self.ticks + self.steps * self.samples)

    def draw(self, key: Array, shape: tuple[int, ...]) -> Float[Array, "..."]:
        """Random directions of this shape."""
        raise NotImplementedError

    def directions(self, problem: Problem, state: EstimateState) -> Float[Array, "P ..."]:
        """The directions [samples / 2, H, W, C] of this step's pairs."""
        key = jax.random.fold_in(state.key, state.step)
        return self.draw(key, (self.samples // 2, *problem.image.shape))

    def init(self, problem: Problem, key: Array) -> EstimateState:
        begun = super().init(problem, key)
        own = jax.random.fold_in(key, 1)
        return EstimateState(begun.image, begun.optimizer, begun.step, own)

    def ask(self, problem: Problem, state: EstimateState) -> Float[Array, "Q ..."]:
        width = self.width * (problem.upper - problem.lower)
        away = width * self.directions(problem, state)
        pairs = jnp.concatenate([state.image + away, state.image - away])
        # A real classifier answers in the box only. At its faces one of a pair stands still, and
        # the entry's slope is halved: its sign is what it was.
        pairs = jnp.clip(pairs, problem.lower, problem.upper)
        return jnp.concatenate([state.image[None], pairs])

    def reads(self, problem: Problem, state: EstimateState) -> Reads:
        read = (jnp.arange(self.queries) == 0) | (state.step < self.steps)
        return Reads(read, jnp.zeros(self.queries, bool))

    def tell(self, problem: Problem, state: EstimateState, answer: Answer) -> EstimateState:
        loss = jax.vmap(lambda z: self.objective(problem.goal, z))(answer.logits[1:])
        up, down = jnp.split(loss, 2)
        slope = (up - down) / (2 * self.width * (problem.upper - problem.lower))
        gradient = jnp.tensordot(slope, self.directions(problem, state), 1) / len(slope)
        moved = self.climb(problem, state, gradient)
        return EstimateState(moved.image, moved.optimizer, moved.step, state.key)


@pytree
class NES(Estimate):
    """Natural evolution strategies (Ilyas et al. 2018, arXiv 1804.08598): ascent along a gradient
    estimated from answers, with Gaussian directions.

    norm: "linf" or "l2"; steps: estimates per restart; samples: answers for an estimate, half of
    them at x + width * v and half at x - width * v (clipped to the box, in whose sides width is
    stated); step_size: as a share of epsilon (the paper's 0.01 at its 0.05); momentum: the weight
    of the gradients so far; loss, random_start, restarts, optimizer (in place of momentum and
    steepest ascent): as in `PGD`, but that the log-odds, which do not level off, take the place of
    the cross-entropy. The paper lowers its step when the loss rises no more; here it
    stays.

    Per restart at most `steps * (samples + 1) + 1` forward passes, no backward pass; the iterate is
    asked too. Raises ValueError for settings that `PGD` refuses, for an odd number of samples and a
    width of 0.

    >>> import jaxadv as ja
    >>> attack = ja.NES(steps=100, samples=50)
    """

    step_size: Any = 0.2
    momentum: Any = 0.9
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")

    def draw(self, key: Array, shape: tuple[int, ...]) -> Float[Array, "..."]:
        return jax.random.normal(key, shape)

    def transformation(self, problem: Problem) -> "optax.GradientTransformation":
        import optax

        ascent = super().transformation(problem)
        if self.optimizer is not None:
            return ascent
        return optax.chain(optax.ema(self.momentum, debias=False), ascent)


@pytree
class SPSA(Estimate):
    """Simultaneous perturbation stochastic approximation (Uesato et al. 2018, arXiv 1802.05666):
    Adam on a gradient estimated from answers, with random signs as directions.

    norm: "linf"; steps, samples, width: as in `NES` (the paper takes up to 8,192 samples);
    step_size: Adam's learning rate, as a share of epsilon (the paper's 0.01 at its 8/255); loss,
    random_start, restarts, optimizer (in place of Adam): as in `PGD`.

    Per restart at most `steps * (samples + 1) + 1` forward passes, no backward pass. Raises
    ValueError as `NES` does.

    >>> import jaxadv as ja
    >>> attack = ja.SPSA(steps=100, samples=128)
    """

    samples: int = static(default=128)
    width: Any = 0.01
    step_size: Any = 0.3
    loss: Any = static(default="margin")
    norms: ClassVar[tuple[str, ...]] = ("linf",)

    def draw(self, key: Array, shape: tuple[int, ...]) -> Float[Array, "..."]:
        return jax.random.rademacher(key, shape, jnp.float32)

    def transformation(self, problem: Problem) -> "optax.GradientTransformation":
        import optax

        if self.optimizer is not None:
            return self.optimizer.build()
        return optax.adam(self.step_size * problem.epsilon)
