"""Projected gradient ascent with any optax optimiser: what all gradient attacks share.

One tick asks for the gradient at the iterate, hands it to the optimiser, and projects onto ball and
box. The default optimiser is steepest ascent in the attack's norm. A last tick asks for the final
iterate's answer only, so that it is judged too: `steps` gradients, `steps + 1` forward passes.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxadv.core.attack import Answer, Attack, Problem, Reads
from jaxadv.core.goals import Goal
from jaxadv.core.losses import get_loss
from jaxadv.core.norms import get_norm
from jaxadv.core.optimizer import Optimizer
from jaxadv.core.pytree import pytree, static

if TYPE_CHECKING:  # optax is imported where it is used: it would be a third of `import jaxadv`
    import optax


class GradientState(NamedTuple):
    """image: the iterate [H, W, C]; optimizer: optax's state; step: gradients taken so far."""

    image: Any
    optimizer: Any
    step: Any


def steepest_ascent(attack: "GradientAttack", problem: Problem) -> "optax.GradientTransformation":
    """An update of length step_size * epsilon along the norm's direction of steepest ascent.

    As all of optax it is handed the gradient of what is to fall: the negated loss.
    """
    import optax

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        direction = attack.geometry.steepest(
            -updates, params, problem.lower, problem.upper, attack.sparsity
        )
        return attack.step_size * problem.epsilon * direction, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


@pytree
class GradientAttack(Attack):
    """Base of the gradient attacks; see `PGD` for the fields."""

    norm: str = static(default="linf")
    steps: int = static(default=40)
    step_size: Any = 0.1
    loss: Any = static(default="cross_entropy")
    random_start: bool = static(default=False)
    restarts: int = static(default=1)
    optimizer: Optimizer | None = None
    sparsity: Any = 0.01

    def __post_init__(self) -> None:
        get_norm(self.norm)
        get_loss(self.loss)
        for field in ("steps", "restarts"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)}: pass 1 or more")

    @property
    def ticks(self) -> int:
        return self.steps + 1

    def transformation(self, problem: Problem) -> "optax.GradientTransformation":
        """The optax transformation from the negated loss's gradient to the update."""
        if self.optimizer is not None:
            return self.optimizer.build()
        return steepest_ascent(self, problem)

    def init(self, problem: Problem, key: Array) -> GradientState:
        image = problem.image if problem.start is None else problem.start
        if self.random_start:
            image = self.geometry.random(key, image, problem.epsilon, problem.lower, problem.upper)
        if self.random_start or problem.start is not None:
            image = self.project(problem, image)
        return GradientState(image, self.transformation(problem).init(image), jnp.int32(0))

    def ask(self, problem: Problem, state: GradientState) -> Float[Array, "Q ..."]:
        return state.image[None]

    def reads(self, problem: Problem, state: GradientState) -> Reads:
        return Reads(jnp.ones(1, bool), (state.step < self.steps)[None])

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        return get_loss(self.loss)(goal, logits)

    def tell(self, problem: Problem, state: GradientState, answer: Answer) -> GradientState:
        import optax

        descent = -answer.gradients[0, 0]
        updates, memory = self.transformation(problem).update(descent, state.optimizer, state.image)
        moved: Any = optax.apply_updates(state.image, updates)
        image = self.project(problem, moved)
        return GradientState(image, memory, state.step + 1)

    def done(self, problem: Problem, state: GradientState) -> Bool[Array, ""]:
        return state.step > self.steps
