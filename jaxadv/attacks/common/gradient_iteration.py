"""Base of attacks that follow a single image along its gradients, one iterate a tick.

Every tick queries the iterate; the gradient there is used for `steps` ticks. A last tick queries
the final iterate for its logits only, so that it is evaluated too.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxadv.core.attack import Attack, Needs, Problem, State
from jaxadv.core.norms import get_norm
from jaxadv.core.pytree import pytree, static
from jaxadv.core.random import normal_like
from jaxadv.core.typing import Number


@pytree
class Iterate(Attack):
    """Base of attacks whose state has the fields `image` (the iterate) and `step`.

    `image` has the shape [H, W, C], and `step` counts the gradients taken so far. Each restart
    costs `steps` backward and `steps + 1` forward passes.

    Attributes:
        norm: Name of the norm.
        steps: Gradients per restart.
        restarts: Runs per image.

    Raises:
        ValueError: If `norm` is unknown, or `steps` or `restarts` is below 1.
    """

    norm: str = static(default="linf")
    steps: int = static(default=40)
    restarts: int = static(default=1)

    def __post_init__(self) -> None:
        self.check_norm()
        self.check_least(steps=1, restarts=1)

    @property
    def gradients(self) -> int:
        return self.steps

    @property
    def ticks(self) -> int:
        return self.gradients + 1

    @property
    def passes(self) -> int:
        return self.entries * (self.ticks + self.gradients * self.pullbacks)

    def ask(self, problem: Problem, state: State) -> Float[Array, "Q ..."]:
        return state.image[None]

    def needs(self, problem: Problem, state: State) -> Needs:
        return Needs(jnp.ones(1, bool), (state.step < self.steps)[None])

    def done(self, problem: Problem, state: State) -> Bool[Array, ""]:
        return state.step > self.steps


@pytree
class MinimumNorm(Iterate):
    """Base of attacks that look for the nearest adversarial image.

    The engine keeps the nearest adversarial query. These attacks need no epsilon; a given epsilon
    is a distance that was already reached, and only nearer images count.

    Attributes:
        norm: Name of the norm.
        steps: Gradients per restart.
        restarts: Runs per image.
    """

    needs_epsilon: ClassVar[bool] = False
    keep: ClassVar[str] = "distance"
    asks_inside: ClassVar[bool] = False

    def begin(self, problem: Problem) -> Float[Array, "..."]:
        """Return the start of the first run: the problem's start if it has one, else the image."""
        return problem.image if problem.start is None else problem.start


def noise(key: Array, image: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return the direction of a run whose gradient is 0."""
    return normal_like(jax.random.fold_in(key, 1), image)


def direction(gradient: Float[Array, "..."], noise: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return the gradient scaled to unit L2 length, or the direction of `noise` where it is 0."""
    gradient = jnp.where((gradient != 0).any(), gradient, noise)
    return get_norm("l2").steepest(gradient, gradient, 0, 0, 0)


def on_sphere(
    attack: MinimumNorm, problem: Problem, image: Float[Array, "..."], radius: Number
) -> Float[Array, "..."]:
    """Return the point at distance `radius` on the ray through `image`, clipped to the box.

    The ray starts at the problem's image. It is stretched so far that the projection onto ball and
    box is always from outside.

    Args:
        attack: The attack, whose norm is used.
        problem: The problem of this image.
        image: [H, W, C] float32, a point of the ray.
        radius: Distance from the problem's image.

    Returns:
        [H, W, C] float32.
    """
    delta = image - problem.image
    stretched = delta * jnp.minimum(1e6 * problem.side, 1e30)
    stretched = stretched / jnp.maximum(jnp.abs(delta).max(), 1e-30)
    return attack.project(problem, problem.image + stretched, radius)


def begin(attack: MinimumNorm, problem: Problem, key: Array, radius: Number) -> Float[Array, "..."]:
    """Return the start of this run: with restarts, all but the first start at random points.

    Args:
        attack: The attack, whose norm and `restarts` are used.
        problem: The problem of this image.
        key: Random key of this run.
        radius: Largest distance of a random start from `MinimumNorm.begin`, the first run's start.

    Returns:
        [H, W, C] float32.
    """
    first = attack.begin(problem)
    if attack.restarts == 1:
        return first
    drawn = attack.geometry.random(key, first, radius, problem.lower, problem.upper)
    drawn = jnp.clip(drawn, problem.lower, problem.upper)
    return jnp.where(problem.rank % attack.restarts > 0, drawn, first)


def farthest(attack: MinimumNorm, problem: Problem) -> Float[Array, ""]:
    """Return the largest useful radius: min(epsilon, distance to the farthest corner)."""
    room = jnp.maximum(problem.upper - problem.image, problem.image - problem.lower)
    return jnp.minimum(attack.geometry.distance(room), problem.epsilon)


def check_numbers(attack: Attack, **most: Number) -> None:
    """Raise ValueError unless each of these settings is a finite number in (0, limit].

    None and arrays, which may be traced, are not checked.
    """
    for field, limit in most.items():
        value = getattr(attack, field)
        if isinstance(value, np.floating) and not (0 < value <= limit and value < np.inf):
            bound = "" if limit == np.inf else f", at most {limit}"
            raise ValueError(f"{field}={value}: pass a number above 0{bound}")
