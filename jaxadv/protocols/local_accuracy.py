"""Accuracy at random points of the balls around images: chance in place of an adversary."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxadv.core.bounds import fitted
from jaxadv.core.model import Model
from jaxadv.core.norms import get_norm
from jaxadv.core.random import IMPLEMENTATION
from jaxadv.core.typing import ArrayLike, Key, Number, Numbers
from jaxadv.engine.verify import predict

DRAWS = 50


def local_accuracy(
    model: Model,
    images: ArrayLike,
    labels: Numbers,
    norm: str,
    epsilons: Sequence[float],
    draws: int = DRAWS,
    seed: int = 0,
) -> Float[np.ndarray, "E N"]:
    """Return the fraction of random points of the ball that are classified correctly.

    The points are drawn uniformly from the ball and clipped to the box. Costs `draws` forward
    passes for each image and epsilon.

    Args:
        model: The model.
        images: Images [N, H, W, C].
        labels: Integers [N].
        norm: Norm of the ball.
        epsilons: Radii [E], in the scale of the images.
        draws: Random points for each image and epsilon.
        seed: Seed of the draws.

    Returns:
        The fractions [E, N].

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> from jaxadv.protocols.local_accuracy import local_accuracy
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
        >>> local_accuracy(model, jnp.eye(4).reshape(4, 2, 2, 1), jnp.arange(4), "linf", [0.4])
        array([[1., 1., 1., 1.]])
    """
    geometry, (lower, upper) = get_norm(norm), fitted(model.bounds, np.shape(images)[1:])
    images, labels = np.asarray(images, np.float32), np.asarray(labels)

    @jax.jit
    def points(images: Array, epsilon: Number, key: Key) -> Array:
        def point(image: Array, key: Key) -> Array:
            return geometry.random(key, image, epsilon, lower, upper)

        def draw(number: Array) -> Array:
            keys = jax.random.split(jax.random.fold_in(key, number), len(images))
            return jax.vmap(point)(images, keys).clip(lower, upper)

        return jax.vmap(draw)(jnp.arange(draws)).reshape(-1, *images.shape[1:])

    own = jax.random.key(seed, impl=IMPLEMENTATION)
    accuracy = np.zeros((len(epsilons), len(images)))
    for row, epsilon in enumerate(epsilons):
        drawn = points(jnp.asarray(images), np.float32(epsilon), own)
        predicted = predict(model, drawn).argmax(1)
        accuracy[row] = (predicted.reshape(draws, -1) == labels).mean(0)
    return accuracy
