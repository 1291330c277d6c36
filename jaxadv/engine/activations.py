"""The distance of two images in the activations of a network's own layers.

The form is that of LPIPS (Zhang et al. 2018, arXiv 1801.03924), whose weights are not: no layer and
no channel is weighted, and the network is the one at hand, not one that was fitted to what people
see. An attack on this network moves its activations further than what is seen would.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn
from jaxtyping import Array, Float

from jaxadv.core.jaxprs import bind, called, walk
from jaxadv.core.model import Model
from jaxadv.core.typing import ArrayLike

BATCH = 20  # images at a time: all activations of a layer are held, of images and originals


def activations(model: Model, images: Float[Array, "N ..."]) -> list[Float[Array, "N ... C"]]:
    """Return the outputs of all convolutions and matrix products, with the channels last.

    Those inside of loops are left out, and so are those of models that are no JAX programs.

    Args:
        model: The model.
        images: The images.

    Returns:
        The activations of each layer, before what follows it (bias, normalisation, ReLU).
    """
    traced = jax.make_jaxpr(model)(images)
    layers: list[Array] = []

    def outputs_of(eqn: JaxprEqn, inputs: list[Any]) -> Sequence[Any]:
        inner = called(eqn)
        if inner is not None:
            return walk(inner.jaxpr, inner.consts, inputs, outputs_of)
        outputs = bind(eqn, inputs)
        layer = outputs[0]
        if eqn.primitive.name == "conv_general_dilated":
            batch, channels, *space = eqn.params["dimension_numbers"].out_spec
            layers.append(jnp.transpose(layer, (batch, *space, channels)))
        elif eqn.primitive.name == "dot_general" and layer.ndim >= 2:
            layers.append(layer)
        return outputs

    walk(traced.jaxpr, traced.consts, [images], outputs_of)
    return [layer for layer in layers if len(layer) == len(images)]


@jax.jit
def _distances(model: Model, pairs: Float[Array, "2 N ..."]) -> Float[Array, " N"]:
    count = pairs.shape[1]

    def apart(layer: Array) -> Array:
        length = jnp.linalg.norm(layer, axis=-1, keepdims=True)
        image, original = jnp.split(layer / jnp.maximum(length, 1e-10), 2)
        return jnp.square(image - original).sum(-1).reshape(count, -1).mean(1)

    layers = activations(model, pairs.reshape(2 * count, *pairs.shape[2:]))
    return jnp.stack([apart(x) for x in layers]).mean(0) if layers else jnp.full(count, jnp.nan)


def activation_distance(
    model: Model, images: ArrayLike, originals: ArrayLike
) -> Float[np.ndarray, " N"]:
    """Return the mean over layers of the squared difference of normalised activations.

    At every place of a layer the activations of all channels are divided by their L2 norm; their
    squared differences are summed over channels, and averaged over places and layers.

    Args:
        model: The model.
        images: Images [N, H, W, C].
        originals: Their originals.

    Returns:
        The distances [N], 0 (equal) to 4 (opposite); NaN for a model of which no layer is known.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> from jaxadv.engine.activations import activation_distance
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
        >>> images = jnp.eye(4).reshape(4, 2, 2, 1)
        >>> activation_distance(model, images[:2], images[1:3])
        array([2., 2.], dtype=float32)
    """
    images, originals = np.asarray(images, np.float32), np.asarray(originals, np.float32)
    rows = -(-len(images) // BATCH) * BATCH
    padded = np.zeros((2, rows, *images.shape[1:]), np.float32)
    padded[:, : len(images)] = images, originals
    parts = [_distances(model, padded[:, i : i + BATCH]) for i in range(0, rows, BATCH)]
    return np.concatenate([np.zeros(0, np.float32), *map(np.asarray, parts)])[: len(images)]
