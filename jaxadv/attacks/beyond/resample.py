"""An image read off between its pixels, by bilinear interpolation."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float


def resample(
    image: Float[Array, "H W C"], rows: Float[Array, "H W"], columns: Float[Array, "H W"],
    outside: Any = None,
) -> Float[Array, "H W C"]:  # fmt: skip
    """The image [H, W, C] at the places rows, columns [H, W], in pixels from the first's centre.

    outside: the value of all that lies beyond the image; None: that of the nearest pixel.
    """
    # An outside value is subtracted first: as a background of 0 it may be traced.
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
