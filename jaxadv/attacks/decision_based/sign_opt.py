"""Sign-OPT: sign-based descent on the distance to the boundary as a function of the direction."""

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

ESTIMATE, SEARCH = OWN, OWN + 1
ALPHAS = 1e-4, 1e4  # bounds of alpha: below the first beta falls, above the second nothing changes
TRIES = 15  # steps in one iteration, in the authors' code


class Descent(NamedTuple):
    """State of the descent on g(theta), the distance to the boundary in the direction theta.

    Attributes:
        signed: [H, W, C], sum of the directions times the sign of the change of g.
        queried: Integer scalar, directions queried in this iteration.
        theta: [H, W, C], the direction from which the step begins.
        g: Scalar, the distance to the boundary in the direction `theta`.
        alpha: Scalar, length of the step.
        beta: Scalar, length of the queried directions.
        tries: Integer scalar, steps tried in this iteration.
        better: Boolean scalar: whether a step of this iteration has lowered g.
        trial: [H, W, C], the best direction of this iteration.
        length: Scalar, the distance to the boundary in the direction `trial`.
    """

    signed: Float[Array, "H W C"]
    queried: Int[Array, ""]
    theta: Float[Array, "H W C"]
    g: Float[Array, ""]
    alpha: Float[Array, ""]
    beta: Float[Array, ""]
    tries: Int[Array, ""]
    better: Bool[Array, ""]
    trial: Float[Array, "H W C"]
    length: Float[Array, ""]


