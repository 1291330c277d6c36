"""ALMA: an augmented Lagrangian for the nearest adversarial image. L1 and L2.

Distance plus a penalty of the constraint "adversarial" are minimised together; the multiplier is a
running mean of the penalty's slope, so that the two come into balance at the boundary.
"""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxadv.attacks.iterate import MinimumNorm, begin, check_numbers, direction, noise
from jaxadv.core.attack import Answer, Problem
from jaxadv.core.goals import Goal
from jaxadv.core.losses import spread
from jaxadv.core.norms import get_norm
from jaxadv.core.pytree import pytree, static

FIRST = {"l2": 0.1, "l1": 0.5}
TOLERANCE = 1e-4  # what the constraint is kept away from 0, where float32 could decide either way
MULTIPLIERS = (1e-6, 1e12)


class ALMAState(NamedTuple):
    """image: the iterate [H, W, C]; optimizer: optax's state; mu, rho: the multiplier and the
    weight of the penalty; constraint: its value at the last check; rate: the step size; found: the
    step of the first adversarial iterate (beyond all steps: none yet); step: gradients so far;
    noise: the direction taken where the first gradient is 0 [H, W, C]."""

    image: Any
    optimizer: Any
    mu: Any
    rho: Any
    constraint: Any
    rate: Any
    found: Any
    step: Any
    noise: Any


