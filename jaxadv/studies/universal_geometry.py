"""Geometry of universal perturbations (Moosavi-Dezfooli et al. 2016, arXiv 1610.08401, section 4).

The normals of the decision boundary near different images lie in a subspace of few dimensions, and
a random vector of that subspace fools more images than one of the whole space. The module also
computes the paper's controls: other single vectors of the same length.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxadv.attacks.minimum_norm.deepfool import DeepFool
from jaxadv.core.goals import Untargeted
from jaxadv.core.model import Model
from jaxadv.engine.devices import choose_devices
from jaxadv.engine.run import run
from jaxadv.engine.verify import predict


def least_changes(model: Model, images: Any, *, devices: Any = None) -> Float[np.ndarray, "N ..."]:
    """Return the minimal L2 perturbations r(x) [N, H, W, C] that change the model's own prediction.

    Computed by DeepFool; 0 where none was found. r(x) is normal to the decision boundary at x +
    r(x).
    """
    images = np.asarray(images, np.float32)
    chosen = choose_devices(devices)
    classes = predict(model, images, chosen).argmax(1).astype(np.int32)
    found = run(
        DeepFool(), model, images, Untargeted(classes), key=jax.random.key(0), devices=chosen
    )
    keep = found.success.reshape(-1, *(1,) * (images.ndim - 1))
    return np.where(keep, found.images - images, 0)


def normals(changes: Any) -> Float[np.ndarray, "D M"]:
    """Return the nonzero perturbations as columns of unit length, in float64."""
    flat = np.asarray(changes, np.float64).reshape(len(changes), -1)
    lengths = np.linalg.norm(flat, axis=1)
    return (flat[lengths > 0] / lengths[lengths > 0, None]).T


def singular_values(columns: Any) -> Float[np.ndarray, " S"]:
    """Return the singular values of a matrix [D, M] in descending order, in float64."""
    return np.linalg.svd(np.asarray(columns, np.float64), compute_uv=False)


def random_columns(size: int, count: int, seed: int = 0) -> Float[np.ndarray, "D M"]:
    """Return columns drawn uniformly from the unit sphere: the paper's control."""
    drawn = np.random.default_rng(seed).normal(size=(size, count))
    return drawn / np.linalg.norm(drawn, axis=0)


def in_subspace(columns: Any, dimensions: int, seed: int = 0) -> Float[np.ndarray, " D"]:
    """Return a random unit vector in the span of the first left singular vectors of [D, M]."""
    basis, _, _ = np.linalg.svd(np.asarray(columns, np.float64), full_matrices=False)
    drawn = np.random.default_rng(seed).normal(size=min(dimensions, basis.shape[1]))
    return basis[:, : len(drawn)] @ (drawn / np.linalg.norm(drawn))


def of_length(vector: Any, length: float, norm: str = "l2") -> Float[np.ndarray, "..."]:
    """Scale a vector to a length, in float64.

    Args:
        vector: Vector of any shape; 0 stays 0.
        length: The length.
        norm: "l2" or "linf".

    Returns:
        The scaled vector.

    Example:
        >>> from jaxadv.studies.universal_geometry import of_length
        >>> of_length([3.0, 4.0], 1.0)
        array([0.6, 0.8])
    """
    vector = np.asarray(vector, np.float64)
    own = np.linalg.norm(vector.ravel(), {"l2": 2, "linf": np.inf}[norm])
    return vector * (length / own if own else 0.0)


def controls(
    images: Any, changes: Any, length: float, norm: str = "l2", seed: int = 0
) -> dict[str, Float[np.ndarray, "H W C"]]:
    """Return the paper's control vectors of the same length, by name.

    These are a random vector, the minimal perturbation of one image, the sum of those of all
    images, and the mean of the images. `images` and `changes` are [N, H, W, C].
    """
    rng = np.random.default_rng(seed)
    shape = np.shape(images)[1:]
    drawn = rng.normal(size=shape) if norm == "l2" else rng.choice([-1.0, 1.0], size=shape)
    nonzero = np.flatnonzero(np.abs(changes).reshape(len(changes), -1).any(1))
    one = changes[rng.choice(nonzero)] if len(nonzero) else np.zeros(shape)
    vectors = {
        "random": drawn,
        "one image's": one,
        "sum": np.sum(changes, 0, np.float64),
        "mean of the images": np.mean(images, 0, np.float64),
    }
    return {name: of_length(vector, length, norm) for name, vector in vectors.items()}


def similarity(perturbations: Any) -> Float[np.ndarray, "M M"]:
    """Return the cosine similarities between perturbations [M, H, W, C], in float64."""
    columns = normals(perturbations)
    return columns.T @ columns


def dominant(moves: Array | np.ndarray, share: float = 0.5) -> list[int]:
    """Return the fewest classes that receive at least the fraction `share` of the images that move.

    `moves` holds the counts [K, K] from class (row) to class (column).
    """
    gone = np.asarray(moves) * (1 - np.eye(len(moves), dtype=int))
    into = gone.sum(0)
    order = np.argsort(-into, kind="stable")
    reached = np.cumsum(into[order]) >= share * into.sum()
    return [] if not into.sum() else order[: int(reached.argmax()) + 1].tolist()
