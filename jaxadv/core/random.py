"""Random keys, and random numbers in the shape of an image."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from jaxadv.core.typing import Key

IMPLEMENTATION = "threefry2x32"


def threefry(key: Key) -> Key:
    """Return the key for JAX's default generator, whatever the generator that it was made for.

    The draws of others ("rbg", faster on TPUs) under `jax.vmap` depend on the first key of the
    batch: an image's answer would depend on its neighbours.

    Args:
        key: A JAX random key, also an array of keys, or a raw key of 32-bit words.

    Returns:
        The key. Keys made by `jax.random.key` of one seed are equal for all generators.

    Example:
        >>> import jax
        >>> from jaxadv.core.random import threefry
        >>> bool(threefry(jax.random.key(5, impl="rbg")) == jax.random.key(5))
        True
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(key)[..., :2], impl=IMPLEMENTATION)
    if str(jax.random.key_impl(key)) == IMPLEMENTATION:
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key)[..., :2], impl=IMPLEMENTATION)


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
