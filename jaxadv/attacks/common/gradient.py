"""Projected gradient ascent with any optax optimizer: the base of all gradient attacks.

One tick passes the gradient at the iterate to the optimizer and projects onto ball and box. The
default optimizer is steepest ascent in the norm of the attack.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxadv.attacks.common.gradient_iteration import Iterate, check_numbers
from jaxadv.core.attack import Answer, Problem, State
from jaxadv.core.goals import Goal
from jaxadv.core.losses import Loss, get_loss
from jaxadv.core.optimizer import Optimizer
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Number

if TYPE_CHECKING:  # optax is imported where it is used: it would be a third of `import jaxadv`
    import optax


class GradientState(NamedTuple):
    """State of one run of a `GradientAttack`.

    Attributes:
        image: [H, W, C] float32, the iterate.
        optimizer: State of the optax optimizer.
        step: int32 scalar, gradients taken so far.
    """

    image: Float[Array, "H W C"]
    optimizer: PyTree
    step: Int[Array, ""]


def steepest_ascent(attack: "GradientAttack", problem: Problem) -> "optax.GradientTransformation":
    """Return the update of length step_size * epsilon along the norm's steepest ascent.

    Like all optax transformations it receives the gradient of the quantity to minimise: the negated
    loss.

    Args:
        attack: The attack; its norm, `step_size` and `sparsity` are used.
        problem: The problem of this image.

    Returns:
        The optax transformation.
    """
    import optax

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        direction = attack.geometry.steepest(
            -updates, params, problem.lower, problem.upper, attack.sparsity
        )
        return attack.step_size * problem.epsilon * direction, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


@pytree
class GradientAttack(Iterate):
    """Base of the gradient attacks; see `PGD` for the fields."""

    step_size: Number = 0.1
    loss: str | Loss = static(default="cross_entropy")
    random_start: bool = static(default=False)
    optimizer: Optimizer | None = None
    sparsity: Number = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        get_loss(self.loss)
        check_numbers(self, step_size=np.inf)

    def transformation(self, problem: Problem) -> "optax.GradientTransformation":
        """Return the optax transformation from the gradient of the negated loss to the update."""
        if self.optimizer is not None:
            return self.optimizer.build()
        return steepest_ascent(self, problem)

    def init(self, problem: Problem, key: Array) -> State:
        image = problem.image if problem.start is None else problem.start
        if self.random_start:
            image = self.geometry.random(key, image, problem.epsilon, problem.lower, problem.upper)
        if self.random_start or problem.start is not None:
            image = self.project(problem, image)
        return GradientState(image, self.transformation(problem).init(image), jnp.int32(0))

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        return get_loss(self.loss)(goal, logits)

    def climb(self, problem: Problem, state: State, gradient: Float[Array, "..."]) -> GradientState:
        """Take one optimizer step along this gradient of the loss, and project."""
        import optax

        updates, memory = self.transformation(problem).update(
            -gradient, state.optimizer, state.image
        )
        moved: Any = optax.apply_updates(state.image, updates)
        return GradientState(self.project(problem, moved), memory, state.step + 1)

    def tell(self, problem: Problem, state: State, answer: Answer) -> State:
        return self.climb(problem, state, answer.gradients[0, 0])
