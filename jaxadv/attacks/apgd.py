"""Auto-PGD: gradient ascent that halves its own step, and begins again from the best point.

The images asked, the radius and the checkpoints of every tick are known beforehand: they are one
table (`plan`), and a run of APGD reads its rows one after the other.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxadv.core.attack import Answer, Attack, Problem, Reads, check_targets, likeliest_wrong
from jaxadv.core.goals import Goal
from jaxadv.core.losses import get_loss
from jaxadv.core.norms import L0
from jaxadv.core.pytree import pytree, static, where

IMPROVING = 0.75  # the share of steps that must raise the loss for a step size to be kept
MOMENTUM = 0.75  # the share of a step; the rest is the last movement
SPARSER = 0.95  # L1: the share of the entries moved, below which the support still shrinks
FIRST_SHARE = 0.2  # L1: the share of the entries that the first steps move
WIDE = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # L1: radii in epsilons, and their share of the steps


class Plan(NamedTuple):
    """Of every tick: the radius in epsilons, that of the next tick, whether a stage begins or ends
    with this tick's image, and how many steps a checkpoint here looks back on (0: none)."""

    radius: Any
    ahead: Any
    begins: Any
    ends: Any
    window: Any


def checkpoints(steps: int, norm: str) -> np.ndarray:
    """How many steps each of the iterates 0 to `steps` is to look back on.

    In L1 every 4 % of the steps; else after 22 %, then after shorter and shorter stretches, each 3
    points less, down to 6 %.
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
    """image, previous: this iterate and the last; loss: the last one's; best, best_loss, gradient:
    the point of highest loss in this stage, and the gradient there; length: the step in epsilons;
    improved: steps since the checkpoint that raised the loss; reduced, seen: whether the last
    checkpoint halved the step, and the best loss then; support: entries that the best point had
    moved then; share: of the entries that a step in L1 moves; target: the class aimed at."""

    image: Any
    previous: Any
    loss: Any
    best: Any
    best_loss: Any
    gradient: Any
    length: Any
    improved: Any
    reduced: Any
    seen: Any
    support: Any
    share: Any
    target: Any
    step: Any


@pytree
class APGD(Attack):
    """Auto-PGD (Croce and Hein 2020, arXiv 2003.01690; in L1 2021, arXiv 2103.01208).

    norm: "linf", "l2" or "l1"; steps: gradients per restart; loss: "cross_entropy", "dlr", "margin"
    or a function (goal, logits [K]) -> scalar; restarts: independent random starts. targets: 0, or
    aim at each of so many wrong classes, those that the clean answer ranks first (any wrong class
    is a success; with loss="dlr" this is APGD-T; at most K - 1, each with all its restarts before
    the next). wide: in L1 begin in balls of three and two epsilons, with 30 % of the steps each.

    Step sizes, momentum and checkpoints are those of the papers. Where the reference code departs
    from the paper, the paper is followed: the first checkpoint compares the first step with the
    start (there: with 0); in L2 the projection is the exact one onto ball and box (there: scaled,
    then cut off); in L1 a step moves only entries that the box lets move. As there, after a return
    to the best point the momentum is measured from the iterate that was given up. A run ends at its
    first success.

    Per restart at most `steps` backward and `steps + 1` forward passes (L1 wide: `steps + 3`
    forward). Raises ValueError for an unknown norm or loss, and for steps or restarts below 1.

    >>> import jaxadv as ja
    >>> cross_entropy, targeted = ja.APGD(), ja.APGD(loss="dlr", targets=9)
    """

    norm: str = static(default="linf")
    steps: int = static(default=100)
    loss: Any = static(default="cross_entropy")
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
        """Radius in epsilons and steps of each stage."""
        if self.norm != "l1" or not self.wide or self.steps < 10:
            return [(1.0, self.steps)]
        early = [(radius, int(share * self.steps)) for radius, share in WIDE[:-1]]
        return [*early, (1.0, self.steps - sum(steps for _, steps in early))]

    @property
    def plan(self) -> Plan:
        """The table that a run reads, one row a tick."""
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

    def prepared(self, goal: Goal, classes: int) -> "APGD":
        check_targets(self.targets, goal)
        return dataclasses.replace(self, targets=min(self.targets, goal.ways(classes)))

    def goal(self, problem: Problem, target: Any) -> Goal:
        """What this entry aims at."""
        return problem.goal.towards(target) if self.targets else problem.goal

    def init(self, problem: Problem, key: Array) -> APGDState:
        radius = self.stages[0][0]
        image = problem.image if problem.start is None else problem.start
        if problem.start is None:  # on the sphere (L1: anywhere, then projected)
            noise = jax.random.normal(key, image.shape, image.dtype)
            if self.norm == "linf":
                noise = jax.random.uniform(key, image.shape, image.dtype, minval=-1.0)
            if self.norm != "l1":
                noise = radius * problem.epsilon * noise / self.geometry.distance(noise)
            image = image + noise
        image = self.project(problem, image, radius * problem.epsilon)
        zero, no = jnp.float32(0), jnp.bool_(False)
        target = jnp.int32(0)
        if self.targets:
            target = likeliest_wrong(problem, problem.rank // self.restarts, self.targets)
        return APGDState(
            image=image, previous=image, loss=zero, best=image, best_loss=zero - jnp.inf,
            gradient=jnp.zeros_like(image), length=zero, improved=jnp.int32(0), reduced=no,
            seen=zero, support=zero, share=zero, target=target, step=jnp.int32(0),
        )  # fmt: skip

    def ask(self, problem: Problem, state: APGDState) -> Float[Array, "Q ..."]:
        return state.image[None]

    def reads(self, problem: Problem, state: APGDState) -> Reads:
        return Reads(jnp.ones(1, bool), ~jnp.asarray(self.plan.ends)[state.step][None])

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
        now = jax.tree.map(lambda column: jnp.asarray(column)[state.step], self.plan)
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

        # A step; with momentum, but for the first. The last of a stage leads into the next one.
        direction = self.geometry.steepest(
            gradient, image, problem.lower, problem.upper, state.share
        )
        move = state.length * now.radius * problem.epsilon * direction
        radius = now.radius * problem.epsilon
        following = self.project(problem, image + move, radius)
        if self.norm != "l1":
            share = jnp.where(now.begins, 1.0, MOMENTUM)
            mixed = image + share * (following - image) + (1 - share) * (image - state.previous)
            following = self.project(problem, mixed, radius)
        if len(self.stages) > 1:
            entered = self.project(problem, best, now.ahead * problem.epsilon)
            following = jnp.where(now.ends, entered, following)
        return state._replace(image=following, previous=image, loss=loss, step=state.step + 1)

    def _begin(self, problem: Problem, state: APGDState) -> APGDState:
        """A stage's first step size; in L1 how many entries a step moves."""
        whole = jnp.float32(1.0 if self.norm == "l1" else 2.0)
        state = state._replace(length=whole, reduced=jnp.bool_(True), seen=state.best_loss)
        if self.norm != "l1":
            return state
        support = L0().distance(state.image - problem.image)
        share = _share(support, state.image)
        if problem.start is None:  # a random start says nothing about how many there should be
            support = jnp.where(state.step == 0, float(state.image.size), support)
            share = jnp.where(state.step == 0, FIRST_SHARE, share)
        return state._replace(support=support, share=share)

    def _judge(self, problem: Problem, state: APGDState, window: Any) -> tuple[APGDState, Any]:
        """The state after a checkpoint, and whether to go back to the best point."""
        if self.norm == "l1":
            support = L0().distance(state.best - problem.image)
            back = support < SPARSER * state.support
            length = jnp.where(back, 1.0, jnp.maximum(state.length / 1.5, 0.1))
            share = _share(support, state.image)
            return state._replace(length=length, support=support, share=share), back
        stuck = ~state.reduced & (state.seen >= state.best_loss)
        back = (state.improved <= IMPROVING * window) | stuck
        length = jnp.where(back, state.length / 2, state.length)
        return state._replace(
            length=length, reduced=back, seen=state.best_loss, improved=jnp.int32(0)
        ), back

    def done(self, problem: Problem, state: APGDState) -> Bool[Array, ""]:
        return state.step >= self.ticks


def _share(support: Array, image: Array) -> Array:
    """L1: two thirds of the entries moved, rounded down: a support of two can become one."""
    return (support // 1.5 - 0.5) / image.size
