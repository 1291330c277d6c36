"""Base class of attacks that wrap another attack."""

import dataclasses

from jaxtyping import Array, Bool, Float

from jaxadv.core.attack import Answer, Attack, Needs, Problem, State
from jaxadv.core.goals import Goal
from jaxadv.core.pytree import pytree


@pytree
class Around(Attack):
    """Base of attacks that run another attack on a modified problem (see `seen`).

    Attributes:
        attack: The wrapped attack.
    """

    attack: Attack

    @property
    def name(self) -> str:
        return f"{type(self).__name__}({self.attack.name})"

    @property
    def norm(self) -> str:  # type: ignore[override]
        return self.attack.norm

    @property
    def queries(self) -> int:  # type: ignore[override]
        return self.attack.queries

    @property
    def pullbacks(self) -> int:  # type: ignore[override]
        return self.attack.pullbacks

    @property
    def entries(self) -> int:
        return self.attack.entries

    @property
    def label_only(self) -> bool:  # type: ignore[override]
        return self.attack.label_only

    @property
    def asks_inside(self) -> bool:  # type: ignore[override]
        return self.attack.asks_inside

    @property
    def needs_box(self) -> bool:  # type: ignore[override]
        return self.attack.needs_box

    @property
    def simple_norms(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.attack.simple_norms

    @property
    def bounded_by(self) -> str:  # type: ignore[override]
        return self.attack.bounded_by

    @property
    def needs_epsilon(self) -> bool:  # type: ignore[override]
        return self.attack.needs_epsilon

    @property
    def keep(self) -> str:  # type: ignore[override]
        return self.attack.keep

    @property
    def ticks(self) -> int:
        return self.attack.ticks

    @property
    def gradients(self) -> int:
        return self.attack.gradients

    @property
    def passes(self) -> int:
        return self.attack.passes

    def specialize(self, goal: Goal, classes: int) -> "Around":
        return dataclasses.replace(self, attack=self.attack.specialize(goal, classes))

    def seen(self, problem: Problem, state: State) -> tuple[Problem, State]:
        """Return the problem and the state of the wrapped attack."""
        return problem, state

    def init(self, problem: Problem, key: Array) -> State:
        return self.attack.init(self.seen(problem, None)[0], key)

    def ask(self, problem: Problem, state: State) -> Float[Array, "Q ..."]:
        return self.attack.ask(*self.seen(problem, state))

    def needs(self, problem: Problem, state: State) -> Needs:
        return self.attack.needs(*self.seen(problem, state))

    def used(
        self, problem: Problem, state: State, logits: Float[Array, "Q K"], read: Bool[Array, " Q"]
    ) -> Bool[Array, " Q"]:
        return self.attack.used(*self.seen(problem, state), logits, read)

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        return self.attack.objective(goal, logits)

    def cotangents(
        self, problem: Problem, state: State, logits: Float[Array, "Q K"]
    ) -> Float[Array, "Q P K"]:
        return self.attack.cotangents(*self.seen(problem, state), logits)

    def tell(self, problem: Problem, state: State, answer: Answer) -> State:
        return self.attack.tell(*self.seen(problem, state), answer)

    def done(self, problem: Problem, state: State) -> Bool[Array, ""]:
        return self.attack.done(*self.seen(problem, state))
