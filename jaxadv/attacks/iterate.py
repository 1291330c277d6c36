"""One iterate a tick: what all attacks share that follow a single image along its gradients.

Every tick asks for the iterate; the gradient there is read for `steps` ticks. A last tick asks for
the final iterate's answer only, so that it is judged too.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxadv.core.attack import Attack, Problem, Reads
from jaxadv.core.norms import get_norm
from jaxadv.core.pytree import pytree, static


@pytree
class Iterate(Attack):
    """Base of attacks whose state has the fields `image`, the iterate [H, W, C], and `step`, the
    gradients taken so far. Per restart `steps` gradients and `steps + 1` forward passes."""

    norm: str = static(default="linf")
    steps: int = static(default=40)
    restarts: int = static(default=1)

    def __post_init__(self) -> None:
        self.check_norm()
        self.check_least(steps=1, restarts=1)

    @property
    def gradients(self) -> int:
        """The most ticks of a run that read gradients."""
        return self.steps

    @property
    def ticks(self) -> int:
        return self.gradients + 1

    @property
    def passes(self) -> int:
        return self.entries * (self.ticks + self.gradients * self.pullbacks)

    def ask(self, problem: Problem, state: Any) -> Float[Array, "Q ..."]:
        return state.image[None]

    def reads(self, problem: Problem, state: Any) -> Reads:
        return Reads(jnp.ones(1, bool), (state.step < self.steps)[None])

    def done(self, problem: Problem, state: Any) -> Bool[Array, ""]:
        return state.step > self.steps


@pytree
class MinimumNorm(Iterate):
    """Base of attacks that look for the nearest adversarial image.

    The engine keeps the nearest adversarial image of all that were asked. They need no epsilon;
    where one is given it is a distance already reached, and only what is nearer counts.
    """

    needs_epsilon: ClassVar[bool] = False
    keep: ClassVar[str] = "distance"
    asks_inside: ClassVar[bool] = False

    def begin(self, problem: Problem) -> Float[Array, "..."]:
        """Where the first run begins: at the image, or at the start that the problem has."""
        return problem.image if problem.start is None else problem.start


def noise(key: Array, image: Float[Array, "..."]) -> Float[Array, "..."]:
    """Where a run goes that has no gradient to follow."""
    return jax.random.normal(jax.random.fold_in(key, 1), image.shape, image.dtype)


def direction(gradient: Float[Array, "..."], noise: Any) -> Float[Array, "..."]:
    """The gradient at unit L2 length, however small it is; where it is 0 the noise's direction."""
    gradient = jnp.where((gradient != 0).any(), gradient, noise)
    return get_norm("l2").steepest(gradient, gradient, 0, 0, 0)


def on_sphere(
    attack: MinimumNorm, problem: Problem, image: Float[Array, "..."], radius: Any
) -> Float[Array, "..."]:
    """Where the ray from the problem's image through `image`, clipped to the box, has this radius.

    It is stretched so far that the projection onto ball and box is always from outside.
    """
    delta = image - problem.image
    stretched = delta * jnp.minimum(1e6 * (problem.upper - problem.lower), 1e30)
    stretched = stretched / jnp.maximum(jnp.abs(delta).max(), 1e-30)
    return attack.project(problem, problem.image + stretched, radius)


def begin(attack: MinimumNorm, problem: Problem, key: Array, radius: Any) -> Float[Array, "..."]:
    """Where this run begins: the first as `MinimumNorm.begin` says, the other restarts at random
    points within `radius` of there."""
    first = attack.begin(problem)
    if attack.restarts == 1:
        return first
    drawn = attack.geometry.random(key, first, radius, problem.lower, problem.upper)
    drawn = jnp.clip(drawn, problem.lower, problem.upper)
    return jnp.where(problem.rank % attack.restarts > 0, drawn, first)


def farthest(attack: MinimumNorm, problem: Problem) -> Float[Array, ""]:
    """The largest radius worth a try: to the farthest corner of the box, and within epsilon."""
    room = jnp.maximum(problem.upper - problem.image, problem.image - problem.lower)
    return jnp.minimum(attack.geometry.distance(room), problem.epsilon)


def check_numbers(attack: MinimumNorm, **most: Any) -> None:
    """ValueError where one of these settings is not a number above 0 and at most so much."""
    for field, limit in most.items():
        value = getattr(attack, field)
        if isinstance(value, np.floating) and not (0 < value <= limit and value < np.inf):
            raise ValueError(f"{field}={value}: pass a number above 0, at most {limit}")
