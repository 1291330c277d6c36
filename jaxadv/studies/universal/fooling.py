"""Whom a change fools: the classes that images have before and after it, judged anew."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxadv.core.model import Model
from jaxadv.core.norms import distance64
from jaxadv.engine.devices import choose_devices
from jaxadv.engine.verify import predict


class Fooling(NamedTuple):
    """What a network says of images before and after one change: before, after: classes int32 [N];
    distance: float64 [N], from image to changed image; valid: bool [N], whether the changed image
    lies in the box and within epsilon by float64."""

    before: np.ndarray
    after: np.ndarray
    distance: np.ndarray
    valid: np.ndarray

    @property
    def fooled(self) -> np.ndarray:
        """Which images [N] change their class, against the network's own clean answer."""
        return (self.before != self.after) & self.valid

    @property
    def rate(self) -> float:
        """The fooling rate: the share of images that change their class."""
        return float(self.fooled.mean())

    def rate_to(self, target: int) -> float:
        """The share of the images of other classes that move to `target`."""
        away = self.before != target
        return float((self.fooled & (self.after == target))[away].mean()) if away.any() else 0.0

    def rate_of(self, classes: Sequence[int], inside: bool = True) -> float:
        """The fooling rate of the images of these classes (or of all the others)."""
        those = np.isin(self.before, classes) == inside
        return float(self.fooled[those].mean()) if those.any() else 0.0

    def moves(self, classes: int) -> np.ndarray:
        """How many images go from class [K] to class [K]: the diagonal stays."""
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (self.before, np.where(self.fooled, self.after, self.before)), 1)
        return counts


def judge(
    model: Model, images: Any, perturbation: Any, norm: str = "linf", epsilon: float = np.inf, *,
    devices: Any = None,
) -> Fooling:  # fmt: skip
    """What the model says of images [N, H, W, C] before and after a perturbation [H, W, C] (or one
    for each, [N, H, W, C]), clipped to the box. Two forward passes an image, in batches of their
    own; distances in float64.

    >>> import jax.numpy as jnp, jaxadv as ja
    >>> from jaxadv.studies.universal import judge
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
    >>> judge(model, jnp.eye(4).reshape(4, 2, 2, 1), jnp.ones((2, 2, 1)) * 0.5).rate
    0.0
    """
    images = np.asarray(images, np.float32)
    lower, upper = map(np.float32, model.bounds)
    changed = np.clip(images + np.asarray(perturbation, np.float32), lower, upper)
    return compare(model, images, changed, norm, epsilon, devices=devices)


def compare(
    model: Model, images: np.ndarray, changed: np.ndarray, norm: str, epsilon: float = np.inf, *,
    devices: Any = None,
) -> Fooling:  # fmt: skip
    """What the model says of images and of changed images, both float32 [N, H, W, C]. A random
    model is asked with draws that no method has seen."""
    devices, judging = choose_devices(devices), model.fresh()
    before, after = (predict(judging, some, devices).argmax(1) for some in (images, changed))
    distance = distance64(norm, changed, images)
    lower, upper = model.bounds
    flat = changed.reshape(len(changed), -1)
    boxed = (np.isfinite(flat) & (flat >= lower) & (flat <= upper)).all(1)
    return Fooling(before.astype(np.int32), after.astype(np.int32), distance,
                   boxed & (distance <= epsilon))  # fmt: skip
