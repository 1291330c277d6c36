"""Universal perturbations as sums of minimal ones (Moosavi-Dezfooli et al. 2016)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxadv.attacks.minimum_norm.deepfool import DeepFool
from jaxadv.core.attack import Attack
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Number
from jaxadv.engine.batch import drive_batch, make_table
from jaxadv.universal.method import Lesson, Method, MethodState, Rows, Task


@pytree
class UniversalAggregation(Method):
    """Universal perturbation by aggregation of minimal perturbations.

    Algorithm 1 of Moosavi-Dezfooli et al. 2016, arXiv 1610.08401: for each image that v does not
    fool yet, the minimal perturbation of x + v that fools it is added to v, and v is projected onto
    the ball. Each image costs one forward pass, and each image not yet fooled also costs the passes
    of `attack`. Departure from the paper's code: x + v is clipped to the box.

    Attributes:
        epochs: Maximum number of passes over the images.
        batch_size: Images of a step. 1 is the original algorithm, one image after the other. With
            more, the perturbations of a batch are computed at once, from the same v, and `gain`
            times their mean is added.
        delta: Fraction of images that may stay unfooled; see `Method`.
        attack: Minimum-norm attack that computes each perturbation. The paper uses DeepFool in L2
            with 10 steps, regardless of the norm of v.
        gain: Factor on the mean perturbation of a batch; not used with `batch_size=1`.

    Example:
        >>> import jaxadv as ja
        >>> ja.UniversalAggregation(batch_size=1).attack.norm
        'l2'
    """

    epochs: int = static(default=10)
    delta: float | None = static(default=0.2)
    attack: Attack = DeepFool(steps=10)
    gain: Number = 10.0

    def learn(self, task: Task, variable: Array, rows: Rows) -> Lesson:
        placed = self.place(task, variable, rows.images, rows.keys)
        key = jax.random.key(0)
        table = make_table(self.attack, task.model, placed, rows.goal, keep="first", epsilon=None)
        fooled = ~table.active
        table = table._replace(active=table.active & (rows.weights > 0))
        results = drive_batch(self.attack, task.model, table, key, keep="first")
        counts, _ = results.totals("first")
        taught = results.best.adversarial & table.active
        change = jnp.where(taught[:, None, None, None], results.best.image - placed, 0).sum(0)
        wanted = rows.weights > 0

        def total(numbers: Array) -> Array:
            return jnp.where(wanted, numbers, 0).sum(dtype=jnp.float32)

        return Lesson(
            change, total(fooled), total(taught), total(counts.forward + 1), total(counts.backward)
        )

    def update(self, task: Task, now: MethodState, lesson: Lesson) -> tuple[Array, PyTree]:
        gain = 1.0 if self.batch_size == 1 else self.gain
        step = gain * lesson.change / jnp.maximum(lesson.taught, 1)
        return self.project(task, now.variable + step), now.memory
