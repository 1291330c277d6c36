"""Auto-PGD: gradient ascent that halves its step size and restarts from the best point.

The queries, the radius and the checkpoints of every tick are known beforehand: they form one table
(`plan`), and a run of APGD reads its rows one after the other.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.core.attack import Answer, Attack, Needs, Problem, check_targets, runner_up_class
from jaxadv.core.goals import Goal
from jaxadv.core.losses import Loss, get_loss
from jaxadv.core.norms import L0
from jaxadv.core.pytree import pytree, static, where
from jaxadv.core.random import draw, normal_like
from jaxadv.core.typing import ArrayLike

IMPROVING = 0.75  # fraction of steps that must raise the loss for a step size to be kept
MOMENTUM = 0.75  # weight of the new step; the rest is the last movement
SPARSER = 0.95  # L1: the support still shrinks below this fraction of the last one
FIRST_SPARSITY = 0.2  # L1: fraction of the entries that the first steps move
WIDE = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # L1: (radius in epsilons, fraction of steps)


class Row(NamedTuple):
    """One row of a `Plan`, its fields as scalars."""

    radius: Float[Array, ""]
    ahead: Float[Array, ""]
    begins: Bool[Array, ""]
    ends: Bool[Array, ""]
    window: Int[Array, ""]


class Plan(NamedTuple):
    """Schedule of a run of `APGD`, one row a tick; every field has the shape [ticks].

    Attributes:
        radius: float32, the radius in epsilons.
        ahead: float32, the radius of the next tick in epsilons.
        begins: bool, whether a stage begins with the image of this tick.
        ends: bool, whether a stage ends with the image of this tick.
        window: int, number of steps that a checkpoint at this tick looks back on (0: no
            checkpoint).
    """

    radius: Float[ArrayLike, " ticks"]
    ahead: Float[ArrayLike, " ticks"]
    begins: Bool[ArrayLike, " ticks"]
    ends: Bool[ArrayLike, " ticks"]
    window: Int[ArrayLike, " ticks"]

    def at(self, step: Int[Array, ""]) -> Row:
        """Return the row of a tick; all columns are read at once, which compiles faster."""
        columns = np.stack([np.asarray(column, np.float32) for column in self], 1)
        radius, ahead, begins, ends, window = jnp.asarray(columns)[step]
        return Row(radius, ahead, begins > 0, ends > 0, window.astype(jnp.int32))


def checkpoints(steps: int, norm: str) -> np.ndarray:
    """Return the number of steps on which each of the iterates 0 to `steps` looks back.

    In L1 there is a checkpoint every 4 % of the steps. In the other norms the first one comes after
    22 % of the steps, and each interval is 3 percentage points shorter than the one before, down to
    6 %.

    Args:
        steps: Number of steps of the stage.
        norm: "linf", "l2" or "l1".

    Returns:
        [steps + 1] integers, 0 where there is no checkpoint.
    """
    window = np.zeros(steps + 1, int)
    length = max(int((0.04 if norm == "l1" else 0.22) * steps), 1)
    at = length
    while at <= steps:
        window[at] = length
        if norm != "l1":
            length = max(length - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
        at += length
    return window


class APGDState(NamedTuple):
    """State of one run of `APGD`.

    Attributes:
        image: [H, W, C] float32, the iterate.
        previous: [H, W, C] float32, the iterate before.
        loss: float32 scalar, the loss of the iterate before.
        best: [H, W, C] float32, the point of highest loss in this stage.
        best_loss: float32 scalar, the loss at `best`.
        gradient: [H, W, C] float32, the gradient at `best`.
        length: float32 scalar, the step size in epsilons.
        improved: int32 scalar, how many of the steps since the last checkpoint raised the loss.
        reduced: bool scalar, whether the last checkpoint halved the step size.
        seen: float32 scalar, the best loss at the last checkpoint.
        support: float32 scalar, entries of `best` that differed from the image at the last
            checkpoint.
        fraction: float32 scalar, the fraction of the entries that a step in L1 moves.
        target: int32 scalar, the target class of this run.
        step: int32 scalar, ticks so far.
    """

    image: Float[Array, "H W C"]
    previous: Float[Array, "H W C"]
    loss: Float[Array, ""]
    best: Float[Array, "H W C"]
    best_loss: Float[Array, ""]
    gradient: Float[Array, "H W C"]
    length: Float[Array, ""]
    improved: Int[Array, ""]
    reduced: Bool[Array, ""]
    seen: Float[Array, ""]
    support: Float[Array, ""]
    fraction: Float[Array, ""]
    target: Int[Array, ""]
    step: Int[Array, ""]


@pytree
class APGD(Attack):
    """Auto-PGD (Croce and Hein 2020, arXiv 2003.01690; in L1 2021, arXiv 2103.01208).

    Step sizes, momentum and checkpoints are those of the papers. Where the reference code departs
    from the paper, the paper is followed. The first checkpoint compares the first step with the
    start (in the reference code: with 0). In L2 the projection is the exact one onto ball and box
    (there: scaled, then clipped). In L1 a step moves only entries that the box allows to move. As
    in the reference code, after a return to the best point the momentum is measured from the
    iterate that was given up.

    A run ends at its first success. Each restart costs at most `steps` backward and `steps + 1`
    forward passes (L1 with `wide`: `steps + 3` forward).

    Attributes:
        norm: "linf", "l2" or "l1".
        steps: Gradients per restart.
        loss: "cross_entropy", "dlr", "margin" or a function (goal, logits [K]) -> scalar.
        restarts: Independent random starts.
        targets: 0, or the number of wrong classes to target one after the other, in the order of
            the clean logits; at most K - 1, each with all its restarts before the next. Any wrong
            class is a success. With loss="dlr" this is APGD-T.
        wide: In L1, spend 30 % of the steps in a ball of three epsilons and 30 % in one of two
            epsilons before the ball of epsilon (only with 10 steps or more).

    Raises:
        ValueError: If `norm` or `loss` is unknown, `steps` or `restarts` is below 1, `targets` is
            below 0, or `targets` is above 0 and the goal is targeted.

    >>> import jaxadv as ja
    >>> cross_entropy, targeted = ja.APGD(), ja.APGD(loss="dlr", targets=9)
    """

    norm: str = static(default="linf")
    steps: int = static(default=100)
    loss: str | Loss = static(default="cross_entropy")
    restarts: int = static(default=1)
    targets: int = static(default=0)
    wide: bool = static(default=True)
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        self.check_norm()
        get_loss(self.loss)
        self.check_least(steps=1, restarts=1, targets=0)

    @property
    def asks_inside(self) -> bool:  # type: ignore[override]
        return len(self.stages) == 1

    @property
    def stages(self) -> list[tuple[float, int]]:
        """Radius in epsilons and number of steps of each stage."""
        if self.norm != "l1" or not self.wide or self.steps < 10:
            return [(1.0, self.steps)]
        early = [(radius, int(fraction * self.steps)) for radius, fraction in WIDE[:-1]]
        return [*early, (1.0, self.steps - sum(steps for _, steps in early))]

    @property
    def plan(self) -> Plan:
        """Schedule of a run, one row a tick."""
        rows = [
            (radius, at == 0, at == steps, window)
            for radius, steps in self.stages
            for at, window in enumerate(checkpoints(steps, self.norm))
        ]
        radius, begins, ends, window = map(np.array, zip(*rows, strict=True))
        ahead = np.append(radius[1:], 1.0)
        return Plan(radius.astype(np.float32), ahead.astype(np.float32), begins, ends, window)

    @property
    def ticks(self) -> int:
        return sum(steps + 1 for _, steps in self.stages)

    def specialize(self, goal: Goal, classes: int) -> "APGD":
        check_targets(self.targets, goal)
        return dataclasses.replace(self, targets=min(self.targets, goal.ways(classes)))

    def goal(self, problem: Problem, target: Int[Array, ""]) -> Goal:
        """Return the goal of this run: targeted at `target` if the attack chooses its targets."""
        return problem.goal.towards(target) if self.targets else problem.goal

    def init(self, problem: Problem, key: Array) -> APGDState:
        radius = self.stages[0][0]
        image = problem.image if problem.start is None else problem.start
        if problem.start is None:  # on the sphere (L1: anywhere, then projected)
            noise = normal_like(key, image)
            if self.norm == "linf":
                noise = draw(jax.random.uniform, key, image.shape, dtype=image.dtype, minval=-1.0)
            if self.norm != "l1":
                noise = radius * problem.epsilon * noise / self.geometry.distance(noise)
            image = image + noise
        image = self.project(problem, image, radius * problem.epsilon)
        zero, no = jnp.float32(0), jnp.bool_(False)
        target = jnp.int32(0)
        if self.targets:
            target = runner_up_class(problem, problem.rank // self.restarts, self.targets)
        return APGDState(
            image=image,
            previous=image,
            loss=zero,
            best=image,
            best_loss=zero - jnp.inf,
            gradient=jnp.zeros_like(image),
            length=zero,
            improved=jnp.int32(0),
            reduced=no,
            seen=zero,
            support=zero,
            fraction=zero,
            target=target,
            step=jnp.int32(0),
        )

    def ask(self, problem: Problem, state: APGDState) -> Float[Array, "Q ..."]:
        return state.image[None]

    def needs(self, problem: Problem, state: APGDState) -> Needs:
        return Needs(jnp.ones(1, bool), ~self.plan.at(state.step).ends[None])

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        if self.targets and not goal.targeted:
            return -goal.margin(logits)
        return get_loss(self.loss)(goal, logits)

    def cotangents(
        self, problem: Problem, state: APGDState, logits: Float[Array, "Q K"]
    ) -> Float[Array, "Q P K"]:
        goal = self.goal(problem, state.target)
        return jax.grad(lambda z: self.objective(goal, z))(logits[0])[None, None]

    def tell(self, problem: Problem, state: APGDState, answer: Answer) -> APGDState:
        now = self.plan.at(state.step)
        loss = self.objective(self.goal(problem, state.target), answer.logits[0])
        higher = now.begins | (loss > state.best_loss)
        best, best_loss, gradient = where(
            higher,
            (state.image, loss, answer.gradients[0, 0]),
            (state.best, state.best_loss, state.gradient),
        )
        improved = jnp.where(now.begins, 0, state.improved + (loss > state.loss))
        state = state._replace(best=best, best_loss=best_loss, gradient=gradient, improved=improved)
        state = where(now.begins, self._begin(problem, state), state)
        judged, back = self._judge(problem, state, now.window)
        state = where(now.window > 0, judged, state)
        back &= now.window > 0
        image, gradient = where(
            back, (state.best, state.gradient), (state.image, answer.gradients[0, 0])
        )

        # A step, with momentum from the second on; the last of a stage enters the next ball.
        direction = self.geometry.steepest(
            gradient, image, problem.lower, problem.upper, state.fraction
        )
        move = state.length * now.radius * problem.epsilon * direction
        radius = now.radius * problem.epsilon
        following = self.project(problem, image + move, radius)
        if self.norm != "l1":
            fraction = jnp.where(now.begins, 1.0, MOMENTUM)
            mixed = (
                image + fraction * (following - image) + (1 - fraction) * (image - state.previous)
            )
            following = self.project(problem, mixed, radius)
        if len(self.stages) > 1:
            entered = self.project(problem, best, now.ahead * problem.epsilon)
            following = jnp.where(now.ends, entered, following)
        return state._replace(image=following, previous=image, loss=loss, step=state.step + 1)

    def _begin(self, problem: Problem, state: APGDState) -> APGDState:
        """Set the first step size of a stage and, in L1, how many entries a step moves."""
        length = jnp.float32(1.0 if self.norm == "l1" else 2.0)
        state = state._replace(length=length, reduced=jnp.bool_(True), seen=state.best_loss)
        if self.norm != "l1":
            return state
        support = L0().distance(state.image - problem.image)
        fraction = _sparsity(support, state.image)
        if problem.start is None:  # a random start has no meaningful support
            support = jnp.where(state.step == 0, float(state.image.size), support)
            fraction = jnp.where(state.step == 0, FIRST_SPARSITY, fraction)
        return state._replace(support=support, fraction=fraction)

    def _judge(
        self, problem: Problem, state: APGDState, window: Int[Array, ""]
    ) -> tuple[APGDState, Bool[Array, ""]]:
        """Return the state after a checkpoint, and whether to return to the best point."""
        if self.norm == "l1":
            support = L0().distance(state.best - problem.image)
            back = support < SPARSER * state.support
            length = jnp.where(back, 1.0, jnp.maximum(state.length / 1.5, 0.1))
            fraction = _sparsity(support, state.image)
            return state._replace(length=length, support=support, fraction=fraction), back
        stuck = ~state.reduced & (state.seen >= state.best_loss)
        back = (state.improved <= IMPROVING * window) | stuck
        length = jnp.where(back, state.length / 2, state.length)
        return state._replace(
            length=length, reduced=back, seen=state.best_loss, improved=jnp.int32(0)
        ), back

    def done(self, problem: Problem, state: APGDState) -> Bool[Array, ""]:
        return state.step >= self.ticks


def _sparsity(support: Array, image: Array) -> Array:
    """Return the L1 sparsity: two thirds of the moved entries, rounded down (2 can become 1)."""
    return (support // 1.5 - 0.5) / image.size
