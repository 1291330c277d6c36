"""Gradient ascent that halves its step size and goes back to the best point: APGD and ACG."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxadv.attacks.common.plan import Plan, Row, checkpoints
from jaxadv.core.attack import Answer, Attack, Needs, Problem, check_targets, runner_up_class
from jaxadv.core.goals import Goal
from jaxadv.core.losses import Loss, get_loss
from jaxadv.core.pytree import pytree, static, where
from jaxadv.core.random import draw, normal_like

IMPROVING = 0.75  # fraction of steps that must raise the loss for a step size to be kept


class AutoState(NamedTuple):
    """State of one run of an `AutoStep`.

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
        memory: What the direction of the next step depends on besides the gradient, or ().
        best_memory: The memory at `best`, or ().
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
    memory: PyTree
    best_memory: PyTree
    step: Int[Array, ""]


@pytree
class AutoStep(Attack):
    """Base of `APGD` and `ACG`, which differ in the direction of a step; see `APGD` for the fields.

    Subclasses must provide `advance`.
    """

    norm: str = static(default="linf")
    steps: int = static(default=100)
    loss: str | Loss = static(default="cross_entropy")
    restarts: int = static(default=1)
    targets: int = static(default=0)

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
        return [(1.0, self.steps)]

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
    def gradients(self) -> int:
        return sum(steps for _, steps in self.stages)

    @property
    def ticks(self) -> int:
        return sum(steps + 1 for _, steps in self.stages)

    def specialize(self, goal: Goal, classes: int) -> "AutoStep":
        check_targets(self.targets, goal)
        return dataclasses.replace(self, targets=min(self.targets, goal.ways(classes)))

    def goal(self, problem: Problem, target: Int[Array, ""]) -> Goal:
        """Return the goal of this run: targeted at `target` if the attack chooses its targets."""
        return problem.goal.towards(target) if self.targets else problem.goal

    def start(self, problem: Problem, key: Array) -> Float[Array, "H W C"]:
        """Return a random point: on the sphere (L1: anywhere), which is then projected."""
        radius, image = self.stages[0][0], problem.image
        noise = normal_like(key, image)
        if self.norm == "linf":
            noise = draw(jax.random.uniform, key, image.shape, dtype=image.dtype, minval=-1.0)
        if self.norm != "l1":
            noise = radius * problem.epsilon * noise / self.geometry.distance(noise)
        return image + noise

    def memory(self, problem: Problem) -> PyTree:
        """Return the memory of the first step."""
        return ()

    def advance(
        self, problem: Problem, state: AutoState, now: Row, at: tuple[Array, Array, PyTree]
    ) -> tuple[Float[Array, "H W C"], PyTree]:
        """Return the next iterate and the memory of the step after it.

        Args:
            problem: The problem of this image.
            state: The state, whose `previous` is still the iterate before this one.
            now: The row of this tick.
            at: The point from which the step is made, its gradient, and its memory.

        Returns:
            The iterate, [H, W, C] float32, and the memory.
        """
        raise self._missing("advance(problem, state, now, at)")

    def init(self, problem: Problem, key: Array) -> AutoState:
        radius = self.stages[0][0]
        image = self.start(problem, key) if problem.start is None else problem.start
        image = self.project(problem, image, radius * problem.epsilon)
        zero, no = jnp.float32(0), jnp.bool_(False)
        target = jnp.int32(0)
        if self.targets:
            target = runner_up_class(problem, problem.rank // self.restarts, self.targets)
        return AutoState(
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
            memory=self.memory(problem),
            best_memory=self.memory(problem),
            step=jnp.int32(0),
        )

    def ask(self, problem: Problem, state: AutoState) -> Float[Array, "Q ..."]:
        return state.image[None]

    def needs(self, problem: Problem, state: AutoState) -> Needs:
        return Needs(jnp.ones(1, bool), ~self.plan.at(state.step).ends[None])

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        if self.targets and not goal.targeted:
            return -goal.margin(logits)
        return get_loss(self.loss)(goal, logits)

    def cotangents(
        self, problem: Problem, state: AutoState, logits: Float[Array, "Q K"]
    ) -> Float[Array, "Q P K"]:
        goal = self.goal(problem, state.target)
        return jax.grad(lambda z: self.objective(goal, z))(logits[0])[None, None]

    def tell(self, problem: Problem, state: AutoState, answer: Answer) -> AutoState:
        now = self.plan.at(state.step)
        loss = self.objective(self.goal(problem, state.target), answer.logits[0])
        higher = now.begins | (loss > state.best_loss)
        best, best_loss, gradient, best_memory = where(
            higher,
            (state.image, loss, answer.gradients[0, 0], state.memory),
            (state.best, state.best_loss, state.gradient, state.best_memory),
        )
        improved = jnp.where(now.begins, 0, state.improved + (loss > state.loss))
        state = state._replace(
            best=best,
            best_loss=best_loss,
            gradient=gradient,
            best_memory=best_memory,
            improved=improved,
        )
        state = where(now.begins, self._begin(problem, state), state)
        judged, back = self._judge(problem, state, now.window)
        state = where(now.window > 0, judged, state)
        back &= now.window > 0
        at = where(
            back,
            (state.best, state.gradient, state.best_memory),
            (state.image, answer.gradients[0, 0], state.memory),
        )
        following, memory = self.advance(problem, state, now, at)
        if len(self.stages) > 1:  # the last step of a stage enters the next ball
            entered = self.project(problem, best, now.ahead * problem.epsilon)
            following = jnp.where(now.ends, entered, following)
        return state._replace(
            image=following, previous=at[0], loss=loss, memory=memory, step=state.step + 1
        )

    def _begin(self, problem: Problem, state: AutoState) -> AutoState:
        """Set the first step size of a stage."""
        return state._replace(
            length=jnp.float32(2.0), reduced=jnp.bool_(True), seen=state.best_loss
        )

    def _judge(
        self, problem: Problem, state: AutoState, window: Int[Array, ""]
    ) -> tuple[AutoState, Bool[Array, ""]]:
        """Return the state after a checkpoint, and whether to return to the best point."""
        stuck = ~state.reduced & (state.seen >= state.best_loss)
        back = (state.improved <= IMPROVING * window) | stuck
        length = jnp.where(back, state.length / 2, state.length)
        return state._replace(
            length=length, reduced=back, seen=state.best_loss, improved=jnp.int32(0)
        ), back

    def done(self, problem: Problem, state: AutoState) -> Bool[Array, ""]:
        return state.step >= self.ticks
