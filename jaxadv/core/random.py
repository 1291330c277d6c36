"""Random numbers in the shape of an image."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Shaped

from jaxadv.core.typing import Key


def draw(
    sampler: Callable[..., Array], key: Key, shape: tuple[int, ...], **settings: Any
) -> Shaped[Array, "..."]:
    """Return `sampler(key, shape=shape, **settings)`, drawn as a vector: the same numbers.

    For vectors, XLA compiles JAX's generator in less than half of the time.

    Args:
        sampler: A function of `jax.random` that draws entries independently.
        key: A JAX random key.
        shape: The shape of the result.
        settings: Further arguments of `sampler` by name.

    Returns:
        The random numbers.

    Example:
        >>> import jax
        >>> from jaxadv.core.random import draw
        >>> draw(jax.random.uniform, jax.random.key(0), (2, 2, 1), minval=-1.0).shape
        (2, 2, 1)
    """
    return sampler(key, shape=(math.prod(shape),), **settings).reshape(shape)


def normal_like(key: Key, image: Array) -> Shaped[Array, "..."]:
    """Return standard normal numbers in the shape and dtype of `image`."""
    return draw(jax.random.normal, key, image.shape, dtype=image.dtype)
