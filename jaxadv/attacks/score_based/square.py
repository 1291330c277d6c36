"""Square attack: a score-based random search with shrinking squares.

The images are chosen one tick ahead, so that a tick is one forward pass and no more. The side of
the squares changes from tick to tick, so a square is a mask over the full image.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.core.attack import Answer, Attack, Problem
from jaxadv.core.goals import Goal
from jaxadv.core.losses import cross_entropy
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Key, Number

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which p is halved
CLOCK = 10_000  # queries of the run for which these were chosen


class SquareState(NamedTuple):
    """State of the random search.

    Attributes:
        best: [H, W, C], the image with the lowest loss so far.
        loss: Scalar, the loss of `best`.
        trial: [H, W, C], the image of the next query.
        key: The random key of this run.
        step: Integer scalar, squares tried so far.
    """

    best: Float[Array, "H W C"]
    loss: Float[Array, ""]
    trial: Float[Array, "H W C"]
    key: Key
    step: Int[Array, ""]


@pytree
class Square(Attack):
    """Square attack (Andriushchenko et al. 2020, arXiv 1912.00049): a score-based random search.

    A trial is accepted where it lowers the margin (towards a target: where it lowers the
    cross-entropy). Linf: vertical stripes, then squares of one colour each at the corners of the
    ball. L2 and L1 (the latter: Croce and Hein 2021, arXiv 2103.01208): a pattern of bumps, then
    the perturbation of one window is moved into another, with the rest of epsilon.

    Each image has its own squares, and these reach the last row and column; in the reference code a
    batch shares the squares in Linf, and the last row and column are never reached. Per restart at
    most `steps + 1` forward passes, no backward pass.

    Attributes:
        norm: "linf", "l2" or "l1".
        steps: Squares tried after the first image.
        p: Fraction of the image that the first squares cover, in (0, 1].
        rescale: Whether to stretch the schedule, by which p is halved nine times in 10,000 queries,
            over `steps`.
        restarts: Independent runs.

    Raises:
        ValueError: If the norm is unknown, steps or restarts is below 1, or p is outside (0, 1].

    >>> import jaxadv as ja
    >>> attack = ja.Square(norm="linf", steps=5000)
    """

    norm: str = static(default="linf")
    steps: int = static(default=5000)
    p: Number = 0.8
    rescale: bool = static(default=False)
    restarts: int = static(default=1)
    pullbacks = 0
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        self.check_norm()
        self.check_least(steps=1, restarts=1)
        if isinstance(self.p, np.floating) and not 0 < self.p <= 1:
            raise ValueError(f"p={self.p:g}: pass a fraction of the image, above 0 and at most 1")

    @property
    def ticks(self) -> int:
        return self.steps + 1

    def init(self, problem: Problem, key: Array) -> SquareState:
        if problem.start is not None:
            first = self.project(problem, problem.start)
        elif self.norm == "linf":
            first = self.project(problem, problem.image + _stripes(problem, key))
        else:
            first = self.project(problem, problem.image + self._bumps(problem, key))
        return SquareState(first, jnp.float32(jnp.inf), first, key, jnp.int32(0))

    def ask(self, problem: Problem, state: SquareState) -> Float[Array, "Q ..."]:
        return state.trial[None]

    def tell(self, problem: Problem, state: SquareState, answer: Answer) -> SquareState:
        loss = search_loss(problem.goal, answer.logits[0])
        lower = (loss < state.loss) | answer.adversarial[0]
        best = jnp.where(lower, state.trial, state.best)
        loss = jnp.where(lower, loss, state.loss)
        key = jax.random.fold_in(state.key, state.step + 1)
        side = self._side(problem, state.step)
        trial = (
            self._paint(problem, best, side, key)
            if self.norm == "linf"
            else self._shift(problem, best, side, key)
        )
        return SquareState(best, loss, trial, state.key, state.step + 1)

    def done(self, problem: Problem, state: SquareState) -> Bool[Array, ""]:
        return state.step > self.steps

    def _side(self, problem: Problem, step: Array) -> Int[Array, ""]:
        """The side of the squares after `step` trials (int32)."""
        height, width, _ = problem.image.shape
        clock = step * CLOCK // self.steps if self.rescale else step
        fraction = self.p / 2.0 ** (clock > jnp.asarray(HALVINGS)).sum()
        side = jnp.round(jnp.sqrt(fraction * height * width)).astype(jnp.int32)
        least = 1 if self.norm == "linf" else 3
        side = jnp.maximum(side, least)
        if self.norm != "linf":
            side += 1 - side % 2  # odd: a bump has a middle
        return jnp.minimum(side, min(height, width))

    def _paint(self, problem: Problem, best: Array, side: Array, key: Array) -> Array:
        """Linf: one square at the corners of the ball, with a random sign per channel."""
        place, colour = jax.random.split(key)
        inside = _window(best.shape, side, place)
        sign = jax.random.rademacher(colour, (best.shape[2],), best.dtype)
        return self.project(problem, best + jnp.where(inside, 2 * problem.epsilon * sign, 0.0))

    def _shift(self, problem: Problem, best: Array, side: Array, key: Array) -> Array:
        """L2, L1: move the perturbation of one window into another, as a bump."""
        first, second, turn, sign = jax.random.split(key, 4)
        order = self.geometry.order
        delta = best - problem.image
        corner = _corner(best.shape, side, first)
        inside, other = _square(best.shape, side, corner), _window(best.shape, side, second)
        bump = _bump(best.shape, side, corner, jax.random.bernoulli(turn), order)
        signs = jax.random.rademacher(sign, (best.shape[2],), best.dtype)

        def length(mask: Bool[Array, "H W 1"]) -> Array:  # of each channel
            return (jnp.where(mask, jnp.abs(delta), 0.0) ** order).sum((0, 1)) ** (1 / order)

        left = jnp.maximum(problem.epsilon**order - (jnp.abs(delta) ** order).sum(), 0.0)
        available = (length(inside | other) ** order + left / best.shape[2]) ** (1 / order)
        mixed = signs * bump + jnp.where(inside, delta, 0.0) / jnp.maximum(length(inside), 1e-12)
        mixed = jnp.where(inside, mixed, 0.0)
        size = (jnp.abs(mixed) ** order).sum((0, 1)) ** (1 / order)
        delta = jnp.where(other, 0.0, delta)
        delta = jnp.where(inside, mixed / jnp.maximum(size, 1e-12) * available, delta)
        delta = delta * problem.epsilon / jnp.maximum(self.geometry.distance(delta), 1e-12)
        return self.project(problem, problem.image + delta)

    def _bumps(self, problem: Problem, key: Array) -> Array:
        """The first perturbation in L2 and L1: five by five bumps of random signs."""
        height, width, channels = problem.image.shape
        side = max(min(height, width) // 5, 1)
        rows, columns = height // side, width // side
        turns, signs = jax.random.split(key)
        turned = jax.random.bernoulli(turns, 0.5, (rows, columns))
        sign = jax.random.rademacher(signs, (rows, columns, channels), problem.image.dtype)

        def tile(turn: Array, sign: Array) -> Array:
            corner = jnp.zeros(2, jnp.int32)
            return _bump((side, side, channels), side, corner, turn, self.geometry.order) * sign

        tiles = jax.vmap(jax.vmap(tile))(turned, sign)
        pattern = tiles.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, channels)
        above, left = (height - rows * side) // 2, (width - columns * side) // 2
        below, right = height - rows * side - above, width - columns * side - left
        pattern = jnp.pad(pattern, ((above, below), (left, right), (0, 0)))
        return problem.epsilon * pattern / self.geometry.distance(pattern)


def search_loss(goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
    """The loss that a random search minimises: the margin; targeted: the cross-entropy."""
    return -cross_entropy(goal, logits) if goal.targeted else goal.margin(logits)


def _stripes(problem: Problem, key: Array) -> Array:
    """A perturbation of plus or minus epsilon for each column of each channel."""
    shape = (1, *problem.image.shape[1:])
    return problem.epsilon * jax.random.rademacher(key, shape, problem.image.dtype)


def _corner(shape: tuple[int, ...], side: Array, key: Array) -> Array:
    """Row and column of a square's first pixel, uniform over all positions."""
    room = jnp.array(shape[:2], jnp.int32) - side + 1
    return jax.random.randint(key, (2,), 0, room)


