"""Universal patches: one small picture that changes the prediction wherever it is pasted."""

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxadv.core.bounds import two_numbers
from jaxadv.core.model import Model
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import ArrayLike, Devices, Number
from jaxadv.engine.checks import check_key
from jaxadv.engine.devices import choose_devices
from jaxadv.universal.ascent import UniversalAscent
from jaxadv.universal.fooling import Fooling, compare
from jaxadv.universal.method import Task
from jaxadv.universal.perturbation import aim_of, check_given, fit_variable


@pytree
class PatchAscent(UniversalAscent):
    """Gradient ascent on a patch [size, size, C] at a place drawn anew for every image and step.

    Brown et al. 2017, arXiv 1712.09665, without rotation and scale. The other fields are those of
    `UniversalAscent`, with steps as fractions of the box's side length.

    Attributes:
        clip: Upper limit of the loss of an image.
        size: Side length of the patch in pixels.
    """

    clip: Number = 9.0
    size: int = static(default=8)

    def first(self, task: Task) -> Array:
        middle = sum(two_numbers(task.model.bounds, "a patch")) / 2
        return jnp.full((self.size, self.size, task.shape[2]), middle, jnp.float32)

    def project(self, task: Task, variable: Array) -> Array:
        return jnp.clip(variable, *task.model.bounds)

    def place(
        self, task: Task, variable: Array, images: Array, keys: Array
    ) -> Float[Array, "N ..."]:
        return paste(images, variable, keys)


def paste(images: Float[Array, "N ..."], patch: Float[Array, "..."], keys: Array) -> Array:
    """Paste the patch [h, w, C] into each image [N, H, W, C], wholly inside it.

    The places are drawn uniformly from the keys [N]. Pure and differentiable.
    """
    room = jnp.array(images.shape[1:3]) - jnp.array(patch.shape[:2]) + 1

    def one(image: Array, key: Array) -> Array:
        row, column = jax.random.randint(key, (2,), 0, room)
        return lax.dynamic_update_slice(image, patch, (row, column, 0))

    return jax.vmap(one)(images, keys)


class Patch(NamedTuple):
    """A universal patch and its fooling rates.

    Attributes:
        patch: float32 [size, size, C].
        given: `Fooling` of the images that the patch was made from, with the patch at places that
            it was not made at (L0 distance: entries that differ).
        held_out: The same for the held-out images (None: no others).
        history: Fooling rates of the epochs, as in `Universal`.
        forward: Forward passes, verification left out.
        backward: Backward passes.
        seconds: Wall time, compilation included.
    """

    patch: np.ndarray
    given: Fooling
    held_out: Fooling | None
    history: np.ndarray
    forward: int
    backward: int
    seconds: float


def universal_patch(
    model: Model,
    images: ArrayLike,
    size: int,
    method: PatchAscent | None = None,
    *,
    key: Array,
    target: int | None = None,
    held_out: ArrayLike | None = None,
    devices: Devices = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Patch:
    """Compute a square patch that changes the predictions of most images wherever it is pasted.

    Brown et al. 2017, arXiv 1712.09665.

    Args:
        model: The model, which must be differentiable.
        images: Images [N, H, W, C], floats within `model.bounds`, without labels.
        size: Side length of the patch in pixels.
        method: A `PatchAscent` (its size is replaced; its `delta` is ignored).
        key: JAX random key.
        target: Class that all images are to move to (None: any other than the clean prediction).
        held_out: Other images, on which the patch is evaluated too.
        devices: JAX devices (None: all local ones).
        progress: Called after each epoch with (epochs done, epochs, running fooling rate).

    Returns:
        The patch with its fooling rates, passes and wall time.

    Raises:
        ValueError: `size` does not fit the images, `target` is not a class of the model, the model
            cannot be differentiated, or the images are outside the bounds or of another shape than
            `held_out`.

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
    low, high = two_numbers(model.bounds, "ja.universal_patch")
    span = np.float32(high - low)
    task = Task(model, span, "linf", tuple(images.shape[1:]))
    key = check_key(key)
    fit = fit_variable(method, task, aim, key=key, devices=chosen, progress=progress)
    patch = np.asarray(fit.variable)

    def judged(some: np.ndarray, stream: int) -> Fooling:
        own = jax.random.fold_in(jax.random.fold_in(key, 2**31), stream)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(own, jnp.arange(len(some)))
        pasted = np.asarray(jax.jit(paste)(some, patch, keys))
        return compare(model, some, pasted, "l0", float(patch.size), devices=chosen)

    return Patch(
        patch,
        judged(images, 0),
        None if others is None else judged(others, 1),
        fit.history,
        fit.forward + len(images),
        fit.backward,
        time.perf_counter() - began,
    )
