"""Resizing of images [N, H, W, C]: along each axis, a product with a matrix known beforehand."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxadv.core.typing import ArrayLike
from jaxadv.models.interpolation import along, cubic, linear, nearest
from jaxadv.models.pytorch.node import Operator, operators

HALF = np.float32(0.5)
Scales = float | Sequence[float] | None


def _resized(
    matrix: Callable[[np.ndarray, int], np.ndarray], half: bool
) -> Callable[..., ArrayLike]:
    """Return an operator; half: whether pixels are taken at their centres."""

    def apply(
        x: ArrayLike, size: Sequence[int] | None, align_corners: bool, *scales: Scales
    ) -> ArrayLike:
        given: Any = scales[0] if len(scales) == 1 and not isinstance(scales[0], float) else scales
        given = tuple(given or (None,) * (x.ndim - 2))
        for axis, scale in enumerate(given, 1):
            old = x.shape[axis]
            new = int(old * scale) if size is None else size[axis - 1]
            places = np.arange(new, dtype=np.float32)
            if align_corners:
                places = places * np.float32((old - 1) / max(new - 1, 1))
            else:
                step = np.float32(1 / scale if scale else old / new)
                places = (places + HALF) * step - HALF if half else places * step
            if new != old or not np.array_equal(places, np.arange(old)):
                x = along(x, axis, matrix(places, old))
        return x

    return apply


def _floor(places: np.ndarray, size: int) -> np.ndarray:
    return nearest(np.floor(places), size)


def _centre(places: np.ndarray, size: int) -> np.ndarray:
    return nearest(np.floor(places + HALF), size)


def _without_corners(operator: Callable[..., ArrayLike]) -> Callable[..., ArrayLike]:
    return lambda x, size, *scales: operator(x, size, False, *scales)


_NEAREST = _without_corners(_resized(_floor, half=False))
_EXACT = _without_corners(_resized(_centre, half=True))
_LINEAR, _CUBIC = _resized(linear, half=True), _resized(cubic, half=True)

OPERATORS: dict[str, Operator] = operators(
    {
        "_upsample_nearest_exact1d": _EXACT,
        "_upsample_nearest_exact2d": _EXACT,
        "upsample_bicubic2d": _CUBIC,
        "upsample_bilinear2d": _LINEAR,
        "upsample_linear1d": _LINEAR,
        "upsample_nearest1d": _NEAREST,
        "upsample_nearest2d": _NEAREST,
        "upsample_trilinear3d": _LINEAR,
    },
    "images",
)
