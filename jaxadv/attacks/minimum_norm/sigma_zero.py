"""sigma-zero: gradient descent on a smooth approximation of the L0 norm; minimum L0.

After each step the changes below a threshold are undone. The threshold rises after an adversarial
iterate and falls after any other, for each image on its own.
"""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxadv.attacks.common.gradient_iteration import MinimumNorm, begin, check_numbers
from jaxadv.core.attack import Answer, Problem
from jaxadv.core.goals import Goal
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Number


class SigmaZeroState(NamedTuple):
    """State of one run of `SigmaZero`.

    Attributes:
        image: [H, W, C] float32, the iterate.
        adam: State of the optax optimizer.
        threshold: float32 scalar; changes below it (in sides of the box) are undone.
        step: int32 scalar, gradients taken so far.
    """

    image: Float[Array, "H W C"]
    adam: PyTree
    threshold: Float[Array, ""]
    step: Int[Array, ""]


@pytree
class SigmaZero(MinimumNorm):
    """sigma-zero (Cinà et al. 2024, arXiv 2402.01879): the least number of changed array entries.

    The attack minimises max(margin, 0) + mean(d^2 / (d^2 + sigma)) over the perturbation d by Adam,
    with the gradient scaled to a largest entry of 1. All lengths are in sides of the box (1 where
    images lie in [0, 1]), and sigma is in their squares.

    The paper is untargeted; with `ja.Targeted` goals the margin is the target's. The authors' code
    writes the new threshold into a copy, so that it keeps its first value; here it adapts, as in
    the paper. The last iterate is evaluated too, unlike in the authors' code. Each restart costs
    `steps` backward and `steps + 1` forward passes.

    Attributes:
        norm: "l0".
        steps: Gradients per restart.
        restarts: The first run starts at the image (or at the problem's start), the others with a
            hundredth of the entries redrawn.
        step_size: First step size of Adam; it decays along a cosine to a tenth.
        sigma: Smoothing of the L0 norm.
        threshold: First threshold, in sides of the box.
        threshold_step: Change of the threshold per step, relative to the step size.

    Raises:
        ValueError: If `norm` is not "l0", `steps` or `restarts` is below 1, `step_size` or `sigma`
            is not a finite number above 0, or `threshold` or `threshold_step` is not in (0, 1].

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(4)[:, :2])
    >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.7)
    >>> goal = ja.Untargeted(jnp.array([0]))
    >>> ja.run(ja.SigmaZero(steps=50), model, images, goal, key=jax.random.key(0)).distance
    array([1.])
    """

    norm: str = static(default="l0")
    steps: int = static(default=1000)
    step_size: Number = 1.0
    sigma: Number = 1e-3
    threshold: Number = 0.3
    threshold_step: Number = 0.01
    norms: ClassVar[tuple[str, ...]] = ("l0",)
    needs_box: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, step_size=np.inf, sigma=np.inf, threshold=1, threshold_step=1)

    def init(self, problem: Problem, key: Array) -> SigmaZeroState:
        import optax

        image = begin(self, problem, key, jnp.ceil(problem.image.size / 100))
        adam = optax.scale_by_adam().init(image)
        return SigmaZeroState(image, adam, jnp.float32(self.threshold), jnp.int32(0))

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        return -jnp.maximum(goal.margin(logits), 0)

    def tell(self, problem: Problem, state: SigmaZeroState, answer: Answer) -> SigmaZeroState:
        import optax

        span = jnp.maximum(problem.sides, 1e-30) if problem.lower.ndim else problem.sides
        delta = (state.image - problem.image) / span
        across = problem.goal.margin(answer.logits[0]) < 0

        # The derivative of d^2 / (d^2 + sigma) is 2 d sigma / (d^2 + sigma)^2.
        fewer = 2 * delta * self.sigma / jnp.square(jnp.square(delta) + self.sigma) / delta.size
        gradient = fewer - span * answer.gradients[0, 0]
        gradient = gradient / jnp.maximum(jnp.abs(gradient).max(), 1e-30)
        update, adam = optax.scale_by_adam().update(gradient, state.adam)

        step_size = self.step_size * optax.cosine_decay_schedule(1.0, self.steps, 0.1)(state.step)
        moved = jnp.clip(
            state.image - span * step_size * jnp.asarray(update), problem.lower, problem.upper
        )
        change = self.threshold_step * step_size
        threshold = jnp.clip(state.threshold + jnp.where(across, change, -change), 0, 1)
        changed = jnp.abs(moved - problem.image) >= threshold * span
        image = jnp.where(changed, moved, problem.image)
        return SigmaZeroState(image, adam, threshold, state.step + 1)