def _square(shape: tuple[int, ...], side: Array, corner: Array) -> Bool[Array, "H W 1"]:
    rows, columns = jnp.arange(shape[0]) - corner[0], jnp.arange(shape[1]) - corner[1]
    inside = ((rows >= 0) & (rows < side))[:, None] & ((columns >= 0) & (columns < side))
    return inside[..., None]


def _window(shape: tuple[int, ...], side: Array, key: Array) -> Bool[Array, "H W 1"]:
    return _square(shape, side, _corner(shape, side, key))


def _bump(
    shape: tuple[int, ...], side: Number, corner: Array, turn: Array, order: float
) -> Float[Array, "H W 1"]:
    """Two pyramids side by side, of opposite signs, of length 1 in the norm of this order.

    A pyramid over a x b entries is a sum of squares about its middle, the k-th with a side of 2k +
    1 entries and a height of 1 / (k + 1)^2 (L1: to the fourth power).

    Args:
        shape: [H, W, C] of the image.
        side: Side of the square that the two pyramids fill.
        corner: Row and column of its first pixel.
        turn: Whether the pyramids lie side by side; else one above the other.
        order: Order of the norm.

    Returns:
        The perturbation [H, W, 1].
    """
    side = jnp.asarray(side, jnp.int32)
    rows, columns = jnp.arange(shape[0])[:, None] - corner[0], jnp.arange(shape[1]) - corner[1]
    rows, columns = jnp.broadcast_arrays(rows, columns)
    along = jnp.where(turn, columns, rows)
    across = jnp.where(turn, rows, columns)
    half = side // 2
    longer = side - half
    up = along < half
    place, span = jnp.where(up, along, along - half), jnp.where(up, half, longer)
    away = jnp.maximum(jnp.abs(place - span // 2), jnp.abs(across - side // 2))
    layers = jnp.maximum(span // 2, side // 2) + 1
    pile = np.concatenate([[0.0], np.cumsum(1 / np.arange(1.0, max(shape[:2]) + 2) ** (4 / order))])
    pile = jnp.asarray(pile, jnp.float32)
    height = pile[layers] - pile[jnp.clip(away, 0, layers)]

    def unit(mask: Array) -> Array:  # each pyramid by itself, then both
        part = jnp.where(mask, height, 0.0)
        return part / jnp.maximum(_length(part, order), 1e-12)

    inside = _square(shape, side, corner)[..., 0]
    both = unit(inside & up) - unit(inside & ~up)
    return (both / jnp.maximum(_length(both, order), 1e-12))[..., None]


def _length(values: Array, order: float) -> Array:
    return (jnp.abs(values) ** order).sum() ** (1 / order)
