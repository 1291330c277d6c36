"""Auto-PGD: gradient ascent that halves its step size and restarts from the best point."""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxadv.attacks.common.auto_step import AutoState, AutoStep, Row
from jaxadv.core.attack import Problem
from jaxadv.core.norms import L0
from jaxadv.core.pytree import pytree, static

MOMENTUM = 0.75  # weight of the new step; the rest is the last movement
SPARSER = 0.95  # L1: the support still shrinks below this fraction of the last one
FIRST_SPARSITY = 0.2  # L1: fraction of the entries that the first steps move
WIDE = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # L1: (radius in epsilons, fraction of steps)


@pytree
class APGD(AutoStep):
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
        loss: "cross_entropy", "dlr", "margin", "probability_margin" or a function (goal, logits
            [K]) -> scalar.
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

    wide: bool = static(default=True)
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    @property
    def stages(self) -> list[tuple[float, int]]:
        """Radius in epsilons and number of steps of each stage."""
        if self.norm != "l1" or not self.wide or self.steps < 10:
            return [(1.0, self.steps)]
        early = [(radius, int(fraction * self.steps)) for radius, fraction in WIDE[:-1]]
        return [*early, (1.0, self.steps - sum(steps for _, steps in early))]

    def advance(
        self, problem: Problem, state: AutoState, now: Row, at: tuple[Array, Array, PyTree]
    ) -> tuple[Float[Array, "H W C"], PyTree]:
        # A step, with momentum from the second on.
        image, gradient, _ = at
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
        return following, ()

    def _begin(self, problem: Problem, state: AutoState) -> AutoState:
        """Set the first step size of a stage and, in L1, how many entries a step moves."""
        state = super()._begin(problem, state)
        if self.norm != "l1":
            return state
        support = L0().distance(state.image - problem.image)
        fraction = _sparsity(support, state.image)
        if problem.start is None:  # a random start has no meaningful support
            support = jnp.where(state.step == 0, float(state.image.size), support)
            fraction = jnp.where(state.step == 0, FIRST_SPARSITY, fraction)
        return state._replace(length=jnp.float32(1.0), support=support, fraction=fraction)

    def _judge(
        self, problem: Problem, state: AutoState, window: Int[Array, ""]
    ) -> tuple[AutoState, Bool[Array, ""]]:
        """Return the state after a checkpoint, and whether to return to the best point."""
        if self.norm != "l1":
            return super()._judge(problem, state, window)
        support = L0().distance(state.best - problem.image)
        back = support < SPARSER * state.support
        length = jnp.where(back, 1.0, jnp.maximum(state.length / 1.5, 0.1))
        fraction = _sparsity(support, state.image)
        return state._replace(length=length, support=support, fraction=fraction), back


def _sparsity(support: Array, image: Array) -> Array:
    """Return the L1 sparsity: two thirds of the moved entries, rounded down (2 can become 1)."""
    return (support // 1.5 - 0.5) / image.size
