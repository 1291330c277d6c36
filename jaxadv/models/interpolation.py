"""Interpolation along one axis: the product with a matrix that is known beforehand.

Each matrix is [new, old]: the weights of the old entries in the new ones, whose places among the
old ones are the `coordinates` [new], in float32.
"""

import jax.numpy as jnp
import numpy as np

from jaxadv.core.typing import ArrayLike

ONE = np.float32(1)


def nearest(coordinates: np.ndarray, size: int) -> np.ndarray:
    """Return the matrix of the entries at these coordinates, which are rounded."""
    return np.eye(size, dtype=np.float32)[np.clip(coordinates.astype(int), 0, size - 1)]


def linear(coordinates: np.ndarray, size: int) -> np.ndarray:
    """Return the matrix of linear interpolation between two neighbours."""
    inside = np.clip(coordinates, 0, size - 1)
    return np.maximum(ONE - np.abs(inside[:, None] - np.arange(size, dtype=np.float32)), 0)


def cubic(
    coordinates: np.ndarray, size: int, a: float = -0.75, exclude_outside: bool = False
) -> np.ndarray:
    """Return the matrix of cubic convolution over four neighbours (Keys 1981)."""
    places = np.floor(coordinates)[:, None] + np.arange(-1, 3)
    d = np.abs(coordinates[:, None] - places)
    weights = np.where(
        d <= 1, (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4)
    )
    if exclude_outside:
        weights *= (places >= 0) & (places < size)
        weights /= weights.sum(1, keepdims=True)
    one = np.eye(size)[np.clip(places.astype(int), 0, size - 1)]
    return (weights[..., None] * one).sum(1).astype(np.float32)


def along(x: ArrayLike, axis: int, matrix: np.ndarray) -> ArrayLike:
    """Return x [..., old, ...] with one axis multiplied by a matrix [new, old]."""
    product = jnp.tensordot(x, matrix.astype(x.dtype), (axis, 1))
    return jnp.moveaxis(product, -1, axis)
