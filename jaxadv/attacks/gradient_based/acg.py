"""Auto Conjugate Gradient: the step sizes of APGD along conjugate directions."""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxadv.attacks.common.auto_step import AutoState, AutoStep, Row
from jaxadv.core.attack import Problem
from jaxadv.core.losses import Loss
from jaxadv.core.norms import get_norm
from jaxadv.core.pytree import pytree, static

ROUNDING = 1e-6  # <s', y> below this fraction of |s'| (|g| + |g'|) is not told from 0 in float32


class Conjugate(NamedTuple):
    """What a conjugate direction depends on besides the gradient.

    Attributes:
        gradient: [H, W, C] float32, the gradient at the iterate before (0 at the first one).
        direction: [H, W, C] float32, the direction of the step from there (0 at the first one).
    """

    gradient: Float[Array, "H W C"]
    direction: Float[Array, "H W C"]


def conjugate_direction(
    gradient: Float[Array, "..."], before: Conjugate
) -> tuple[Float[Array, "..."], Float[Array, ""]]:
    """Return the next direction s of ascent, and beta (Hestenes and Stiefel 1952).

    With g the gradient, and g' and s' those of the step before: y = g' - g, beta = max(0, <-g, y> /
    <s', y>), and s = g + beta s'. The direction is the gradient itself where <s', y> is 0 but for
    rounding: where the iterate did not move, or came back from the only point it went to.

    Args:
        gradient: The gradient of the loss.
        before: The gradient and the direction of the step before.

    Returns:
        The direction, in the scale of the gradient, and beta.
    """
    # The three are scaled alike: beta stays, and squares of float32 gradients of 1e-25 are not 0.
    scale = jnp.maximum(jnp.abs(gradient).max(), jnp.abs(before.gradient).max())
    scale = jnp.maximum(jnp.maximum(scale, jnp.abs(before.direction).max()), 1e-37)
    now, last, along = gradient / scale, before.gradient / scale, before.direction / scale
    change = last - now
    curvature = (along * change).sum()
    norm = get_norm("l2").distance
    zero = jnp.abs(curvature) <= ROUNDING * norm(along) * (norm(now) + norm(last))
    ratio = -(now * change).sum() / jnp.where(zero, 1.0, curvature)
    beta = jnp.where(zero, 0.0, jnp.maximum(ratio, 0.0))
    direction = now + beta * along
    finite = jnp.isfinite(direction).all()
    return jnp.where(finite, scale * direction, gradient), jnp.where(finite, beta, 0.0)


@pytree
class ACG(AutoStep):
    """Auto Conjugate Gradient (Yamamura et al. 2022, arXiv 2206.09628).

    Step sizes and checkpoints are those of APGD, but a step follows the sign (L2: the unit vector)
    of a conjugate direction in place of the gradient, without momentum. The directions change more
    from step to step than those of APGD, so that the iterates visit more classes. A return to the
    best point restores the gradient and direction that led to it.

    As in the authors' settings, a negative beta counts as 0, the loss is the margin, and the first
    run begins at the centre of what ball and box have in common (in L2: of the box around the ball,
    projected); further runs begin at random points. Where the denominator of beta is 0 but for
    rounding, which happens when the iterate stays in a corner or moves to and fro, beta counts as 0
    (in the authors' code it is then huge, or no number). L2 is not in the authors' code.

    A run ends at its first success. Each restart costs at most `steps` backward and `steps + 1`
    forward passes.

    Attributes:
        norm: "linf" or "l2".
        steps: Gradients per restart.
        loss: "margin", "probability_margin", "cross_entropy", "dlr" or a function (goal, logits
            [K]) -> scalar.
        restarts: The first run starts at the centre, the others at random points.
        targets: As in `APGD`.
        random_start: Start the first run at a random point too.

    Raises:
        ValueError: If `norm` or `loss` is unknown, `steps` or `restarts` is below 1, `targets` is
            below 0, or `targets` is above 0 and the goal is targeted.

    >>> import jaxadv as ja
    >>> attack = ja.ACG(restarts=5)
    """

    loss: str | Loss = static(default="margin")
    random_start: bool = static(default=False)
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")

    def start(self, problem: Problem, key: Array) -> Float[Array, "H W C"]:
        drawn = super().start(problem, key)
        if self.random_start:
            return drawn
        least = jnp.maximum(problem.image - problem.epsilon, problem.lower)
        most = jnp.minimum(problem.image + problem.epsilon, problem.upper)
        first = problem.rank % self.restarts == 0
        return jnp.where(first, least / 2 + most / 2, drawn)

    def memory(self, problem: Problem) -> PyTree:
        zero = jnp.zeros_like(problem.image)
        return Conjugate(zero, zero)

    def advance(
        self, problem: Problem, state: AutoState, now: Row, at: tuple[Array, Array, PyTree]
    ) -> tuple[Float[Array, "H W C"], PyTree]:
        image, gradient, before = at
        direction, _ = conjugate_direction(gradient, before)
        unit = self.geometry.steepest(direction, image, problem.lower, problem.upper, 1.0)
        radius = now.radius * problem.epsilon
        following = self.project(problem, image + state.length * radius * unit, radius)
        return following, Conjugate(gradient, direction)
