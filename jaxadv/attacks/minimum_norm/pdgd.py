"""PDGD: gradient descent on the image and ascent on the weight of the constraint, at once.

The Lagrangian of "the shortest r such that x + r is adversarial" has a saddle point at the
solution. Adam descends in r; the weight of the constraint grows while the image is not adversarial
and falls while it is. No outer search for the weight is needed.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxadv.attacks.common.gradient_iteration import MinimumNorm
from jaxadv.core.attack import Answer, Problem
from jaxadv.core.goals import Goal
from jaxadv.core.norms import get_norm
from jaxadv.core.pytree import pytree, static
from jaxadv.core.random import draw
from jaxadv.core.typing import Number

DECAY = 0.9, 0.999, 1e-8  # decay rates and epsilon of Adam


class PrimalDualState(NamedTuple):
    """State of one run of `PDGD` or `PDPGD`.

    Attributes:
        image: [H, W, C] float32, the iterate.
        adam: State of the optax optimizer (Adam's moments).
        dual: float32 scalar, logarithm of the constraint's weight over the norm's weight.
        weights: [2] float32, averaged weights of norm and constraint; their sum is 1.
        step: int32 scalar, gradients taken so far.
    """

    image: Float[Array, "H W C"]
    adam: PyTree
    dual: Float[Array, ""]
    weights: Float[Array, " 2"]
    step: Int[Array, ""]


@pytree
class PDGD(MinimumNorm):
    """Primal-dual gradient descent (Matyasko and Chau 2021, arXiv 2106.01538): the smallest L2.

    The attack minimises w0 |r| + w1 softplus(margin(x + r)) over r by Adam, with r in sides of the
    box. Each step adds +-`dual_step` to log(w1 / w0), by the sign of the margin; w0 and w1, of sum
    1, follow as moving averages. The nearest adversarial query is returned.

    At r = 0 the gradient of the norm is taken as 0. The weights are not adapted to the scale of the
    logits: a network whose margin changes by less than about `least_ratio` per side of the box is
    not moved. Each restart costs `steps` backward and `steps + 1` forward passes (the paper's code
    does not evaluate the last iterate).

    Attributes:
        norm: "l2".
        steps: Gradients per restart.
        restarts: The first run starts at the image, the others at uniform noise around it.
        step_size: First step size of Adam in sides of the box.
        final_step: Fraction of `step_size` at the end (exponential decay).
        dual_step: First step size of the weights.
        final_dual_step: Fraction of `dual_step` at the end (linear decay).
        ratio: w0 / w1 at the beginning.
        least_ratio: Lower bound of w0 / w1 and of w1 / w0.
        average: Weight of the former value in the moving averages.
        noise: Largest noise of the random starts in sides of the box.

    Raises:
        ValueError: If `norm` is not "l2", `steps` or `restarts` is below 1, `step_size`,
            `final_step`, `dual_step`, `final_dual_step`, `ratio` or `noise` is not a finite number
            above 0, `least_ratio` is not in (0, 1), or `average` is not in [0, 1).

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, 9 * jnp.eye(4)[:, :2])
    >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.7)
    >>> goal = ja.Untargeted(jnp.array([0]))
    >>> ja.run(ja.PDGD(), model, images, goal, key=jax.random.key(0)).distance.round(2)
    array([0.14])
    """

    norm: str = static(default="l2")
    steps: int = static(default=500)
    step_size: Number = 0.1
    final_step: Number = 0.01
    dual_step: Number = 0.1
    final_dual_step: Number = 0.1
    ratio: Number = 0.01
    least_ratio: Number = 1e-6
    average: Number = 0.9
    noise: Number = 0.1
    norms: ClassVar[tuple[str, ...]] = ("l2",)
    needs_box: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("step_size", "final_step", "dual_step", "final_dual_step", "ratio", "noise"):
            value = getattr(self, field)
            if isinstance(value, np.floating) and not 0 < value < np.inf:
                raise ValueError(f"{field}={value}: pass a number above 0")
        if isinstance(self.least_ratio, np.floating) and not 0 < self.least_ratio < 1:
            raise ValueError(f"least_ratio={self.least_ratio}: pass a number above 0 and below 1")
        if isinstance(self.average, np.floating) and not 0 <= self.average < 1:
            raise ValueError(f"average={self.average}: pass a number from 0 to below 1")

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        return -jax.nn.softplus(goal.margin(logits))

    def adam(self) -> Any:
        """Return Adam without the step size."""
        import optax

        return optax.scale_by_adam(*DECAY)

    def init(self, problem: Problem, key: Array) -> PrimalDualState:
        image = self.begin(problem)
        if self.restarts > 1:
            reach = self.noise * problem.sides
            noise = reach * draw(
                jax.random.uniform, key, image.shape, dtype=image.dtype, minval=-1.0
            )
            noisy = jnp.clip(image + noise, problem.lower, problem.upper)
            image = jnp.where(problem.rank > 0, noisy, image)
        dual = -jnp.log(jnp.float32(self.ratio))
        return PrimalDualState(image, self.adam().init(image), dual, _weights(dual), jnp.int32(0))

    def tell(self, problem: Problem, state: PrimalDualState, answer: Answer) -> PrimalDualState:
        # Descent on r in sides of the box, so that the result does not depend on its size.
        side = problem.side
        moved = (state.image - problem.image) / side
        gradient = -answer.gradients[0, 0] * side
        rate = self.step_size * self.final_step ** (state.step / self.steps)
        low, high = (problem.lower - problem.image) / side, (problem.upper - problem.image) / side
        moved, adam = self.primal(state, moved, gradient, rate, low, high)
        image = jnp.clip(problem.image + side * moved, problem.lower, problem.upper)
        # Pass a non-finite gradient on to the next query, where the engine checks for it.
        image = image + 0 * gradient

        # Ascent on the weight, by the sign of the margin alone.
        left = (self.steps - 1 - state.step) / max(self.steps - 1, 1)
        rate = self.dual_step * (self.final_dual_step + (1 - self.final_dual_step) * left)
        dual = state.dual + rate * jnp.sign(problem.goal.margin(answer.logits[0]))
        most = -jnp.log(self.least_ratio)
        dual = jnp.clip(dual, -most, most)
        weights = state.weights * self.average + _weights(dual) * (1 - self.average)
        return PrimalDualState(image, adam, dual, weights, state.step + 1)

    def primal(
        self,
        state: PrimalDualState,
        moved: Array,
        gradient: Array,
        rate: Number,
        low: Array,
        high: Array,
    ) -> tuple[Float[Array, "..."], PyTree]:
        """Return r after one step in sides of the box, and the moments of Adam.

        Args:
            state: The state before the step.
            moved: [H, W, C] float32, r before the step in sides of the box.
            gradient: [H, W, C] float32, the gradient of softplus(margin) in r.
            rate: Step size.
            low: [H, W, C] float32, the least r that the box allows.
            high: [H, W, C] float32, the largest r that the box allows.

        Returns:
            [H, W, C] float32 and the state of the optax optimizer.
        """
        scaled = moved / jnp.maximum(jnp.abs(moved).max(), 1e-30)  # squares are not to vanish
        outward = scaled / jnp.maximum(get_norm("l2").distance(scaled), 0.5)  # it is 0, or 1 and up
        total = state.weights[0] * outward + state.weights[1] * gradient
        update, adam = self.adam().update(total, state.adam)
        return jnp.clip(moved - rate * update, low, high), adam


def _weights(dual: Float[Array, ""]) -> Float[Array, "2"]:
    return jax.nn.softmax(jnp.stack([jnp.zeros_like(dual), dual]))
