"""Pointwise attack: entries of an adversarial image are set back, one by one, while it stays so."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxadv.attacks.labels.asking import OWN, Asking, LabelOnly, until_first
from jaxadv.core.attack import Problem
from jaxadv.core.pytree import pytree, static


class Round(NamedTuple):
    """order, place [n]: the entries in the order of their trials, and the place of each in it;
    next: where in the order this round goes on; won: whether an entry of it was set back; ends:
    whether a whole round was in vain."""

    order: Any
    place: Any
    next: Any
    won: Any
    ends: Any


@pytree
class Pointwise(LabelOnly):
    """Pointwise attack (Schott et al. 2018, arXiv 1805.09190): labels alone, few entries changed.

    From salt and pepper on as few entries as it takes, the entries that differ are set back to the
    image's in random order, each for good if the answer stays wrong, in rounds until one is in
    vain: then no entry alone can be set back. (Foolbox then halves single entries, which changes
    their size and not their number.)

    norm: "l0", array entries; budget: answers heard per image; draws: salt-and-pepper images tried
    as a start, else `problem.start` (`ja.run(..., start=)`; towards a target it is needed). A tick
    asks ahead what follows if every trial succeeds, and if every one fails; it is heard as far as
    the answers agree. Raises ValueError for settings out of range.

    >>> import jaxadv as ja
    >>> attack = ja.Pointwise(budget=5000)
    """

    norm: str = static(default="l0")
    norms: ClassVar[tuple[str, ...]] = ("l0",)

    def first(self, problem: Problem) -> Round:
        none = jnp.arange(problem.image.size)
        return Round(none, none, jnp.int32(0), jnp.bool_(False), jnp.bool_(False))

    def init(self, problem: Problem, key: Array) -> Asking:
        state = super().init(problem, key)
        order = jax.random.permutation(key, problem.image.size)
        place = jnp.zeros_like(order).at[order].set(jnp.arange(order.size))
        return state._replace(own=state.own._replace(order=order, place=place))

    def starts(self, problem: Problem, state: Asking, noise: Array) -> Array:
        # Of the entries a growing share, the smaller half of the draws black, the larger white.
        share = (jnp.arange(self.batch) + 1.0) / self.batch
        share = share.reshape(-1, *(1,) * problem.image.ndim)
        ends = jnp.where(noise < share / 2, problem.lower, problem.upper)
        return jnp.where(noise < share, ends, problem.image)

    def halve_from(self, problem: Problem, state: Asking, far: Array) -> Asking:
        # Halving would bring every entry nearer, and none back.
        distance = self.geometry.distance(far - problem.image)
        return state._replace(point=far, distance=distance, phase=jnp.int32(OWN))

    def _waiting(self, problem: Problem, own: Round, point: Array) -> Bool[Array, " n"]:
        """In the order of trials: the entries that are still to be tried in this round."""
        differs = (point != problem.image).ravel()
        return differs[own.order] & (jnp.arange(differs.size) >= own.next)

    def images(self, problem: Problem, state: Asking, noise: Array) -> Float[Array, "Q ..."]:
        waiting = self._waiting(problem, state.own, state.point)
        rank = jnp.where(waiting, jnp.cumsum(waiting) - 1, -1)
        rank = rank[state.own.place].reshape(problem.image.shape)

        def back(slot: Array) -> Array:
            """The first trial; then in turns what follows on successes, and on failures."""
            trial = (slot + 1) // 2
            these = jnp.where(slot % 2 == 1, (rank >= 0) & (rank <= trial), rank == trial)
            return jnp.where(these, problem.image, state.point)

        return jax.vmap(back)(jnp.arange(self.batch))

    def wanted(self, problem: Problem, state: Asking) -> Any:
        return 2 * self._waiting(problem, state.own, state.point).sum() - 1

    def listens(self, state: Asking, wrong: Bool[Array, " Q"]) -> Bool[Array, " Q"]:
        slot = jnp.arange(self.batch)
        chain, alone = slot % 2 == 1, (slot % 2 == 0) & (slot > 0)
        on_success = chain & until_first(chain & ~wrong)
        on_failure = alone & until_first(alone & wrong)
        return (slot == 0) | jnp.where(wrong[0], on_success, on_failure)

    def told(
        self, problem: Problem, state: Asking, wrong: Bool[Array, " Q"], heard: Bool[Array, " Q"]
    ) -> Asking:
        own, slot = state.own, jnp.arange(self.batch)
        found = wrong & heard  # the last of them is the farthest on the way
        point = jnp.where(
            found.any(), state.trial[jnp.where(found, slot, -1).argmax()], state.point
        )
        tried = jnp.cumsum(self._waiting(problem, own, state.point)) >= heard.sum()
        own = own._replace(next=jnp.argmax(tried) + 1, won=own.won | found.any())
        over = ~self._waiting(problem, own, point).any()
        own = own._replace(
            next=jnp.where(over, 0, own.next), won=own.won & ~over, ends=over & ~own.won
        )
        distance = self.geometry.distance(point - problem.image)
        return state._replace(own=own, point=point, distance=distance)

    def over(self, problem: Problem, state: Asking) -> Any:
        return state.own.ends
