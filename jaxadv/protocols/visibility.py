"""How visible changes of images are: measures that are nearer to what is seen than a norm."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxadv.core.bounds import hull
from jaxadv.core.colours import ciede2000, to_lab
from jaxadv.core.model import Model
from jaxadv.core.ssim import ssim
from jaxadv.core.typing import ArrayLike
from jaxadv.engine.activations import activation_distance

if TYPE_CHECKING:
    from jaxadv.protocols.evaluation import Report


class Visibility(NamedTuple):
    """How visible the changes of images are, [N] or, of a `Report`, [E, N].

    Attributes:
        distortion: Root mean square of the change, for values of 0 to 1.
        ssim: Structural similarity (Wang et al. 2004): 1 for equal images.
        ciede2000: Mean over pixels of the difference of their colours; about 1 can just be seen.
            NaN for images without three channels: of greys only the lightness differs.
        activations: Distance in the layers of the network (`activation_distance`). It is not the
            published LPIPS: the network is the attacked one. NaN if none of its layers is known.
    """

    distortion: Float[np.ndarray, "*N"]
    ssim: Float[np.ndarray, "*N"]
    ciede2000: Float[np.ndarray, "*N"]
    activations: Float[np.ndarray, "*N"]


def visibility(model: Model, images: ArrayLike, originals: ArrayLike) -> Visibility:
    """Measure how visible the changes of images are.

    Args:
        model: The model that the images were made for; its bounds are the range of the values.
        images: Images [N, H, W, C].
        originals: Their originals.

    Returns:
        The measures, each [N].

    Raises:
        ValueError: The images are no [N, H, W, C], or the originals have another shape.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(16))
        >>> images = jnp.eye(4).reshape(1, 4, 4, 1)
        >>> ja.visibility(model, 0.9 * images, images).ssim.round(3)
        array([0.989])
    """
    images, originals = np.asarray(images), np.asarray(originals)
    if images.ndim != 4 or images.shape != originals.shape:
        raise ValueError(
            f"images {images.shape}, originals {originals.shape}: pass two arrays [N, H, W, C]"
        )
    lower, upper = hull(model.bounds)
    measures = np.full((3, len(images)), np.nan)
    for row, pair in enumerate(zip(images, originals, strict=True)):
        one, other = ((x.astype(np.float64) - lower) / (upper - lower) for x in pair)
        measures[0, row] = np.sqrt(np.square(one - other).mean())
        measures[1, row] = ssim(one[None], other[None])[0]
        if images.shape[-1] == 3:
            measures[2, row] = ciede2000(to_lab(one.clip(0, 1)), to_lab(other.clip(0, 1))).mean()
    inside = activation_distance(model, images, originals)
    distortion, similarity, colours = measures
    return Visibility(distortion, similarity, colours, inside.astype(np.float64))


def report_visibility(report: "Report", model: Model) -> Visibility | None:
    """Measure how visible the adversarial images of a report are.

    Args:
        report: The report.
        model: The model that was evaluated.

    Returns:
        The measures [E, N], NaN where no attack broke the image; None for inputs that are no images
        [H, W, C].
    """
    if report.images.ndim != 4:
        return None
    measures = np.full((len(Visibility._fields), *report.broken_by.shape), np.nan)
    for level, broken in enumerate(report.broken_by >= 0):
        found = visibility(model, report.adversarial[level, broken], report.images[broken])
        measures[:, level, broken] = found
    return Visibility(*measures)