@pytree
class ALMA(MinimumNorm):
    """Augmented Lagrangian method (Rony et al. 2020, arXiv 2011.11857): least distance.

    norm: "l2" or "l1" (not squared). The constraint is the margin over the difference of the first
    and third logit (targeted: of the first and the mean of third and fourth; with too few classes
    the margin alone) plus 1e-4; the penalty the paper's P2, with multiplier mu and weight rho, both
    1 at first. smoothing: of mu's running mean, and RMSProp's decay and momentum (paper: 0.9 for
    1000 steps, 0.5 for 100). first_distance: how far, in sides of the box, the first gradient step
    is to lead, which sets the step size (None: 0.1 in L2, 0.5 in L1); last_step: the share of it
    that remains at the end, reached exponentially from the first success on. check: after how many
    steps rho is multiplied by `growth`, until there was a success, unless the constraint fell below
    `improvement` of its value at the check before. restarts: the first begins at the image (or the
    problem's start), the others at random points of a ball of radius first_distance.

    The paper's other distances (SSIM, CIEDE2000, LPIPS) are not norms and are not here. The 1e-4 is
    added to the ratio, not (as in the authors' code) to the margin, which depends on the scale of
    the logits. Per restart `steps` backward and `steps + 1` forward passes: the last iterate is
    judged too. Raises ValueError for norms and settings other than these.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(4)[:, :2])
    >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.7)
    >>> goal = ja.Untargeted(jnp.array([0]))
    >>> ja.run(ja.ALMA(), model, images, goal, key=jax.random.key(0)).distance.round(2)
    array([0.14])
    """

    norm: str = static(default="l2")
    steps: int = static(default=1000)
    smoothing: Any = 0.9
    first_distance: Any = None
    last_step: Any = 0.01
    check: int = static(default=10)
    growth: Any = 1.2
    improvement: Any = 0.95
    norms: ClassVar[tuple[str, ...]] = ("l2", "l1")
    needs_box: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(check=1)
        check_numbers(self, smoothing=1, first_distance=np.inf, last_step=1, improvement=1)
        if isinstance(self.growth, np.floating) and not 1 <= self.growth < np.inf:
            raise ValueError(f"growth={self.growth}: pass a number from 1")

    def optimizer(self) -> Any:
        """RMSProp, whose mean square begins at 1, then momentum."""
        import optax

        return optax.chain(
            optax.scale_by_rms(self.smoothing, eps=1e-8, initial_scale=1.0, eps_in_sqrt=False),
            optax.trace(self.smoothing),
        )

    def reach(self) -> Any:
        """The first step's length in sides of the box."""
        return FIRST[self.norm] if self.first_distance is None else self.first_distance

    def init(self, problem: Problem, key: Array) -> ALMAState:
        image = begin(self, problem, key, self.reach() * (problem.upper - problem.lower))
        one, none = jnp.float32(1), jnp.int32(0)
        optimizer = self.optimizer().init(image)
        return ALMAState(
            image, optimizer, one, one, one, one, none + self.steps + 1, none, noise(key, image)
        )

    def constraint(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        """Negative when the image is adversarial, whatever the scale of the logits."""
        scale, margin = spread(goal, logits), goal.margin(logits)
        return (margin if scale is None else margin / scale) + TOLERANCE

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        return -self.constraint(goal, logits)

    def tell(self, problem: Problem, state: ALMAState, answer: Answer) -> ALMAState:
        span, first = problem.upper - problem.lower, state.step == 0
        delta = (state.image - problem.image) / span
        uphill = -span * answer.gradients[0, 0]  # of the constraint
        value = self.constraint(problem.goal, answer.logits[0])
        found = jnp.where(value < 0, jnp.minimum(state.found, state.step), state.found)

        # Every few steps: is the constraint on its way down?
        checked = (state.step + 1) % self.check == 0
        stuck = checked & (found > self.steps) & (value >= self.improvement * state.constraint)
        rho = jnp.where(stuck, self.growth * state.rho, state.rho)
        constraint = jnp.where(checked | first, value, state.constraint)

        mean = self.smoothing * state.mu + (1 - self.smoothing) * slope(value, rho, state.mu)
        mu = jnp.where(first, state.mu, jnp.clip(mean, *MULTIPLIERS))

        # The first step follows the constraint alone: the distance is 0 there.
        gradient = slope(value, rho, mu) * uphill
        gradient = jnp.where(
            first & (gradient == 0).all(), direction(uphill, state.noise), gradient
        )
        rate = jnp.where(first, self.first_rate(problem, gradient), state.rate)
        gradient = gradient + jnp.where(first, 0.0, self.shortest(delta))

        share = (state.step - found) / jnp.maximum(self.steps - found, 1)
        pace = rate * self.last_step ** jnp.where(found <= state.step, share, 0.0)
        update, optimizer = self.optimizer().update(gradient, state.optimizer)
        moved = state.image - span * pace * jnp.asarray(update)
        image = jnp.clip(moved, problem.lower, problem.upper)
        return ALMAState(
            image, optimizer, mu, rho, constraint, rate, found, state.step + 1, state.noise
        )

    def shortest(self, delta: Float[Array, "..."]) -> Float[Array, "..."]:
        """The distance's gradient; 0 where there is none."""
        if self.norm == "l1":
            return jnp.sign(delta)
        return get_norm("l2").steepest(delta, delta, 0, 0, 0)

    def first_rate(self, problem: Problem, gradient: Float[Array, "..."]) -> Float[Array, ""]:
        """The step size at which a step along this gradient leads as far as the first one is to.

        What the box cuts off makes the step shorter. Each correction is a secant through 0 of a
        concave function: it never leads too far. (A bisection would take longer than the network.)
        """
        span, wanted = problem.upper - problem.lower, self.reach()
        outwards = jnp.where(gradient > 0, problem.image <= problem.lower, False)
        outwards |= jnp.where(gradient < 0, problem.image >= problem.upper, False)
        free = jnp.where(outwards, 0.0, gradient)

        def longer(_: Any, rate: Array) -> Array:
            moved = jnp.clip(problem.image - span * rate * free, problem.lower, problem.upper)
            length = self.geometry.distance(moved - problem.image) / span
            return rate * jnp.clip(wanted / jnp.maximum(length, 1e-30), 1, 10)

        rate = wanted / jnp.maximum(self.geometry.distance(free), 1e-30)
        return lax.fori_loop(0, 4, longer, rate)


def slope(value: Any, rho: Any, mu: Any) -> Float[Array, ""]:
    """The derivative of the penalty P2 by the constraint's value."""
    outside = mu + 2 * mu * rho * value + jnp.square(rho * value) / 2
    return jnp.where(value >= 0, outside, mu / jnp.square(1 - rho * jnp.minimum(value, 0)))
