"""DeepFool: steps to the boundary of the linearised classifier until the class has changed."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.attacks.common.boundary_walk import Crossing, Line
from jaxadv.attacks.common.hyperplane import free_step, hyperplane_step, nearest_hyperplane
from jaxadv.core.attack import CLEAR, Answer, Problem, State, across, runner_up_class
from jaxadv.core.goals import Goal, Targeted
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Number


class DeepFoolState(NamedTuple):
    """State of one run of `DeepFool`.

    Attributes:
        image: [H, W, C] float32, the iterate.
        step: int32 scalar, ticks so far.
        line: State of the line search at the end.
    """

    image: Float[Array, "H W C"]
    step: Int[Array, ""]
    line: Line


@pytree
class DeepFool(Crossing):
    """DeepFool (Moosavi-Dezfooli, Fawzi and Frossard 2015, arXiv 1511.04599): least distance.

    Each step linearises the differences between the label's logit and those of the other classes,
    takes the nearest hyperplane (|f_k| / |w_k|_q), and goes 1 + overshoot times the way to it. The
    walk ends at the first adversarial iterate. The attack is deterministic.

    The paper has no box; here steps are clipped to it, as in other implementations. Where the box
    takes more than half of the intended gain of a step, the walk would barely advance; then entries
    at the edge of the box are excluded from the step. Where implementations add 1e-4 to the length
    of each step so that it crosses the boundary, here the gap is enlarged by 1e-5 of the largest
    logit: outputs are not near a tie, and the distance does not depend on the scale of the images.

    A run costs at most `steps * (classes - 1)` backward and `steps + 1 + search` forward passes.

    Attributes:
        norm: "l2", "linf" or "l1". In L1 the paper's formula moves one entry a step, that of
            largest weight, so choose `steps` accordingly.
        steps: Largest number of steps.
        search: Halvings of the line to the image at the end (paper: none).
        classes: Number of classes considered, the label included (at most K): the most likely ones
            under the clean logits. A step takes `classes - 1` gradients. With `ja.Targeted` goals
            it takes one: of the target minus the largest other class.
        overshoot: Fraction by which a step exceeds the way to the hyperplane.
        boxed: Step to the nearest point of the hyperplane inside the box instead, which is exact
            for linear models and too far where a model is not nearly linear.
        pullbacks: Gradients per step; set by the engine.

    Raises:
        ValueError: If `norm` is unknown, `steps` is below 1, `search` or `overshoot` is below 0, or
            `classes` is below 2.

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
    overshoot: Number = 0.02
    boxed: bool = static(default=False)
    pullbacks: int = static(default=1)
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes < 2:
            raise ValueError(f"classes={self.classes}: pass 2 (the label and another) or more")
        if isinstance(self.overshoot, np.floating) and not 0 <= self.overshoot < np.inf:
            raise ValueError(f"overshoot={self.overshoot}: pass a number from 0 on")

    def specialize(self, goal: Goal, classes: int) -> "DeepFool":
        return dataclasses.replace(self, pullbacks=min(self.classes - 1, goal.ways(classes)))

    def init(self, problem: Problem, key: Array) -> State:
        return DeepFoolState(self.begin(problem), jnp.int32(0), Line.begin(problem))

    def pairs(
        self, problem: Problem, logits: Float[Array, " K"]
    ) -> tuple[Int[Array, " P"], Int[Array, ""]]:
        """Return the target classes and the source class.

        Across the boundary the first target is the class reached; the others do not matter there.
        """
        goal = problem.goal
        if isinstance(goal, Targeted):
            return goal.targets[None], goal.left(logits)
        places = jnp.arange(self.pullbacks)
        towards = jax.vmap(lambda k: runner_up_class(problem, k, self.pullbacks))(places)
        reached = jnp.where(across(problem.goal, logits), logits.argmax(), towards[0])
        return towards.at[0].set(reached), goal.left(logits)

    def cotangents(
        self, problem: Problem, state: State, logits: Float[Array, "Q K"]
    ) -> Float[Array, "Q P K"]:
        towards, away = self.pairs(problem, logits[0])
        unit = jnp.eye(logits.shape[-1])
        return (unit[towards] - unit[away])[None]

    def walk(
        self, problem: Problem, state: State, answer: Answer, across: Bool[Array, ""]
    ) -> State:
        return state._replace(image=state.image + self.step(self.norm, problem, state, answer))

    def step(
        self, norm: str, problem: Problem, state: State, answer: Answer
    ) -> Float[Array, "..."]:
        """Return the step from the iterate across the nearest hyperplane.

        Args:
            norm: Norm in which the nearest hyperplane and the step are measured.
            problem: The problem of this image.
            state: The state at the iterate.
            answer: Logits and gradients [P, H, W, C] at the iterate.

        Returns:
            [H, W, C] float32, the step; not yet clipped to the box.
        """
        gradients, logits = answer.gradients[0], answer.logits[0]
        towards, away = self.pairs(problem, logits)
        gaps = jnp.abs(logits[towards] - logits[away])
        nearest = nearest_hyperplane(norm, gradients, gaps)
        gap = (1 + self.overshoot) * gaps[nearest] + 10 * CLEAR * jnp.abs(logits).max()
        normal, box = gradients[nearest], (problem.lower, problem.upper)
        if self.boxed:
            return hyperplane_step(norm, state.image, normal, gap, *box)
        step = free_step(norm, normal, gap)
        clipped_gap = (normal * (jnp.clip(state.image + step, *box) - state.image)).sum()
        free = jnp.where(normal > 0, state.image < box[1], state.image > box[0])
        freed = free_step(norm, jnp.where(free, normal, 0), gap)
        return jnp.where(clipped_gap < gap / 2, freed, step)
