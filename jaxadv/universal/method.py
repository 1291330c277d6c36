"""The contract of a method for universal perturbations, and its compiled epoch.

A universal perturbation couples images, so it is no attack on one image. A method holds a variable
(a perturbation or a patch) and defines how it is placed in an image, what a batch of images
contributes, and how the variable is updated. The driver splits each batch over the devices in parts
of a fixed width and adds the contributions in a fixed order, so that the bits of the result do not
depend on the number of devices.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, PyTree, Shaped

from jaxadv.core.bounds import two_numbers
from jaxadv.core.goals import Goal
from jaxadv.core.model import Model
from jaxadv.core.norms import get_norm
from jaxadv.core.pytree import pytree, static, take
from jaxadv.core.typing import ChosenDevices, Number, Numbers
from jaxadv.engine.verify import mesh_of

NORMS = ("linf", "l2")


@pytree
class Task:
    """The optimisation problem of a method.

    Attributes:
        model: The model.
        radius: Radius of the variable, float32 and slightly below epsilon.
        norm: "linf" or "l2".
        shape: Shape of the images.
    """

    model: Model
    radius: Number
    norm: str = static(default="linf")
    shape: tuple[int, ...] = static(default=())

    @property
    def span(self) -> float:
        """Side length of the box."""
        lower, upper = two_numbers(self.model.bounds, "a universal perturbation")
        return upper - lower

    def project(self, change: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the nearest perturbation within the radius."""
        nothing = jnp.zeros_like(change)
        return get_norm(self.norm).project(change, nothing, self.radius, -self.span, self.span)


class Rows(NamedTuple):
    """Images with their goals and weights.

    Attributes:
        images: [N, H, W, C].
        goal: Goals, one for each image.
        weights: [N]. 1: the image is to be fooled; -1: it is to keep its class; 0: it is ignored.
        keys: Random keys [N].
    """

    images: Float[Array, "N H W C"]
    goal: Goal
    weights: Float[Array, " N"]
    keys: Shaped[Array, "N ..."]


class Aim(NamedTuple):
    """The data from which a variable is learnt.

    Attributes:
        images: Images [N, H, W, C].
        goal: Goals, one for each image.
        weights: Weights [N] of the images, as in `Rows`.
        start: The variable to begin from, None for the method's own.
    """

    images: np.ndarray
    goal: Goal
    weights: np.ndarray
    start: Numbers | None = None


class Lesson(NamedTuple):
    """The contribution of a part of a batch, summed over its images.

    Attributes:
        change: [...], sum of the gradients or perturbations.
        fooled: Number of images of weight 1 that are fooled already.
        taught: Number of images that contributed to `change`.
        forward: Forward passes.
        backward: Backward passes.
    """

    change: Float[Array, "..."]
    fooled: Float[Array, ""]
    taught: Float[Array, ""]
    forward: Float[Array, ""]
    backward: Float[Array, ""]


class MethodState(NamedTuple):
    """State of a method between batches.

    Attributes:
        variable: The perturbation or patch.
        memory: Further state of the method, such as that of an optimizer.
        step: Number of batches so far.
        steps: Number of batches in all.
    """

    variable: Float[Array, "..."]
    memory: PyTree
    step: Int[Array, ""]
    steps: Float[Array, ""]