@pytree
class SignOPT(LabelOnly):
    """Sign-OPT (Cheng et al. 2019, arXiv 1909.10773): decision-based, L2.

    g(theta) is the distance to the boundary in the direction theta. A single query tells whether a
    step `beta` along a random direction u lowers g: that at distance g in the direction theta +
    beta u. The signed sum of `directions` such u is the descent direction. The step `alpha` along
    it is doubled as long as g falls, else quartered until it does. Where alpha has become too small
    to matter, beta falls to a tenth. g of a new direction is searched from the old value: at
    shrinking distances until the label changes, then by bisection. The attack begins at
    `problem.start` (`ja.run(..., start=)`; a targeted attack needs it), or at noise, where the
    paper tries a hundred random directions. One forward pass a query.

    Attributes:
        budget: Largest number of queries per image.
        draws: Largest number of noise images that are tried as a start.
        batch: Images queried per tick.
        restarts: Independent runs.
        norm: "l2".
        directions: Directions queried for one step.
        alpha: First length of the step, in (0, 1].
        beta: First length of the queried directions, in (0, 1].

    Raises:
        ValueError: If the norm is not "l2", a count is below its minimum (batch: 4, others: 1), or
            alpha or beta is outside (0, 1].

    >>> import jaxadv as ja
    >>> attack = ja.SignOPT(budget=10_000)
    """

    norm: str = static(default="l2")
    directions: int = static(default=200)
    alpha: Number = 0.2
    beta: Number = 1e-3
    norms: ClassVar[tuple[str, ...]] = ("l2",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(directions=1)
        for field in ("alpha", "beta"):
            value = getattr(self, field)
            if isinstance(value, np.floating) and not 0 < value <= 1:
                raise ValueError(f"{field}={value:g}: pass a number above 0 and at most 1")

    def tolerance(self, problem: Problem) -> Number:
        return self.beta / 500  # the authors'

    def first(self, problem: Problem) -> Descent:
        one, none, zero = jnp.float32(1), jnp.int32(0), 0 * problem.image
        return Descent(
            zero,
            none,
            zero,
            one * jnp.inf,
            one * self.alpha,
            one * self.beta,
            none,
            jnp.bool_(False),
            zero,
            one * jnp.inf,
        )

    def arrived(self, problem: Problem, state: DecisionState) -> DecisionState:
        """Use a new distance to the boundary: that of the start, or of a step that lowered it."""
        own, offset = state.own, state.point - problem.image
        length = jnp.sqrt(jnp.square(offset).sum())
        reached = own._replace(trial=offset / length, length=length)
        started = self._estimate(state, reached)
        following = self._step(state, reached._replace(alpha=2 * own.alpha, better=jnp.bool_(True)))
        return where(own.g == jnp.inf, started, following)

    def _estimate(self, state: DecisionState, own: Descent) -> DecisionState:
        """Begin an iteration at the best direction of the last one."""
        small = own.alpha < ALPHAS[0]
        own = own._replace(
            signed=0 * own.signed,
            queried=jnp.int32(0),
            theta=own.trial,
            g=own.length,
            alpha=jnp.where(small, 1.0, jnp.minimum(own.alpha, ALPHAS[1])),
            beta=jnp.where(small, own.beta / 10, own.beta),
            tries=jnp.int32(0),
            better=jnp.bool_(False),
        )
        return state._replace(own=own, phase=jnp.int32(ESTIMATE))

    def _step(self, state: DecisionState, own: Descent) -> DecisionState:
        """Try the next step of this iteration, or begin the next iteration."""
        own = own._replace(tries=own.tries + 1)
        state = state._replace(own=own, phase=jnp.int32(SEARCH))
        return where(own.tries < TRIES, state, self._estimate(state, own))

    def images(self, problem: Problem, state: DecisionState, noise: Array) -> Float[Array, "Q ..."]:
        own = state.own
        around = own.theta + own.beta * directions(noise)
        around = problem.image + own.g * around / _lengths(around)
        lengths = own.length * column(self._fractions_left()[:-1], problem.image)
        nearer = lengths * self._aimed(own)
        return jnp.where(state.phase == ESTIMATE, around, problem.image + nearer)

    def _fractions_left(self) -> Array:
        """Fractions of the distance [Q + 1]: just below 1, then 1, 3, 7, ... hundredths less."""
        less = 0.01 * (jnp.exp2(jnp.arange(self.batch + 1, dtype=jnp.float32)) - 1)
        return 1 - jnp.clip(less, self.beta / 500, 1.0)

    def _aimed(self, own: Descent) -> Array:
        """The unit direction [H, W, C] after the step that is being tried."""
        gradient = own.signed / jnp.maximum(own.queried, 1)
        theta = own.theta - own.alpha * gradient
        return theta / _lengths(theta[None])[0]

    def wanted(self, problem: Problem, state: DecisionState) -> Number:
        left = self.directions - state.own.queried
        return jnp.where(state.phase == ESTIMATE, left, self.batch)

    def counted(self, state: DecisionState, wrong: Bool[Array, " Q"]) -> Bool[Array, " Q"]:
        return (state.phase == ESTIMATE) | until_first(~wrong)

    def updated(
        self,
        problem: Problem,
        state: DecisionState,
        wrong: Bool[Array, " Q"],
        used: Bool[Array, " Q"],
    ) -> DecisionState:
        return where(
            state.phase == ESTIMATE,
            self._learn(problem, state, wrong, used),
            self._search(problem, state, wrong),
        )

    def _learn(
        self, problem: Problem, state: DecisionState, wrong: Array, used: Array
    ) -> DecisionState:
        own = state.own
        u = (state.trial - problem.image) / own.g - own.theta  # beta u after clipping to the box
        signed = own.signed + jnp.einsum("q,q...->...", -signs(wrong, used), u / own.beta)
        own = own._replace(signed=signed, queried=own.queried + used.sum(dtype=jnp.int32))
        learnt = state._replace(own=own)
        return where(own.queried >= self.directions, self._step(learnt, own), learnt)

    def _search(self, problem: Problem, state: DecisionState, wrong: Array) -> DecisionState:
        own = state.own
        # If the first is adversarial, the boundary lies between the last success and first failure.
        failed = jnp.where(wrong.all(), self.batch, jnp.argmin(wrong))
        last, fractions = jnp.maximum(failed - 1, 0), self._fractions_left()
        nearer = self.halve_from(problem, state, state.trial[last])
        nearer = nearer._replace(low=fractions[last + 1] / jnp.maximum(fractions[last], 1e-6))
        # A doubled step without improvement ends the iteration, and so does one that is too small.
        smaller = own._replace(alpha=own.alpha * jnp.where(own.better, 0.5, 0.25))
        ends = own.better | (smaller.alpha < ALPHAS[0])
        further = where(ends, self._estimate(state, smaller), self._step(state, smaller))
        return where(wrong[0], nearer, further)

    def over(self, problem: Problem, state: DecisionState) -> Bool[Array, ""] | bool:
        return state.own.beta < 1e-8


def _lengths(values: Array) -> Array:
    """L2 lengths [Q, 1, 1, 1] of values [Q, H, W, C]."""
    return jnp.sqrt(jnp.square(values).sum((1, 2, 3), keepdims=True)).clip(1e-12)
