"""One-pixel attack: few-pixel changes by differential evolution."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.core.attack import Answer, Attack, Problem
from jaxadv.core.goals import Goal
from jaxadv.core.losses import Loss, get_loss
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Key, Number


class OnePixelState(NamedTuple):
    """State of the differential evolution.

    Attributes:
        parents: [P, pixels, 2 + C], row, column and colour of each pixel, as fractions of height,
            width and the side of the box.
        values: [P], the losses of the parents.
        children: [P, pixels, 2 + C], the candidates of the next queries.
        key: The random key of this run.
        step: Integer scalar, generations so far.
    """

    parents: Float[Array, "P pixels 2+C"]
    values: Float[Array, " P"]
    children: Float[Array, "P pixels 2+C"]
    key: Key
    step: Int[Array, ""]


@pytree
class OnePixel(Attack):
    """One-pixel attack (Su et al. 2017, arXiv 1710.08864): score-based, by differential evolution.

    A candidate is a set of `pixels` positions and colours. In every generation each candidate a has
    one child b + scale * (c - d), of three others drawn at random, which replaces it if its loss is
    higher. The first positions are uniform, the first colours Gaussian about the middle of the box
    with a standard deviation of half of its side, as in the paper. The attack needs no epsilon,
    since `pixels` bounds it; where one is given (in array entries, as everywhere in L0), no more
    than epsilon / C of the pixels are used. Per restart at most `population * (steps + 1)` forward
    passes, one generation a tick.

    Attributes:
        norm: "l0".
        pixels: Number of pixels that are changed.
        steps: Generations after the first population.
        population: Number of candidates.
        scale: Weight of the difference of two candidates, in (0, 2].
        loss: The loss that is maximised: a name, or a function (goal, logits [K]) -> scalar. The
            log-odds rise as the paper's objective, the label's probability, falls, and do not
            saturate.
        restarts: Independent runs.

    Raises:
        ValueError: If the norm is not "l0", the loss is unknown, pixels, steps or restarts is below
            1, population is below 4, or scale is outside (0, 2].

    >>> import jaxadv as ja
    >>> attack = ja.OnePixel(pixels=3, steps=50)
    """

    norm: str = static(default="l0")
    pixels: int = static(default=1)
    steps: int = static(default=100)
    population: int = static(default=400)
    scale: Number = 0.5
    loss: str | Loss = static(default="log_odds")
    restarts: int = static(default=1)
    pullbacks = 0
    needs_epsilon: ClassVar[bool] = False
    norms: ClassVar[tuple[str, ...]] = ("l0",)

    def __post_init__(self) -> None:
        self.check_norm()
        get_loss(self.loss)
        self.check_least(pixels=1, steps=1, restarts=1, population=4)
        if isinstance(self.scale, np.floating) and not 0 < self.scale <= 2:
            raise ValueError(f"scale={self.scale:g}: pass a number above 0, at most 2")

    @property
    def queries(self) -> int:  # type: ignore[override]
        return self.population

    @property
    def ticks(self) -> int:
        return self.steps + 1

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        return get_loss(self.loss)(goal, logits)

    def init(self, problem: Problem, key: Array) -> OnePixelState:
        places, colours = jax.random.split(key)
        shape = (self.population, self.pixels)
        place = jax.random.uniform(places, (*shape, 2))
        colour = 0.5 + 0.5 * jax.random.normal(colours, (*shape, problem.image.shape[2]))
        first = jnp.clip(jnp.concatenate([place, colour], -1), 0, 1)
        worst = jnp.full(self.population, -jnp.inf)
        return OnePixelState(first, worst, first, key, jnp.int32(0))

    def ask(self, problem: Problem, state: OnePixelState) -> Float[Array, "Q ..."]:
        return jax.vmap(lambda child: self.drawn(problem, child))(state.children)

    def drawn(self, problem: Problem, candidate: Array) -> Float[Array, "H W C"]:
        """The image with a candidate's pixels; of two pixels at one position one is visible."""
        height, width, channels = problem.image.shape
        size = jnp.array([height, width])
        places = jnp.minimum((candidate[:, :2] * size).astype(jnp.int32), size - 1)
        lower, upper = problem.box_at(places[:, 0], places[:, 1])
        colours = lower + candidate[:, 2:] * (upper - lower)
        used = jnp.arange(self.pixels) < jnp.floor(problem.epsilon / channels)
        rows = jnp.where(used, places[:, 0], height)  # outside: not drawn
        colours = jnp.clip(colours, lower, upper)
        return problem.image.at[rows, places[:, 1]].set(colours, mode="drop")

    def tell(self, problem: Problem, state: OnePixelState, answer: Answer) -> OnePixelState:
        values = jax.vmap(lambda z: self.objective(problem.goal, z))(answer.logits)
        better = values > state.values
        parents = jnp.where(better[:, None, None], state.children, state.parents)
        step = state.step + 1
        breed, redraw = jax.random.split(jax.random.fold_in(state.key, step))
        children = evolved(breed, parents, self.scale)
        # Entries outside the box are drawn anew. Clipped, they pile up on its faces: on a toy
        # landscape 9 % of the searches ended in a local maximum, in place of 1 %.
        outside = (children < 0) | (children > 1)
        children = jnp.where(outside, jax.random.uniform(redraw, children.shape), children)
        return OnePixelState(
            parents, jnp.where(better, values, state.values), children, state.key, step
        )

    def done(self, problem: Problem, state: OnePixelState) -> Bool[Array, ""]:
        return state.step > self.steps


def evolved(key: Array, parents: Float[Array, "P ..."], scale: Number) -> Float[Array, "P ..."]:
    """A child for each parent: b + scale * (c - d) of three different other parents."""
    b, c, d = others(key, len(parents))
    return parents[b] + scale * (parents[c] - parents[d])


def others(key: Array, count: int) -> Int[Array, "3 P"]:
    """For each of `count` indices, three others that differ from it and from each other."""
    keys = jax.random.split(key, 3)
    away = [jax.random.randint(k, (count,), 1, count - i) for i, k in enumerate(keys)]
    first, second, third = away
    second += second >= first
    # The third in turn steps over the two that are taken, the lower one first.
    third += third >= jnp.minimum(first, second)
    third += third >= jnp.maximum(first, second)
    return (jnp.arange(count) + jnp.stack([first, second, third])) % count
