"""GeoDA: the normal of the boundary from labels, and the nearest point of the plane it defines."""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.attacks.decision_based.base import (
    OWN,
    DecisionState,
    LabelOnly,
    column,
    directions,
    signs,
    until_first,
)
from jaxadv.core.attack import Problem
from jaxadv.core.pytree import pytree, static, where
from jaxadv.core.typing import Number

ESTIMATE, MARCH = OWN, OWN + 1
GROWTH = 1.25  # of the distance, from one image along the normal to the next


class Plane(NamedTuple):
    """The estimate of the boundary's normal.

    Attributes:
        normal: [H, W, C], sum of the signed directions of all iterations.
        queried: Integer scalar, directions queried in this iteration.
        wanted: Integer scalar, directions to be queried in this iteration.
        round: Integer scalar, iterations begun so far.
    """

    normal: Float[Array, "H W C"]
    queried: Int[Array, ""]
    wanted: Int[Array, ""]
    round: Int[Array, ""]


@pytree
class GeoDA(LabelOnly):
    """GeoDA (Rahmati, Moosavi-Dezfooli, Frossard and Dai 2020, arXiv 2003.06468): decision-based.

    The attack treats the boundary as a plane. At a point of the boundary it queries random
    directions of low frequency, with a length of `sigma` times the diagonal of the box; their sum
    over all iterations, signed by whether they are adversarial, is the normal w. From the image it
    moves along w (L2) or along its signs (Linf) until the image is adversarial, and bisects back to
    the boundary, which gives the next point. The iterations get parts of the budget that grow by
    ratio^(-2/3). The attack begins at `problem.start` (`ja.run(..., start=)`; a targeted attack
    needs it), or at noise. One forward pass a query.

    Attributes:
        budget: Largest number of queries per image.
        draws: Largest number of noise images that are tried as a start.
        batch: Images queried per tick.
        restarts: Independent runs.
        norm: "l2" or "linf".
        rounds: Iterations.
        ratio: Base of the growth of the budget per iteration, in (0, 1].
        sigma: Length of a queried direction, as a fraction of the diagonal of the box, in (0, 1].
        side: Number of lowest DCT frequencies along each axis of which directions are made; None:
            all.

    Raises:
        ValueError: If the norm is unknown, a count is below its minimum (batch: 4, others: 1), or
            ratio or sigma is outside (0, 1].

    >>> import jaxadv as ja
    >>> attack = ja.GeoDA(norm="l2", budget=2000, side=14)
    """

    norm: str = static(default="l2")
    rounds: int = static(default=10)
    ratio: Number = 0.6
    sigma: Number = 2e-4
    side: int | None = static(default=None)
    norms: ClassVar[tuple[str, ...]] = ("l2", "linf")

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("rounds", "side"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{field}={value}: pass 1 or more")
        for field in ("ratio", "sigma"):
            value = getattr(self, field)
            if isinstance(value, np.floating) and not 0 < value <= 1:
                raise ValueError(f"{field}={value:g}: pass a number above 0 and at most 1")

    def tolerance(self, problem: Problem) -> Number:
        # A quarter of a direction's component along the normal: else most have the same label.
        return self.sigma / (4 * problem.image.size**0.5)

    def first(self, problem: Problem) -> Plane:
        none = jnp.int32(0)
        return Plane(0 * problem.image, none, none, none)

    def arrived(self, problem: Problem, state: DecisionState) -> DecisionState:
        plane = state.own
        # The rest of the budget, less the bisections of the rounds to come, in growing parts.
        to_come = self.rounds - plane.round
        left = self.budget - state.spent - 24 * to_come
        growth = self.ratio ** (-2 / 3)
        fraction = (growth - 1) / (growth ** jnp.maximum(to_come, 1) - 1 + 1e-6)
        fraction = jnp.where(to_come <= 1, 1.0, fraction)
        own = plane._replace(
            queried=jnp.int32(0), wanted=(left * fraction).astype(jnp.int32), round=plane.round + 1
        )
        return state._replace(own=own, phase=jnp.int32(ESTIMATE))

    def images(self, problem: Problem, state: DecisionState, noise: Array) -> Float[Array, "Q ..."]:
        diagonal = jnp.max(problem.sides) * problem.image.size**0.5
        around = state.point + self.sigma * diagonal * directions(noise, self.side)
        normal = state.own.normal
        if self.norm == "linf":
            unit = jnp.sign(normal)
        else:
            unit = normal / jnp.maximum(jnp.sqrt(jnp.square(normal).sum()), 1e-12)
        lengths = state.distance * GROWTH ** (jnp.arange(self.batch) - 4.0)
        beyond = problem.image + column(lengths, problem.image) * unit
        return jnp.where(state.phase == ESTIMATE, around, beyond)

    def wanted(self, problem: Problem, state: DecisionState) -> Number:
        left = jnp.maximum(state.own.wanted - state.own.queried, 1)
        return jnp.where(state.phase == ESTIMATE, left, self.batch)

    def counted(self, state: DecisionState, wrong: Bool[Array, " Q"]) -> Bool[Array, " Q"]:
        return (state.phase == ESTIMATE) | until_first(wrong)

    def updated(
        self,
        problem: Problem,
        state: DecisionState,
        wrong: Bool[Array, " Q"],
        used: Bool[Array, " Q"],
    ) -> DecisionState:
        plane = state.own
        turned = jnp.einsum("q,q...->...", signs(wrong, used), state.trial - state.point)
        queried = plane.queried + used.sum(dtype=jnp.int32)
        own = plane._replace(normal=plane.normal + turned, queried=queried)
        phase = jnp.where(queried >= plane.wanted, MARCH, ESTIMATE).astype(jnp.int32)
        estimated = state._replace(own=own, phase=phase)
        marched = self.halve_from_first(problem, state, wrong)
        return where(state.phase == ESTIMATE, estimated, marched)

    def over(self, problem: Problem, state: DecisionState) -> Bool[Array, ""] | bool:
        return (state.phase == ESTIMATE) & (state.own.round > self.rounds)
