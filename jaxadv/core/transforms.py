"""Image transforms before a network: compression, blur, foveation, scaling, light, noise, shifts.

Each transform is a pytree and a pure function of one image [H, W, C] with values of 0 to 1. Its
strength is a leaf, so that another strength does not recompile (except for `Rescaling` and
`Shifting`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxadv.core.bounds import Bounds
from jaxadv.core.bpda import through
from jaxadv.core.jpeg import jpeg
from jaxadv.core.model import Model, check_no_mean
from jaxadv.core.pytree import pytree, static
from jaxadv.core.random import normal_like
from jaxadv.core.typing import ArrayLike, Number, Params

EXACT = lax.Precision.HIGHEST
BLURS = 8  # images between which a foveated one is interpolated
TRUNCATE = 4  # standard deviations at which a Gaussian ends
GREY = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


class Transform:
    """Base class of all transforms.

    Attributes:
        random: Whether the transform draws at random; then `__call__` takes a key.
    """

    random: ClassVar[bool] = False

    def __call__(
        self, image: Float[Array, "H W C"], key: Array | None = None
    ) -> Float[Array, "H W C"]:
        """Return the transformed image."""
        raise NotImplementedError

    def check(self, lower: float | int, upper: float | int = np.inf, **settings: Number) -> None:
        """Raise ValueError if one of these settings is a number outside the limits.

        Args:
            lower: The smallest value allowed.
            upper: The largest value allowed.
            **settings: The settings by name; traced values are not checked.

        Raises:
            ValueError: If a setting is outside the limits, or NaN.
        """
        for name, value in settings.items():
            if isinstance(value, np.floating | int) and not lower <= value <= upper:
                limits = f"{lower:g} or more" if upper == np.inf else f"{lower:g} to {upper:g}"
                raise ValueError(f"{name}={value:g}: pass a number, {limits}")


def within(image: Array) -> Array:
    """Clip the image to 0 to 1, with a straight-through gradient."""
    return through(lambda x: jnp.clip(x, 0.0, 1.0), image)


@pytree
class Identity(Transform):
    """No change: the control."""

    def __call__(self, image: Array, key: Array | None = None) -> Array:
        return image


@pytree
class Rounding(Transform):
    """Quantisation to `levels` values (256: 8 bits), halves upwards; straight-through gradient."""

    levels: Number = 256

    def __post_init__(self) -> None:
        self.check(2, levels=self.levels)

    def __call__(self, image: Array, key: Array | None = None) -> Array:
        top = self.levels - 1
        return through(lambda x: jnp.clip(jnp.floor(x * top + 0.5), 0, top) / top, image)


@pytree
class JPEG(Transform):
    """JPEG compression of grey or RGB images; straight-through gradient (see `core.jpeg`).

    Attributes:
        quality: Quality of 1 to 100, as in libjpeg.
        subsampling: Whether chroma is stored at half the resolution (4:2:0), or at full (4:4:4).
    """

    quality: Number = 75
    subsampling: bool = static(default=True)

    def __post_init__(self) -> None:
        self.check(1, 100, quality=self.quality)

    def __call__(self, image: Array, key: Array | None = None) -> Array:
        if image.shape[-1] not in (1, 3):
            raise ValueError(f"images have {image.shape[-1]} channels: JPEG takes 1 or 3")
        return jpeg(255 * image, self.quality, self.subsampling) / 255


@pytree
class GaussianBlur(Transform):
    """Convolution with a Gaussian, truncated at four standard deviations.

    The image is mirrored at its border, as in SciPy's gaussian_filter.

    Attributes:
        sigma: The standard deviation in pixels.
    """

    sigma: Number = 1.0

    def __post_init__(self) -> None:
        self.check(0, sigma=self.sigma)

    def __call__(self, image: Array, key: Array | None = None) -> Array:
        rows, columns = self.band(image.shape[0]), self.band(image.shape[1])
        return jnp.einsum("hi,wj,ijc->hwc", rows, columns, image, precision=EXACT)

    def band(self, length: int) -> Float[Array, "n n"]:
        """Return the convolution of a line as a matrix, for kernels of up to twice its length."""
        sigma, most = jnp.maximum(self.sigma, 1e-3), 2 * length
        radius = jnp.floor(TRUNCATE * sigma + 0.5)
        apart = jnp.arange(-most, most + 1)
        weights = jnp.where(jnp.abs(apart) <= radius, jnp.exp(-jnp.square(apart / sigma) / 2), 0)
        weights = weights / weights.sum()
        places = np.arange(length)[:, None] + np.arange(-most, most + 1)
        mirrored = places % (2 * length)
        mirrored = np.where(mirrored < length, mirrored, 2 * length - 1 - mirrored)
        band = jnp.zeros((length, length)).at[np.arange(length)[:, None], mirrored]
        return band.add(jnp.broadcast_to(weights, places.shape))


@pytree
class Foveation(Transform):
    """A blur that grows with the distance from a point of fixation, as acuity falls in the eye.

    The standard deviation of the Gaussian is `slope` times the distance, in pixels; as in a
    foveated multiresolution pyramid (Geisler and Perry 1998), it is interpolated between a few
    blurred images. Against adversarial images Luo et al. (2015, arXiv 1511.06292) fixate by
    cutting out a part of the image: that is `Cropping`.

    Attributes:
        slope: Standard deviation of the blur, in pixels, one pixel from the fixation.
        row: Row of the fixation, as a fraction of the height.
        column: Its column, as a fraction of the width.
    """

    slope: Number = 0.1
    row: Number = 0.5
    column: Number = 0.5

    def __post_init__(self) -> None:
        self.check(0, slope=self.slope)
        self.check(0, 1, row=self.row, column=self.column)

    def __call__(self, image: Array, key: Array | None = None) -> Array:
        height, width, _ = image.shape
        down = jnp.arange(height) + 0.5 - self.row * height
        right = jnp.arange(width) + 0.5 - self.column * width
        apart = jnp.hypot(down[:, None], right)
        most = apart.max()
        share = (BLURS - 1) * apart / most  # of the strongest blur
        blurred = jnp.stack(
            [GaussianBlur(self.slope * most * k / (BLURS - 1))(image) for k in range(BLURS)]
        )
        weights = jnp.clip(1 - jnp.abs(share - np.arange(BLURS)[:, None, None]), 0, None)
        return jnp.einsum("khw,khwc->hwc", weights, blurred, precision=EXACT)


@pytree
class Noise(Transform):
    """Clipped Gaussian noise of standard deviation `sigma` (in a box of side 1) on every entry."""

    sigma: Number = 0.1
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check(0, sigma=self.sigma)

    def __call__(self, image: Array, key: Array | None = None) -> Array:
        assert key is not None
        return within(image + self.sigma * normal_like(key, image))


@pytree
class Brightness(Transform):
    """Multiplication of every value by `factor`, clipped."""

    factor: Number = 1.0

    def __post_init__(self) -> None:
        self.check(0, factor=self.factor)

    def __call__(self, image: Array, key: Array | None = None) -> Array:
        return within(image * self.factor)


@pytree
class Contrast(Transform):
    """Multiplication of each value's distance from the image's mean grey by `factor`, clipped."""

    factor: Number = 1.0

    def __post_init__(self) -> None:
        self.check(0, factor=self.factor)

    def __call__(self, image: Array, key: Array | None = None) -> Array:
        grey = image @ jnp.asarray(GREY) if image.shape[-1] == 3 else image
        return within(grey.mean() + self.factor * (image - grey.mean()))


@pytree
class Rescaling(Transform):
    """Downsampling by `factor`, then upsampling to the former size.

    Both use triangle filters, as wide as a pixel of the smaller image.

    Attributes:
        factor: The factor, above 0 and at most 1 (static: another one recompiles).
    """

    factor: float = static(default=0.5)

    def __post_init__(self) -> None:
        if not 0 < self.factor <= 1:
            raise ValueError(f"factor={self.factor:g}: pass a number above 0, at most 1")

    def __call__(self, image: Array, key: Array | None = None) -> Array:
        height, width, channels = image.shape
        small = max(1, round(self.factor * height)), max(1, round(self.factor * width)), channels
        return jax.image.resize(jax.image.resize(image, small, "linear"), image.shape, "linear")


@pytree
class Cropping(Transform):
    """Removal of `margin` pixels at each side; the rest is enlarged linearly to the old size."""

    margin: Number = 2.0

    def __post_init__(self) -> None:
        self.check(0, margin=self.margin)

    def __call__(self, image: Array, key: Array | None = None) -> Array:
        sides = jnp.asarray(image.shape[:2], jnp.float32)
        scale = sides / jnp.maximum(sides - 2 * self.margin, 1)
        rows = self.band(image.shape[0], scale[0])
        columns = self.band(image.shape[1], scale[1])
        return jnp.einsum("hi,wj,ijc->hwc", rows, columns, image, precision=EXACT)

    def band(self, length: int, scale: Array) -> Float[Array, "n n"]:
        """Return the enlargement of a line as a matrix; its last pixel is repeated at each end."""
        first, last = self.margin, length - 1 - self.margin
        place = jnp.clip((jnp.arange(length) + 0.5) / scale - 0.5 + first, first, last)
        return jnp.clip(1 - jnp.abs(place[:, None] - jnp.arange(length)), 0, None)


@pytree
class Shifting(Transform):
    """A random shift of up to `most` whole pixels in each direction, drawn uniformly.

    Pixels that enter the image repeat its border.

    Attributes:
        most: The largest shift in pixels (static: another one recompiles).
    """

    most: int = static(default=1)
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check(0, most=self.most)

    def __call__(self, image: Array, key: Array | None = None) -> Array:
        assert key is not None
        size = self.most
        wide = jnp.pad(image, ((size, size), (size, size), (0, 0)), mode="edge")
        row, column = jax.random.randint(key, (2,), 0, 2 * size + 1)
        return lax.dynamic_slice(wide, (row, column, 0), image.shape)


def transformed(model: Model, transform: Transform) -> Model:
    """Return a model that sees every image through a transform; attacks on it go through it, too.

    Rounding and clipping have no useful derivative: their gradients are straight-through (BPDA,
    Athalye et al. 2018, arXiv 1802.00420); all other gradients are exact. The transform works on
    values of 0 to 1, to which the model's bounds are mapped and back. Its strength is a parameter,
    so that another strength does not recompile. With a transform that draws at random, the model is
    random (see `ja.Model`): put `ja.EOT` around it, not inside.

    Args:
        model: The model behind the transform.
        transform: The transform in front of it.

    Returns:
        The model with the transform.

    Raises:
        ValueError: If the model was made by `ja.EOT`.

    >>> import jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
    >>> images = jnp.array([0.1, 0.4, 0.6, 1]).reshape(1, 2, 2, 1)
    >>> ja.transformed(model, ja.Rounding(levels=2))(images)
    Array([[0., 0., 1., 1.]], dtype=float32)
    """
    check_no_mean(model)
    return dataclasses.replace(
        model,
        apply=_Transformed(model.apply, model.bounds, model.random),
        params=(transform, model.params),
        random=model.random or transform.random,
    )


@pytree
class _Transformed:
    apply: Callable[..., Any] = static()
    bounds: Bounds = static()
    random: bool = static()

    def __call__(self, params: Params, images: ArrayLike, *key: Array) -> Array:
        transform, own = params
        lower, upper = self.bounds
        unit = (jnp.asarray(images) - lower) / (upper - lower)
        inside = ()
        if transform.random:
            keys = jax.random.split(jax.random.fold_in(key[0], 1), len(images))
            unit = jax.vmap(transform)(unit, keys)
        else:
            unit = jax.vmap(transform)(unit)
        if self.random:
            inside = (jax.random.fold_in(key[0], 0),)
        return self.apply(own, lower + (upper - lower) * unit, *inside)
