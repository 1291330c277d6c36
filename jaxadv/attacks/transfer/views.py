"""What is done to images and gradients so that adversarial examples fool unseen networks."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

FORMS = ("gaussian", "linear", "uniform")


def resize_and_pad(
    image: Float[Array, "H W C"], draws: Float[Array, "4"], probability, least: float
) -> Float[Array, "H W C"]:
    """Input diversity (Xie et al. 2018, arXiv 1803.06978): with this probability the image, made
    smaller by a random factor from `least` up, at a random place of a black image of its size.

    draws: four numbers from [0, 1) that decide whether, how small, and where. Bilinear, without a
    filter against aliasing. Networks of a fixed input size need it so; the paper enlarges the image
    and pads it to a larger one.

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
    """One line of a kernel of translation-invariant attacks, of sum 1; the kernel is its outer
    square (Dong et al. 2019, arXiv 1904.02884). A Gaussian ends at three standard deviations.

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
    """The gradient convolved with the outer square of a line, zeros beyond its border."""

    def band(length: int) -> np.ndarray:
        apart = np.arange(length)[:, None] - np.arange(length) + len(line) // 2
        inside = (apart >= 0) & (apart < len(line))
        return np.where(inside, line[np.clip(apart, 0, len(line) - 1)], 0).astype(np.float32)

    height, width, _ = gradient.shape
    return jnp.einsum(
        "hi,wj,ijc->hwc", band(height), band(width), gradient, precision=jax.lax.Precision.HIGHEST
    )
