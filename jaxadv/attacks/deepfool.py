"""DeepFool: goes to where the linearised classifier changes its answer, until it has changed it."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.attacks.crossing import Crossing, Line
from jaxadv.attacks.hyperplane import free_step, hyperplane_step, nearest_hyperplane
from jaxadv.core.attack import CLEAR, Answer, Problem, across, likeliest_wrong
from jaxadv.core.goals import Goal, Targeted
from jaxadv.core.pytree import pytree, static


class DeepFoolState(NamedTuple):
    """image: the iterate [H, W, C]; step: ticks so far; line: of the search at the end."""

    image: Any
    step: Any
    line: Line


@pytree
class DeepFool(Crossing):
    """DeepFool (Moosavi-Dezfooli, Fawzi and Frossard 2015, arXiv 1511.04599): least distance.

    Each step linearises the differences between the label's logit and those of the other classes,
    takes the hyperplane that is nearest (|f_k| / |w_k|_q), and goes 1 + overshoot times the way to
    it. The walk ends at the first adversarial iterate.

    norm: "l2", "linf" or "l1" (where the paper's formula leaves one entry a step, that of largest
    weight: mind `steps`); classes: how many of the classes that the clean answer ranks first are
    looked at, the label included (K at most): classes - 1 gradients a step. With `ja.Targeted`
    goals one gradient: of the target less the largest other class. search: halvings of the line to
    the image at the end (paper: none).

    The paper knows no box; its step is clipped here, as the peers do. Where the box takes more than
    half of what a step is to gain, the walk all but stands still: then entries at the edge of the
    box are left out of it. boxed: step to the hyperplane's nearest point in the box instead,
    which is exact for linear models, and too far where a model is not nearly linear.

    Where implementations add 1e-4 to each step's length so that it gets across, here the gap is
    enlarged by 1e-5 of the largest logit: no answer near a tie, and no distance that depends on the
    scale of the images. Deterministic. At most `steps` * (classes - 1) backward and `steps + 1 +
    search` forward passes. Raises ValueError for settings not listed here.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(4)[:, :2])
    >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.7)
    >>> goal = ja.Untargeted(jnp.array([0]))
    >>> ja.run(ja.DeepFool(), model, images, goal, key=jax.random.key(0)).distance.round(3)
    array([0.144])
    """

    norm: str = static(default="l2")
    steps: int = static(default=50)
    classes: int = static(default=10)
    overshoot: Any = 0.02
    boxed: bool = static(default=False)
    pullbacks: int = static(default=1)
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes < 2:
            raise ValueError(f"classes={self.classes}: pass 2 (the label and another) or more")
        if isinstance(self.overshoot, np.floating) and not 0 <= self.overshoot < np.inf:
            raise ValueError(f"overshoot={self.overshoot}: pass a number from 0 on")

    def prepared(self, goal: Goal, classes: int) -> "DeepFool":
        return dataclasses.replace(self, pullbacks=min(self.classes - 1, goal.ways(classes)))

    def init(self, problem: Problem, key: Array) -> Any:
        return DeepFoolState(self.begin(problem), jnp.int32(0), Line.begin(problem))

    def pairs(
        self, problem: Problem, logits: Float[Array, " K"]
    ) -> tuple[Int[Array, " P"], Int[Array, ""]]:
        """The classes aimed at, and the one to be left. Across the boundary the first is the class
        reached: the others do not matter there."""
        goal = problem.goal
        if isinstance(goal, Targeted):
            return goal.targets[None], goal.left(logits)
        places = jnp.arange(self.pullbacks)
        towards = jax.vmap(lambda k: likeliest_wrong(problem, k, self.pullbacks))(places)
        reached = jnp.where(across(problem.goal, logits), logits.argmax(), towards[0])
        return towards.at[0].set(reached), goal.left(logits)

    def cotangents(
        self, problem: Problem, state: Any, logits: Float[Array, "Q K"]
    ) -> Float[Array, "Q P K"]:
        towards, away = self.pairs(problem, logits[0])
        unit = jnp.eye(logits.shape[-1])
        return (unit[towards] - unit[away])[None]

    def walk(self, problem: Problem, state: Any, answer: Answer, across: Bool[Array, ""]) -> Any:
        return state._replace(image=state.image + self.step(self.norm, problem, state, answer))

    def step(self, norm: str, problem: Problem, state: Any, answer: Answer) -> Float[Array, "..."]:
        """From the iterate across the nearest hyperplane, by the gradients [P, H, W, C] there."""
        gradients, logits = answer.gradients[0], answer.logits[0]
        towards, away = self.pairs(problem, logits)
        gaps = jnp.abs(logits[towards] - logits[away])
        nearest = nearest_hyperplane(norm, gradients, gaps)
        gap = (1 + self.overshoot) * gaps[nearest] + 10 * CLEAR * jnp.abs(logits).max()
        normal, box = gradients[nearest], (problem.lower, problem.upper)
        if self.boxed:
            return hyperplane_step(norm, state.image, normal, gap, *box)
        step = free_step(norm, normal, gap)
        kept = (normal * (jnp.clip(state.image + step, *box) - state.image)).sum()
        free = jnp.where(normal > 0, state.image < box[1], state.image > box[0])
        freed = free_step(norm, jnp.where(free, normal, 0), gap)
        return jnp.where(kept < gap / 2, freed, step)
