"""SGD-UAP: stochastic gradient ascent on one perturbation for all images."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxadv.core.goals import Goal, Untargeted
from jaxadv.core.losses import Loss, cross_entropy, get_loss
from jaxadv.core.norms import get_norm
from jaxadv.core.optimizer import Optimizer
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Number
from jaxadv.cpu.rewrite import rewrite_for_cpu
from jaxadv.engine.batch import on_cpu
from jaxadv.universal.method import Lesson, Method, MethodState, Rows, Task


@pytree
class UniversalAscent(Method):
    """Universal perturbation by stochastic gradient ascent (SGD-UAP).

    Shafahi et al. 2018, arXiv 1811.11304: maximises the mean over images of min(loss(x + v), clip),
    so that images that are already fooled with a large loss do not dominate the gradient. Costs one
    forward and one backward pass for each image and epoch. The only randomness is the order of the
    images.

    Attributes:
        epochs: Passes over the images.
        batch_size: Images of a step.
        delta: Fraction of images that may stay unfooled; see `Method`.
        step_size: Length of the default steps (the sign of the gradient in Linf, its direction in
            L2) as a fraction of epsilon; it decreases linearly to 0.
        loss: "cross_entropy", "margin", "dlr" or a function (goal, logits [K]) -> scalar.
        clip: Upper limit of the loss of an image.
        optimizer: Optimizer that replaces the default steps, such as `ja.Optimizer(optax.adam,
            learning_rate=0.01)`; its learning rate is in the scale of the images.

    Raises:
        ValueError: `loss` is unknown, or `step_size` or `clip` is not positive.

    Example:
        >>> import jaxadv as ja
        >>> ja.UniversalAscent(epochs=5).epochs
        5
    """

    step_size: Number = 0.2
    loss: str | Loss = static(default="cross_entropy")
    clip: Number = 30.0
    optimizer: Optimizer | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        get_loss(self.loss)
        for name in ("step_size", "clip"):
            value = getattr(self, name)
            if isinstance(value, np.floating) and not value > 0:
                raise ValueError(f"{name}={value}: pass a positive number")

    def init(self, task: Task) -> tuple[Array, PyTree]:
        variable = self.first(task)
        memory = () if self.optimizer is None else self.optimizer.build().init(variable)
        return variable, memory

    def first(self, task: Task) -> Array:
        """Return the variable before the first step."""
        return jnp.zeros(task.shape, jnp.float32)

    def objective(self, goal: Goal, logits: Float[Array, " K"], weight: Array) -> Float[Array, ""]:
        """Return the objective of one image.

        This is its clipped loss, or minus its loss if it is to keep its class.
        """
        gain = jnp.minimum(get_loss(self.loss)(goal, logits), self.clip)
        keeping = -cross_entropy(Untargeted(goal.labels), logits)
        return jnp.where(weight > 0, gain, jnp.where(weight < 0, keeping, 0.0))

    def learn(self, task: Task, variable: Array, rows: Rows) -> Lesson:
        def total(variable: Array, task: Task, rows: Rows) -> tuple[Array, Array]:
            logits = task.model(self.place(task, variable, rows.images, rows.keys))
            return jax.vmap(self.objective)(rows.goal, logits, rows.weights).sum(), logits

        slope = jax.grad(total, has_aux=True)
        change, logits = (rewrite_for_cpu(slope) if on_cpu() else slope)(variable, task, rows)
        fooled = jax.vmap(lambda goal, z: goal.margin(z) < 0)(rows.goal, logits)
        passes = (rows.weights != 0).sum(dtype=jnp.float32)
        return Lesson(
            change, (fooled & (rows.weights > 0)).sum(dtype=jnp.float32), passes, passes, passes
        )

    def update(self, task: Task, now: MethodState, lesson: Lesson) -> tuple[Array, PyTree]:
        slope = lesson.change / jnp.maximum(lesson.taught, 1)
        if self.optimizer is None:
            size = self.step_size * task.radius * (1 - now.step / now.steps)
            step = get_norm(task.norm).steepest(slope, now.variable, -jnp.inf, jnp.inf, 1.0)
            return self.project(task, now.variable + size * step), now.memory
        import optax

        updates, memory = self.optimizer.build().update(-slope, now.memory, now.variable)
        moved: Any = optax.apply_updates(now.variable, updates)
        return self.project(task, moved), memory
