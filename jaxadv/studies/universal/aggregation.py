"""The universal perturbation of Moosavi-Dezfooli et al.: minimal perturbations, added up."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxadv.attacks.deepfool import DeepFool
from jaxadv.core.attack import Attack
from jaxadv.core.pytree import pytree, static
from jaxadv.engine.batch import drive_batch, make_table
from jaxadv.studies.universal.method import Lesson, Method, Progress, Rows, Task


@pytree
class UniversalAggregation(Method):
    """Algorithm 1 of Moosavi-Dezfooli et al. (2016, arXiv 1610.08401): for each image that v does
    not fool yet, the least change of x + v that does is added to v, which is then projected.

    epochs, delta: as in `Method`; attack: finds the least change, any minimum-norm attack (the
    paper: DeepFool in L2, 10 steps, whatever the norm of v); batch_size: 1 is the original, one
    image after the other; with more, the changes of a batch are found at once, from the same v, and
    `gain` times their mean is added. Every image costs a forward pass, and those not fooled
    what the attack asks of them. Here x + v stays in the box (in the paper's code it does not).

    >>> import jaxadv as ja
    >>> ja.UniversalAggregation(batch_size=1).attack.norm
    'l2'
    """

    epochs: int = static(default=10)
    delta: float | None = static(default=0.2)
    attack: Attack = DeepFool(steps=10)
    gain: Any = 10.0

    def learn(self, task: Task, variable: Any, rows: Rows) -> Lesson:
        placed = self.place(task, variable, rows.images, rows.keys)
        key = jax.random.key(0)
        table = make_table(self.attack, task.model, placed, rows.goal, keep="first", epsilon=None)
        fooled = ~table.active
        table = table._replace(active=table.active & (rows.weights > 0))
        found = drive_batch(self.attack, task.model, table, key, keep="first")
        counts, _ = found.totals("first")
        taught = found.best.adversarial & table.active
        change = jnp.where(taught[:, None, None, None], found.best.image - placed, 0).sum(0)
        wanted = rows.weights > 0

        def total(numbers: Any) -> Any:
            return jnp.where(wanted, numbers, 0).sum(dtype=jnp.float32)

        return Lesson(change, total(fooled), total(taught), total(counts.forward + 1),
                      total(counts.backward))  # fmt: skip

    def update(self, task: Task, now: Progress, lesson: Lesson) -> tuple[Any, Any]:
        gain = 1.0 if self.batch_size == 1 else self.gain
        step = gain * lesson.change / jnp.maximum(lesson.taught, 1)
        return self.project(task, now.variable + step), now.memory
