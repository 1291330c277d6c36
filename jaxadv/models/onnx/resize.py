"""Resizing of images: along each axis, the product with a matrix that is known beforehand."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from jaxadv.core.typing import ArrayLike
from jaxadv.models.interpolation import ONE, along, cubic, linear, nearest
from jaxadv.models.onnx.node import Node, Operator, integers, known

T = TypeVar("T")

HALF = np.float32(0.5)  # coordinates are rounded as onnxruntime rounds them


def _symmetric(i: np.ndarray, scale: float | np.float32, size: int, new: int) -> np.ndarray:
    offset = np.float32(size / 2) * (ONE - np.float32(new) / (scale * np.float32(size)))
    return offset + (i + HALF) / scale - HALF


# Positions of the new pixels i among the old ones; scale: new size by old.
COORDINATES: dict[str, Callable[..., np.ndarray]] = {
    "asymmetric": lambda i, scale, size, new: i / scale,
    "half_pixel": lambda i, scale, size, new: (i + HALF) / scale - HALF,
    "half_pixel_symmetric": _symmetric,
    "pytorch_half_pixel": lambda i, scale, size, new: ((i + HALF) / scale - HALF) * (new > 1),
    "align_corners": lambda i, scale, size, new: (
        i * np.float32(size - 1) / np.float32(max(new - 1, 1))
    ),
}
ROUNDING: dict[str, Callable[..., np.ndarray]] = {
    "round_prefer_floor": lambda c: np.ceil(c - HALF),
    "round_prefer_ceil": lambda c: np.floor(c + HALF),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _choice(table: dict[str, T], name: str, given: str) -> T:
    if given not in table:
        raise ValueError(f"{name}={given!r} is not supported: export with one of {list(table)}")
    return table[given]


def _nearest(
    node: Node, coordinates: np.ndarray, size: int, scale: float | np.float32
) -> np.ndarray:
    old = "ceil" if scale < 1 else "floor"  # before opset 11 there is no attribute for it
    mode = node.get("nearest_mode", "round_prefer_floor") if node.opset >= 11 else old
    return nearest(_choice(ROUNDING, "nearest_mode", mode)(coordinates), size)


def _linear(
    node: Node, coordinates: np.ndarray, size: int, scale: float | np.float32
) -> np.ndarray:
    return linear(coordinates, size)


def _cubic(node: Node, coordinates: np.ndarray, size: int, scale: float | np.float32) -> np.ndarray:
    outside = bool(node.get("exclude_outside", 0))
    return cubic(coordinates, size, node.get("cubic_coeff_a", -0.75), outside)


MODES = {"nearest": _nearest, "linear": _linear, "bilinear": _linear, "cubic": _cubic}


def _resize(node: Node, x: ArrayLike, *given: ArrayLike | None) -> ArrayLike:
    node.only(antialias=0, keep_aspect_ratio_policy="stretch")
    given = (None, *given) if node.opset < 11 else given  # without the region of interest
    _, scales, sizes = (*given, None, None, None)[:3]
    axes = [axis % x.ndim for axis in integers(node, "axes") or range(x.ndim)]
    old = np.array([x.shape[axis] for axis in axes], np.float32)
    factors, wanted = known(node, "scales", scales), known(node, "sizes", sizes)
    if factors is not None and factors.size:
        factors = factors.astype(np.float32)
        wanted = factors * old
    elif wanted is not None and wanted.size:
        factors = wanted.astype(np.float32) / old
    else:
        raise ValueError("it has neither scales nor sizes")
    wanted = wanted.astype(int)
    mode = "asymmetric" if node.opset < 11 else "half_pixel"
    mode = node.get("coordinate_transformation_mode", mode)
    place = _choice(COORDINATES, "coordinate_transformation_mode", mode)
    matrix = _choice(MODES, "mode", node.get("mode", "nearest"))
    for axis, scale, new in zip(axes, factors, wanted, strict=True):
        size = x.shape[axis]
        if scale == 1 and new == size:
            continue
        coordinates = place(np.arange(new, dtype=np.float32), scale, size, new)
        x = along(x, axis, matrix(node, coordinates, size, scale))
    return x


OPERATORS: dict[str, Operator] = {"Resize": _resize, "Upsample": _resize}
