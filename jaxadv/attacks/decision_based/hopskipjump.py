"""HopSkipJump: the boundary's normal from nearby labels, a step along it, and bisection."""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.attacks.decision_based.base import (
    FINEST,
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

ESTIMATE, STEP = OWN, OWN + 1
COARSEST = 1e-3  # fraction of the line: on small images gamma alone would be coarser


class Normal(NamedTuple):
    """The estimate of the boundary's normal at a point.

    Attributes:
        plain: [H, W, C], sum of the queried directions.
        signed: [H, W, C], sum of the queried directions times +1 (adversarial) or -1.
        signs: Scalar, the sum of these signs.
        queried: Integer scalar, directions queried in this iteration.
        wanted: Integer scalar, directions to be queried in this iteration.
        radius: Scalar, the length of a queried direction.
        past: [H, W, C], the decayed sum that earlier iterations left.
        normal: [H, W, C], the sum with this iteration's estimate.
        direction: [H, W, C], the direction of the step.
        round: Integer scalar, iterations begun so far.
    """

    plain: Float[Array, "H W C"]
    signed: Float[Array, "H W C"]
    signs: Float[Array, ""]
    queried: Int[Array, ""]
    wanted: Int[Array, ""]
    radius: Float[Array, ""]
    past: Float[Array, "H W C"]
    normal: Float[Array, "H W C"]
    direction: Float[Array, "H W C"]
    round: Int[Array, ""]


@pytree
class HopSkipJump(LabelOnly):
    """HopSkipJump (Chen, Jordan and Wainwright 2019, arXiv 1904.02144): decision-based, L2 or Linf.

    At a point of the boundary, `initial` * sqrt(t) random directions are queried in iteration t;
    their mean, signed by whether they are adversarial and less its baseline, estimates the normal.
    A step of distance / sqrt(t) along it (Linf: along its signs) is halved until it is adversarial,
    at most `batch` times, else more directions are queried. Bisection then returns to the boundary,
    to within `gamma` / d^1.5 of the distance for d entries (Linf: `gamma` / d^2). The last
    iteration is shortened so that the rest of the budget suffices for its step.

    Beyond the paper, the sums of earlier iterations are kept with a weight of `memory` per
    iteration, since the normal turns slowly; memory=0, gamma=1 is the published attack. The attack
    begins at `problem.start` (`ja.run(..., start=)`; a targeted attack needs it), or at noise. One
    forward pass a query.

    Attributes:
        budget: Largest number of queries per image.
        draws: Largest number of noise images that are tried as a start.
        batch: Images queried per tick.
        restarts: Independent runs.
        norm: "l2" or "linf".
        initial: Directions queried in the first iteration.
        most: Largest number of directions queried in an iteration.
        gamma: Length of a queried direction is `gamma` / d of the distance; also scales the
            tolerance of the bisection.
        memory: Weight of the earlier estimates per iteration, in [0, 1).
        side: Number of lowest DCT frequencies along each axis from which directions are drawn (Li
            et al. 2020, arXiv 2005.14137); None: all.

    Raises:
        ValueError: If the norm is unknown, a count is below its minimum (batch: 4, others: 1),
            gamma is not positive, or memory is outside [0, 1).

    >>> import jaxadv as ja
    >>> attack = ja.HopSkipJump(norm="linf", budget=10_000)
    """

    norm: str = static(default="l2")
    batch: int = static(default=8)
    initial: int = static(default=100)
    most: int = static(default=10_000)
    gamma: Number = 8.0
    memory: Number = 0.5
    side: int | None = static(default=None)
    norms: ClassVar[tuple[str, ...]] = ("l2", "linf")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(initial=1, most=1)
        if self.side is not None and self.side < 1:
            raise ValueError(f"side={self.side}: pass 1 or more, or None for all frequencies")
        if isinstance(self.gamma, np.floating) and not 0 < self.gamma < np.inf:
            raise ValueError(f"gamma={self.gamma}: pass a number above 0")
        if isinstance(self.memory, np.floating) and not 0 <= self.memory < 1:
            raise ValueError(f"memory={self.memory}: pass a number from 0 to below 1")

    def tolerance(self, problem: Problem) -> Number:
        size = problem.image.size
        fraction = self.gamma / size ** (2 if self.norm == "linf" else 1.5)
        return jnp.minimum(fraction, COARSEST)

    def first(self, problem: Problem) -> Normal:
        zero, none = 0 * problem.image, jnp.int32(0)
        return Normal(
            zero, zero, jnp.float32(0), none, none, jnp.float32(0), zero, zero, zero, none
        )

    def reserve(self, problem: Problem) -> Number:
        """Number of queries reserved for a step and the bisection after it."""
        halvings = jnp.ceil(-jnp.log2(jnp.clip(self.tolerance(problem), FINEST, 0.5)))
        return 4 + halvings.astype(jnp.int32)

    def arrived(self, problem: Problem, state: DecisionState) -> DecisionState:
        estimate, size = state.own, problem.image.size
        count = jnp.minimum(self.initial * jnp.sqrt(estimate.round + 1.0), self.most)
        left = self.budget - state.spent - self.reserve(problem)
        first = 0.1 * jnp.max(problem.sides)
        radius = jnp.where(estimate.round == 0, first, self.gamma * state.distance / size)
        own = self.first(problem)._replace(
            wanted=jnp.minimum(count.astype(jnp.int32), left),
            radius=radius,
            past=self.memory * estimate.normal,
            round=estimate.round + 1,
        )
        return state._replace(own=own, phase=jnp.int32(ESTIMATE))

    def images(self, problem: Problem, state: DecisionState, noise: Array) -> Float[Array, "Q ..."]:
        estimate = state.own
        around = state.point + estimate.radius * directions(noise, self.side)
        length = state.distance / jnp.sqrt(jnp.maximum(estimate.round, 1.0))
        halves = jnp.exp2(-jnp.arange(self.batch, dtype=jnp.float32))
        beyond = state.point + length * column(halves, problem.image) * estimate.direction
        return jnp.where(state.phase == ESTIMATE, around, beyond)

    def wanted(self, problem: Problem, state: DecisionState) -> Number:
        estimate = state.own
        return jnp.where(state.phase == ESTIMATE, estimate.wanted - estimate.queried, self.batch)

    def counted(self, state: DecisionState, wrong: Bool[Array, " Q"]) -> Bool[Array, " Q"]:
        return (state.phase == ESTIMATE) | until_first(wrong)

    def updated(
        self,
        problem: Problem,
        state: DecisionState,
        wrong: Bool[Array, " Q"],
        used: Bool[Array, " Q"],
    ) -> DecisionState:
        estimated = state._replace(own=self._learn(state, wrong, used))
        complete = estimated.own.queried >= estimated.own.wanted
        estimated = estimated._replace(phase=jnp.where(complete, STEP, ESTIMATE).astype(jnp.int32))
        stepped = self.halve_from_first(problem, state, wrong)
        return where(state.phase == ESTIMATE, estimated, stepped)

    def _learn(self, state: DecisionState, wrong: Array, used: Array) -> Normal:
        """Add these outputs to the estimate of the normal."""
        estimate = state.own
        # The queries were clipped to the box.
        moved = (state.trial - state.point) / jnp.maximum(estimate.radius, 1e-30)
        sign = signs(wrong, used)
        plain = estimate.plain + jnp.einsum("q,q...->...", used.astype(jnp.float32), moved)
        signed = estimate.signed + jnp.einsum("q,q...->...", sign, moved)
        total, queried = estimate.signs + sign.sum(), estimate.queried + used.sum(dtype=jnp.int32)
        mean = total / jnp.maximum(queried, 1)
        normal = jnp.where(jnp.abs(mean) == 1, mean * plain, signed - mean * plain)
        normal = estimate.past + normal
        length = jnp.maximum(jnp.sqrt(jnp.square(normal).sum()), 1e-12)
        direction = jnp.sign(normal) if self.norm == "linf" else normal / length
        return estimate._replace(
            plain=plain,
            signed=signed,
            signs=total,
            queried=queried,
            normal=normal,
            direction=direction,
        )

    def over(self, problem: Problem, state: DecisionState) -> Bool[Array, ""] | bool:
        return (state.phase == ESTIMATE) & (state.own.wanted < 1)
