"""NES and SPSA: gradient ascent with gradients estimated from queries, for any optimiser.

Both query pairs x + width * v and x - width * v, and estimate the gradient of the loss f as the
mean of (f(x + width * v) - f(x - width * v)) / (2 * width) * v; they differ in the distribution of
v. A tick queries the iterate, so that it is judged, and all pairs.
"""

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxadv.attacks.common.gradient import GradientAttack
from jaxadv.core.attack import Answer, Needs, Problem
from jaxadv.core.losses import Loss
from jaxadv.core.pytree import pytree, static
from jaxadv.core.random import draw
from jaxadv.core.typing import Key, Number

if TYPE_CHECKING:
    import optax


class EstimateState(NamedTuple):
    """State of projected ascent along an estimated gradient.

    Attributes:
        image: [H, W, C], the iterate.
        optimizer: State of the optax optimiser.
        step: Integer scalar, gradients estimated so far.
        key: The random key of this run.
    """

    image: Float[Array, "H W C"]
    optimizer: PyTree
    step: Int[Array, ""]
    key: Key


@pytree
class Estimate(GradientAttack):
    """Base of NES and SPSA: projected ascent along an estimated gradient (settings: see `NES`)."""

    steps: int = static(default=100)
    loss: str | Loss = static(default="log_odds")
    samples: int = static(default=50)
    width: Number = 0.001
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
        """Draw random directions of this shape."""
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
        width = self.width * problem.sides
        away = width * self.directions(problem, state)
        pairs = jnp.concatenate([state.image + away, state.image - away])
        # A classifier may accept images in the box only. At a face one of a pair does not move, and
        # the slope of the entry is halved: its sign stays.
        pairs = jnp.clip(pairs, problem.lower, problem.upper)
        return jnp.concatenate([state.image[None], pairs])

    def needs(self, problem: Problem, state: EstimateState) -> Needs:
        read = (jnp.arange(self.queries) == 0) | (state.step < self.steps)
        return Needs(read, jnp.zeros(self.queries, bool))

    def tell(self, problem: Problem, state: EstimateState, answer: Answer) -> EstimateState:
        loss = jax.vmap(lambda z: self.objective(problem.goal, z))(answer.logits[1:])
        up, down = jnp.split(loss, 2)
        slope = (up - down) / (2 * self.width * problem.side)
        gradient = jnp.tensordot(slope, self.directions(problem, state), 1) / len(slope)
        if problem.lower.ndim:  # the draws were stretched by each feature's own side
            gradient = gradient * problem.side / jnp.maximum(problem.sides, 1e-30)
        moved = self.climb(problem, state, gradient)
        return EstimateState(moved.image, moved.optimizer, moved.step, state.key)


@pytree
class NES(Estimate):
    """Natural evolution strategies (Ilyas et al. 2018, arXiv 1804.08598): a score-based attack.

    Projected ascent along a gradient that is estimated from queries in Gaussian directions. The
    loss is by default the log-odds, which do not saturate, in place of the cross-entropy. The paper
    lowers its step when the loss stops rising; here the step stays. The pairs are clipped to the
    box. Per restart at most `steps * (samples + 1) + 1` forward passes, no backward pass; the
    iterate is queried too.

    Attributes:
        norm: "linf" or "l2".
        steps: Gradient estimates per restart.
        restarts: Independent runs.
        step_size: Step length as a fraction of epsilon (the paper: 0.01 at epsilon 0.05).
        loss: The loss that is maximised: a name, or a function (goal, logits [K]) -> scalar.
        random_start: Whether to begin at a uniform draw from the ball.
        optimizer: A `ja.Optimizer` in place of momentum and steepest ascent, or None.
        sparsity: Not used in Linf and L2.
        samples: Queries per estimate, an even number: half at x + width * v, half at x - width * v.
        width: Length scale of the differences, as a fraction of the side of the box.
        momentum: Weight of the earlier gradients.

    Raises:
        ValueError: If the norm or the loss is unknown, steps or restarts is below 1, samples is odd
            or below 2, or step_size or width is not a finite number above 0.

    >>> import jaxadv as ja
    >>> attack = ja.NES(steps=100, samples=50)
    """

    step_size: Number = 0.2
    momentum: Number = 0.9
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")

    def draw(self, key: Array, shape: tuple[int, ...]) -> Float[Array, "..."]:
        return draw(jax.random.normal, key, shape)

    def transformation(self, problem: Problem) -> "optax.GradientTransformation":
        import optax

        ascent = super().transformation(problem)
        if self.optimizer is not None:
            return ascent
        return optax.chain(optax.ema(self.momentum, debias=False), ascent)


@pytree
class SPSA(Estimate):
    """Simultaneous perturbation (SPSA; Uesato et al. 2018, arXiv 1802.05666): a score-based attack.

    Adam on a gradient that is estimated from queries, with random signs as directions. Per restart
    at most `steps * (samples + 1) + 1` forward passes, no backward pass.

    Attributes:
        norm: "linf".
        steps: Gradient estimates per restart.
        restarts: Independent runs.
        step_size: Adam's learning rate as a fraction of epsilon (the paper: 0.01 at epsilon 8/255).
        loss: The loss that is maximised: a name, or a function (goal, logits [K]) -> scalar.
        random_start: Whether to begin at a uniform draw from the ball.
        optimizer: A `ja.Optimizer` in place of Adam, or None.
        sparsity: Not used in Linf.
        samples: Queries per estimate, an even number (the paper: up to 8,192).
        width: Length scale of the differences, as a fraction of the side of the box.

    Raises:
        ValueError: If the norm is not "linf", the loss is unknown, steps or restarts is below 1,
            samples is odd or below 2, or step_size or width is not a finite number above 0.

    >>> import jaxadv as ja
    >>> attack = ja.SPSA(steps=100, samples=128)
    """

    samples: int = static(default=128)
    width: Number = 0.01
    step_size: Number = 0.3
    loss: str | Loss = static(default="margin")
    norms: ClassVar[tuple[str, ...]] = ("linf",)

    def draw(self, key: Array, shape: tuple[int, ...]) -> Float[Array, "..."]:
        return draw(jax.random.rademacher, key, shape, dtype=jnp.float32)

    def transformation(self, problem: Problem) -> "optax.GradientTransformation":
        import optax

        if self.optimizer is not None:
            return self.optimizer.build()
        rate: Any = self.step_size * problem.epsilon  # a traced number, which optax takes
        return optax.adam(rate)
