"""The transfer attacks as they are known: settings of `Transfer`, with their papers' defaults."""

from typing import Any

from jaxadv.attacks.transfer.transfer import Transfer
from jaxadv.core.pytree import pytree, static


@pytree
class MIFGSM(Transfer):
    """MI-FGSM (Dong et al. 2017, arXiv 1710.06081): g <- decay * g + gradient / mean |gradient|.

    The gradient is normalised per image (not over the batch); the step is step_size * epsilon *
    sign(g). `steps` backward and `steps + 1` forward passes.

    >>> import jaxadv as ja
    >>> attack = ja.MIFGSM(steps=10, decay=1.0)
    """

    decay: Any = 1.0


@pytree
class NIFGSM(MIFGSM):
    """NI-FGSM (Lin et al. 2019, arXiv 1908.06281): the gradient at x + step * decay * g.

    `steps` backward and `steps + 1` forward passes.

    >>> import jaxadv as ja
    >>> attack = ja.NIFGSM(steps=10, decay=1.0)
    """

    nesterov: bool = static(default=True)


@pytree
class SIFGSM(MIFGSM):
    """SI-MI-FGSM (Lin et al. 2019, arXiv 1908.06281): the mean gradient of image / 2^i, i < scales.

    `scales * steps` backward passes, as many forward, and one for the last iterate.

    >>> import jaxadv as ja
    >>> ja.SIFGSM(scales=5).queries
    5
    """

    scales: int = static(default=5)


@pytree
class SINIFGSM(SIFGSM):
    """SI-NI-FGSM (Lin et al. 2019, arXiv 1908.06281): scaled copies, and one step of g ahead.

    `scales * steps` backward passes, as many forward, and one for the last iterate.

    >>> import jaxadv as ja
    >>> attack = ja.SINIFGSM(scales=5)
    """

    nesterov: bool = static(default=True)


@pytree
class DIFGSM(MIFGSM):
    """M-DI2-FGSM (Xie et al. 2018, arXiv 1803.06978): randomly resized and padded with probability
    `diversity`. decay=None: DI2-FGSM, without momentum.

    `steps` backward and `steps + 1` forward passes.

    >>> import jaxadv as ja
    >>> attack = ja.DIFGSM(diversity=0.5, resize=0.9, decay=None)
    """

    diversity: Any = 0.5


@pytree
class TIFGSM(MIFGSM):
    """TI-MI-FGSM (Dong et al. 2019, arXiv 1904.02884): the gradient smoothed by a kernel.

    kernel: 15 pixels are the paper's choice for images of 299; smaller images need a smaller one.
    diversity=0.7 makes it TI-DIM. `steps` backward and `steps + 1` forward passes.

    >>> import jaxadv as ja
    >>> attack = ja.TIFGSM(kernel=7, diversity=0.7)
    """

    kernel: int = static(default=15)


@pytree
class VMIFGSM(MIFGSM):
    """VMI-FGSM (Wang and He 2021, arXiv 2103.15571): g takes in the gradient plus v, the mean
    gradient of the last iterate's neighbours less that at the iterate.

    neighbours: 20 in the paper; neighbourhood: in epsilons. `(1 + neighbours) * steps` backward
    passes, as many forward, and one for the last iterate.

    >>> import jaxadv as ja
    >>> ja.VMIFGSM(neighbours=20).queries
    21
    """

    neighbours: int = static(default=20)


@pytree
class VNIFGSM(VMIFGSM):
    """VNI-FGSM (Wang and He 2021, arXiv 2103.15571): as `VMIFGSM`, the gradient a step of g ahead.

    `(1 + neighbours) * steps` backward passes, as many forward, and one for the last iterate.

    >>> import jaxadv as ja
    >>> attack = ja.VNIFGSM(neighbours=20)
    """

    nesterov: bool = static(default=True)


@pytree
class Admix(SIFGSM):
    """Admix (Wang et al. 2021, arXiv 2102.00436): views (image + portion * other) / 2^i.

    mixed_images: [M, H, W, C] float32, from which `mixed` others are drawn anew in each step; of
    another class than the image's where mixed_labels, integers [M], are given.
    `scales * mixed * steps` backward passes, as many forward, and one for the last iterate.

    >>> import jax.numpy as jnp, jaxadv as ja
    >>> ja.Admix(mixed_images=jnp.zeros((8, 28, 28, 1))).queries
    15
    """

    mixed: int = static(default=3)
