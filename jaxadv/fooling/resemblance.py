"""Which classes an image resembles: by near examples, another classifier, an autoencoder."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.core.model import Model
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import ArrayLike, Number, Params

MOST = 0.95  # of natural images are as near to an example, and as well reconstructed
BATCH = 500


class Measures(NamedTuple):
    """What is measured of N images.

    Attributes:
        distance: L2 distance to the nearest example of each class, [N, K].
        neighbour: Class of the nearest example, [N].
        answer: Class that the other classifier predicts, [N].
        error: Root mean square difference from the autoencoder's reconstruction, [N].
    """

    distance: Float[Array, "N K"]
    neighbour: Int[Array, " N"]
    answer: Int[Array, " N"]
    error: Float[Array, " N"]


@pytree
class Resemblance:
    """Says which classes an image resembles; in doubt, that it does.

    It resembles a class if it is as near to an example of that class as most natural images are, if
    its nearest example or another classifier is of that class, or (any class) if an autoencoder
    reconstructs it as well as most natural images.

    Attributes:
        model: A classifier of another architecture than the one to fool.
        examples: Training images as rows, [M, D].
        labels: Their classes, [M].
        classes: Number K of classes.
        autoencoder: Its layers "encode" and "decode", each with "kernel" and "bias".
        distance: Greatest distance that counts as near.
        error: Greatest error that counts as reconstructed.
    """

    model: Model
    examples: ArrayLike
    labels: ArrayLike
    classes: int = static()
    autoencoder: Params
    distance: Number = np.inf
    error: Number = np.inf

    def measure(self, images: Float[Array, "N H W C"]) -> Measures:
        """Return what is measured of the images."""
        rows = images.reshape(len(images), -1)
        squares = jnp.square(rows).sum(1)[:, None] + jnp.square(self.examples).sum(1)
        squares = squares - 2 * rows @ self.examples.T
        nearest = jax.ops.segment_min(squares.T, self.labels, self.classes).T
        distance = jnp.sqrt(jnp.maximum(nearest, 0))
        encode, decode = self.autoencoder["encode"], self.autoencoder["decode"]
        code = jax.nn.sigmoid(rows @ encode["kernel"] + encode["bias"])
        again = jax.nn.sigmoid(code @ decode["kernel"] + decode["bias"])
        error = jnp.sqrt(jnp.square(again - rows).mean(1))
        return Measures(distance, distance.argmin(1), self.model(images).argmax(1), error)

    def __call__(self, images: Float[Array, "N H W C"]) -> Bool[Array, "N K"]:
        """Return which classes each image resembles."""
        seen = self.measure(images)
        classes = jnp.arange(self.classes)
        near = seen.distance <= self.distance
        same = (seen.neighbour[:, None] == classes) | (seen.answer[:, None] == classes)
        return near | same | (seen.error <= self.error)[:, None]


def measured(resemblance: Resemblance, images: np.ndarray) -> Measures:
    """Return what is measured of many images, in batches."""
    measure = jax.jit(Resemblance.measure)
    parts = [
        measure(resemblance, jnp.asarray(images[i : i + BATCH], jnp.float32))
        for i in range(0, len(images), BATCH)
    ]
    return Measures(*(jnp.concatenate(part) for part in zip(*parts, strict=True)))
