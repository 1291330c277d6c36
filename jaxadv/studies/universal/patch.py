"""A universal patch: one small picture that, pasted anywhere into any image, changes the answer."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxadv.core.model import Model
from jaxadv.core.pytree import pytree, static
from jaxadv.engine.devices import choose_devices
from jaxadv.studies.universal.ascent import UniversalAscent
from jaxadv.studies.universal.fooling import Fooling, compare
from jaxadv.studies.universal.method import Task
from jaxadv.studies.universal.perturbation import aim_of, check_given, fit_variable


@pytree
class PatchAscent(UniversalAscent):
    """Gradient ascent on a patch [size, size, C] whose place is drawn anew for every image and step
    (Brown et al. 2017, arXiv 1712.09665, without rotation and scale); other fields as in
    `UniversalAscent`, steps in shares of the box."""

    size: int = static(default=8)

    def first(self, task: Task) -> Any:
        middle = sum(task.model.bounds) / 2
        return jnp.full((self.size, self.size, task.shape[2]), middle, jnp.float32)

    def project(self, task: Task, variable: Any) -> Any:
        return jnp.clip(variable, *task.model.bounds)

    def place(self, task: Task, variable: Any, images: Array, keys: Any) -> Float[Array, "N ..."]:
        return paste(images, variable, keys)


def paste(images: Float[Array, "N ..."], patch: Float[Array, "..."], keys: Any) -> Array:
    """The images [N, H, W, C] with the patch [h, w, C] in each, wholly inside, at a place drawn
    uniformly by its key [N]. Pure and differentiable."""
    room = jnp.array(images.shape[1:3]) - jnp.array(patch.shape[:2]) + 1

    def one(image: Array, key: Array) -> Array:
        row, column = jax.random.randint(key, (2,), 0, room)
        return lax.dynamic_update_slice(image, patch, (row, column, 0))

    return jax.vmap(one)(images, keys)


class Patch(NamedTuple):
    """What was found: patch float32 [size, size, C]; given, held_out: `Fooling` of images with the
    patch at places that it was not made at (L0: entries that differ); history, forward, backward,
    seconds: as in `Universal`."""

    patch: np.ndarray
    given: Fooling
    held_out: Fooling | None
    history: np.ndarray
    forward: int
    backward: int
    seconds: float


def universal_patch(
    model: Model,
    images: Any,
    size: int,
    method: PatchAscent | None = None,
    *,
    key: Array,
    target: int | None = None,
    held_out: Any = None,
    devices: Any = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Patch:
    """A square patch that, wherever it is pasted, changes the model's answer to most images.

    images: [N, H, W, C] floats within `model.bounds`, without labels; size: the patch's side in
    pixels; method: a `PatchAscent` (its size is replaced); target: the class that all are to move
    to (None: any other than the clean answer). Other arguments as in `universal_perturbation`.
    Raises ValueError for arguments that cannot be meant so. Brown et al. 2017 (arXiv 1712.09665).

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: jnp.stack([w + 0 * x.max((1, 2, 3)), x.max((1, 2, 3))], 1),
    ...                  jnp.float32(0.7))
    >>> found = ja.universal_patch(model, jnp.zeros((8, 5, 5, 1)) + 0.2, 2, key=jax.random.key(0))
    >>> found.patch.max(), found.given.rate
    (np.float32(1.0), 1.0)
    """
    began = time.perf_counter()
    images, others = check_given(model, images, held_out, target)
    if images.ndim != 4 or not 1 <= size <= min(images.shape[1:3]):
        raise ValueError(f"size={size}: pass 1 to {min(images.shape[1:3])}, in pixels")
    chosen = choose_devices(devices)
    method = dataclasses.replace(method or PatchAscent(epochs=40), size=size, delta=None)
    aim = aim_of(model, images, chosen, target)
    span = np.float32(model.bounds[1] - model.bounds[0])
    task = Task(model, span, "linf", tuple(images.shape[1:]))
    fit = fit_variable(method, task, aim, key=key, devices=chosen, progress=progress)
    patch = np.asarray(fit.variable)

    def judged(some: np.ndarray, stream: int) -> Fooling:
        own = jax.random.fold_in(jax.random.fold_in(key, 2**31), stream)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(own, jnp.arange(len(some)))
        pasted = np.asarray(jax.jit(paste)(some, patch, keys))
        return compare(model, some, pasted, "l0", float(patch.size), devices=chosen)

    return Patch(
        patch, judged(images, 0), None if others is None else judged(others, 1), fit.history,
        fit.forward + len(images), fit.backward, time.perf_counter() - began,
    )  # fmt: skip
