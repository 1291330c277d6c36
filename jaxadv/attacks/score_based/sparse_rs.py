"""Sparse-RS: random search over the few pixels that are changed, and over their colours."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.attacks.score_based.square import CLOCK, search_loss
from jaxadv.core.attack import Answer, Attack, Problem
from jaxadv.core.norms import largest
from jaxadv.core.pytree import pytree, static
from jaxadv.core.random import draw
from jaxadv.core.typing import Key, Number

SHRINKS = (0, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which alpha is divided
BY = (1, 2, 4, 5, 6, 8, 10, 12, 15, 20)  # by this


class SparseRSState(NamedTuple):
    """State of the random search.

    Attributes:
        best: [H, W, C], the image with the lowest loss.
        pixels: Booleans [H, W], the pixels that `best` may change.
        loss: Scalar, the loss of `best`.
        trial: [H, W, C], the image of the next query.
        trial_pixels: Booleans [H, W], the pixels that `trial` may change.
        key: The random key of this run.
        step: Integer scalar, queries so far.
    """

    best: Float[Array, "H W C"]
    pixels: Bool[Array, "H W"]
    loss: Float[Array, ""]
    trial: Float[Array, "H W C"]
    trial_pixels: Bool[Array, "H W"]
    key: Key
    step: Int[Array, ""]


@pytree
class SparseRS(Attack):
    """Sparse-RS (Croce et al. 2020, arXiv 2006.12834): a score-based random search in L0.

    A candidate changes as many pixels as epsilon allows, each to a corner of the colour cube. A
    trial restores some of them and changes others instead; it is accepted where it lowers the
    margin (towards a target: where it lowers the cross-entropy). Epsilon is the number of array
    entries, as everywhere in L0: k pixels of C channels are an epsilon of C * k. A colour that the
    pixel has already is replaced by the opposite one (in the paper only when one pixel is
    replaced). Per restart at most `steps + 1` forward passes, one a tick.

    Attributes:
        norm: "l0".
        steps: Trials after the first image.
        alpha: Fraction of the pixels that the first trial replaces, in (0, 1].
        rescale: Whether to stretch the schedule of alpha, made for 10,000 queries, over `steps`.
        restarts: Independent runs.

    Raises:
        ValueError: If the norm is not "l0", steps or restarts is below 1, or alpha is outside (0,
            1].

    >>> import jaxadv as ja
    >>> attack = ja.SparseRS(steps=5000)
    """

    norm: str = static(default="l0")
    steps: int = static(default=10_000)
    alpha: Number = 0.3
    rescale: bool = static(default=True)
    restarts: int = static(default=1)
    pullbacks = 0
    norms: ClassVar[tuple[str, ...]] = ("l0",)

    def __post_init__(self) -> None:
        self.check_norm()
        self.check_least(steps=1, restarts=1)
        if isinstance(self.alpha, np.floating) and not 0 < self.alpha <= 1:
            raise ValueError(
                f"alpha={self.alpha:g}: pass a fraction of the pixels, above 0, up to 1"
            )

    @property
    def ticks(self) -> int:
        return self.steps + 1

    def init(self, problem: Problem, key: Array) -> SparseRSState:
        where, colour = jax.random.split(key)
        every = jnp.ones(problem.image.shape[:2], bool)
        if problem.start is None:
            pixels = _draw(where, every, allowed_pixels(problem))
            first = _paint(problem, problem.image, pixels, colour)
        else:
            change = jnp.abs(problem.start - problem.image).sum(-1)
            pixels = largest(change, allowed_pixels(problem))
            first = jnp.where(pixels[..., None], problem.start, problem.image)
            first = jnp.clip(first, problem.lower, problem.upper)
        infinite = jnp.float32(jnp.inf)
        return SparseRSState(first, pixels, infinite, first, pixels, key, jnp.int32(0))

    def ask(self, problem: Problem, state: SparseRSState) -> Float[Array, "Q ..."]:
        return state.trial[None]

    def tell(self, problem: Problem, state: SparseRSState, answer: Answer) -> SparseRSState:
        loss = search_loss(problem.goal, answer.logits[0])
        lower = (loss < state.loss) | answer.adversarial[0]
        best = jnp.where(lower, state.trial, state.best)
        pixels = jnp.where(lower, state.trial_pixels, state.pixels)
        loss = jnp.where(lower, loss, state.loss)

        step = state.step + 1
        out, into, colour = jax.random.split(jax.random.fold_in(state.key, step), 3)
        count = self.replaced(step, pixels)
        restored = _draw(out, pixels, count)
        added = _draw(into, ~pixels, count)
        trial = jnp.where(restored[..., None], problem.image, best)
        trial = _paint(problem, trial, added, colour)
        moved = (pixels & ~restored) | added
        return SparseRSState(best, pixels, loss, trial, moved, state.key, step)

    def done(self, problem: Problem, state: SparseRSState) -> Bool[Array, ""]:
        return state.step > self.steps

    def replaced(self, step: Array, pixels: Bool[Array, "H W"]) -> Int[Array, ""]:
        """Number of pixels that trial `step` replaces: at least one, if one can be replaced."""
        clock = step * CLOCK // self.steps if self.rescale else step
        alpha = self.alpha / jnp.asarray(BY)[(clock > jnp.asarray(SHRINKS)).sum()]
        held = pixels.sum()
        count = jnp.maximum((alpha * held).astype(jnp.int32), 1)
        return jnp.minimum(count, jnp.minimum(held, pixels.size - held))


def allowed_pixels(problem: Problem) -> Int[Array, ""]:
    """Return the number of whole pixels that epsilon array entries amount to."""
    height, width, channels = problem.image.shape
    return jnp.minimum(jnp.floor(problem.epsilon / channels), height * width).astype(jnp.int32)


def _draw(key: Array, among: Bool[Array, "H W"], count: Number) -> Bool[Array, "H W"]:
    """`count` random pixels of these (all of them, if there are fewer)."""
    weight = 1 + draw(jax.random.uniform, key, among.shape)
    return largest(jnp.where(among, weight, 0.0), count) & among


def _paint(
    problem: Problem, image: Array, pixels: Bool[Array, "H W"], key: Array
) -> Float[Array, "H W C"]:
    """The image with random corners of the colour cube at these pixels."""
    bright = draw(jax.random.bernoulli, key, image.shape)
    colour = jnp.where(bright, problem.upper, problem.lower)
    same = (colour == image).all(-1, keepdims=True)
    colour = jnp.where(bright ^ same, problem.upper, problem.lower)
    return jnp.where(pixels[..., None], colour, image)
