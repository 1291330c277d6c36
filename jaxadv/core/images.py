"""Conversion of images to the floats that models take."""

import jax.numpy as jnp
from jaxtyping import Array


def as_floats(images: object) -> Array:
    """Return a JAX array of floats; numbers of another kind become float32 and keep their values.

    Args:
        images: An array of any kind of numbers, or nested lists of them.

    Returns:
        An array of the same shape, in its own type where that is one of floats.

    Raises:
        ValueError: If `images` is a sparse matrix.

    >>> from jaxadv.core.images import as_floats
    >>> as_floats([[0, 255]])
    Array([[  0., 255.]], dtype=float32)
    """
    if hasattr(images, "toarray"):
        raise ValueError("images are a sparse matrix: pass images.toarray()")
    images = jnp.asarray(images)
    return images if jnp.issubdtype(images.dtype, jnp.floating) else images.astype(jnp.float32)
