"""Decision-based noise attacks: noise blended with the image, and salt and pepper."""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from jaxadv.attacks.decision_based.base import OWN, DecisionState, LabelOnly, salt_and_pepper
from jaxadv.core.attack import Problem
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Number

LEAST = 0.2  # smallest fraction of the last success's entries that is tried


@pytree
class BlendedNoise(LabelOnly):
    """Bisection of the line between a noise image and the image (Foolbox's blended noise).

    The attack takes the nearest adversarial one of a batch of noise images (or `problem.start`) and
    bisects its fraction in the blend to within `finest`. The other decision-based attacks begin
    this way, so it is their baseline. One forward pass a query.

    Attributes:
        budget: Largest number of queries per image.
        draws: Largest number of noise images that are tried.
        batch: Images queried per tick.
        restarts: Independent runs.
        norm: "l2", "linf" or "l1".
        finest: Tolerance of the bisection, as a fraction of the line.

    Raises:
        ValueError: If the norm is unknown or a count is below its minimum (batch: 4, others: 1).

    >>> import jaxadv as ja
    >>> attack = ja.BlendedNoise(norm="linf", restarts=3)
    """

    norm: str = static(default="l2")
    finest: Number = 1e-3
    norms: ClassVar[tuple[str, ...]] = ("l2", "linf", "l1")

    def tolerance(self, problem: Problem) -> Number:
        return self.finest

    def first(self, problem: Problem) -> PyTree:
        return ()

    def images(self, problem: Problem, state: DecisionState, noise: Array) -> Float[Array, "Q ..."]:
        return state.trial

    def updated(
        self,
        problem: Problem,
        state: DecisionState,
        wrong: Bool[Array, " Q"],
        used: Bool[Array, " Q"],
    ) -> DecisionState:
        return state

    def over(self, problem: Problem, state: DecisionState) -> Bool[Array, ""] | bool:
        return True


@pytree
class SaltAndPepper(LabelOnly):
    """Random entries set to the ends of the box, fewer of them after each success.

    Every tick queries a batch of fresh noise images in which the fraction of changed entries runs
    from a fifth of that of the last success up to that fraction; the nearest success sets the next
    one. Distances are measured from the image, not from 0. One forward pass a query.

    Attributes:
        budget: Largest number of queries per image.
        draws: Largest number of queries before the first success.
        batch: Images queried per tick.
        restarts: Independent runs.
        norm: "l0", "l1" or "l2": the norm in which the nearest image is kept.

    Raises:
        ValueError: If the norm is unknown or a count is below its minimum (batch: 4, others: 1).

    >>> import jaxadv as ja
    >>> attack = ja.SaltAndPepper(budget=2000)
    """

    norm: str = static(default="l0")
    norms: ClassVar[tuple[str, ...]] = ("l0", "l1", "l2")

    def first(self, problem: Problem) -> PyTree:
        return jnp.float32(1)  # fraction of the entries that the last success changed

    def init(self, problem: Problem, key: Array) -> DecisionState:
        state = super().init(problem, key)
        return state._replace(phase=jnp.int32(OWN))

    def wanted(self, problem: Problem, state: DecisionState) -> Number:
        # Before the first success every tick counts as drawing a start.
        return jnp.where(state.tick == 0, 0, self.batch)

    def images(self, problem: Problem, state: DecisionState, noise: Array) -> Float[Array, "Q ..."]:
        spread = jnp.linspace(LEAST, 1.0, self.batch)
        return salt_and_pepper(problem, noise, jnp.clip(state.own * spread, 0.0, 1.0))

    def updated(
        self,
        problem: Problem,
        state: DecisionState,
        wrong: Bool[Array, " Q"],
        used: Bool[Array, " Q"],
    ) -> DecisionState:
        distance = self.distances(problem, state, wrong)
        nearest = jnp.argmin(distance)
        closer = distance[nearest] < state.distance
        spread = jnp.linspace(LEAST, 1.0, self.batch)
        return state._replace(
            own=jnp.where(closer, jnp.minimum(state.own * spread[nearest] * 1.1, 1.0), state.own),
            point=jnp.where(closer, state.trial[nearest], state.point),
            distance=jnp.minimum(distance[nearest], state.distance),
        )

    def over(self, problem: Problem, state: DecisionState) -> Bool[Array, ""] | bool:
        return (state.distance == jnp.inf) & (state.spent >= self.draws)
