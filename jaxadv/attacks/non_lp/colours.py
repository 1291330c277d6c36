"""Conversion between sRGB and CIELUV, a nearly perceptually uniform colour space (CIE 1976)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxadv.core.colours import KNEE, SLOPE, XYZ

RGB = np.linalg.inv(XYZ)
VISIBLE = (1e-3, 0.63), (0.015, 0.59)  # ranges of u' and v' of visible colours
_X, _Y, _Z = XYZ.sum(1)  # of white, so that every grey has u* = v* = 0
WHITE = 4 * _X / (_X + 15 * _Y + 3 * _Z), 9 * _Y / (_X + 15 * _Y + 3 * _Z)


def _chromaticity(x: Array, y: Array, z: Array) -> tuple[Array, Array]:
    """u' and v'; for black, where they are undefined, those of white."""
    total = x + 15 * y + 3 * z
    some = jnp.where(total > 0, total, 1.0)
    black = total <= 0
    return jnp.where(black, WHITE[0], 4 * x / some), jnp.where(black, WHITE[1], 9 * y / some)


def to_luv(image: Float[Array, "*N 3"]) -> Float[Array, "*N 3"]:
    """Convert sRGB colours to CIELUV.

    Args:
        image: sRGB in [0, 1]; the last axis is the colour.

    Returns:
        L* (0 to 100), u* and v* (about -135 to 176), in the shape of `image`.

    >>> to_luv(jnp.array([1.0, 0.0, 0.0])).round()  # red
    Array([ 53., 175.,  38.], dtype=float32)
    """
    curved = ((jnp.maximum(image, 0.04045) + 0.055) / 1.055) ** 2.4
    linear = jnp.where(image <= 0.04045, image / 12.92, curved)
    x, y, z = jnp.moveaxis(linear @ XYZ.T.astype(np.float32), -1, 0)
    u, v = _chromaticity(x, y, z)
    lightness = jnp.where(
        y * SLOPE <= KNEE, SLOPE * y, 116 * jnp.cbrt(jnp.maximum(y, KNEE / SLOPE)) - 16
    )
    u, v = 13 * lightness * (u - WHITE[0]), 13 * lightness * (v - WHITE[1])
    return jnp.stack([lightness, u, v], -1)


def from_luv(luv: Float[Array, "*N 3"]) -> Float[Array, "*N 3"]:
    """Convert CIELUV to sRGB, clipped to visible colours and [0, 1]; smooth at black too."""
    lightness, u, v = jnp.moveaxis(luv, -1, 0)
    lightness = jnp.maximum(lightness, 0.0)
    # Near black u* / L* is ill-conditioned, and the colour hardly matters.
    scale = 13 * jnp.maximum(lightness, 1e-2)
    u = jnp.clip(u / scale + WHITE[0], *VISIBLE[0])
    v = jnp.clip(v / scale + WHITE[1], *VISIBLE[1])
    y = jnp.where(lightness <= KNEE, lightness / SLOPE, ((lightness + 16) / 116) ** 3)
    xyz = jnp.stack([y * 9 * u / (4 * v), y, y * (12 - 3 * u - 20 * v) / (4 * v)], -1)
    linear = xyz @ RGB.T.astype(np.float32)
    curved = 1.055 * jnp.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return jnp.clip(jnp.where(linear <= 0.0031308, 12.92 * linear, curved), 0.0, 1.0)
