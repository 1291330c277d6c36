"""What one thing for all images costs and brings: the contract of a method, and its compiled epoch.

A universal perturbation couples images, so it is no attack on one. A method holds a variable (a
perturbation, a patch) and says how it is put into an image, what a few images teach about it, and
how it changes. The driver deals each batch out to the devices in parts of a fixed width and adds
what they taught in a fixed order: the number of devices changes no bit.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from jaxadv.core.goals import Goal
from jaxadv.core.model import Model
from jaxadv.core.norms import get_norm
from jaxadv.core.pytree import pytree, static, take
from jaxadv.engine.verify import mesh_of

NORMS = ("linf", "l2")


@pytree
class Task:
    """model; norm; radius: the variable's, float32 and a hair below epsilon; shape: of images."""

    model: Model
    radius: Any
    norm: str = static(default="linf")
    shape: tuple[int, ...] = static(default=())

    @property
    def span(self) -> float:
        """The length of the box's sides."""
        return self.model.bounds[1] - self.model.bounds[0]

    def project(self, change: Float[Array, "..."]) -> Float[Array, "..."]:
        """The nearest perturbation within the radius."""
        nothing = jnp.zeros_like(change)
        return get_norm(self.norm).project(change, nothing, self.radius, -self.span, self.span)


class Rows(NamedTuple):
    """Images [N, H, W, C], a goal for each, weights [N] (1: to be fooled; -1: to keep its class; 0:
    of no concern), and random keys [N]."""

    images: Any
    goal: Goal
    weights: Any
    keys: Any


class Aim(NamedTuple):
    """What a variable is learnt from: images [N, H, W, C], a goal for each, and their weights [N],
    as in `Rows`; start: the variable to begin from, None for the method's own."""

    images: np.ndarray
    goal: Goal
    weights: np.ndarray
    start: Any = None


class Lesson(NamedTuple):
    """What some images teach: change [...] (a sum over them), how many of weight 1 were fooled
    already, how many taught at all, and the forward and backward passes that it took."""

    change: Any
    fooled: Any
    taught: Any
    forward: Any
    backward: Any


class Progress(NamedTuple):
    """variable; memory: the optimiser's, say; step: batches so far; steps: in all."""

    variable: Any
    memory: Any
    step: Any
    steps: Any


@pytree
class Method:
    """Base of the methods: batch_size: images of a step; epochs: the most rounds over the images;
    delta: judge all images after each round, stop when at most this share is not fooled, and return
    the best (None: all rounds, and the last)."""

    epochs: int = static(default=20)
    batch_size: int = static(default=32)
    delta: float | None = static(default=None)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: pass 1 or more")
        if self.delta is not None and not 0 <= self.delta <= 1:
            raise ValueError(f"delta={self.delta}: pass the share not fooled, from 0 to 1, or None")

    def init(self, task: Task) -> tuple[Any, Any]:
        """The variable before the first step, and the memory."""
        return jnp.zeros(task.shape, jnp.float32), ()

    def place(self, task: Task, variable: Any, images: Array, keys: Any) -> Float[Array, "N ..."]:
        """The images with the variable in them, within the box; default: added."""
        return jnp.clip(images + variable, *task.model.bounds)

    def project(self, task: Task, variable: Any) -> Any:
        """The nearest variable that is allowed; default: within the radius."""
        return task.project(variable)

    def learn(self, task: Task, variable: Any, rows: Rows) -> Lesson:
        """What these images teach; rows of weight 0 must teach nothing."""
        raise NotImplementedError

    def update(self, task: Task, now: Progress, lesson: Lesson) -> tuple[Any, Any]:
        """The variable and the memory after a batch."""
        raise NotImplementedError


def lanes_for(batch: int, devices: tuple[Any, ...]) -> int:
    """The width of a part: on CPUs the same for up to eight devices, else what a device can do."""
    return math.ceil(batch / (8 if devices[0].platform == "cpu" else len(devices)))


@functools.lru_cache
def epoch_program(batch: int, width: int, devices: tuple[Any, ...]) -> Any:
    """Jitted (method, task, progress, rows, key) -> progress, tallies [fooled, taught, forward,
    backward]: one round over the rows [N] in a new order, a scan over the batches."""
    parts = math.ceil(batch / width)
    each = math.ceil(parts / len(devices))  # parts of a device; the last device may have fewer

    def epoch(method: Method, task: Task, now: Progress, rows: Rows, key: Array) -> Any:
        count = len(rows.images)
        batches = math.ceil(count / batch)
        order = jax.random.permutation(key, count)
        order = jnp.pad(order, (0, batches * batch - count), constant_values=-1)
        order = order.reshape(batches, batch)
        room = each * len(devices) * width - batch
        order = jnp.pad(order, ((0, 0), (0, room)), constant_values=-1)
        order = order.reshape(batches, -1, width)

        def walk(method: Method, task: Task, now: Progress, rows: Rows, order: Array) -> Any:
            def step(now: Progress, places: Array) -> Any:
                def part(place: Array) -> Lesson:
                    mine = take(rows, place)
                    own = jnp.where(place < 0, 0.0, mine.weights)
                    draw = jax.vmap(jax.random.fold_in, (0, None))(mine.keys, now.step)
                    return method.learn(task, now.variable, mine._replace(weights=own, keys=draw))

                lessons = lax.map(part, places)
                if len(devices) > 1:  # in the order of the parts, whoever computed them
                    lessons = jax.tree.map(
                        lambda leaf: lax.all_gather(leaf, "devices", tiled=True), lessons
                    )
                total = jax.tree.map(lambda leaf: leaf[:parts].sum(0), lessons)
                variable, memory = method.update(task, now, total)
                now = now._replace(variable=variable, memory=memory, step=now.step + 1)
                return now, jnp.stack([total.fooled, total.taught, total.forward, total.backward])

            return lax.scan(step, now, order)

        if len(devices) > 1:
            whole, split = PartitionSpec(), PartitionSpec(None, "devices")
            walk = jax.shard_map(
                walk, mesh=mesh_of(devices), in_specs=(whole,) * 4 + (split,), out_specs=whole,
                check_vma=False,
            )  # fmt: skip
        now, tallies = walk(method, task, now, rows, order)
        return now, tallies.sum(0)

    return jax.jit(epoch)
