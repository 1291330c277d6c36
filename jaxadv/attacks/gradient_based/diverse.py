"""Margin descent from diverse starts: many short runs that begin far from each other."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxadv.attacks.common.gradient_iteration import Iterate
from jaxadv.core.attack import Answer, Problem
from jaxadv.core.goals import Goal
from jaxadv.core.losses import Loss, get_loss
from jaxadv.core.pytree import pytree, static
from jaxadv.core.random import draw
from jaxadv.core.typing import Number

STARTS = ("stripes", "corner", "ball")


class DiverseState(NamedTuple):
    """State of one run of `Diverse`.

    Attributes:
        image: [H, W, C] float32, the iterate.
        direction: [K] float32, the direction of the logits that the first steps ascend.
        step: int32 scalar, gradients taken so far.
    """

    image: Float[Array, "H W C"]
    direction: Float[Array, " K"]
    step: Int[Array, ""]


@pytree
class Diverse(Iterate):
    """Short runs of PGD on the margin, from starts that differ in the logits and in the image.

    The first `spread` steps ascend a random direction of the logits (output diversified
    initialisation: Tashiro, Song and Ermon 2020, arXiv 2003.07878). The other steps ascend the
    loss, with a step size that decays along a cosine from `first` to `final` epsilons (after Liu et
    al. 2022, arXiv 2203.05154). The first run of an image begins at the image itself, without a
    random direction, and succeeds on the easy images.

    Each restart costs at most `steps` backward and `steps + 1` forward passes.

    Attributes:
        norm: "linf", "l2", "l1" or "l0".
        steps: Gradients per restart.
        restarts: Runs per image.
        spread: Number of steps along the random direction of the logits.
        begin: Start of all runs but the first: "stripes" (columns of random sign, the start of the
            Square attack), "corner" (entries of random sign) or "ball" (uniform in the ball). In L2
            and L1 stripes and corners are scaled to the sphere.
        loss: Loss of the other steps, as in `PGD`.
        first: First step size, in epsilons.
        final: Last step size, in epsilons.
        sparsity: Fraction of the entries that a step in L1 or L0 moves.

    Raises:
        ValueError: If `norm`, `loss` or `begin` is unknown, `steps` or `restarts` is below 1, or
            `spread` is below 0.

    >>> import jaxadv as ja
    >>> attack = ja.Diverse(steps=40, restarts=10)
    """

    restarts: int = static(default=10)
    spread: int = static(default=5)
    begin: str = static(default="stripes")
    loss: str | Loss = static(default="margin")
    first: Number = 1.0
    final: Number = 0.1
    sparsity: Number = 0.01
    simple_norms: ClassVar[tuple[str, ...]] = ("linf", "l2")

    def __post_init__(self) -> None:
        super().__post_init__()
        get_loss(self.loss)
        if self.begin not in STARTS:
            raise ValueError(f"begin={self.begin!r}: pass one of {STARTS}")
        self.check_least(spread=0)

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        return get_loss(self.loss)(goal, logits)

    def init(self, problem: Problem, key: Array) -> DiverseState:
        image = problem.image if problem.start is None else problem.start
        place, logits = jax.random.split(key)
        direction = jax.random.uniform(logits, problem.clean_logits.shape, minval=-1.0)
        again = problem.rank > 0
        box = problem.lower, problem.upper
        if self.begin == "ball":
            away = self.geometry.random(place, image, problem.epsilon, *box)
        else:
            shape = (1, *image.shape[1:]) if self.begin == "stripes" else image.shape
            sign = draw(jax.random.rademacher, place, shape, dtype=image.dtype)
            sign = jnp.broadcast_to(sign, image.shape)
            away = image + problem.epsilon * sign / self.geometry.distance(sign)
        image = self.project(problem, jnp.where(again, away, image))
        return DiverseState(image, jnp.where(again, direction, 0.0), jnp.int32(0))

    def cotangents(
        self, problem: Problem, state: DiverseState, logits: Float[Array, "Q K"]
    ) -> Float[Array, "Q P K"]:
        slope = jax.grad(lambda z: self.objective(problem.goal, z))(logits[0])
        spreading = (state.step < self.spread) & (problem.rank > 0)
        return jnp.where(spreading, state.direction, slope)[None, None]

    def tell(self, problem: Problem, state: DiverseState, answer: Answer) -> DiverseState:
        gone = (state.step - self.spread) / max(self.steps - self.spread, 1)
        wave = (1 + jnp.cos(jnp.pi * jnp.clip(gone, 0, 1))) / 2
        length = self.final + (self.first - self.final) * wave
        direction = self.geometry.steepest(
            answer.gradients[0, 0], state.image, problem.lower, problem.upper, self.sparsity
        )
        moved = state.image + length * problem.epsilon * direction
        return state._replace(image=self.project(problem, moved), step=state.step + 1)