@pytree
class Method:
    """Base class of the methods for universal perturbations.

    Attributes:
        epochs: Maximum number of passes over the images.
        batch_size: Images of a step.
        delta: Fraction of images that may stay unfooled. All images are classified after each
            epoch, the run stops when at most this fraction is not fooled, and the best variable is
            returned. None: all epochs are run, and the last variable is returned.

    Raises:
        ValueError: `epochs` or `batch_size` is below 1, or `delta` is outside [0, 1].
    """

    epochs: int = static(default=20)
    batch_size: int = static(default=32)
    delta: float | None = static(default=None)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: pass 1 or more")
        if self.delta is not None and not 0 <= self.delta <= 1:
            raise ValueError(
                f"delta={self.delta}: pass the fraction not fooled, from 0 to 1, or None"
            )

    def init(self, task: Task) -> tuple[Array, PyTree]:
        """Return the variable before the first step, and the memory."""
        return jnp.zeros(task.shape, jnp.float32), ()

    def place(
        self, task: Task, variable: Array, images: Array, keys: Array
    ) -> Float[Array, "N ..."]:
        """Return the images with the variable placed in them, within the box; default: added."""
        return jnp.clip(images + variable, *task.model.bounds)

    def project(self, task: Task, variable: Array) -> Array:
        """Return the nearest admissible variable; default: within the radius."""
        return task.project(variable)

    def learn(self, task: Task, variable: Array, rows: Rows) -> Lesson:
        """Return what these images contribute; rows of weight 0 must contribute nothing."""
        raise NotImplementedError

    def update(self, task: Task, now: MethodState, lesson: Lesson) -> tuple[Array, PyTree]:
        """Return the variable and the memory after a batch."""
        raise NotImplementedError


def lanes_for(batch: int, devices: ChosenDevices) -> int:
    """Return the width of a part of a batch.

    It is the same for up to eight CPUs; other devices get equal parts of the batch.
    """
    return math.ceil(batch / (8 if devices[0].platform == "cpu" else len(devices)))


@functools.lru_cache
def epoch_program(batch: int, width: int, devices: ChosenDevices) -> Any:
    """Return the jitted (method, task, state, rows, key) -> (state, tallies).

    The program runs one epoch over the rows [N] in a new order, as a scan over the batches. The
    tallies are [fooled, taught, forward, backward].
    """
    parts = math.ceil(batch / width)
    each = math.ceil(parts / len(devices))  # parts of a device; the last device may have fewer

    def epoch(method: Method, task: Task, now: MethodState, rows: Rows, key: Array) -> Any:
        count = len(rows.images)
        batches = math.ceil(count / batch)
        order = jax.random.permutation(key, count)
        order = jnp.pad(order, (0, batches * batch - count), constant_values=-1)
        order = order.reshape(batches, batch)
        room = each * len(devices) * width - batch
        order = jnp.pad(order, ((0, 0), (0, room)), constant_values=-1)
        order = order.reshape(batches, -1, width)

        def walk(method: Method, task: Task, now: MethodState, rows: Rows, order: Array) -> Any:
            def step(now: MethodState, places: Array) -> Any:
                def part(place: Array) -> Lesson:
                    part_rows = take(rows, place)
                    own = jnp.where(place < 0, 0.0, part_rows.weights)
                    draw = jax.vmap(jax.random.fold_in, (0, None))(part_rows.keys, now.step)
                    return method.learn(
                        task, now.variable, part_rows._replace(weights=own, keys=draw)
                    )

                lessons = lax.map(part, places)
                if len(devices) > 1:  # in the order of the parts, regardless of the device
                    lessons = jax.tree.map(
                        lambda leaf: lax.all_gather(leaf, "devices", tiled=True), lessons
                    )
                total = jax.tree.map(lambda leaf: leaf[:parts].sum(0), lessons)
                variable, memory = method.update(task, now, total)
                now = now._replace(variable=variable, memory=memory, step=now.step + 1)
                return now, jnp.stack([total.fooled, total.taught, total.forward, total.backward])

            return lax.scan(step, now, order)

        if len(devices) > 1:
            replicated, split = PartitionSpec(), PartitionSpec(None, "devices")
            walk = jax.shard_map(
                walk,
                mesh=mesh_of(devices),
                in_specs=(replicated,) * 4 + (split,),
                out_specs=replicated,
                check_vma=False,
            )
        now, tallies = walk(method, task, now, rows, order)
        return now, tallies.sum(0)

    return jax.jit(epoch)
