"""The published transfer attacks: settings of `Transfer`, with the defaults of their papers."""

from jaxadv.attacks.transfer.transfer import Transfer
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Number


@pytree
class MIFGSM(Transfer):
    """MI-FGSM (Dong et al. 2017, arXiv 1710.06081): g <- decay * g + gradient / mean |gradient|.

    The gradient is normalised per image (not over the batch); the step is step_size * epsilon *
    sign(g). `steps` backward and `steps + 1` forward passes. The settings are those of `Transfer`.

    Attributes:
        decay: Weight of the earlier gradients in g.

    >>> import jaxadv as ja
    >>> attack = ja.MIFGSM(steps=10, decay=1.0)
    """

    decay: Number | None = 1.0


@pytree
class NIFGSM(MIFGSM):
    """NI-FGSM (Lin et al. 2019, arXiv 1908.06281): the gradient at x + step * decay * g.

    `steps` backward and `steps + 1` forward passes. The other settings are those of `Transfer`.

    Attributes:
        nesterov: Whether the gradient is taken one step of g ahead.

    >>> import jaxadv as ja
    >>> attack = ja.NIFGSM(steps=10, decay=1.0)
    """

    nesterov: bool = static(default=True)


@pytree
class SIFGSM(MIFGSM):
    """SI-MI-FGSM (Lin et al. 2019, arXiv 1908.06281): the mean gradient of image / 2^i, i < scales.

    `scales * steps` backward passes, as many forward passes, and one for the last iterate. The
    other settings are those of `Transfer`.

    Attributes:
        scales: Number of scaled views.

    >>> import jaxadv as ja
    >>> ja.SIFGSM(scales=5).queries
    5
    """

    scales: int = static(default=5)


@pytree
class SINIFGSM(SIFGSM):
    """SI-NI-FGSM (Lin et al. 2019, arXiv 1908.06281): scaled views, and one step of g ahead.

    `scales * steps` backward passes, as many forward passes, and one for the last iterate. The
    other settings are those of `Transfer`.

    Attributes:
        nesterov: Whether the gradient is taken one step of g ahead.

    >>> import jaxadv as ja
    >>> attack = ja.SINIFGSM(scales=5)
    """

    nesterov: bool = static(default=True)


@pytree
class DIFGSM(MIFGSM):
    """M-DI2-FGSM (Xie et al. 2018, arXiv 1803.06978): views randomly resized and padded.

    decay=None is DI2-FGSM, without momentum. `steps` backward and `steps + 1` forward passes. The
    other settings are those of `Transfer`.

    Attributes:
        diversity: Probability with which a view is resized and padded.

    >>> import jaxadv as ja
    >>> attack = ja.DIFGSM(diversity=0.5, resize=0.9, decay=None)
    """

    diversity: Number | None = 0.5


@pytree
class TIFGSM(MIFGSM):
    """TI-MI-FGSM (Dong et al. 2019, arXiv 1904.02884): the gradient smoothed by a kernel.

    diversity=0.7 makes it TI-DIM. `steps` backward and `steps + 1` forward passes. The other
    settings are those of `Transfer`.

    Attributes:
        kernel: Side of the kernel in pixels: 15 is the paper's choice for images of 299 pixels;
            smaller images need a smaller one.

    >>> import jaxadv as ja
    >>> attack = ja.TIFGSM(kernel=7, diversity=0.7)
    """

    kernel: int = static(default=15)


@pytree
class VMIFGSM(MIFGSM):
    """VMI-FGSM (Wang and He 2021, arXiv 2103.15571): momentum with a variance term of the gradient.

    g accumulates the gradient plus v, which is the mean gradient of the last iterate's neighbours
    minus that at the iterate. `(1 + neighbours) * steps` backward passes, as many forward passes,
    and one for the last iterate. The other settings are those of `Transfer`.

    Attributes:
        neighbours: Number of neighbours (the paper's: 20), within `neighbourhood` epsilons.

    >>> import jaxadv as ja
    >>> ja.VMIFGSM(neighbours=20).queries
    21
    """

    neighbours: int = static(default=20)


@pytree
class VNIFGSM(VMIFGSM):
    """VNI-FGSM (Wang and He 2021, arXiv 2103.15571): as `VMIFGSM`, the gradient a step of g ahead.

    `(1 + neighbours) * steps` backward passes, as many forward passes, and one for the last
    iterate. The other settings are those of `Transfer`.

    Attributes:
        nesterov: Whether the gradient is taken one step of g ahead.

    >>> import jaxadv as ja
    >>> attack = ja.VNIFGSM(neighbours=20)
    """

    nesterov: bool = static(default=True)


@pytree
class Admix(SIFGSM):
    """Admix (Wang et al. 2021, arXiv 2102.00436): views (image + portion * other) / 2^i.

    In each step `mixed` others are drawn anew from `mixed_images` [M, H, W, C] float32, of another
    class than the image's where `mixed_labels`, integers [M], are given. `scales * mixed * steps`
    backward passes, as many forward passes, and one for the last iterate. The other settings are
    those of `Transfer`.

    Attributes:
        mixed: Number of views in which another image is mixed.

    >>> import jax.numpy as jnp, jaxadv as ja
    >>> ja.Admix(mixed_images=jnp.zeros((8, 28, 28, 1))).queries
    15
    """

    mixed: int = static(default=3)
