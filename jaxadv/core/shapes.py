"""Inputs of any rank as images [N, H, W, C], the one form that attacks take."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array

from jaxadv.core.bounds import Ends, fitted
from jaxadv.core.model import Model, _Mean
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import ArrayLike, Params


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the (height, width, channels) as which attacks see inputs of this shape.

    Neither shape has a batch axis. A vector [D] is one row of D pixels, [H, W] has one channel, and
    of more than three axes all but the last two are flattened into rows.
    """
    if len(shape) == 1:
        return 1, shape[0], 1
    if len(shape) == 2:
        return shape[0], shape[1], 1
    return math.prod(shape[:-2]), shape[-2], shape[-1]


def on_images(model: Model, shape: tuple[int, ...]) -> Model:
    """Return a model of inputs [N, *shape] as a model of images [N, H, W, C].

    Args:
        model: The model of inputs of another shape.
        shape: The shape of one input.

    Returns:
        The model of images. Bounds that are arrays have the shape of an image too.

    Raises:
        ValueError: If they do not broadcast to `shape`.
    """
    bounds = fitted(model.bounds, shape)
    if isinstance(bounds[0], Ends):
        bounds = tuple(Ends.of(np.reshape(end, image_shape(shape))) for end in bounds)
        model = dataclasses.replace(model, bounds=bounds)
    if len(shape) == 3:
        return model
    apply = model.apply
    if isinstance(apply, _Mean):  # the mean of draws must stay outermost
        apply = _Mean(_Reshaped(apply.apply, shape), apply.samples)
    else:
        apply = _Reshaped(apply, shape)
    return dataclasses.replace(model, apply=apply)


@pytree
class _Reshaped:
    apply: Callable[..., Any] = static()
    shape: tuple[int, ...] = static()

    def __call__(self, params: Params, images: ArrayLike, *key: Array) -> Any:
        return self.apply(params, images.reshape(len(images), *self.shape), *key)
