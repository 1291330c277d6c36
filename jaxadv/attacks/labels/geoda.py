"""GeoDA: the boundary's normal from labels, and the nearest point of the plane that it makes."""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxadv.attacks.labels.asking import OWN, Asking, LabelOnly, directions, until_first
from jaxadv.core.attack import Problem
from jaxadv.core.pytree import pytree, static, where

ESTIMATE, MARCH = OWN, OWN + 1
GROWTH = 1.25  # from one image of the march to the next


class Plane(NamedTuple):
    """normal [H, W, C]: sum of signed directions, all iterations; asked, wanted: directions of this
    iteration; round: iterations so far."""

    normal: Any
    asked: Any
    wanted: Any
    round: Any


@pytree
class GeoDA(LabelOnly):
    """GeoDA (Rahmati, Moosavi-Dezfooli, Frossard and Dai 2020, arXiv 2003.06468): labels, L2, Linf.

    The boundary is taken for a plane. At a point of it random directions of low frequency, `sigma`
    of the box's diagonal long, are asked whether they lead across; their signed sum, over all
    iterations, is its normal w. From the image in the direction of w (L2) or of its signs (Linf)
    until it is adversarial, then halved back to the boundary, which gives the next point. The
    budget goes to the iterations in shares that grow by ratio^(-2/3).

    norm: "l2" or "linf"; budget: answers heard per image; rounds: iterations; side: of the square
    of lowest frequencies (DCT) that directions are made of (None: all). Begins at `problem.start`,
    or at noise. Towards a target it needs a start. Raises ValueError for settings out of range.

    >>> import jaxadv as ja
    >>> attack = ja.GeoDA(norm="l2", budget=2000, side=14)
    """

    norm: str = static(default="l2")
    rounds: int = static(default=10)
    ratio: Any = 0.6
    sigma: Any = 2e-4
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

    def tolerance(self, problem: Problem) -> Any:
        # A quarter of how far a direction leads across: else most of them say the same.
        return self.sigma / (4 * problem.image.size**0.5)

    def first(self, problem: Problem) -> Plane:
        none = jnp.int32(0)
        return Plane(0 * problem.image, none, none, none)

    def arrived(self, problem: Problem, state: Asking) -> Asking:
        plane = state.own
        # What is left, less the way back of each round to come, in shares that grow.
        to_come = self.rounds - plane.round
        left = self.budget - state.spent - 24 * to_come
        growth = self.ratio ** (-2 / 3)
        share = (growth - 1) / (growth ** jnp.maximum(to_come, 1) - 1 + 1e-6)
        share = jnp.where(to_come <= 1, 1.0, share)
        own = plane._replace(
            asked=jnp.int32(0), wanted=(left * share).astype(jnp.int32), round=plane.round + 1
        )
        return state._replace(own=own, phase=jnp.int32(ESTIMATE))

    def images(self, problem: Problem, state: Asking, noise: Array) -> Float[Array, "Q ..."]:
        diagonal = jnp.max(problem.upper - problem.lower) * problem.image.size**0.5
        around = state.point + self.sigma * diagonal * directions(noise, self.side)
        normal = state.own.normal
        if self.norm == "linf":
            unit = jnp.sign(normal)
        else:
            unit = normal / jnp.maximum(jnp.sqrt(jnp.square(normal).sum()), 1e-12)
        lengths = state.distance * GROWTH ** (jnp.arange(self.batch) - 4.0)
        lengths = lengths.reshape(-1, *(1,) * problem.image.ndim)
        return jnp.where(state.phase == ESTIMATE, around, problem.image + lengths * unit)

    def wanted(self, problem: Problem, state: Asking) -> Any:
        left = jnp.maximum(state.own.wanted - state.own.asked, 1)
        return jnp.where(state.phase == ESTIMATE, left, self.batch)

    def listens(self, state: Asking, wrong: Bool[Array, " Q"]) -> Bool[Array, " Q"]:
        return (state.phase == ESTIMATE) | until_first(wrong)

    def told(
        self, problem: Problem, state: Asking, wrong: Bool[Array, " Q"], heard: Bool[Array, " Q"]
    ) -> Asking:
        plane = state.own
        sign = jnp.where(heard, jnp.where(wrong, 1.0, -1.0), 0.0)
        turned = jnp.einsum("q,q...->...", sign, state.trial - state.point)
        asked = plane.asked + heard.sum(dtype=jnp.int32)
        own = plane._replace(normal=plane.normal + turned, asked=asked)
        phase = jnp.where(asked >= plane.wanted, MARCH, ESTIMATE).astype(jnp.int32)
        estimated = state._replace(own=own, phase=phase)
        marched = self.halve_from(problem, state, state.trial[jnp.argmax(wrong)])
        marched = where(wrong.any(), marched, self.arrived(problem, state))
        return where(state.phase == ESTIMATE, estimated, marched)

    def over(self, problem: Problem, state: Asking) -> Any:
        return (state.phase == ESTIMATE) & (state.own.round > self.rounds)
