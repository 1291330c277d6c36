"""Linear models of the domain ai.onnx.ml, and their parts: weights are attributes."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxadv.core.typing import ArrayLike
from jaxadv.models.onnx.node import Node, Operator
from jaxadv.models.onnx.normalization import vector_length

TRANSFORMS = {"NONE": lambda z: z, "SOFTMAX": jax.nn.softmax, "LOGISTIC": jax.nn.sigmoid}
LENGTHS = {
    "MAX": lambda x: x.max(-1, keepdims=True),
    "L1": lambda x: jnp.abs(x).sum(-1, keepdims=True),
    "L2": lambda x: vector_length(x, -1, True),
}


def _linear_classifier(node: Node, x: ArrayLike) -> tuple[None, ArrayLike]:
    """Scores; the labels, its first output, are omitted."""
    classes = len(node.get("classlabels_ints", ()) or node.get("classlabels_strings", ()))
    weights = np.float32(node.get("coefficients")).reshape(-1, x.shape[-1])
    if len(weights) != classes:
        raise ValueError(f"it has {len(weights)} rows of coefficients for {classes} classes")
    if (transform := node.get("post_transform", "NONE")) not in TRANSFORMS:
        raise ValueError(f"post_transform={transform!r} is not supported: only {[*TRANSFORMS]}")
    scores = x @ weights.T + np.float32(node.get("intercepts", np.zeros(classes)))
    return None, TRANSFORMS[transform](scores)


def _normalizer(node: Node, x: ArrayLike) -> ArrayLike:
    length = LENGTHS[node.get("norm", "MAX")](x)
    return x / jnp.where(length == 0, 1, length)


def _scaler(node: Node, x: ArrayLike) -> ArrayLike:
    return (x - np.float32(node.get("offset", 0.0))) * np.float32(node.get("scale", 1.0))


def _array_feature_extractor(_: Node, x: ArrayLike, places: ArrayLike) -> ArrayLike:
    """The features at some places, as rows also where there is one row without a batch axis."""
    return jnp.take(jnp.atleast_2d(x), jnp.ravel(places), axis=-1)


OPERATORS: dict[str, Operator] = {
    "ArrayFeatureExtractor": _array_feature_extractor,
    "LinearClassifier": _linear_classifier,
    "Normalizer": _normalizer,
    "Scaler": _scaler,
}
