"""JPEG compression and decompression in JAX (ITU-T T.81, baseline), tested against libjpeg.

As in libjpeg are the colour tables, the rounding of the planes to 8 bits, the averages and the
triangle filter of chroma at half the resolution, and the scaling of the quantisation tables. The
cosine transform is real where libjpeg's is integer, so that a coefficient is occasionally rounded
the other way.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxadv.core.bpda import through
from jaxadv.core.dct import cosines
from jaxadv.core.typing import Number

LUMINANCE = np.array([  # T.81, table K.1
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
]).reshape(8, 8)  # fmt: skip
CHROMINANCE = np.full((8, 8), 99)  # table K.2
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
EXACT = lax.Precision.HIGHEST
HAIR = 1e-3  # a value this close to a half is exactly a half in libjpeg's integers


def levels(values: Array) -> Array:
    """Round to the nearest of 0 to 255, halves upwards; the gradient is straight-through."""
    return through(lambda x: jnp.clip(jnp.floor(x + 0.5), 0, 255), values)


def quantisation(table: np.ndarray, quality: Number) -> Float[Array, "8 8"]:
    """Return the quantisation table as libjpeg scales it for a quality of 1 to 100."""
    quality = jnp.asarray(quality, jnp.int32)
    scale = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return jnp.clip((jnp.asarray(table) * scale + 50) // 100, 1, 255).astype(jnp.float32)


def coded(plane: Float[Array, "H W"], table: Float[Array, "8 8"]) -> Float[Array, "H W"]:
    """Quantise the cosine coefficients of a plane and transform it back, in blocks of 8 x 8.

    The rounding of the coefficients has a straight-through gradient.

    Args:
        plane: Values of 0 to 255, [H, W]; both sides are multiples of 8.
        table: The scaled quantisation table, [8, 8].

    Returns:
        The decoded plane [H, W], whole numbers of 0 to 255.
    """

    def halves_away(x: Array) -> Array:
        return jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5 + HAIR)

    waves = cosines(8, 8).T
    height, width = plane.shape
    blocks = (plane - 128).reshape(height // 8, 8, width // 8, 8)
    there = jnp.einsum("ui,vj,aibj->aubv", waves, waves, blocks, precision=EXACT)
    there = through(halves_away, there / table[:, None]) * table[:, None]
    back = jnp.einsum("ui,vj,aubv->aibj", waves, waves, there, precision=EXACT)
    return levels(back.reshape(height, width) + 128)


def halved(plane: Float[Array, "H W"]) -> Float[Array, "h w"]:
    """Return means of 2 x 2 pixels, halves rounded alternately down and up; straight-through."""
    height, width = plane.shape
    sums = plane.reshape(height // 2, 2, width // 2, 2).sum((1, 3))
    bias = 0.25 + 0.25 * (jnp.arange(width // 2) % 2)
    return through(lambda x: jnp.floor(x + bias), sums / 4)


def doubled(plane: Float[Array, "h w"]) -> Float[Array, "H W"]:
    """Double the size by a triangle filter; the rounding has a straight-through gradient.

    The four nearest pixels have weights of 9, 3, 3 and 1 sixteenth.
    """
    height, width = plane.shape
    rows = jnp.pad(plane, ((1, 1), (0, 0)), mode="edge")
    sums = jnp.stack([3 * rows[1:-1] + rows[:-2], 3 * rows[1:-1] + rows[2:]], 1)
    sums = jnp.pad(sums.reshape(2 * height, width), ((0, 0), (1, 1)), mode="edge")
    left, right = 3 * sums[:, 1:-1] + sums[:, :-2], 3 * sums[:, 1:-1] + sums[:, 2:]
    values = jnp.stack([left + 8, right + 7], 2).reshape(2 * height, 2 * width) / 16
    return through(jnp.floor, values)


def padded(plane: Float[Array, "H W"], unit: int) -> Float[Array, "h w"]:
    """Repeat the last row and column of the plane up to multiples of `unit`."""
    height, width = plane.shape
    return jnp.pad(plane, ((0, -height % unit), (0, -width % unit)), mode="edge")


def jpeg(
    image: Float[Array, "H W C"], quality: Number = 75, subsampling: bool = True
) -> Float[Array, "H W C"]:
    """Return the image after JPEG compression; the gradient is straight-through at roundings.

    Args:
        image: Values of 0 to 255, [H, W, C], with one channel (grey) or three (RGB).
        quality: Quality of 1 to 100, as in libjpeg.
        subsampling: Whether chroma is stored at half the resolution (4:2:0), or at full resolution
            (4:4:4).

    Returns:
        The decoded image [H, W, C], whole numbers of 0 to 255.

    >>> import jax.numpy as jnp
    >>> from jaxadv.core.jpeg import jpeg
    >>> jpeg(jnp.arange(64.0).reshape(8, 8, 1), 50)[0, :, 0].astype(int).tolist()
    [1, 2, 3, 4, 6, 7, 8, 9]
    """
    height, width, channels = image.shape
    image = levels(image)
    bright = quantisation(LUMINANCE, quality)
    if channels == 1:
        return coded(padded(image[..., 0], 8), bright)[:height, :width, None]
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    y = levels(0.299 * red + 0.587 * green + 0.114 * blue)
    chroma = (  # libjpeg's offset, slightly less than a half
        levels(128 - HAIR - 0.168735892 * red - 0.331264108 * green + 0.5 * blue),
        levels(128 - HAIR + 0.5 * red - 0.418687589 * green - 0.081312411 * blue),
    )
    y = coded(padded(y, 8), bright)[:height, :width]
    colour, planes = quantisation(CHROMINANCE, quality), []
    for plane in chroma:
        if subsampling:
            small = (height + 1) // 2, (width + 1) // 2
            stored = coded(halved(padded(plane, 16)), colour)[: small[0], : small[1]]
            planes.append(doubled(stored)[:height, :width] - 128)
        else:
            planes.append(coded(padded(plane, 8), colour)[:height, :width] - 128)
    cb, cr = planes
    rgb = [
        levels(y + 1.402 * cr),
        levels(y - 0.344136286 * cb - 0.714136286 * cr),
        levels(y + 1.772 * cb),
    ]
    return jnp.stack(rgb, -1)
