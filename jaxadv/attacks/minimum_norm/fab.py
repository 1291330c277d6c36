"""FAB: walks along the decision boundary to its point nearest to the image.

Each step linearises the classifier, projects the iterate and the image onto the hyperplane at which
the class would change, within the box, and goes to a point between the two projections.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.attacks.common.hyperplane import DUAL, hyperplane_step, nearest_hyperplane
from jaxadv.core.attack import Answer, Attack, Needs, Problem, check_targets, runner_up_class
from jaxadv.core.goals import Evading, Goal, Targeted
from jaxadv.core.pytree import pytree, static, where
from jaxadv.core.typing import Number

WITHIN = {"linf": 0.3, "l2": 1.0, "l1": 5.0}  # box sides: epsilon of starts if none is given
BEYOND = 0.01  # fraction of the margin at which the final search aims, short of the boundary


class FABState(NamedTuple):
    """State of one run of `FAB`; the final search looks between the image and `closest`.

    Attributes:
        image: [H, W, C] float32, the next query.
        tick: int32 scalar, queries so far.
        target: int32 scalar, the target class (FAB-T).
        closest: [H, W, C] float32, the nearest adversarial iterate.
        distance: float32 scalar, its distance from the image (infinite: none yet).
        low: float32 scalar, fraction of the way from the image (0) to `closest` (1) that failed.
        high: float32 scalar, fraction of that way that succeeded.
        margin_low: float32 scalar, the margin at `low`.
        margin_high: float32 scalar, the margin at `high`.
    """

    image: Float[Array, "H W C"]
    tick: Int[Array, ""]
    target: Int[Array, ""]
    closest: Float[Array, "H W C"]
    distance: Float[Array, ""]
    low: Float[Array, ""]
    high: Float[Array, ""]
    margin_low: Float[Array, ""]
    margin_high: Float[Array, ""]


@pytree
class FAB(Attack):
    """Fast Adaptive Boundary attack (Croce and Hein 2019, arXiv 1907.02044): least distance.

    As in the paper and its code, a step makes two queries: one for the class of the new iterate,
    and one for the gradients there or, if it is adversarial, at the point stepped back to. Unless
    `bounded`, the nearest adversarial query is returned.

    Untargeted, the attack linearises the difference to every other class and takes the nearest
    hyperplane, with K - 1 gradients a step. With `targets` above 0 (FAB-T) or `ja.Targeted` goals a
    step takes one gradient; for `ja.Targeted` goals it is that of the target minus the largest
    other class. Each restart costs `2 * steps + search` forward and `steps` backward passes
    (untargeted: times K - 1).

    Attributes:
        norm: "linf", "l2" or "l1".
        steps: Linearisations per restart.
        restarts: The first run starts at the image, the others at uniform draws from a ball of half
            of epsilon around it (where epsilon is infinite, of half of 0.3, 1 and 5 sides of the
            box in Linf, L2 and L1).
        targets: 0, or the number of wrong classes to target one after the other, in the order of
            the clean logits; at most K - 1, each with all its restarts before the next. Any wrong
            class is a success.
        search: Queries at the end between the image and the closest adversarial iterate (paper: 3;
            AutoAttack omits the search: 0).
        alpha_max: Largest weight of the image's own projection.
        eta: Length of a step relative to the way to the hyperplane.
        beta: Fraction of an adversarial iterate's distance from the image that remains after the
            step back.
        bounded: Take an epsilon, and end at the first adversarial image within it, as AutoAttack
            does.
        pullbacks: Gradients per step; set by the engine.

    Raises:
        ValueError: If `norm` is unknown, `steps` or `restarts` is below 1, `targets` or `search` is
            below 0, `alpha_max` or `beta` is not in [0, 1], `eta` is below 1, or `targets` is above
            0 and the goal is targeted.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(4)[:, :2])
    >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.7)
    >>> goal = ja.Untargeted(jnp.array([0]))
    >>> ja.run(ja.FAB(), model, images, goal, key=jax.random.key(0)).distance.round(3)
    array([0.1])
    """

    norm: str = static(default="linf")
    steps: int = static(default=100)
    restarts: int = static(default=1)
    targets: int = static(default=0)
    search: int = static(default=3)
    alpha_max: Number = 0.1
    eta: Number = 1.05
    beta: Number = 0.9
    bounded: bool = static(default=False)
    pullbacks: int = static(default=1)
    asks_inside: ClassVar[bool] = False
    norms: ClassVar[tuple[str, ...]] = tuple(DUAL)

    def __post_init__(self) -> None:
        self.check_norm()
        self.check_least(steps=1, restarts=1, targets=0, search=0)
        for field, least, most in (("alpha_max", 0, 1), ("eta", 1, np.inf), ("beta", 0, 1)):
            value = getattr(self, field)
            if isinstance(value, np.floating) and not least <= value <= most:
                raise ValueError(f"{field}={value}: pass a number from {least} to {most}")

    @property
    def needs_epsilon(self) -> bool:  # type: ignore[override]
        return self.bounded

    @property
    def keep(self) -> str:  # type: ignore[override]
        return "first" if self.bounded else "distance"

    @property
    def ticks(self) -> int:
        return 2 * self.steps + self.search

    @property
    def passes(self) -> int:
        return self.entries * (self.ticks + self.steps * self.pullbacks)

    def specialize(self, goal: Goal, classes: int) -> "FAB":
        check_targets(self.targets, goal)
        ways = goal.ways(classes)
        targets = min(self.targets, ways)
        return dataclasses.replace(self, targets=targets, pullbacks=1 if targets else ways)

    def init(self, problem: Problem, key: Array) -> FABState:
        image = problem.image if problem.start is None else problem.start
        if self.restarts > 1:
            lower, upper = problem.lower, problem.upper
            radius = jnp.minimum(problem.epsilon, WITHIN[self.norm] * problem.side) / 2
            drawn = self.geometry.random(key, image, radius, lower, upper)
            again = problem.rank % self.restarts > 0
            image = jnp.where(again, jnp.clip(drawn, lower, upper), image)
        target = jnp.int32(0)
        if self.targets:
            target = runner_up_class(problem, problem.rank // self.restarts, self.targets)
        zero, clean = jnp.float32(0), problem.goal.margin(problem.clean_logits)
        return FABState(
            image=image,
            tick=jnp.int32(0),
            target=target,
            closest=problem.image,
            distance=zero + jnp.inf,
            low=zero,
            high=zero + 1,
            margin_low=clean,
            margin_high=zero,
        )

    def ask(self, problem: Problem, state: FABState) -> Float[Array, "Q ..."]:
        return state.image[None]

    def linearises(self, state: FABState) -> Bool[Array, ""]:
        """Return whether this tick takes gradients: every other one, until the final search."""
        return (state.tick % 2 == 0) & (state.tick < 2 * self.steps)

    def needs(self, problem: Problem, state: FABState) -> Needs:
        return Needs(jnp.ones(1, bool), self.linearises(state)[None])

    def pairs(
        self, problem: Problem, state: FABState, logits: Float[Array, " K"]
    ) -> tuple[Int[Array, " P"], Int[Array, ""]]:
        """Return the target classes and the source class."""
        goal, classes = problem.goal, logits.shape[-1]
        if isinstance(goal, Targeted):
            return goal.targets[None], goal.left(logits)
        if self.targets:
            return state.target[None], goal.left(logits)
        after = 1 + jnp.arange(goal.ways(classes))
        if isinstance(goal, Evading):
            after += after >= (goal.rejected - goal.labels) % classes
        return (goal.labels + after) % classes, goal.left(logits)

    def cotangents(
        self, problem: Problem, state: FABState, logits: Float[Array, "Q K"]
    ) -> Float[Array, "Q P K"]:
        towards, away = self.pairs(problem, state, logits[0])
        unit = jnp.eye(logits.shape[-1])
        return (unit[towards] - unit[away])[None]

    def tell(self, problem: Problem, state: FABState, answer: Answer) -> FABState:
        margin = problem.goal.margin(answer.logits[0])
        linearised, searching = self.linearises(state), state.tick >= 2 * self.steps
        across = (margin < 0) & ~linearised

        # A new iterate: store it, and step back from it if it is adversarial.
        offset = state.image - problem.image
        distance = self.geometry.distance(offset)
        closer = across & ~searching & (distance < state.distance)
        closest = jnp.where(closer, state.image, state.closest)
        iterate = jnp.where(across, problem.image + self.beta * offset, state.image)
        iterate = jnp.where(linearised, self.step(problem, state, answer), iterate)

        # The final search: interpolate the margin linearly between the two ends.
        fraction = self._next_fraction(state)
        low, margin_low = where(
            searching & ~across, (fraction, margin), (state.low, state.margin_low)
        )
        high = jnp.where(searching & across, fraction, state.high)
        margin_high = jnp.where(closer | (searching & across), margin, state.margin_high)
        state = FABState(
            image=iterate,
            tick=state.tick + 1,
            target=state.target,
            closest=closest,
            distance=jnp.where(closer, distance, state.distance),
            low=low,
            high=high,
            margin_low=margin_low,
            margin_high=margin_high,
        )
        between = problem.image + self._next_fraction(state) * (closest - problem.image)
        last = state.tick >= 2 * self.steps
        following = jnp.clip(jnp.where(last, between, iterate), problem.lower, problem.upper)
        return state._replace(image=following)

    def step(self, problem: Problem, state: FABState, answer: Answer) -> Float[Array, "..."]:
        """Return the next iterate [H, W, C], from the gradients [P, H, W, C] at this one."""
        image, original = state.image, problem.image
        box = problem.lower, problem.upper
        gradients, logits = answer.gradients[0], answer.logits[0]
        towards, away = self.pairs(problem, state, logits)
        gaps = logits[away] - logits[towards]
        nearest = nearest_hyperplane(self.norm, gradients, gaps)
        normal, gap = gradients[nearest], gaps[nearest]

        here = hyperplane_step(self.norm, image, normal, gap, *box)
        gap_there = gap + (normal * (image - original)).sum()
        there = hyperplane_step(self.norm, original, normal, gap_there, *box)
        length_here, length_there = self.geometry.distance(here), self.geometry.distance(there)
        alpha = length_here / jnp.maximum(length_here + length_there, 1e-30)
        alpha = jnp.minimum(alpha, self.alpha_max)
        mixed = (1 - alpha) * (image + self.eta * here) + alpha * (original + self.eta * there)
        return jnp.clip(mixed, *box)

    def _next_fraction(self, state: FABState) -> Float[Array, ""]:
        aim = BEYOND * state.margin_high
        fall = jnp.maximum(state.margin_low - state.margin_high, 1e-30)
        part = jnp.clip((state.margin_low - aim) / fall, 0, 1)
        return state.low + part * (state.high - state.low)

    def done(self, problem: Problem, state: FABState) -> Bool[Array, ""]:
        nothing = (state.tick >= 2 * self.steps) & (state.distance == jnp.inf)
        return nothing | (state.tick >= self.ticks)
