"""Wrapper that finds the smallest epsilon at which an attack succeeds."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxadv.attacks.common.wrapper import Around
from jaxadv.core.attack import Answer, Attack, Problem, State
from jaxadv.core.norms import diameter
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Key, Number


class BisectionState(NamedTuple):
    """State of one run of `MinimalEpsilon`.

    Attributes:
        low: float32 scalar, the largest epsilon without success.
        high: float32 scalar, the least distance with success.
        trial: float32 scalar, the epsilon under trial.
        round: int32 scalar, trials done.
        inner: State of the wrapped attack.
        key: Random key of this run.
    """

    low: Float[Array, ""]
    high: Float[Array, ""]
    trial: Float[Array, ""]
    round: Int[Array, ""]
    inner: State
    key: Key


@pytree
class MinimalEpsilon(Around):
    """Find the smallest epsilon of each image for which `attack` succeeds, by bisection.

    A round ends at its first success, and the next one starts from the distance actually reached,
    which is often far below the epsilon of the round. An image takes at most `(rounds + 1) *
    attack.ticks` ticks. The nearest adversarial query is returned.

    Attributes:
        attack: The wrapped attack, which must take an epsilon.
        rounds: Bisections after the first trial.
        largest: Epsilon of the first trial, in the unit of the norm and the scale of the image
            (None: the largest distance that the box allows).

    Raises:
        ValueError: If the attack takes no epsilon.

    >>> import jaxadv as ja
    >>> attack = ja.MinimalEpsilon(ja.PGD(steps=20), rounds=10)
    """

    rounds: int = static(default=10)
    largest: Number | None = None
    needs_box: ClassVar[bool] = True
    needs_epsilon: ClassVar[bool] = False
    keep: ClassVar[str] = "distance"

    def __post_init__(self) -> None:
        if isinstance(self.attack, Attack) and not self.attack.needs_epsilon:
            raise ValueError(
                f"attack={self.attack.name} finds the smallest perturbation already: run it as it "
                "is, or pass an attack that takes an epsilon"
            )

    @property
    def ticks(self) -> int:
        return (self.rounds + 1) * self.attack.ticks

    @property
    def passes(self) -> int:
        return (self.rounds + 1) * self.attack.passes

    def _at(self, problem: Problem, epsilon: Number) -> Problem:
        return dataclasses.replace(problem, epsilon=epsilon)

    def init(self, problem: Problem, key: Array) -> BisectionState:
        longest = diameter(self.norm, problem.image.size, problem.sides)
        largest = longest if self.largest is None else self.largest
        largest = jnp.minimum(jnp.float32(largest), problem.epsilon)
        first = jax.random.fold_in(key, 0)
        inner = self.attack.init(self._at(problem, largest), first)
        return BisectionState(jnp.float32(0), largest, largest, jnp.int32(0), inner, key)

    def seen(self, problem: Problem, state: BisectionState) -> tuple[Problem, State]:
        return self._at(problem, state.trial), state.inner

    def tell(self, problem: Problem, state: BisectionState, answer: Answer) -> BisectionState:
        trying = self._at(problem, state.trial)
        queries = self.attack.ask(trying, state.inner)
        distances = jax.vmap(lambda image: self.geometry.distance(image - problem.image))(queries)
        reached = jnp.where(answer.adversarial & answer.used, distances, jnp.inf).min()
        success = reached < jnp.inf

        inner = self.attack.tell(trying, state.inner, answer)
        over = success | self.attack.done(trying, inner)
        high = jnp.where(success, jnp.minimum(state.high, reached), state.high)
        low = jnp.where(over & ~success, state.trial, state.low)
        trial = jnp.where(over, (low + high) / 2, state.trial)
        turn = state.round + over
        fresh = self.attack.init(self._at(problem, trial), jax.random.fold_in(state.key, turn))
        inner = jax.tree.map(lambda new, old: jnp.where(over, new, old), fresh, inner)
        return BisectionState(low, high, trial, turn, inner, state.key)

    def done(self, problem: Problem, state: BisectionState) -> Bool[Array, ""]:
        hopeless = (state.round == 1) & (state.low >= state.high)  # none at the largest epsilon
        return hopeless | (state.round > self.rounds)
