"""Geometry of universal perturbations (Moosavi-Dezfooli et al. 2016, arXiv 1610.08401, section 4).

The normals of the decision boundary near different images lie in a subspace of few dimensions, and
a random vector of that subspace fools more images than one of the whole space. The module also
computes the paper's controls: other single vectors of the same length.
"""

import jax
import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from jaxadv.attacks.minimum_norm.deepfool import DeepFool
from jaxadv.core.goals import Untargeted
from jaxadv.core.model import Model
from jaxadv.core.typing import ArrayLike, Devices
from jaxadv.engine.devices import choose_devices
from jaxadv.engine.run import run
from jaxadv.engine.verify import predict


def least_changes(
    model: Model, images: npt.ArrayLike, *, devices: Devices = None
) -> Float[np.ndarray, "N ..."]:
    """Compute minimal L2 perturbations r(x) that change the model's own prediction, by DeepFool.

    r(x) is normal to the decision boundary at x + r(x).

    Args:
        model: The model.
        images: Images [N, H, W, C] within `model.bounds`.
        devices: Devices of the run (None: all).

    Returns:
        The perturbations [N, H, W, C]; 0 where DeepFool failed.
    """
    images = np.asarray(images, np.float32)
    chosen = choose_devices(devices)
    classes = predict(model, images, chosen).argmax(1).astype(np.int32)
    result = run(
        DeepFool(), model, images, Untargeted(classes), key=jax.random.key(0), devices=chosen
    )
    success = result.success.reshape(-1, *(1,) * (images.ndim - 1))
    return np.where(success, result.images - images, 0)


def normals(changes: ArrayLike) -> Float[np.ndarray, "D M"]:
    """Return the nonzero perturbations as columns of unit length, in float64."""
    flat = np.asarray(changes, np.float64).reshape(len(changes), -1)
    lengths = np.linalg.norm(flat, axis=1)
    return (flat[lengths > 0] / lengths[lengths > 0, None]).T


def singular_values(columns: npt.ArrayLike) -> Float[np.ndarray, " S"]:
    """Return the singular values of a matrix [D, M] in descending order, in float64."""
    return np.linalg.svd(np.asarray(columns, np.float64), compute_uv=False)


def random_columns(size: int, count: int, seed: int = 0) -> Float[np.ndarray, "D M"]:
    """Return columns drawn uniformly from the unit sphere: the paper's control."""
    drawn = np.random.default_rng(seed).normal(size=(size, count))
    return drawn / np.linalg.norm(drawn, axis=0)


def in_subspace(columns: npt.ArrayLike, dimensions: int, seed: int = 0) -> Float[np.ndarray, " D"]:
    """Return a random unit vector in the span of the first left singular vectors of [D, M]."""
    basis, _, _ = np.linalg.svd(np.asarray(columns, np.float64), full_matrices=False)
    drawn = np.random.default_rng(seed).normal(size=min(dimensions, basis.shape[1]))
    return basis[:, : len(drawn)] @ (drawn / np.linalg.norm(drawn))


def of_length(vector: npt.ArrayLike, length: float, norm: str = "l2") -> Float[np.ndarray, "..."]:
    """Scale a vector to a length, in float64.

    Args:
        vector: Vector of any shape; 0 stays 0.
        length: The length.
        norm: "l2" or "linf".

    Returns:
        The scaled vector.

    Example:
        >>> from jaxadv.universal.geometry import of_length
        >>> of_length([3.0, 4.0], 1.0)
        array([0.6, 0.8])
    """
    vector = np.asarray(vector, np.float64)
    own = np.linalg.norm(vector.ravel(), {"l2": 2, "linf": np.inf}[norm])
    return vector * (length / own if own else 0.0)


def controls(
    images: ArrayLike, changes: ArrayLike, length: float, norm: str = "l2", seed: int = 0
) -> dict[str, Float[np.ndarray, "H W C"]]:
    """Return the paper's control vectors of the same length, by name.

    These are a random vector, the minimal perturbation of one image, the sum of those of all
    images, and the mean of the images.

    Args:
        images: Images [N, H, W, C].
        changes: Their minimal perturbations [N, H, W, C], by `least_changes`.
        length: Length of the vectors.
        norm: "l2" or "linf".
        seed: Seed of the random choices.

    Returns:
        The vectors [H, W, C].
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


def random_signs(
    shape: tuple[int, ...], size: float, norm: str = "linf", seed: int = 0
) -> Float[np.ndarray, "..."]:
    """Return a perturbation of random signs of a size: the control of a universal perturbation.

    Args:
        shape: Shape of an image.
        size: Norm of the perturbation.
        norm: "l2" or "linf".
        seed: Seed of the draw.

    Returns:
        The perturbation, of entries of one absolute value.

    Example:
        >>> import numpy as np
        >>> from jaxadv.universal.geometry import random_signs
        >>> np.abs(random_signs((2, 2, 1), 3.0, "l2")).ravel()
        array([1.5, 1.5, 1.5, 1.5])
    """
    drawn = np.random.default_rng(seed).choice([-1.0, 1.0], shape)
    return of_length(drawn, size, norm)


def similarity(perturbations: ArrayLike) -> Float[np.ndarray, "M M"]:
    """Return the cosine similarities between perturbations [M, H, W, C], in float64."""
    columns = normals(perturbations)
    return columns.T @ columns


def dominant(moves: ArrayLike, fraction: float = 0.5) -> list[int]:
    """Return the fewest classes that receive at least a fraction of the images that change class.

    Args:
        moves: Numbers [K, K] of images that go from class (row) to class (column).
        fraction: The fraction.

    Returns:
        The classes, the one that receives most images first.
    """
    changed = np.asarray(moves) * (1 - np.eye(len(moves), dtype=int))
    received = changed.sum(0)
    order = np.argsort(-received, kind="stable")
    is_enough = np.cumsum(received[order]) >= fraction * received.sum()
    return [] if not received.sum() else order[: int(is_enough.argmax()) + 1].tolist()
