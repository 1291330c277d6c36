"""ALMA: an augmented Lagrangian method for the nearest adversarial image, in L1 and L2.

It minimises the distance plus a penalty on the constraint "adversarial". The multiplier is a
running mean of the derivative of the penalty, so that both terms balance at the decision boundary.
"""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jaxadv.attacks.common.gradient_iteration import (
    MinimumNorm,
    begin,
    check_numbers,
    direction,
    noise,
)
from jaxadv.core.attack import Answer, Problem
from jaxadv.core.goals import Goal
from jaxadv.core.losses import spread
from jaxadv.core.norms import get_norm
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Number

FIRST = {"l2": 0.1, "l1": 0.5}
TOLERANCE = 1e-4  # added to the constraint: at 0 float32 rounding decides the class
MULTIPLIERS = (1e-6, 1e12)


class ALMAState(NamedTuple):
    """State of one run of `ALMA`.

    Attributes:
        image: [H, W, C] float32, the iterate.
        optimizer: State of the optax optimizer.
        mu: float32 scalar, the multiplier of the penalty.
        rho: float32 scalar, the weight of the penalty.
        constraint: float32 scalar, the value of the constraint at the last check.
        rate: float32 scalar, the step size.
        first_success: int32 scalar, the step of the first adversarial iterate (`steps + 1`: none
            yet).
        step: int32 scalar, gradients taken so far.
        noise: [H, W, C] float32, the direction of the first step where the first gradient is 0.
    """

    image: Float[Array, "H W C"]
    optimizer: PyTree
    mu: Float[Array, ""]
    rho: Float[Array, ""]
    constraint: Float[Array, ""]
    rate: Float[Array, ""]
    first_success: Int[Array, ""]
    step: Int[Array, ""]
    noise: Float[Array, "H W C"]


