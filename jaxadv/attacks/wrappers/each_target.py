"""Wrapper that runs an attack against one target class after the other."""

import dataclasses

import jax

from jaxadv.attacks.common.wrapper import Around
from jaxadv.core.attack import Answer, Problem, State, check_targets, runner_up_class
from jaxadv.core.goals import Goal, Targeted
from jaxadv.core.pytree import pytree, static


@pytree
class EachTarget(Around):
    """Run any attack against each of the most likely wrong classes.

    Any wrong class is a success, as for an untargeted attack; the nearest adversarial image may
    well lie in a class that an untargeted attack never approaches. Each target is a run of its own,
    with all restarts of the attack before the next target, so that the cost is `targets` times the
    passes of the attack.

    Attributes:
        attack: The wrapped attack, which must accept a target.
        targets: Number of target classes, at most K - 1, in the order of the clean logits.

    Raises:
        ValueError: If `targets` is below 1 or the goal is targeted.

    >>> import jaxadv as ja
    >>> attack = ja.EachTarget(ja.PGD(loss="margin"), targets=9)
    """

    targets: int = static(default=9)

    def __post_init__(self) -> None:
        self.check_least(targets=1)

    @property
    def entries(self) -> int:
        return self.targets * self.attack.entries

    @property
    def passes(self) -> int:
        return self.targets * self.attack.passes

    def specialize(self, goal: Goal, classes: int) -> "EachTarget":
        check_targets(self.targets, goal)
        inner = self.attack.specialize(Targeted(goal.labels, goal.labels), classes)
        targets = min(self.targets, goal.ways(classes))
        return dataclasses.replace(self, attack=inner, targets=targets)

    def seen(self, problem: Problem, state: State) -> tuple[Problem, State]:
        each = self.attack.entries
        target = runner_up_class(problem, problem.rank // each, self.targets)
        goal = problem.goal.towards(target)
        return dataclasses.replace(problem, goal=goal, rank=problem.rank % each), state

    def tell(self, problem: Problem, state: State, answer: Answer) -> State:
        inner, _ = self.seen(problem, state)
        reached = jax.vmap(inner.goal.margin)(answer.logits) < 0
        return self.attack.tell(inner, state, answer._replace(adversarial=reached))
