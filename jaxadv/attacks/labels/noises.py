"""Noise that labels alone guide: blended with the image, or salt and pepper on few entries."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxadv.attacks.labels.asking import OWN, Asking, LabelOnly
from jaxadv.core.attack import Problem
from jaxadv.core.pytree import pytree, static

LEAST = 0.2  # the smallest share of the last success's entries that is tried


@pytree
class BlendedNoise(LabelOnly):
    """An image of noise, and the line from it to the image, halved (Foolbox's blended noise).

    The nearest of a batch of noise images (or `problem.start`) that is adversarial; then the share
    of noise is halved to within `finest`. It is how the other attacks by labels begin, and the
    baseline that they are to beat. norm: "l2", "linf" or "l1"; budget: answers heard per image.

    >>> import jaxadv as ja
    >>> attack = ja.BlendedNoise(norm="linf", restarts=3)
    """

    norm: str = static(default="l2")
    finest: Any = 1e-3
    norms: ClassVar[tuple[str, ...]] = ("l2", "linf", "l1")

    def tolerance(self, problem: Problem) -> Any:
        return self.finest

    def first(self, problem: Problem) -> Any:
        return ()

    def images(self, problem: Problem, state: Asking, noise: Array) -> Float[Array, "Q ..."]:
        return state.trial

    def told(
        self, problem: Problem, state: Asking, wrong: Bool[Array, " Q"], heard: Bool[Array, " Q"]
    ) -> Asking:
        return state

    def over(self, problem: Problem, state: Asking) -> Any:
        return True


@pytree
class SaltAndPepper(LabelOnly):
    """Salt and pepper: random entries to the ends of the box, fewer after each success.

    Every tick asks a batch of fresh noise on shares of the entries between a fifth of the last
    success's and all of it; the smallest success is the next bound. Distances are to the image, not
    to 0. norm: "l0", "l1" or "l2" decides which image is kept; budget: answers heard per image.

    >>> import jaxadv as ja
    >>> attack = ja.SaltAndPepper(budget=2000)
    """

    norm: str = static(default="l0")
    norms: ClassVar[tuple[str, ...]] = ("l0", "l1", "l2")

    def first(self, problem: Problem) -> Any:
        return jnp.float32(1)  # the share of the entries that the last success changed

    def init(self, problem: Problem, key: Array) -> Asking:
        state = super().init(problem, key)
        return state._replace(phase=jnp.int32(OWN))

    def wanted(self, problem: Problem, state: Asking) -> Any:
        # Before the first success every tick counts as drawing a start.
        return jnp.where(state.tick == 0, 0, self.batch)

    def images(self, problem: Problem, state: Asking, noise: Array) -> Float[Array, "Q ..."]:
        spread = jnp.linspace(LEAST, 1.0, self.batch).reshape(-1, *(1,) * problem.image.ndim)
        share = jnp.clip(state.own * spread, 0.0, 1.0)
        # The smaller half of what is changed becomes pepper, the larger salt.
        changed = jnp.where(noise < share / 2, problem.lower, problem.upper)
        return jnp.where(noise < share, changed, problem.image)

    def told(
        self, problem: Problem, state: Asking, wrong: Bool[Array, " Q"], heard: Bool[Array, " Q"]
    ) -> Asking:
        distance = jax.vmap(lambda x: self.geometry.distance(x - problem.image))(state.trial)
        distance = jnp.where(wrong, distance, jnp.inf)
        nearest = jnp.argmin(distance)
        closer = distance[nearest] < state.distance
        spread = jnp.linspace(LEAST, 1.0, self.batch)
        return state._replace(
            own=jnp.where(closer, jnp.minimum(state.own * spread[nearest] * 1.1, 1.0), state.own),
            point=jnp.where(closer, state.trial[nearest], state.point),
            distance=jnp.minimum(distance[nearest], state.distance),
        )

    def over(self, problem: Problem, state: Asking) -> Any:
        return (state.distance == jnp.inf) & (state.spent >= self.draws)