@pytree
class ALMA(MinimumNorm):
    """Augmented Lagrangian method (Rony et al. 2020, arXiv 2011.11857): least distance.

    The distance is L2 or L1 (not squared). The constraint is the margin divided by the difference
    between the largest and the third largest logit (targeted: between the largest and the mean of
    the third and fourth largest; with too few classes the margin alone), plus 1e-4. The penalty is
    the paper's P2 with multiplier mu and weight rho, both 1 at first.

    The paper's other distances (SSIM, CIEDE2000, LPIPS) are not norms and are not implemented. The
    authors' code adds the 1e-4 to the margin, which depends on the scale of the logits; here it is
    added to the ratio.

    Each restart costs `steps` backward and `steps + 1` forward passes, since the last iterate is
    evaluated too.

    Attributes:
        norm: "l2" or "l1".
        steps: Gradients per restart.
        restarts: The first run starts at the image (or at the problem's start), the others at
            random points of a ball of radius `first_distance`.
        smoothing: Factor of the running mean of mu, and decay and momentum of RMSProp (paper: 0.9
            for 1000 steps, 0.5 for 100).
        first_distance: Length of the first gradient step in sides of the box; it determines the
            step size (None: 0.1 in L2, 0.5 in L1).
        last_step: Fraction of the step size that remains at the last step, reached exponentially
            from the first success on.
        check: Number of steps between two checks of the constraint.
        growth: Factor by which rho is multiplied at a check, as long as there was no success and
            the constraint has not fallen below `improvement` times its value at the check before.
        improvement: Fraction of the former value of the constraint below which rho is kept.

    Raises:
        ValueError: If `norm` is neither "l2" nor "l1", `steps`, `restarts` or `check` is below 1,
            `smoothing`, `last_step` or `improvement` is not in (0, 1], `first_distance` is not
            above 0, or `growth` is below 1.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(4)[:, :2])
    >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.7)
    >>> goal = ja.Untargeted(jnp.array([0]))
    >>> ja.run(ja.ALMA(), model, images, goal, key=jax.random.key(0)).distance.round(2)
    array([0.14])
    """

    norm: str = static(default="l2")
    steps: int = static(default=1000)
    smoothing: Number = 0.9
    first_distance: Number | None = None
    last_step: Number = 0.01
    check: int = static(default=10)
    growth: Number = 1.2
    improvement: Number = 0.95
    norms: ClassVar[tuple[str, ...]] = ("l2", "l1")
    needs_box: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(check=1)
        check_numbers(self, smoothing=1, first_distance=np.inf, last_step=1, improvement=1)
        if isinstance(self.growth, np.floating) and not 1 <= self.growth < np.inf:
            raise ValueError(f"growth={self.growth}: pass a number from 1")

    def optimizer(self) -> Any:
        """Return RMSProp, whose mean square starts at 1, followed by momentum."""
        import optax

        return optax.chain(
            optax.scale_by_rms(self.smoothing, eps=1e-8, initial_scale=1.0, eps_in_sqrt=False),
            optax.trace(self.smoothing),
        )

    def reach(self) -> Number:
        """Return the length of the first step in sides of the box."""
        return FIRST[self.norm] if self.first_distance is None else self.first_distance

    def init(self, problem: Problem, key: Array) -> ALMAState:
        image = begin(self, problem, key, self.reach() * problem.side)
        one, none = jnp.float32(1), jnp.int32(0)
        optimizer = self.optimizer().init(image)
        return ALMAState(
            image, optimizer, one, one, one, one, none + self.steps + 1, none, noise(key, image)
        )

    def constraint(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        """Return the constraint, negative if adversarial, regardless of the scale of the logits."""
        scale, margin = spread(goal, logits), goal.margin(logits)
        return (margin if scale is None else margin / scale) + TOLERANCE

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        return -self.constraint(goal, logits)

    def tell(self, problem: Problem, state: ALMAState, answer: Answer) -> ALMAState:
        span, first = problem.side, state.step == 0
        delta = (state.image - problem.image) / span
        uphill = -span * answer.gradients[0, 0]  # ascent direction of the constraint
        value = self.constraint(problem.goal, answer.logits[0])
        first_success = jnp.where(
            value < 0, jnp.minimum(state.first_success, state.step), state.first_success
        )

        # Check every few steps whether the constraint decreases.
        checked = (state.step + 1) % self.check == 0
        stuck = (
            checked & (first_success > self.steps) & (value >= self.improvement * state.constraint)
        )
        rho = jnp.where(stuck, self.growth * state.rho, state.rho)
        constraint = jnp.where(checked | first, value, state.constraint)

        mean = self.smoothing * state.mu + (1 - self.smoothing) * slope(value, rho, state.mu)
        mu = jnp.where(first, state.mu, jnp.clip(mean, *MULTIPLIERS))

        # The first step follows the constraint alone, since the distance is 0 there.
        gradient = slope(value, rho, mu) * uphill
        gradient = jnp.where(
            first & (gradient == 0).all(), direction(uphill, state.noise), gradient
        )
        rate = jnp.where(first, self.first_rate(problem, gradient), state.rate)
        gradient = gradient + jnp.where(first, 0.0, self.shortest(delta))

        fraction = (state.step - first_success) / jnp.maximum(self.steps - first_success, 1)
        pace = rate * self.last_step ** jnp.where(first_success <= state.step, fraction, 0.0)
        update, optimizer = self.optimizer().update(gradient, state.optimizer)
        moved = state.image - span * pace * jnp.asarray(update)
        image = jnp.clip(moved, problem.lower, problem.upper)
        return ALMAState(
            image, optimizer, mu, rho, constraint, rate, first_success, state.step + 1, state.noise
        )

    def shortest(self, delta: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the gradient of the distance, or 0 where it has none."""
        if self.norm == "l1":
            return jnp.sign(delta)
        return get_norm("l2").steepest(delta, delta, 0, 0, 0)

    def first_rate(self, problem: Problem, gradient: Float[Array, "..."]) -> Float[Array, ""]:
        """Return the step size at which a step along `gradient` has the length of the first step.

        The box shortens the step. Each correction is a secant through 0 of a concave function, so
        the step never becomes too long. (A bisection would take longer than the network.)

        Args:
            problem: The problem of this image.
            gradient: [H, W, C] float32, the gradient of the first step.

        Returns:
            float32 scalar, the step size.
        """
        span, wanted = problem.side, self.reach()
        outwards = jnp.where(gradient > 0, problem.image <= problem.lower, False)
        outwards |= jnp.where(gradient < 0, problem.image >= problem.upper, False)
        free = jnp.where(outwards, 0.0, gradient)

        def longer(_: Number, rate: Array) -> Array:
            moved = jnp.clip(problem.image - span * rate * free, problem.lower, problem.upper)
            length = self.geometry.distance(moved - problem.image) / span
            return rate * jnp.clip(wanted / jnp.maximum(length, 1e-30), 1, 10)

        rate = wanted / jnp.maximum(self.geometry.distance(free), 1e-30)
        return lax.fori_loop(0, 4, longer, rate)


def slope(value: Float[Array, ""], rho: Float[Array, ""], mu: Float[Array, ""]) -> Float[Array, ""]:
    """Return the derivative of the penalty P2 with respect to the value of the constraint."""
    outside = mu + 2 * mu * rho * value + jnp.square(rho * value) / 2
    return jnp.where(value >= 0, outside, mu / jnp.square(1 - rho * jnp.minimum(value, 0)))
