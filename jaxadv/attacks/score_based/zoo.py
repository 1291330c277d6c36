"""ZOO: the objective of Carlini and Wagner by coordinate descent, without gradients."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.attacks.common.penalty_rounds import Rounds, RoundsState, Weight
from jaxadv.core.attack import Answer, Needs, Problem
from jaxadv.core.pytree import pytree, static, where
from jaxadv.core.typing import Key, Number

FIRST, SECOND, TINY = 0.9, 0.999, 1e-8  # Adam's


class Adam(NamedTuple):
    """State of Adam with a step counter for each entry (optax has one counter for all).

    Attributes:
        mean: [H, W, C], running mean of the gradient.
        square: [H, W, C], running mean of its square.
        count: [H, W, C], steps so far of each entry.
    """

    mean: Float[Array, "H W C"]
    square: Float[Array, "H W C"]
    count: Float[Array, "H W C"]

    @classmethod
    def begin(cls, image: Float[Array, "..."]) -> "Adam":
        """The state before the first step."""
        return cls(jnp.zeros_like(image), jnp.zeros_like(image), jnp.zeros_like(image))

    def step(
        self, gradient: Float[Array, "..."], chosen: Bool[Array, "..."]
    ) -> tuple["Adam", Float[Array, "..."]]:
        """The state after a gradient known where `chosen`, and the direction to subtract."""
        mean = FIRST * self.mean + (1 - FIRST) * gradient
        square = SECOND * self.square + (1 - SECOND) * gradient**2
        new = where(chosen, Adam(mean, square, self.count + 1), self)
        count = jnp.maximum(new.count, 1)
        mean, square = new.mean / (1 - FIRST**count), new.square / (1 - SECOND**count)
        return new, jnp.where(chosen, mean / (jnp.sqrt(square) + TINY), 0)


class ZOOState(NamedTuple):
    """State of ZOO.

    Attributes:
        image: [H, W, C], the iterate.
        adam: State of the optimiser.
        weight: The search for c.
        progress: Steps and rounds so far, and the best success.
        key: The random key of this run.
        tick: Integer scalar, ticks so far.
    """

    image: Float[Array, "H W C"]
    adam: Adam
    weight: Weight
    progress: RoundsState
    key: Key
    tick: Int[Array, ""]


@pytree
class ZOO(Rounds):
    """Zeroth order optimisation (ZOO; Chen et al. 2017, arXiv 1708.03999): score-based, in L2.

    Minimises the L2 distance by coordinate descent with Adam on |delta|^2 + c * max(margin +
    confidence, 0). Every step draws `batch` entries of the image and estimates their slopes by the
    symmetric difference quotient between x - width and x + width. Each round of `steps` steps
    begins at the image and has another c: `initial_c`, multiplied by ten until a round succeeds,
    then bisection. The difference of the paper's log-probabilities is the margin of the logits.

    Iterates are clipped to the box, as the paper does on ImageNet (elsewhere it uses tanh space);
    at a face the quotient is one-sided. The paper's importance sampling and coarse-to-fine search
    are not implemented. At most `rounds * steps * (2 * batch + 1) + 1` forward passes, fewer on
    images of less than `batch` entries; no backward pass.

    Attributes:
        steps: Steps per round.
        rounds: Rounds, each with another c.
        learning_rate: Adam's, in sides of the box.
        initial_c: The c of the first round.
        confidence: Margin by which an image must be misclassified to count as a success.
        abort_early: Whether a round ends when its loss has stopped falling and nothing nearer is
            found.
        norm: "l2", in sides of the box.
        batch: Entries of the image per step.
        width: Half of the difference that the quotient is taken over, in sides of the box.

    Raises:
        ValueError: If the norm is not "l2", steps, rounds or batch is below 1, learning_rate,
            initial_c or width is not positive, or confidence is negative.

    >>> import jaxadv as ja
    >>> attack = ja.ZOO(steps=300, rounds=3)
    """

    norm: str = static(default="l2")
    initial_c: Number = 0.01
    batch: int = static(default=128)
    width: Number = 1e-4
    pullbacks = 0
    norms: ClassVar[tuple[str, ...]] = ("l2",)

    def __post_init__(self) -> None:
        self.check_norm()
        super().__post_init__()
        self.check_least(batch=1)
        if isinstance(self.width, np.floating) and not 0 < self.width < np.inf:
            raise ValueError(f"width={self.width:g}: pass a number above 0")

    @property
    def queries(self) -> int:  # type: ignore[override]
        return 1 + 2 * self.batch

    def init(self, problem: Problem, key: Array) -> ZOOState:
        image = problem.image if problem.start is None else problem.start
        return ZOOState(
            image,
            Adam.begin(image),
            Weight.begin(self.initial_c),
            RoundsState.begin(problem.image),
            key,
            jnp.int32(0),
        )

    def entries_of(self, problem: Problem, state: ZOOState) -> Int[Array, " B"]:
        """Indices of this step's distinct entries, padded with the image's size (no entry)."""
        size = problem.image.size
        drawn = jax.random.permutation(jax.random.fold_in(state.key, state.tick), size)
        return jnp.pad(drawn[: self.batch], (0, max(self.batch - size, 0)), constant_values=size)

    def pairs(
        self, problem: Problem, state: ZOOState
    ) -> tuple[Float[Array, "2 B ..."], Float[Array, " B"]]:
        """The images [2, batch, H, W, C] below and above, and their differences [batch]."""
        flat, size = state.image.ravel(), problem.image.size
        entry = self.entries_of(problem, state)
        lower, upper, width = problem.lower, problem.upper, self.width * problem.sides
        own = flat.at[entry].get(mode="fill", fill_value=0.0)
        if lower.ndim:
            lower, upper, width = (
                jnp.asarray(each).ravel().at[entry].get(mode="fill", fill_value=1.0)
                for each in (lower, upper, width)
            )
            values = jnp.clip(own + jnp.stack([-width, width]), lower, upper)
        else:
            values = jnp.clip(own + jnp.stack([-width, width])[:, None], lower, upper)

        def changed(entry: Array, value: Array) -> Array:
            return flat.at[entry].set(value, mode="drop").reshape(problem.image.shape)

        images = jax.vmap(jax.vmap(changed), (None, 0))(entry, values)
        apart = values[1] - values[0]
        moves = (entry < size) & (apart > 0) if problem.lower.ndim else entry < size
        return images, jnp.where(moves, apart, jnp.inf)

    def ask(self, problem: Problem, state: ZOOState) -> Float[Array, "Q ..."]:
        image = jnp.where(state.progress.last, state.progress.best, state.image)
        pairs, _ = self.pairs(problem, state)
        return jnp.concatenate([image[None], pairs.reshape(-1, *image.shape)])

    def needs(self, problem: Problem, state: ZOOState) -> Needs:
        drawn = jnp.tile(jnp.arange(self.batch) < problem.image.size, 2) & ~state.progress.last
        read = jnp.concatenate([jnp.ones(1, bool), drawn])
        return Needs(read, jnp.zeros_like(read))

    def tell(self, problem: Problem, state: ZOOState, answer: Answer) -> ZOOState:
        side = problem.side
        delta = (state.image - problem.image) / side
        lacking, success = jax.vmap(lambda z: self.shortfall(problem.goal, z))(answer.logits)
        progress = self.seen(state.progress, success[0], state.image, self.geometry.distance(delta))
        loss = jnp.square(delta).sum() + state.weight.c * lacking[0]
        progress, over = self.stepped(progress, loss)

        below, above = jnp.split(lacking[1:], 2)
        _, apart = self.pairs(problem, state)
        entry = self.entries_of(problem, state)
        slope = jnp.zeros(delta.size).at[entry].set((above - below) / apart * side, mode="drop")
        chosen = jnp.zeros(delta.size, bool).at[entry].set(True, mode="drop")
        gradient = 2 * delta + state.weight.c * slope.reshape(delta.shape)
        if problem.lower.ndim:  # the variables are the entries in sides of their own
            gradient = gradient * problem.sides / side
        adam, direction = state.adam.step(gradient, chosen.reshape(delta.shape))
        if problem.lower.ndim:
            direction = direction * problem.sides / side
        image = state.image - self.learning_rate * side * direction
        image = jnp.clip(image, problem.lower, problem.upper)

        weight = where(over, state.weight.after(progress.reached), state.weight)
        start = problem.image if problem.start is None else problem.start
        image, adam = where(over, (start, Adam.begin(start)), (image, adam))
        progress = progress._replace(reached=progress.reached & ~over)
        return ZOOState(image, adam, weight, progress, state.key, state.tick + 1)
