"""Transformations of images and gradients that make adversarial examples transferable."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

FORMS = ("gaussian", "linear", "uniform")


def resize_and_pad(
    image: Float[Array, "H W C"], draws: Float[Array, "4"], probability, least: float
) -> Float[Array, "H W C"]:
    """Resize an image to a random smaller size and pad it with zeros at a random position.

    Input diversity (Xie et al. 2018, arXiv 1803.06978). The resizing is bilinear, without an
    antialiasing filter. The output keeps the size of the image, since networks may have a fixed
    input size; the paper enlarges the image and pads it to a larger one.

    Args:
        image: [H, W, C].
        draws: [4], uniform in [0, 1): whether to resize, the size, and the row and column position.
        probability: Probability of the change; else the image is returned as it is.
        least: Smallest factor of the size.

    Returns:
        The image [H, W, C].

    >>> import jax.numpy as jnp
    >>> from jaxadv.attacks.transfer.views import resize_and_pad
    >>> resize_and_pad(jnp.ones((4, 4, 1)), jnp.array([0.1, 0.5, 0.9, 0]), 0.5, 0.5)[..., 0]
    Array([[0., 0., 0., 0.],
           [1., 1., 1., 0.],
           [1., 1., 1., 0.],
           [1., 1., 1., 0.]], dtype=float32)
    """
    height, width, _ = image.shape
    small = min(int(least * height), height - 1)
    rows = small + jnp.floor(draws[1] * (height - small))
    columns = jnp.maximum(jnp.floor(rows * width / height), 1)
    top = jnp.floor(draws[2] * (height - rows + 1))
    left = jnp.floor(draws[3] * (width - columns + 1))
    changed = draws[0] < probability
    scale = jnp.where(changed, jnp.stack([rows / height, columns / width]), 1.0)
    place = jnp.where(changed, jnp.stack([top, left]), 0.0)
    return jax.image.scale_and_translate(
        image, image.shape, (0, 1), scale, place, "linear", antialias=False
    )


def profile(size: int, form: str) -> Float[np.ndarray, " size"]:
    """One line, of sum 1, of the kernel of translation-invariant attacks.

    The kernel is the outer product of the line with itself (Dong et al. 2019, arXiv 1904.02884).

    Args:
        size: Number of pixels, odd.
        form: "gaussian" (cut off at three standard deviations), "linear" or "uniform".

    Returns:
        The line [size].

    >>> from jaxadv.attacks.transfer.views import profile
    >>> profile(3, "linear")
    array([0.25, 0.5 , 0.25])
    """
    place = np.linspace(-1, 1, size)
    if form == "gaussian":
        line = np.exp(-np.square(3 * place) / 2)
    elif form == "linear":
        line = 1 - np.abs(place) * (size - 1) / (size + 1)
    else:
        line = np.ones(size)
    return line / line.sum()


def smooth(
    gradient: Float[Array, "H W C"], line: Float[np.ndarray, " size"]
) -> Float[Array, "H W C"]:
    """Convolve the gradient with the outer product of a line with itself, zero-padded."""

    def band(length: int) -> np.ndarray:
        apart = np.arange(length)[:, None] - np.arange(length) + len(line) // 2
        inside = (apart >= 0) & (apart < len(line))
        return np.where(inside, line[np.clip(apart, 0, len(line) - 1)], 0).astype(np.float32)

    height, width, _ = gradient.shape
    return jnp.einsum(
        "hi,wj,ijc->hwc", band(height), band(width), gradient, precision=jax.lax.Precision.HIGHEST
    )
