"""The base of the decision-based attacks: an adversarial start, and bisection to the boundary.

The start is `problem.start`, or the nearest adversarial one of noise images that are blended with
the image. The line from it to the image is bisected until the boundary lies within `tolerance`;
then the attack's own phases begin, and may return to bisection. A tick queries speculatively: it
holds the midpoints of all bisections that could follow, and only those on the path are counted.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxadv.core.attack import Answer, Attack, Needs, Problem, across
from jaxadv.core.dct import cosines
from jaxadv.core.pytree import pytree, static, where
from jaxadv.core.typing import Key, Number

START, HALVE, OWN = 0, 1, 2  # phases; an attack's own are from OWN on
FINEST = 4e-7  # fraction of the line: float32 cannot bisect further


class DecisionState(NamedTuple):
    """State of a decision-based attack on one image.

    Attributes:
        trial: [Q, H, W, C], the images of the next queries.
        point: [H, W, C], the current adversarial image.
        distance: Scalar, the distance of `point` from the image.
        far: [H, W, C], the end of the line that is bisected; the other end is the image.
        low: Scalar, the largest fraction of the line, from the image, known not to be adversarial.
        high: Scalar, the smallest fraction of the line, from the image, known to be adversarial.
        phase: Integer scalar: START, HALVE, or a phase of the attack, from OWN on.
        spent: Integer scalar, queries counted so far.
        tick: Integer scalar, ticks so far.
        key: The random key of this run.
        own: The attack's own part of the state, any pytree.
    """

    trial: Float[Array, "Q H W C"]
    point: Float[Array, "H W C"]
    distance: Float[Array, ""]
    far: Float[Array, "H W C"]
    low: Float[Array, ""]
    high: Float[Array, ""]
    phase: Int[Array, ""]
    spent: Int[Array, ""]
    tick: Int[Array, ""]
    key: Key
    own: PyTree


@pytree
class LabelOnly(Attack):
    """Base of the decision-based attacks, which see only the predicted class.

    A run that finds no adversarial start among its noise images fails. One forward pass a query, no
    backward pass; at most `budget` queries per image and restart.

    Attributes:
        budget: Largest number of queries per image, after which the attack ends.
        draws: Largest number of noise images that are tried as a start.
        batch: Images queried per tick; it changes the speed and the random draws and nothing else.
        restarts: Independent runs.
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
        return self.budget + 1  # the first uses no output, every other at least one

    def tolerance(self, problem: Problem) -> Number:
        """The fraction of the line, from image to start, to which the boundary is bisected."""
        return 1e-3

    def first(self, problem: Problem) -> PyTree:
        """Return the attack's own part of the state, as it is before a start is found."""
        raise NotImplementedError

    def arrived(self, problem: Problem, state: DecisionState) -> DecisionState:
        """Begin a phase of the attack's own, now that `point` lies at the boundary."""
        return state._replace(phase=jnp.int32(OWN))

    def images(self, problem: Problem, state: DecisionState, noise: Array) -> Float[Array, "Q ..."]:
        """Return the queries of a phase of the attack's own.

        Args:
            problem: The problem of this image.
            state: The state, in a phase of the attack's own.
            noise: [Q, H, W, C], uniform in (0, 1).

        Returns:
            The images [Q, H, W, C]; they are clipped to the box afterwards.
        """
        raise NotImplementedError

    def wanted(self, problem: Problem, state: DecisionState) -> Number:
        """Number of images, from the first, that a phase of the attack's own queries."""
        return self.batch

    def counted(self, state: DecisionState, wrong: Bool[Array, " Q"]) -> Bool[Array, " Q"]:
        """Mask of the outputs that a phase of the attack's own uses; default: all of them."""
        return jnp.ones(self.batch, bool)

    def updated(
        self,
        problem: Problem,
        state: DecisionState,
        wrong: Bool[Array, " Q"],
        used: Bool[Array, " Q"],
    ) -> DecisionState:
        """Return the state after the outputs of a phase of the attack's own.

        Args:
            problem: The problem of this image.
            state: The state before these outputs.
            wrong: [Q], whether each image is adversarial; false where the output is not used.
            used: [Q], whether each output is used.

        Returns:
            The next state.
        """
        raise NotImplementedError

    def over(self, problem: Problem, state: DecisionState) -> Bool[Array, ""] | bool:
        """Whether the attack ends before its budget is spent."""
        return False

    def init(self, problem: Problem, key: Array) -> DecisionState:
        one, none = jnp.float32(1), jnp.int32(0)
        state = DecisionState(
            trial=jnp.broadcast_to(problem.image, (self.batch, *problem.image.shape)),
            point=problem.image,
            distance=one * jnp.inf,
            far=problem.image,
            low=0 * one,
            high=one,
            phase=none,
            spent=none,
            tick=none,
            key=key,
            own=self.first(problem),
        )
        if problem.start is None:
            return state
        start = jnp.clip(problem.start, problem.lower, problem.upper)
        return state._replace(trial=jnp.broadcast_to(start, state.trial.shape))

    def ask(self, problem: Problem, state: DecisionState) -> Float[Array, "Q ..."]:
        return state.trial

    def needs(self, problem: Problem, state: DecisionState) -> Needs:
        given = 0 if problem.start is None else 1
        start = jnp.minimum(self.batch, self.draws - state.spent)
        start = jnp.where(state.tick == 0, given, start)
        wanted = jnp.where(state.phase >= OWN, self.wanted(problem, state), self.batch)
        wanted = jnp.where(state.phase == START, start, wanted)
        wanted = jnp.minimum(wanted, self.budget - state.spent)
        # Bisection uses the midpoints on its path, wherever in the batch they are.
        wanted = jnp.where(state.phase == HALVE, self.batch, wanted)
        read = jnp.arange(self.batch) < wanted
        return Needs(read, jnp.zeros(self.batch, bool))

    def used(
        self,
        problem: Problem,
        state: DecisionState,
        logits: Float[Array, "Q K"],
        read: Bool[Array, " Q"],
    ) -> Bool[Array, " Q"]:
        wrong = jax.vmap(lambda label: across(problem.goal, label))(logits) & read
        used = jnp.where(state.phase >= OWN, self.counted(state, wrong), read)
        halved = self._path(state, wrong, self._finest(problem))
        return jnp.where(state.phase == HALVE, halved, used) & read

    def tell(self, problem: Problem, state: DecisionState, answer: Answer) -> DecisionState:
        wrong = jax.vmap(lambda label: across(problem.goal, label))(answer.logits) & answer.used
        spent = state.spent + answer.used.sum(dtype=jnp.int32)
        updated = self.updated(problem, state, wrong, answer.used)
        updated = where(state.phase == START, self.started(problem, state, wrong), updated)
        updated = where(
            state.phase == HALVE, self._halved(problem, state, wrong, answer.used), updated
        )
        updated = updated._replace(spent=spent, tick=state.tick + 1)
        ready = (updated.phase == HALVE) & (updated.high - updated.low <= self._finest(problem))
        updated = where(ready, self.arrived(problem, updated), updated)
        return self._aim(problem, updated)

    def done(self, problem: Problem, state: DecisionState) -> Bool[Array, ""]:
        spent = (state.spent >= self.budget) | ((state.phase >= OWN) & self.over(problem, state))
        given_up = (state.phase == START) & (state.spent >= self.draws)
        return spent | given_up

    def _aim(self, problem: Problem, state: DecisionState) -> DecisionState:
        """The state with the next queries of its phase in `trial`."""
        key = jax.random.fold_in(state.key, state.tick)
        noise = jax.random.uniform(key, (state.trial.size,), jnp.float32, 1e-7, 1.0)
        noise = lax.optimization_barrier(noise)  # without it every use draws the noise again
        noise = noise.reshape(state.trial.shape)
        starts = jnp.where(state.phase == START, self.starts(problem, state, noise), state.trial)
        line = self.along(problem, state, self._fractions(state))
        own = self.images(problem, state, noise)
        trial = jnp.where(state.phase == HALVE, line, jnp.where(state.phase >= OWN, own, starts))
        return state._replace(trial=jnp.clip(trial, problem.lower, problem.upper))

    def starts(self, problem: Problem, state: DecisionState, noise: Array) -> Array:
        """Noise of several grains and densities, blended with the image by growing fractions."""
        number = state.spent + jnp.arange(self.batch)
        number = column(number, problem.image)
        height, width, _ = problem.image.shape
        coarse = [noise]
        for grain in (2, 4, 8):
            drawn = noise[:, ::grain, ::grain].repeat(grain, 1).repeat(grain, 2)
            coarse.append(drawn[:, :height, :width])
        drawn = jnp.stack([coarse[n % 4][n] for n in range(self.batch)])
        threshold = 0.2 + 0.6 * noise[:, -1:, -1:, -1:]
        drawn = jnp.where(number % 8 < 4, drawn, drawn > threshold)
        fraction = jnp.minimum(0.5 + number // 8 / 8, 1.0)
        drawn = problem.lower + drawn * problem.sides
        return problem.image + fraction * (drawn - problem.image)

    def started(self, problem: Problem, state: DecisionState, wrong: Array) -> DecisionState:
        """Bisect from the nearest adversarial start, if there is one; else return `state`."""
        nearest = jnp.argmin(self.distances(problem, state, wrong))
        return where(wrong.any(), self.halve_from(problem, state, state.trial[nearest]), state)

    def distances(self, problem: Problem, state: DecisionState, wrong: Array) -> Array:
        """Distances [Q] of the adversarial queries from the image, infinite for the others."""
        distance = jax.vmap(lambda x: self.geometry.distance(x - problem.image))(state.trial)
        return jnp.where(wrong, distance, jnp.inf)

    def halve_from_first(
        self, problem: Problem, state: DecisionState, wrong: Array
    ) -> DecisionState:
        """Bisect from the first adversarial query; if there is none, go on from `point`."""
        halving = self.halve_from(problem, state, state.trial[jnp.argmax(wrong)])
        return where(wrong.any(), halving, self.arrived(problem, state))

    def halve_from(self, problem: Problem, state: DecisionState, far: Array) -> DecisionState:
        """Start bisecting the line from the adversarial image `far` to the image."""
        return state._replace(
            far=far,
            point=far,
            distance=self.geometry.distance(far - problem.image),
            low=jnp.float32(0),
            high=jnp.float32(1),
            phase=jnp.int32(HALVE),
        )

    def _finest(self, problem: Problem) -> Float[Array, ""]:
        return jnp.maximum(self.tolerance(problem), FINEST)

    def _fractions(self, state: DecisionState) -> Array:
        """Fractions of the line [Q]: the midpoints of all bisections that can follow, in order."""
        parts = 2 ** int(np.log2(self.batch))
        return state.low + (state.high - state.low) * (jnp.arange(self.batch) + 1.0) / parts

    def along(self, problem: Problem, state: DecisionState, fractions: Array) -> Array:
        """Points between the image and `far`: of the segment; Linf: projections of `far`."""
        fractions = column(fractions, problem.image)
        offset = state.far - problem.image
        if self.norm == "linf":
            radius = fractions * jnp.abs(offset).max()
            return problem.image + jnp.clip(offset, -radius, radius)
        return problem.image + fractions * offset

    def _path(self, state: DecisionState, wrong: Array, finest: Number) -> Bool[Array, " Q"]:
        """Mask of the midpoints on the path; midpoint i of 2^n parts is image i - 1."""
        rounds = int(np.log2(self.batch))

        def halve(number: Number, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            used, low, high = carry
            middle = (low + high) // 2
            wide = (state.high - state.low) * (high - low) > finest * 2**rounds
            here = (jnp.arange(self.batch) == middle - 1) & wide
            here &= state.spent + number < self.budget
            success = (here & wrong).any()
            return used | here, jnp.where(success, low, middle), jnp.where(success, middle, high)

        begin = jnp.zeros(self.batch, bool), jnp.int32(0), jnp.int32(2**rounds)
        return lax.fori_loop(0, rounds, halve, begin)[0]

    def _halved(
        self, problem: Problem, state: DecisionState, wrong: Array, used: Array
    ) -> DecisionState:
        fractions = self._fractions(state)
        low = jnp.where(used & ~wrong, fractions, state.low).max()
        high = jnp.where(wrong, fractions, state.high).min()
        nearest = state.trial[jnp.argmin(jnp.where(wrong, fractions, jnp.inf))]
        point = jnp.where(wrong.any(), nearest, state.point)
        distance = self.geometry.distance(point - problem.image)
        return state._replace(point=point, distance=distance, low=low, high=high)


def directions(noise: Array, side: int | None = None) -> Float[Array, "Q ..."]:
    """Random directions of unit L2 length.

    Args:
        noise: Uniform noise in (0, 1), [Q, H, W, C].
        side: Number of lowest DCT frequencies along each axis that directions are made of; None:
            all.

    Returns:
        The directions [Q, H, W, C].
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


def column(values: Array, image: Array) -> Array:
    """Values [Q] as [Q, 1, 1, 1], one for each of the images [Q, H, W, C]."""
    return values.reshape(-1, *(1,) * image.ndim)


def signs(wrong: Bool[Array, " Q"], used: Bool[Array, " Q"]) -> Float[Array, " Q"]:
    """1 for an adversarial query, -1 for another one, 0 where the output is not used."""
    return jnp.where(used, jnp.where(wrong, 1.0, -1.0), 0.0)


def salt_and_pepper(problem: Problem, noise: Array, fraction: Array) -> Float[Array, "Q ..."]:
    """Set random entries of the image to the ends of the box.

    Args:
        problem: The problem of this image.
        noise: Uniform noise in (0, 1), [Q, H, W, C].
        fraction: Expected fractions [Q] of the entries that are changed.

    Returns:
        The images [Q, H, W, C]; where the noise is lowest the entries become pepper, above it salt.
    """
    fraction = column(fraction, problem.image)
    ends = jnp.where(noise < fraction / 2, problem.lower, problem.upper)
    return jnp.where(noise < fraction, ends, problem.image)


def until_first(success: Bool[Array, " Q"]) -> Bool[Array, " Q"]:
    """Mask [Q] of the entries up to and including the first success."""
    return jnp.cumsum(success) - success == 0


def normally(uniform: Array) -> Array:
    """Standard normal deviates from uniform ones in (0, 1)."""
    return np.float32(np.sqrt(2)) * lax.erf_inv(2 * uniform - 1)
