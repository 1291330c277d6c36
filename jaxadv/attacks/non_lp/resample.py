"""Bilinear interpolation of an image between its pixels."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from jaxadv.core.typing import Number


def resample(
    image: Float[Array, "H W C"],
    rows: Float[Array, "H W"],
    columns: Float[Array, "H W"],
    outside: Number | Float[Array, "H W C"] | None = None,
) -> Float[Array, "H W C"]:
    """Interpolate an image bilinearly at given positions.

    Args:
        image: [H, W, C].
        rows: [H, W], row positions in pixels from the centre of the first pixel.
        columns: [H, W], column positions, likewise.
        outside: Value beyond the image, or one for each place; None: that of the nearest pixel.

    Returns:
        The values [H, W, C] at these positions.
    """
    if outside is not None and jnp.ndim(outside):
        return resample(image - outside, rows, columns, 0.0) + outside
    # The outside value is subtracted first, so that it may be traced.
    ground = 0.0 if outside is None else outside
    mode = "nearest" if outside is None else "constant"

    def channel(values: Array) -> Array:
        return map_coordinates(values - ground, [rows, columns], order=1, mode=mode) + ground

    return jax.vmap(channel, in_axes=2, out_axes=2)(image)


def places(image: Float[Array, "H W C"]) -> tuple[Float[Array, "H W"], Float[Array, "H W"]]:
    """Rows and columns [H, W] of the image's own pixels."""
    height, width, _ = image.shape
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    return rows.astype(jnp.float32), columns.astype(jnp.float32)
