"""Boundary attack: a random walk along the decision boundary that drifts towards the image."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxadv.attacks.decision_based.base import (
    DecisionState,
    LabelOnly,
    column,
    directions,
    until_first,
)
from jaxadv.core.attack import Problem
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Number

CHECK = 4  # ticks between two measurements of the step on the sphere alone
RATES = 0.5, 0.25  # target success rates of steps on the sphere and of full steps
LEAST, MOST = 1e-7, 1.0  # bounds of the step lengths


class Steps(NamedTuple):
    """Step lengths of the boundary attack.

    Attributes:
        sphere: Scalar, length of the step on the sphere about the image, as a fraction of the
            distance.
        source: Scalar, length of the step towards the image, as a fraction of the distance.
        check: Boolean scalar: whether the queries of this tick come in pairs, of the step on the
            sphere alone and of the full step.
    """

    sphere: Float[Array, ""]
    source: Float[Array, ""]
    check: Bool[Array, ""]


@pytree
class Boundary(LabelOnly):
    """Boundary attack (Brendel, Rauber and Bethge 2017, arXiv 1712.04248): decision-based, L2.

    From an adversarial point the attack takes a random step on the sphere about the image, then a
    step towards the image; the first candidate that is still adversarial is the next point. The
    length of the first step is adapted so that half of these steps stay adversarial, that of the
    second so that a quarter of the full steps do. Each output changes a length a little; the paper
    adapts after a window of outputs. A tick queries `batch` candidates at one point and uses them
    up to the first success. The walk begins at `problem.start` (`ja.run(..., start=)`; a targeted
    attack needs it), or at noise. One forward pass a query.

    Attributes:
        budget: Largest number of queries per image.
        draws: Largest number of noise images that are tried as a start.
        batch: Candidates queried per tick.
        restarts: Independent runs.
        norm: "l2".
        sphere: First length of the step on the sphere, as a fraction of the distance, in (0, 1].
        source: First length of the step towards the image, as a fraction of the distance, in (0,
            1].
        rate: Change of a length's logarithm per output, in (0, 1].

    Raises:
        ValueError: If a count is below its minimum (batch: 4, others: 1), or if sphere, source or
            rate is outside (0, 1].

    >>> import jaxadv as ja
    >>> attack = ja.Boundary(budget=10_000)
    """

    norm: str = static(default="l2")
    batch: int = static(default=4)
    sphere: Number = 0.05
    source: Number = 0.05
    rate: Number = 0.1
    norms: ClassVar[tuple[str, ...]] = ("l2",)

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("sphere", "source", "rate"):
            value = getattr(self, field)
            if isinstance(value, np.floating) and not 0 < value <= 1:
                raise ValueError(f"{field}={value:g}: pass a number above 0 and at most 1")

    def first(self, problem: Problem) -> Steps:
        one = jnp.float32(1)
        return Steps(one * self.sphere, one * self.source, jnp.bool_(True))

    def images(self, problem: Problem, state: DecisionState, noise: Array) -> Float[Array, "Q ..."]:
        steps, offset = state.own, state.point - problem.image
        radius = jnp.maximum(state.distance, 1e-12)

        def candidates(along: Array) -> tuple[Array, Array]:
            along = along - (along * offset).sum() / radius**2 * offset
            along = along * (steps.sphere * radius / _length(along))
            moved = (offset + along) / jnp.sqrt(1 + steps.sphere**2)  # back on the sphere
            moved = jnp.clip(problem.image + moved, problem.lower, problem.upper)
            # Clipping to the box has already changed the distance.
            shorter = (1 - steps.source) * radius / _length(moved - problem.image)
            nearer = problem.image + jnp.minimum(shorter, 1.0) * (moved - problem.image)
            return moved, nearer

        moved, nearer = jax.vmap(candidates)(directions(noise))
        number = jnp.arange(self.batch)
        paired = jnp.where(
            column(number % 2 == 0, problem.image),
            moved[number // 2],
            nearer[number // 2],
        )
        return jnp.where(steps.check, paired, nearer)

    def counted(self, state: DecisionState, wrong: Bool[Array, " Q"]) -> Bool[Array, " Q"]:
        full = ~state.own.check | (jnp.arange(self.batch) % 2 == 1)
        success = wrong & full
        # Of a pair, the full step counts only where the step on the sphere was adversarial.
        follows = ~state.own.check | ~full | jnp.roll(wrong, 1)
        success &= follows
        return until_first(success) & follows

    def updated(
        self,
        problem: Problem,
        state: DecisionState,
        wrong: Bool[Array, " Q"],
        used: Bool[Array, " Q"],
    ) -> DecisionState:
        steps, number = state.own, jnp.arange(self.batch)
        alone = steps.check & (number % 2 == 0)
        full = ~alone

        def steered(length: Array, counted: Array, success: Array, target: float) -> Array:
            surplus = jnp.where(counted, success - target, 0.0).sum()
            return jnp.clip(length * jnp.exp(self.rate * surplus), LEAST, MOST)

        sphere = steered(steps.sphere, used & alone, wrong, RATES[0])
        source = steered(steps.source, used & full, wrong, RATES[1])
        successes = wrong & full
        point = jnp.where(successes.any(), state.trial[jnp.argmax(successes)], state.point)
        check = (state.tick + 1) % CHECK == 0
        return state._replace(
            point=point, distance=_length(point - problem.image), own=Steps(sphere, source, check)
        )


def _length(values: Array) -> Array:
    return jnp.sqrt(jnp.maximum(jnp.square(values).sum(), 1e-24))
