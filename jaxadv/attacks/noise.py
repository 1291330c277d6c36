"""Random noise: the baseline for every attack."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxadv.core.attack import Answer, Attack, Problem
from jaxadv.core.norms import get_norm
from jaxadv.core.pytree import pytree, static
from jaxadv.core.random import normal_like
from jaxadv.core.typing import Key


class NoiseState(NamedTuple):
    """State of one run of a noise attack.

    Attributes:
        key: Random key of this run.
        draw: int32 scalar, queries so far.
    """

    key: Key
    draw: Int[Array, ""]


@pytree
class _Noise(Attack):
    norm: str = static(default="linf")
    draws: int = static(default=1)
    restarts: int = static(default=1)
    pullbacks = 0
    simple_norms: ClassVar[tuple[str, ...]] = ("linf", "l2")

    def __post_init__(self) -> None:
        get_norm(self.norm)
        self.check_least(draws=1)

    @property
    def ticks(self) -> int:
        return self.draws

    def noisy(self, problem: Problem, key: Array) -> Array:
        """Return one noisy image, not yet projected."""
        raise NotImplementedError

    def init(self, problem: Problem, key: Array) -> NoiseState:
        return NoiseState(key, jnp.int32(0))

    def ask(self, problem: Problem, state: NoiseState) -> Float[Array, "Q ..."]:
        image = self.noisy(problem, jax.random.fold_in(state.key, state.draw))
        return self.project(problem, image)[None]

    def tell(self, problem: Problem, state: NoiseState, answer: Answer) -> NoiseState:
        return state._replace(draw=state.draw + 1)

    def done(self, problem: Problem, state: NoiseState) -> Bool[Array, ""]:
        return state.draw >= self.draws


@pytree
class UniformNoise(_Noise):
    """Points drawn uniformly from the ball, projected onto ball and box; no gradients.

    Attributes:
        norm: "linf", "l2", "l1" or "l0".
        draws: Number of draws, one forward pass each.
        restarts: Runs per image, each with its own draws.

    Raises:
        ValueError: If `norm` is unknown or `draws` is below 1.

    >>> import jaxadv as ja
    >>> attack = ja.UniformNoise(draws=10)
    """

    def noisy(self, problem: Problem, key: Array) -> Array:
        return self.geometry.random(
            key, problem.image, problem.epsilon, problem.lower, problem.upper
        )


@pytree
class GaussianNoise(_Noise):
    """Gaussian noise scaled to the surface of the ball, then projected; no gradients.

    Before the clipping to the box, every draw has exactly the distance epsilon (in L0 a random
    choice of entries).

    Attributes:
        norm: "linf", "l2", "l1" or "l0".
        draws: Number of draws, one forward pass each.
        restarts: Runs per image, each with its own draws.

    Raises:
        ValueError: If `norm` is unknown or `draws` is below 1.

    >>> import jaxadv as ja
    >>> attack = ja.GaussianNoise(norm="l2", draws=10)
    """

    norm: str = static(default="l2")

    def noisy(self, problem: Problem, key: Array) -> Array:
        if self.norm == "l0":
            return self.geometry.random(
                key, problem.image, problem.epsilon, problem.lower, problem.upper
            )
        noise = normal_like(key, problem.image)
        return problem.image + problem.epsilon * noise / self.geometry.distance(noise)
