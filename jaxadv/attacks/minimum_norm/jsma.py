"""JSMA: each step moves the two entries that best raise the target and lower the other classes."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxadv.attacks.common.gradient_iteration import MinimumNorm
from jaxadv.core.attack import Answer, Needs, Problem, check_targets, runner_up_class
from jaxadv.core.goals import Goal, Targeted
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Number

DIRECTIONS = {"up": (1.0,), "down": (-1.0,), "both": (1.0, -1.0)}
HAIR = 0.01  # box sides: entries with less slack are not moved, since that would gain nothing


class JSMAState(NamedTuple):
    """State of one run of `JSMA`.

    Attributes:
        image: [H, W, C] float32, the iterate.
        target: int32 scalar, the target class.
        way: float32 scalar, +1 or -1, the direction in which entries move.
        step: int32 scalar, pairs moved so far.
        over: bool scalar, whether the run has ended.
    """

    image: Float[Array, "H W C"]
    target: Int[Array, ""]
    way: Float[Array, ""]
    step: Int[Array, ""]
    over: Bool[Array, ""]


def salient_pair(
    target: Float[Array, " n"], others: Float[Array, " n"], free: Bool[Array, " n"]
) -> tuple[Int[Array, ""], Int[Array, ""], Bool[Array, ""]]:
    """Return the two free entries p, q with the largest -(t_p + t_q) (o_p + o_q).

    Only pairs with t_p + t_q > 0 and o_p + o_q < 0 count. The search is exact: each of the n (n -
    1) / 2 pairs is compared once, as p and p + distance, for one distance after the other around
    the ring of the entries. Memory is linear in n.

    Args:
        target: [n] float32, the gradient t of the target's logit.
        others: [n] float32, the gradient o of the sum of the other logits.
        free: [n] bool, the entries that may move.

    Returns:
        The indices p and q, and whether there is such a pair.
    """
    size = target.shape[0]
    target = target / jnp.maximum(jnp.abs(target).max(), 1e-37)  # the product is to stay finite
    others = others / jnp.maximum(jnp.abs(others).max(), 1e-37)
    target = jnp.where(free, target, -jnp.inf)  # a sum with it is never above 0
    targets, rest = jnp.tile(target, 2), jnp.tile(others, 2)

    def compare(distance: Number, best: tuple[Array, Array]) -> tuple[Array, Array]:
        most, where = best
        alpha = target + lax.dynamic_slice(targets, (distance,), (size,))
        beta = others + lax.dynamic_slice(rest, (distance,), (size,))
        score = jnp.maximum(alpha, 0.0) * jnp.maximum(-beta, 0.0)
        return jnp.maximum(most, score), jnp.where(score > most, distance, where)

    start = jnp.zeros(size), jnp.zeros(size, jnp.int32)
    most, where = lax.fori_loop(1, size // 2 + 1, compare, start)
    p = most.argmax()
    return p, (p + where[p]) % size, most[p] > 0


@pytree
class JSMA(MinimumNorm):
    """Jacobian-based saliency map attack (Papernot et al. 2015, arXiv 1511.07528): few entries.

    Each step moves two entries by `theta`: of all pairs that raise the target's logit (alpha > 0)
    and lower the sum of the others (beta < 0), the one with the largest -alpha * beta. Entries
    within a hundredth of the box's side of its edge are not moved; if no such pair is left, the run
    ends.

    The gradients are those of the logits, as the paper advises: for probabilities beta is -alpha,
    and the pair is just the two largest gradients (as in ART in effect). The sum over the other
    classes is pulled back as one vector, and costs one pass, not K - 1. Distances are in L0 (array
    entries).

    Each target and direction costs one forward and two backward passes for every query, the clean
    image included, and no backward pass for the last query that gamma allows. For n entries n^2 / 2
    pairs are compared a step: half a millisecond for 784 entries, six for 3,072, far too long for
    150,000.

    Attributes:
        norm: "l0".
        steps: Largest number of pairs, regardless of gamma.
        restarts: 1, since the attack is deterministic.
        theta: Change of an entry in sides of the box (paper: 1).
        gamma: Fraction of the entries that may be moved (paper: 0.145); a pair counts as two.
        direction: "up" (entries grow; the paper's), "down" (entries shrink), or "both", one run
            after the other.
        targets: For untargeted goals, the number of wrong classes to target one after the other, in
            the order of the clean logits (0: nine, or all if there are fewer); any wrong class is a
            success. With `ja.Targeted` goals the target is the goal's.

    Raises:
        ValueError: If `direction` is unknown, `steps` is below 1, `restarts` is not 1, `targets` is
            below 0, `theta` or `gamma` is not in (0, 1], or `targets` is above 0 and the goal is
            targeted.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> weights = jnp.array([[1.0, -1], [-1, 1], [0, 0], [0, 0]])
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, weights)
    >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.7)
    >>> goal, attack = ja.Targeted(jnp.array([0]), jnp.array([1])), ja.JSMA(gamma=0.5)
    >>> ja.run(attack, model, images, goal, key=jax.random.key(0)).distance
    array([2.])
    """

    norm: str = static(default="l0")
    steps: int = static(default=1000)
    theta: Number = 1.0
    gamma: Number = 0.145
    direction: str = static(default="up")
    targets: int = static(default=0)
    pullbacks: ClassVar[int] = 2
    norms: ClassVar[tuple[str, ...]] = ("l0",)
    needs_box: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.direction not in DIRECTIONS:
            raise ValueError(f"direction={self.direction!r}: pass one of {list(DIRECTIONS)}")
        if self.restarts != 1:
            raise ValueError(f"restarts={self.restarts}: JSMA draws nothing; pass 1")
        self.check_least(targets=0)
        for field in ("theta", "gamma"):
            value = getattr(self, field)
            if isinstance(value, np.floating) and not 0 < value <= 1:
                raise ValueError(f"{field}={value}: pass a number above 0 and at most 1")

    @property
    def entries(self) -> int:
        return len(DIRECTIONS[self.direction]) * max(self.targets, 1)

    def specialize(self, goal: Goal, classes: int) -> "JSMA":
        check_targets(self.targets, goal)
        if goal.targeted:
            return self
        return dataclasses.replace(self, targets=min(self.targets or 9, goal.ways(classes)))

    def init(self, problem: Problem, key: Array) -> JSMAState:
        ways = jnp.asarray(DIRECTIONS[self.direction])
        if isinstance(problem.goal, Targeted):
            target = problem.goal.targets
        else:
            target = runner_up_class(problem, problem.rank // len(ways), self.targets)
        way, image = ways[problem.rank % len(ways)], self.begin(problem)
        return JSMAState(image, target, way, jnp.int32(0), jnp.bool_(False))

    def cotangents(
        self, problem: Problem, state: JSMAState, logits: Float[Array, "Q K"]
    ) -> Float[Array, "Q P K"]:
        aimed = (jnp.arange(logits.shape[-1]) == state.target).astype(logits.dtype)
        return jnp.stack([aimed, 1 - aimed])[None]

    def needs(self, problem: Problem, state: JSMAState) -> Needs:
        return Needs(jnp.ones(1, bool), (state.step < self._most(problem))[None])

    def tell(self, problem: Problem, state: JSMAState, answer: Answer) -> JSMAState:
        image, way = state.image, state.way
        hair = HAIR * problem.sides
        room = jnp.where(way > 0, problem.upper - image, image - problem.lower)
        free = room > hair
        target, others = way * answer.gradients[0].reshape(2, -1)
        p, q, exists = salient_pair(target, others, free.ravel())
        pair = (jnp.arange(image.size) == p) | (jnp.arange(image.size) == q)
        moved = image + way * self.theta * problem.sides
        moved = jnp.clip(moved, problem.lower, problem.upper)
        moved = jnp.where((pair & exists).reshape(image.shape), moved, image)
        # Epsilon is a distance that was already reached: farther images need no query.
        farther = self.geometry.distance(moved - problem.image) > problem.epsilon
        last = state.step >= self._most(problem)
        over = answer.adversarial[0] | ~exists | farther | last
        # Pass a non-finite gradient on to the next query, where the engine checks for it.
        moved = jnp.where(last, image, moved + 0 * answer.gradients[0, 0])
        return JSMAState(moved, state.target, way, state.step + 1, over)

    def done(self, problem: Problem, state: JSMAState) -> Bool[Array, ""]:
        return state.over

    def _most(self, problem: Problem) -> Int[Array, ""]:
        """Return the largest number of pairs that `gamma` and `steps` allow."""
        pairs = jnp.floor(problem.image.size * self.gamma / 2).astype(jnp.int32)
        return jnp.minimum(pairs, self.steps)
