"""Pointwise attack: resets single entries of an adversarial image while it stays adversarial."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxadv.attacks.decision_based.base import (
    OWN,
    DecisionState,
    LabelOnly,
    salt_and_pepper,
    until_first,
)
from jaxadv.core.attack import Problem
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Number


class Round(NamedTuple):
    """One round of resets over all entries; n is the number of entries of the image.

    Attributes:
        order: Integers [n], the entries in the order in which they are tried.
        place: Integers [n], the position of each entry in `order`.
        next: Integer scalar, the position at which this round continues.
        won: Boolean scalar: whether this round has reset an entry.
        ends: Boolean scalar: whether a whole round has reset none, which ends the attack.
    """

    order: Int[Array, " n"]
    place: Int[Array, " n"]
    next: Int[Array, ""]
    won: Bool[Array, ""]
    ends: Bool[Array, ""]


@pytree
class Pointwise(LabelOnly):
    """Pointwise attack (Schott et al. 2018, arXiv 1805.09190): decision-based, few entries changed.

    From salt and pepper on as few entries as suffice, the entries that differ from the image are
    reset to the image's values in random order. A reset is kept if the image stays adversarial.
    Rounds follow until one resets nothing: then no single entry can be reset. Foolbox afterwards
    bisects single entries, which changes their size and not their number; this attack does not. A
    tick queries speculatively what follows if every trial succeeds and if every trial fails;
    outputs are used as far as they agree with one of the two. One forward pass a query.

    Attributes:
        budget: Largest number of queries per image.
        draws: Largest number of salt-and-pepper images that are tried as a start, where there is no
            `problem.start` (`ja.run(..., start=)`; a targeted attack needs it).
        batch: Images queried per tick.
        restarts: Independent runs.
        norm: "l0", in array entries.

    Raises:
        ValueError: If the norm is not "l0" or a count is below its minimum (batch: 4, others: 1).

    >>> import jaxadv as ja
    >>> attack = ja.Pointwise(budget=5000)
    """

    norm: str = static(default="l0")
    norms: ClassVar[tuple[str, ...]] = ("l0",)

    def first(self, problem: Problem) -> Round:
        none = jnp.arange(problem.image.size)
        return Round(none, none, jnp.int32(0), jnp.bool_(False), jnp.bool_(False))

    def init(self, problem: Problem, key: Array) -> DecisionState:
        state = super().init(problem, key)
        order = jax.random.permutation(key, problem.image.size)
        place = jnp.zeros_like(order).at[order].set(jnp.arange(order.size))
        return state._replace(own=state.own._replace(order=order, place=place))

    def starts(self, problem: Problem, state: DecisionState, noise: Array) -> Array:
        return salt_and_pepper(problem, noise, (jnp.arange(self.batch) + 1.0) / self.batch)

    def halve_from(self, problem: Problem, state: DecisionState, far: Array) -> DecisionState:
        # Bisection would move every entry towards the image and reset none.
        distance = self.geometry.distance(far - problem.image)
        return state._replace(point=far, distance=distance, phase=jnp.int32(OWN))

    def _waiting(self, problem: Problem, own: Round, point: Array) -> Bool[Array, " n"]:
        """Mask [n], in the order of trials, of the entries still to be tried in this round."""
        differs = (point != problem.image).ravel()
        return differs[own.order] & (jnp.arange(differs.size) >= own.next)

    def images(self, problem: Problem, state: DecisionState, noise: Array) -> Float[Array, "Q ..."]:
        waiting = self._waiting(problem, state.own, state.point)
        rank = jnp.where(waiting, jnp.cumsum(waiting) - 1, -1)
        rank = rank[state.own.place].reshape(problem.image.shape)

        def back(slot: Array) -> Array:
            """Slot 0: the first trial; then in turns what follows successes and failures."""
            trial = (slot + 1) // 2
            these = jnp.where(slot % 2 == 1, (rank >= 0) & (rank <= trial), rank == trial)
            return jnp.where(these, problem.image, state.point)

        return jax.vmap(back)(jnp.arange(self.batch))

    def wanted(self, problem: Problem, state: DecisionState) -> Number:
        return 2 * self._waiting(problem, state.own, state.point).sum() - 1

    def counted(self, state: DecisionState, wrong: Bool[Array, " Q"]) -> Bool[Array, " Q"]:
        slot = jnp.arange(self.batch)
        chain, alone = slot % 2 == 1, (slot % 2 == 0) & (slot > 0)
        on_success = chain & until_first(chain & ~wrong)
        on_failure = alone & until_first(alone & wrong)
        return (slot == 0) | jnp.where(wrong[0], on_success, on_failure)

    def updated(
        self,
        problem: Problem,
        state: DecisionState,
        wrong: Bool[Array, " Q"],
        used: Bool[Array, " Q"],
    ) -> DecisionState:
        own, slot = state.own, jnp.arange(self.batch)
        successes = wrong & used  # the last of them is the farthest on the way
        point = jnp.where(
            successes.any(), state.trial[jnp.where(successes, slot, -1).argmax()], state.point
        )
        tried = jnp.cumsum(self._waiting(problem, own, state.point)) >= used.sum()
        own = own._replace(next=jnp.argmax(tried) + 1, won=own.won | successes.any())
        over = ~self._waiting(problem, own, point).any()
        own = own._replace(
            next=jnp.where(over, 0, own.next), won=own.won & ~over, ends=over & ~own.won
        )
        distance = self.geometry.distance(point - problem.image)
        return state._replace(own=own, point=point, distance=distance)

    def over(self, problem: Problem, state: DecisionState) -> Bool[Array, ""] | bool:
        return state.own.ends
