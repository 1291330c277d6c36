"""Sign-OPT: descent on the distance to the boundary as a function of the direction, by signs."""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxadv.attacks.labels.asking import OWN, Asking, LabelOnly, directions, until_first
from jaxadv.core.attack import Problem
from jaxadv.core.pytree import pytree, static, where

ESTIMATE, SEARCH = OWN, OWN + 1
ALPHAS = 1e-4, 1e4  # of the step: where it is smaller beta falls, and a larger one changes nothing
TRIES = 15  # steps in one iteration, in the authors' code


class Descent(NamedTuple):
    """signed [H, W, C]: sum of directions times the sign of the change of g; asked: so many; theta
    [H, W, C], g: the direction that the step begins from and its distance to the boundary; alpha:
    the step's length; beta: that of the directions; tries: steps so far in this iteration; better:
    whether one of them was; trial, length: the best direction and distance of this iteration."""

    signed: Any
    asked: Any
    theta: Any
    g: Any
    alpha: Any
    beta: Any
    tries: Any
    better: Any
    trial: Any
    length: Any


@pytree
class SignOPT(LabelOnly):
    """Sign-OPT (Cheng et al. 2019, arXiv 1909.10773): labels alone, L2.

    g(theta) is the distance to the boundary in the direction theta. Whether a step `beta` of a
    random direction u lowers g, a single answer tells: that at distance g in the direction theta +
    beta u. The signed sum of `directions` such u is the descent direction; along it a step `alpha`,
    doubled as long as g falls, else quartered until it does. Where alpha has become too small to
    matter, beta falls to a tenth. g of a new direction is sought from the old value: ever nearer
    until the answer changes, then by halving.

    budget: answers heard per image; directions: asked for one step; alpha, beta: their first
    values. Begins at `problem.start` (`ja.run(..., start=)`; towards a target it is needed), or at
    noise, where the paper tries a hundred random directions. Raises ValueError for settings out of
    range.

    >>> import jaxadv as ja
    >>> attack = ja.SignOPT(budget=10_000)
    """

    norm: str = static(default="l2")
    directions: int = static(default=200)
    alpha: Any = 0.2
    beta: Any = 1e-3
    norms: ClassVar[tuple[str, ...]] = ("l2",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(directions=1)
        for field in ("alpha", "beta"):
            value = getattr(self, field)
            if isinstance(value, np.floating) and not 0 < value <= 1:
                raise ValueError(f"{field}={value:g}: pass a number above 0 and at most 1")

    def tolerance(self, problem: Problem) -> Any:
        return self.beta / 500  # the authors'

    def first(self, problem: Problem) -> Descent:
        one, none, zero = jnp.float32(1), jnp.int32(0), 0 * problem.image
        return Descent(
            zero, none, zero, one * jnp.inf, one * self.alpha, one * self.beta, none,
            jnp.bool_(False), zero, one * jnp.inf,
        )  # fmt: skip

    def arrived(self, problem: Problem, state: Asking) -> Asking:
        """A distance to the boundary is known: of the start, or of a step that lowered it."""
        own, whole = state.own, state.point - problem.image
        length = jnp.sqrt(jnp.square(whole).sum())
        found = own._replace(trial=whole / length, length=length)
        started = self._estimate(state, found)
        following = self._step(state, found._replace(alpha=2 * own.alpha, better=jnp.bool_(True)))
        return where(own.g == jnp.inf, started, following)

    def _estimate(self, state: Asking, own: Descent) -> Asking:
        """Begin an iteration where the last one ended."""
        small = own.alpha < ALPHAS[0]
        own = own._replace(
            signed=0 * own.signed, asked=jnp.int32(0), theta=own.trial, g=own.length,
            alpha=jnp.where(small, 1.0, jnp.minimum(own.alpha, ALPHAS[1])),
            beta=jnp.where(small, own.beta / 10, own.beta), tries=jnp.int32(0),
            better=jnp.bool_(False),
        )  # fmt: skip
        return state._replace(own=own, phase=jnp.int32(ESTIMATE))

    def _step(self, state: Asking, own: Descent) -> Asking:
        """The next step of this iteration, or the next iteration."""
        own = own._replace(tries=own.tries + 1)
        state = state._replace(own=own, phase=jnp.int32(SEARCH))
        return where(own.tries < TRIES, state, self._estimate(state, own))

    def images(self, problem: Problem, state: Asking, noise: Array) -> Float[Array, "Q ..."]:
        own, column = state.own, (-1, *(1,) * problem.image.ndim)
        around = own.theta + own.beta * directions(noise)
        around = problem.image + own.g * around / _lengths(around)
        lengths = own.length * self._shares_left()[:-1].reshape(column)
        nearer = lengths * self._aimed(own)
        return jnp.where(state.phase == ESTIMATE, around, problem.image + nearer)

    def _shares_left(self) -> Array:
        """Of the distance, [Q + 1]: a hair less, then 1, 3, 7, ... hundredths less."""
        less = 0.01 * (jnp.exp2(jnp.arange(self.batch + 1, dtype=jnp.float32)) - 1)
        return 1 - jnp.clip(less, self.beta / 500, 1.0)

    def _aimed(self, own: Descent) -> Array:
        """The direction of the step that is being tried."""
        gradient = own.signed / jnp.maximum(own.asked, 1)
        theta = own.theta - own.alpha * gradient
        return theta / _lengths(theta[None])[0]

    def wanted(self, problem: Problem, state: Asking) -> Any:
        left = self.directions - state.own.asked
        return jnp.where(state.phase == ESTIMATE, left, self.batch)

    def listens(self, state: Asking, wrong: Bool[Array, " Q"]) -> Bool[Array, " Q"]:
        return (state.phase == ESTIMATE) | until_first(~wrong)

    def told(
        self, problem: Problem, state: Asking, wrong: Bool[Array, " Q"], heard: Bool[Array, " Q"]
    ) -> Asking:
        return where(
            state.phase == ESTIMATE,
            self._learn(problem, state, wrong, heard),
            self._search(problem, state, wrong),
        )

    def _learn(self, problem: Problem, state: Asking, wrong: Array, heard: Array) -> Asking:
        own = state.own
        u = (state.trial - problem.image) / own.g - own.theta  # what the box left of beta u
        sign = jnp.where(heard, jnp.where(wrong, -1.0, 1.0), 0.0)
        signed = own.signed + jnp.einsum("q,q...->...", sign, u / own.beta)
        own = own._replace(signed=signed, asked=own.asked + heard.sum(dtype=jnp.int32))
        learnt = state._replace(own=own)
        return where(own.asked >= self.directions, self._step(learnt, own), learnt)

    def _search(self, problem: Problem, state: Asking, wrong: Array) -> Asking:
        own = state.own
        # Nearer at once? Then the boundary lies between the last success and the first failure.
        failed = jnp.where(wrong.all(), self.batch, jnp.argmin(wrong))
        last, shares = jnp.maximum(failed - 1, 0), self._shares_left()
        nearer = self.halve_from(problem, state, state.trial[last])
        nearer = nearer._replace(low=shares[last + 1] / jnp.maximum(shares[last], 1e-6))
        # A doubled step that is no better ends the iteration, and so does one that is too small.
        smaller = own._replace(alpha=own.alpha * jnp.where(own.better, 0.5, 0.25))
        ends = own.better | (smaller.alpha < ALPHAS[0])
        further = where(ends, self._estimate(state, smaller), self._step(state, smaller))
        return where(wrong[0], nearer, further)

    def over(self, problem: Problem, state: Asking) -> Any:
        return state.own.beta < 1e-8


def _lengths(values: Array) -> Array:
    """L2 lengths [Q, 1, 1, 1] of values [Q, H, W, C]."""
    return jnp.sqrt(jnp.square(values).sum((1, 2, 3), keepdims=True)).clip(1e-12)
