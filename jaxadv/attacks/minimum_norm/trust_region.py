"""Trust region attack: short steps towards one class as long as its linear model holds."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.attacks.common.boundary_walk import Crossing, Line
from jaxadv.attacks.common.hyperplane import free_step, nearest_hyperplane
from jaxadv.core.attack import CLEAR, Answer, Problem, runner_up_class
from jaxadv.core.goals import Goal, Targeted
from jaxadv.core.pytree import pytree, static, where
from jaxadv.core.typing import Number

BOUNDS = {"l2": (5e-4, 0.05), "linf": (1e-4, 0.01)}  # of the radius, in box sides


class TrustRegionState(NamedTuple):
    """State of one run of `TrustRegion`.

    Attributes:
        image: [H, W, C] float32, the iterate.
        target: int32 scalar, the target class.
        target_gap: float32 scalar, the gap of the target at the first point.
        normal: [H, W, C] float32, the gradient of that gap at the first point.
        radius: float32 scalar, the trust radius in the scale of the image.
        gap: float32 scalar, the gap before the last step.
        expected: float32 scalar, the decrease of the gap by that step in the linear model.
        step: int32 scalar, ticks so far.
        line: State of the line search at the end.
    """

    image: Float[Array, "H W C"]
    target: Int[Array, ""]
    target_gap: Float[Array, ""]
    normal: Float[Array, "H W C"]
    radius: Float[Array, ""]
    gap: Float[Array, ""]
    expected: Float[Array, ""]
    step: Int[Array, ""]
    line: Line


@pytree
class TrustRegion(Crossing):
    """Trust region attack (Yao, Gholami, Xu, Keutzer and Mahoney 2018, arXiv 1812.06371).

    First the class with the nearest linearised boundary is chosen, once, among the most likely
    classes under the clean logits. Each step goes towards it by min(gap / |w|_q, radius). The
    radius is multiplied by `rate` where the gap fell by more than 0.9 of the linear model's
    decrease, and divided by it below 0.5. The walk ends at the first adversarial iterate, of any
    class. The attack is deterministic.

    The authors' code compares the decrease of the label's logit with the radius itself, so that the
    scale of a model matters; here the decrease of the gap is compared with that of the linear model
    in the box. Where they add 1e-4 to each step, the gap is enlarged by 1e-5 of the largest logit.
    Entries at the edge of the box are excluded from a step. A run costs at most `steps + classes -
    2` backward and `steps + classes - 1 + search` forward passes.

    Attributes:
        norm: "l2" or "linf".
        steps: Gradients of the walk (paper: 100).
        search: Halvings of the line to the image at the end (paper: none).
        classes: Number of classes compared at first, the label included; each other class costs one
            tick and one gradient. With `ja.Targeted` goals nothing is chosen, and the gap is the
            difference between the target's and the largest other logit.
        radius: First trust radius in sides of the box.
        smallest: Lower bound of the radius in sides of the box (None: 5e-4 in L2, 1e-4 in Linf).
        largest: Upper bound of the radius in sides of the box (None: 0.05 in L2, 0.01 in Linf). The
            defaults fit distances of 1 on small photographs; for robust images, steps times
            `largest` must reach the boundary.
        rate: Factor of the radius; 1 keeps it constant.
        overshoot: As in `DeepFool`.

    Raises:
        ValueError: If `norm` is neither "l2" nor "linf", `steps` is below 1, `search`, `radius`,
            `smallest`, `largest` or `overshoot` is below 0, `classes` is below 2, or `rate` is
            below 1.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(4)[:, :2])
    >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.7)
    >>> goal = ja.Untargeted(jnp.array([0]))
    >>> ja.run(ja.TrustRegion(), model, images, goal, key=jax.random.key(0)).distance.round(2)
    array([0.14])
    """

    norm: str = static(default="l2")
    steps: int = static(default=100)
    classes: int = static(default=10)
    radius: Number = 0.001
    smallest: Number | None = None
    largest: Number | None = None
    rate: Number = 1.2
    overshoot: Number = 0.02
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    needs_box: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes < 2:
            raise ValueError(f"classes={self.classes}: pass 2 (the label and another) or more")
        bounds = {"radius": 0, "smallest": 0, "largest": 0, "rate": 1, "overshoot": 0}
        for field, least in bounds.items():
            value = getattr(self, field)
            if isinstance(value, np.floating) and not least <= value < np.inf:
                raise ValueError(f"{field}={value}: pass a number from {least} on")

    @property
    def gradients(self) -> int:
        return self.steps + self.classes - 2

    def specialize(self, goal: Goal, classes: int) -> "TrustRegion":
        return dataclasses.replace(self, classes=min(self.classes, 1 + goal.ways(classes)))

    def init(self, problem: Problem, key: Array) -> TrustRegionState:
        zero, start = jnp.float32(0), self.begin(problem)
        goal = problem.goal
        target = goal.targets if isinstance(goal, Targeted) else goal.labels
        return TrustRegionState(
            start,
            jnp.int32(target),
            zero + jnp.inf,
            jnp.zeros_like(start),
            zero + self.radius * problem.side,
            zero,
            zero,
            jnp.int32(0),
            Line.begin(problem),
        )

    def choosing(self, state: TrustRegionState) -> Bool[Array, ""]:
        """Return whether this tick compares a class, the one at place `step`."""
        return state.step < self.classes - 1

    def pair(
        self, problem: Problem, state: TrustRegionState, logits: Float[Array, " K"]
    ) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """Return the target class of this tick and the source class."""
        goal = problem.goal
        if isinstance(goal, Targeted):
            return state.target, goal.left(logits)
        place = jnp.minimum(state.step, self.classes - 2)
        ranked = runner_up_class(problem, place, self.classes - 1)
        return jnp.where(self.choosing(state), ranked, state.target), goal.left(logits)

    def cotangents(
        self, problem: Problem, state: TrustRegionState, logits: Float[Array, "Q K"]
    ) -> Float[Array, "Q P K"]:
        towards, away = self.pair(problem, state, logits[0])
        unit = jnp.eye(logits.shape[-1])
        return (unit[towards] - unit[away])[None, None]

    def walk(
        self, problem: Problem, state: TrustRegionState, answer: Answer, across: Array
    ) -> TrustRegionState:
        logits, normal = answer.logits[0], answer.gradients[0, 0]
        towards, away = self.pair(problem, state, logits)
        gap = logits[away] - logits[towards]

        # Choose the class; the image does not move until all classes are compared in turn.
        pairs = jnp.stack([state.normal, normal]), jnp.stack([state.target_gap, gap])
        nearer = self.choosing(state) & (nearest_hyperplane(self.norm, *pairs) == 1)
        nearer |= state.step == 0
        target, target_gap, best = where(
            nearer, (towards, gap, normal), (state.target, state.target_gap, state.normal)
        )
        walking = state.step >= self.classes - 1
        gap, normal = where(walking, (gap, normal), (target_gap, best))

        # Update the radius by the actual and the expected decrease of the last step.
        fell = state.gap - gap
        grown = jnp.where(fell > 0.9 * state.expected, self.rate, 1.0)
        factor = jnp.where(fell < 0.5 * state.expected, 1 / self.rate, grown)
        side = problem.side
        smallest, largest = BOUNDS[self.norm]
        smallest = side * (smallest if self.smallest is None else self.smallest)
        largest = side * (largest if self.largest is None else self.largest)
        radius = jnp.clip(state.radius * factor, smallest, largest)
        radius = jnp.where(state.expected > 0, radius, state.radius)

        # Step to the hyperplane, or as far as the radius allows.
        free = jnp.where(normal > 0, state.image < problem.upper, state.image > problem.lower)
        wanted = (1 + self.overshoot) * jnp.abs(gap) + 10 * CLEAR * jnp.abs(logits).max()
        full = free_step(self.norm, jnp.where(free, normal, 0), wanted)
        longest = (1 + self.overshoot) * radius
        length = self.geometry.distance(full)
        moved = state.image + full * jnp.minimum(longest / jnp.maximum(length, 1e-30), 1)
        moved = jnp.clip(moved, problem.lower, problem.upper)
        goes = state.step >= self.classes - 2
        return state._replace(
            image=jnp.where(goes, moved, state.image),
            target=target,
            target_gap=target_gap,
            normal=best,
            radius=radius,
            gap=gap,
            expected=jnp.where(goes, (normal * (moved - state.image)).sum(), 0),
        )
