"""What the attacks that see labels alone share: a start found by asking, and the way back.

A start is `problem.start`, or the nearest adversarial one of noise images that are blended with the
image. From there the line to the image is halved until the boundary lies within `tolerance`; then
the attack's own phases begin, and may send it back to halving. A tick asks ahead: all the middles
that the next halvings can reach, of which only those on the way are heard and counted.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxadv.core.attack import Answer, Attack, Problem, Reads, across
from jaxadv.core.cosines import cosines
from jaxadv.core.pytree import pytree, static, where

START, HALVE, OWN = 0, 1, 2  # phases; an attack's own are from OWN on
FINEST = 4e-7  # of the line: float32 halves no further


class Asking(NamedTuple):
    """One image's state.

    trial [Q, H, W, C]: asked next; point [H, W, C]: the adversarial image at hand; distance: its
    distance; far [H, W, C]: where the line that is halved begins; low, high: shares of it, from the
    image, that failed and succeeded; phase; spent: answers heard; tick; key; own: the attack's own.
    """

    trial: Any
    point: Any
    distance: Any
    far: Any
    low: Any
    high: Any
    phase: Any
    spent: Any
    tick: Any
    key: Any
    own: Any


@pytree
class LabelOnly(Attack):
    """Base of the attacks that see labels alone.

    budget: most answers heard for an image, after which the attack ends; draws: noise images tried
    as a start; batch: images asked per tick, which changes speed and random draws, nothing else.
    A run that finds no adversarial start has failed, and says so.
    """

    budget: int = static(default=5000)
    draws: int = static(default=1024)
    batch: int = static(default=32)
    restarts: int = static(default=1)
    pullbacks: ClassVar[int] = 0
    label_only: ClassVar[bool] = True
    needs_box: ClassVar[bool] = True
    needs_epsilon: ClassVar[bool] = False
    keep: ClassVar[str] = "distance"

    def __post_init__(self) -> None:
        self.check_norm()
        self.check_least(budget=1, draws=1, batch=4, restarts=1)

    @property
    def queries(self) -> int:  # type: ignore[override]
        return self.batch

    @property
    def ticks(self) -> int:
        return self.budget + 1  # the first hears nothing, every other at least one answer

    def tolerance(self, problem: Problem) -> Any:
        """The share of the line from image to start within which the boundary is to be known."""
        return 1e-3

    def first(self, problem: Problem) -> Any:
        """The attack's own part of the state before the start is found."""
        raise NotImplementedError

    def arrived(self, problem: Problem, state: Asking) -> Asking:
        """The state when `point` has come to the boundary; a phase of its own begins."""
        return state._replace(phase=jnp.int32(OWN))

    def images(self, problem: Problem, state: Asking, noise: Array) -> Float[Array, "Q ..."]:
        """What to ask in a phase of its own; noise: uniform in (0, 1), [Q, H, W, C]."""
        raise NotImplementedError

    def wanted(self, problem: Problem, state: Asking) -> Any:
        """How many of the images (the first ones) a phase of its own wants answered."""
        return self.batch

    def listens(self, state: Asking, wrong: Bool[Array, " Q"]) -> Bool[Array, " Q"]:
        """Which answers of a phase of its own are heard; default: all."""
        return jnp.ones(self.batch, bool)

    def told(
        self, problem: Problem, state: Asking, wrong: Bool[Array, " Q"], heard: Bool[Array, " Q"]
    ) -> Asking:
        """The state after answers to a phase of its own; wrong: those that are adversarial."""
        raise NotImplementedError

    def over(self, problem: Problem, state: Asking) -> Any:
        """Whether it ends before its budget does."""
        return False

    def init(self, problem: Problem, key: Array) -> Asking:
        one, none = jnp.float32(1), jnp.int32(0)
        state = Asking(
            trial=jnp.broadcast_to(problem.image, (self.batch, *problem.image.shape)),
            point=problem.image, distance=one * jnp.inf, far=problem.image, low=0 * one, high=one,
            phase=none, spent=none, tick=none, key=key, own=self.first(problem),
        )  # fmt: skip
        if problem.start is None:
            return state
        start = jnp.clip(problem.start, problem.lower, problem.upper)
        return state._replace(trial=jnp.broadcast_to(start, state.trial.shape))

    def ask(self, problem: Problem, state: Asking) -> Float[Array, "Q ..."]:
        return state.trial

    def reads(self, problem: Problem, state: Asking) -> Reads:
        given = 0 if problem.start is None else 1
        start = jnp.minimum(self.batch, self.draws - state.spent)
        start = jnp.where(state.tick == 0, given, start)
        wanted = jnp.where(state.phase >= OWN, self.wanted(problem, state), self.batch)
        wanted = jnp.where(state.phase == START, start, wanted)
        wanted = jnp.minimum(wanted, self.budget - state.spent)
        # Halving hears what lies on its way, wherever that is in the batch.
        wanted = jnp.where(state.phase == HALVE, self.batch, wanted)
        read = jnp.arange(self.batch) < wanted
        return Reads(read, jnp.zeros(self.batch, bool))

    def hears(
        self, problem: Problem, state: Asking, logits: Float[Array, "Q K"], read: Bool[Array, " Q"]
    ) -> Bool[Array, " Q"]:
        wrong = jax.vmap(lambda label: across(problem.goal, label))(logits) & read
        heard = jnp.where(state.phase >= OWN, self.listens(state, wrong), read)
        halved = self._path(state, wrong, self._finest(problem))
        return jnp.where(state.phase == HALVE, halved, heard) & read

    def tell(self, problem: Problem, state: Asking, answer: Answer) -> Asking:
        wrong = jax.vmap(lambda label: across(problem.goal, label))(answer.logits) & answer.used
        spent = state.spent + answer.used.sum(dtype=jnp.int32)
        told = self.told(problem, state, wrong, answer.used)
        told = where(state.phase == START, self.started(problem, state, wrong), told)
        told = where(state.phase == HALVE, self._halved(problem, state, wrong, answer.used), told)
        told = told._replace(spent=spent, tick=state.tick + 1)
        ready = (told.phase == HALVE) & (told.high - told.low <= self._finest(problem))
        told = where(ready, self.arrived(problem, told), told)
        return self._aim(problem, told)

    def done(self, problem: Problem, state: Asking) -> Bool[Array, ""]:
        spent = (state.spent >= self.budget) | ((state.phase >= OWN) & self.over(problem, state))
        given_up = (state.phase == START) & (state.spent >= self.draws)
        return spent | given_up

    def _aim(self, problem: Problem, state: Asking) -> Asking:
        """With the images that its phase asks next."""
        key = jax.random.fold_in(state.key, state.tick)
        noise = jax.random.uniform(key, (state.trial.size,), jnp.float32, 1e-7, 1.0)
        noise = lax.optimization_barrier(noise)  # else every use of it draws it again
        noise = noise.reshape(state.trial.shape)
        starts = jnp.where(state.phase == START, self.starts(problem, state, noise), state.trial)
        line = self.along(problem, state, self._shares(state))
        own = self.images(problem, state, noise)
        trial = jnp.where(state.phase == HALVE, line, jnp.where(state.phase >= OWN, own, starts))
        return state._replace(trial=jnp.clip(trial, problem.lower, problem.upper))

    def starts(self, problem: Problem, state: Asking, noise: Array) -> Array:
        """Noise of several grains and densities, blended with the image by growing shares."""
        number = state.spent + jnp.arange(self.batch)
        number = number.reshape(-1, *(1,) * problem.image.ndim)
        height, width, _ = problem.image.shape
        coarse = [noise]
        for grain in (2, 4, 8):
            drawn = noise[:, ::grain, ::grain].repeat(grain, 1).repeat(grain, 2)
            coarse.append(drawn[:, :height, :width])
        drawn = jnp.stack([coarse[n % 4][n] for n in range(self.batch)])
        threshold = 0.2 + 0.6 * noise[:, -1:, -1:, -1:]
        drawn = jnp.where(number % 8 < 4, drawn, drawn > threshold)
        share = jnp.minimum(0.5 + number // 8 / 8, 1.0)
        drawn = problem.lower + drawn * (problem.upper - problem.lower)
        return problem.image + share * (drawn - problem.image)

    def started(self, problem: Problem, state: Asking, wrong: Array) -> Asking:
        """The state after the answers to starts: on its way from the nearest, or as it was."""
        distance = jax.vmap(lambda x: self.geometry.distance(x - problem.image))(state.trial)
        nearest = jnp.argmin(jnp.where(wrong, distance, jnp.inf))
        return where(wrong.any(), self.halve_from(problem, state, state.trial[nearest]), state)

    def halve_from(self, problem: Problem, state: Asking, far: Array) -> Asking:
        """Goes to the boundary from an adversarial image."""
        return state._replace(
            far=far, point=far, distance=self.geometry.distance(far - problem.image),
            low=jnp.float32(0), high=jnp.float32(1), phase=jnp.int32(HALVE),
        )  # fmt: skip

    def _finest(self, problem: Problem) -> Any:
        return jnp.maximum(self.tolerance(problem), FINEST)

    def _shares(self, state: Asking) -> Array:
        """Of the images that are asked: all middles of the next halvings, in order."""
        parts = 2 ** int(np.log2(self.batch))
        return state.low + (state.high - state.low) * (jnp.arange(self.batch) + 1.0) / parts

    def along(self, problem: Problem, state: Asking, shares: Array) -> Array:
        """Points of the way from the image to `far`: in Linf projections, else of the segment."""
        shares = shares.reshape(-1, *(1,) * problem.image.ndim)
        whole = state.far - problem.image
        if self.norm == "linf":
            radius = shares * jnp.abs(whole).max()
            return problem.image + jnp.clip(whole, -radius, radius)
        return problem.image + shares * whole

    def _path(self, state: Asking, wrong: Array, finest: Any) -> Bool[Array, " Q"]:
        """The middles on the way to the boundary; middle i of 2^n parts is image i - 1."""
        rounds = int(np.log2(self.batch))

        def halve(number: Any, carry: Any) -> Any:
            heard, low, high = carry
            middle = (low + high) // 2
            wide = (state.high - state.low) * (high - low) > finest * 2**rounds
            here = (jnp.arange(self.batch) == middle - 1) & wide
            here &= state.spent + number < self.budget
            success = (here & wrong).any()
            return heard | here, jnp.where(success, low, middle), jnp.where(success, middle, high)

        begin = jnp.zeros(self.batch, bool), jnp.int32(0), jnp.int32(2**rounds)
        return lax.fori_loop(0, rounds, halve, begin)[0]

    def _halved(self, problem: Problem, state: Asking, wrong: Array, heard: Array) -> Asking:
        shares = self._shares(state)
        low = jnp.where(heard & ~wrong, shares, state.low).max()
        high = jnp.where(wrong, shares, state.high).min()
        nearest = state.trial[jnp.argmin(jnp.where(wrong, shares, jnp.inf))]
        point = jnp.where(wrong.any(), nearest, state.point)
        distance = self.geometry.distance(point - problem.image)
        return state._replace(point=point, distance=distance, low=low, high=high)


def directions(noise: Array, side: int | None = None) -> Float[Array, "Q ..."]:
    """Random directions of unit length from uniform noise [Q, H, W, C].

    side: of the lowest frequencies (DCT) that they are made of; None: of all.
    """
    if side is None or side >= max(noise.shape[1:3]):
        normal = normally(noise)
    else:
        height, width = noise.shape[1:3]
        rows, columns = cosines(height, min(side, height)), cosines(width, min(side, width))
        normal = normally(noise[:, : rows.shape[1], : columns.shape[1]])
        normal = jnp.einsum("hi,qijc,wj->qhwc", rows, normal, columns)
    length = jnp.sqrt(jnp.square(normal).sum((1, 2, 3), keepdims=True))
    return normal / jnp.maximum(length, 1e-12)


def until_first(success: Bool[Array, " Q"]) -> Bool[Array, " Q"]:
    """Those before the first success, and it."""
    return jnp.cumsum(success) - success == 0


def normally(uniform: Array) -> Array:
    """Normal deviates from uniform ones in (0, 1)."""
    return np.float32(np.sqrt(2)) * lax.erf_inv(2 * uniform - 1)
