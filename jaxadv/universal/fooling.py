"""Fooling rates: the classes of images before and after a change, recomputed by the model."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxadv.core.bounds import two_numbers
from jaxadv.core.model import Model
from jaxadv.core.norms import distance64
from jaxadv.core.typing import ArrayLike, Devices
from jaxadv.engine.devices import choose_devices
from jaxadv.engine.verify import predict


class Fooling(NamedTuple):
    """Predictions of a model for images before and after one change.

    Attributes:
        before: int32 [N], classes of the images.
        after: int32 [N], classes of the changed images.
        distance: float64 [N], distances from image to changed image.
        valid: bool [N], whether the changed image lies in the box and within epsilon, in float64.
    """

    before: np.ndarray
    after: np.ndarray
    distance: np.ndarray
    valid: np.ndarray

    @property
    def fooled(self) -> np.ndarray:
        """Mask [N] of images whose class changes, relative to the model's own clean prediction."""
        return (self.before != self.after) & self.valid

    @property
    def rate(self) -> float:
        """Fooling rate: the fraction of images whose class changes."""
        return float(self.fooled.mean())

    def rate_to(self, target: int) -> float:
        """Return the fraction of the images of other classes that move to `target`."""
        away = self.before != target
        return float((self.fooled & (self.after == target))[away].mean()) if away.any() else 0.0

    def rate_of(self, classes: Sequence[int], inside: bool = True) -> float:
        """Return the fooling rate of images of these classes (or, not `inside`, of all others)."""
        those = np.isin(self.before, classes) == inside
        return float(self.fooled[those].mean()) if those.any() else 0.0

    def moves(self, classes: int) -> np.ndarray:
        """Return the counts [K, K] of images from class (row) to class (column).

        Images that are not fooled count on the diagonal.
        """
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (self.before, np.where(self.fooled, self.after, self.before)), 1)
        return counts


def judge(
    model: Model,
    images: ArrayLike,
    perturbation: ArrayLike,
    norm: str = "linf",
    epsilon: float = np.inf,
    *,
    devices: Devices = None,
) -> Fooling:
    """Classify images before and after a universal perturbation.

    Costs two forward passes an image, in separate batches. Distances are computed in float64.

    Args:
        model: The model.
        images: Images [N, H, W, C] within the bounds of the model.
        perturbation: One perturbation [H, W, C], or one for each image [N, H, W, C]. The sum with
            the images is clipped to the box.
        norm: Norm of the distances.
        epsilon: Largest distance at which a changed image is valid, up to the rounding of float32:
            float32(10/255) counts as within 10/255.
        devices: JAX devices (None: all local ones).

    Returns:
        The predictions before and after, distances and validity.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> from jaxadv.universal import judge
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
        >>> judge(model, jnp.eye(4).reshape(4, 2, 2, 1), jnp.ones((2, 2, 1)) * 0.5).rate
        0.0
    """
    images = np.asarray(images, np.float32)
    lower, upper = map(np.float32, two_numbers(model.bounds, "a universal perturbation"))
    changed = np.clip(images + np.asarray(perturbation, np.float32), lower, upper)
    return compare(model, images, changed, norm, epsilon, devices=devices)


def compare(
    model: Model,
    images: np.ndarray,
    changed: np.ndarray,
    norm: str,
    epsilon: float = np.inf,
    *,
    devices: Devices = None,
) -> Fooling:
    """Classify images and changed images, both float32 [N, H, W, C].

    A random model is evaluated with draws that no method has seen.
    """
    devices, judging = choose_devices(devices), model.fresh()
    before, after = (predict(judging, some, devices).argmax(1) for some in (images, changed))
    distance = distance64(norm, changed, images)
    lower, upper = two_numbers(model.bounds, "a universal perturbation")
    flat = changed.reshape(len(changed), -1)
    boxed = (np.isfinite(flat) & (flat >= lower) & (flat <= upper)).all(1)
    reach = epsilon + _rounding(norm, epsilon, max(abs(lower), abs(upper)), flat.shape[1])
    return Fooling(
        before.astype(np.int32), after.astype(np.int32), distance, boxed & (distance <= reach)
    )


def _rounding(norm: str, epsilon: float, largest: float, size: int) -> float:
    """Return how much farther than epsilon a perturbation in float32 may come by rounding alone.

    float32(10/255) is above 10/255, and its sum with a pixel is rounded once more.
    """
    if not np.isfinite(epsilon) or norm == "l0":
        return 0.0
    pixel = float(np.spacing(np.float32(largest))) / 2
    stated = max(float(np.float32(epsilon)) - epsilon, 0.0)
    return stated + pixel * {"linf": 1.0, "l2": size**0.5, "l1": float(size)}[norm]
