"""The base of attacks that optimise parameters of a change: a flow field or a map of colours."""

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxadv.attacks.common.gradient_iteration import Iterate, check_numbers
from jaxadv.core.attack import Answer, Problem
from jaxadv.core.goals import Goal
from jaxadv.core.losses import Loss, get_loss
from jaxadv.core.optimizer import Optimizer
from jaxadv.core.pytree import pytree, static
from jaxadv.core.random import draw
from jaxadv.core.typing import Number

if TYPE_CHECKING:  # optax is imported where it is used: it would be a third of `import jaxadv`
    import optax


class FunctionalState(NamedTuple):
    """State of ascent in the parameters of a change.

    Attributes:
        shape: The parameters; 0 leaves the image unchanged.
        optimizer: State of the optax optimiser.
        step: Integer scalar, gradients taken so far.
    """

    shape: Float[Array, "..."]
    optimizer: PyTree
    step: Int[Array, ""]


@pytree
class Functional(Iterate):
    """Base of attacks that maximise loss(rendered(shape)) - smoothness * roughness(shape).

    The engine's gradient of the loss with respect to the image is pulled back through `rendered` to
    the parameters; the optimiser moves them, and they are clipped to +-`bound`. Per restart `steps`
    gradients and `steps + 1` forward passes.

    Attributes:
        norm: "l2", in which distances are reported.
        steps: Gradients per restart.
        restarts: Independent runs; all but the first begin at random parameters.
        bound: Largest absolute value of a parameter.
        smoothness: Weight of the roughness.
        step_size: Adam's learning rate, as a fraction of the bound.
        loss: The loss that is maximised: a name, or a function (goal, logits [K]) -> scalar.
        optimizer: A `ja.Optimizer` in place of Adam, or None.
    """

    norm: str = static(default="l2")
    steps: int = static(default=100)
    bound: Number = 1.0
    smoothness: Number = 0.05
    step_size: Number = 0.1
    loss: str | Loss = static(default="margin")
    optimizer: Optimizer | None = None
    norms: ClassVar[tuple[str, ...]] = ("l2",)
    needs_epsilon: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        get_loss(self.loss)
        check_numbers(self, step_size=np.inf)
        for field in ("bound", "smoothness"):
            value = getattr(self, field)
            if isinstance(value, np.floating) and not 0 <= value < np.inf:
                raise ValueError(f"{field}={value}: pass a number that is not negative")

    def untouched(self, problem: Problem) -> Float[Array, "..."]:
        """The parameters, all 0, that leave the image unchanged."""
        raise NotImplementedError

    def rendered(self, problem: Problem, shape: Float[Array, "..."]) -> Float[Array, "H W C"]:
        """The image under these parameters, inside the box."""
        raise NotImplementedError

    def roughness(self, shape: Float[Array, "..."]) -> Float[Array, ""]:
        """The total difference between neighbouring parameters."""
        raise NotImplementedError

    def ascent(self) -> "optax.GradientTransformation":
        """The optimiser of the parameters."""
        import optax

        if self.optimizer is not None:
            return self.optimizer.build()
        return optax.adam(jnp.asarray(self.step_size * self.bound))

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        return get_loss(self.loss)(goal, logits)

    def init(self, problem: Problem, key: Array) -> FunctionalState:
        if problem.start is not None:
            raise ValueError(f"start: {self.name} begins at the image itself; pass none")
        shape = self.untouched(problem)
        if self.restarts > 1:
            drawn = self.bound * draw(jax.random.uniform, key, shape.shape, minval=-1.0)
            shape = jnp.where(problem.rank % self.restarts > 0, drawn, shape)
        return FunctionalState(shape, self.ascent().init(shape), jnp.int32(0))

    def ask(self, problem: Problem, state: FunctionalState) -> Float[Array, "Q ..."]:
        return self.rendered(problem, state.shape)[None]

    def tell(self, problem: Problem, state: FunctionalState, answer: Answer) -> FunctionalState:
        _, pull_back = jax.vjp(lambda shape: self.rendered(problem, shape), state.shape)
        (slope,) = pull_back(answer.gradients[0, 0])
        slope = slope - self.smoothness * jax.grad(self.roughness)(state.shape)
        updates, memory = self.ascent().update(-slope, state.optimizer, state.shape)
        moved: Any = state.shape + updates  # type: ignore[operator]
        return FunctionalState(jnp.clip(moved, -self.bound, self.bound), memory, state.step + 1)


def differences(shape: Float[Array, "..."], axes: int) -> Float[Array, ""]:
    """Sum over all neighbours along the first `axes` axes of the L2 length of their difference.

    Each pair counts twice, once from each side.

    Args:
        shape: An array of vectors, whose last axis is that of the vector.
        axes: Number of leading axes along which neighbours are compared.

    Returns:
        The sum, with a gradient of 0 where neighbours are equal.
    """
    total = jnp.float32(0)
    for axis in range(axes):
        square = jnp.square(jnp.diff(shape, axis=axis)).sum(-1)
        # The root has no gradient at 0; there it is set to 0.
        length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
        total += 2 * length.sum()
    return total
