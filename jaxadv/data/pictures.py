"""Encoded images (PNG, JPEG, ...): decoding with Pillow, and resizing."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_GREY = ("1", "L", "LA")  # Pillow's grey modes; _BYTES: all its modes of 8 bits
_BYTES = (*_GREY, "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def decode(picture: bytes | Path, size: int | None, grey: bool, name: str) -> np.ndarray:
    """Decode a picture to pixels, turned upright as its EXIF entry says.

    Transparency is dropped, and of several frames the first is taken.

    Args:
        picture: The encoded bytes, or the path of a file.
        size: The side of the image: the shorter side is resized to size * 8 / 7 (256 for 224) and
            the central size x size pixels are cut out, as is usual on ImageNet. None leaves the
            size as it is.
        grey: Whether to return one channel (grey) instead of three (RGB).
        name: The name of the picture in error messages.

    Returns:
        uint8 [H, W, 1 or 3].

    Raises:
        ValueError: If Pillow cannot read the picture, or it has more than 8 bits per channel.
        ImportError: If Pillow is not installed.
    """
    image_module, image_ops = _pillow()
    with _opened(picture, name) as image:
        # Colours of 16 bits have a mode of 8 bits; only the decoder's arguments reveal them.
        deep = any(re.search(r";16[BLN]", str(tile[3])) for tile in image.tile)
        if image.mode not in _BYTES or deep:
            raise ValueError(f"mode {image.mode}{' of 16 bits' * deep}, not 8 bits a channel")
        image_ops.exif_transpose(image, in_place=True)
        if "transparency" in image.info:
            image = image.convert("RGBA")  # Pillow warns about a conversion in one step
        image = image.convert("L" if grey else "RGB")
        if size is not None:
            scale = round(size * 8 / 7) / min(image.size)
            wide, high = (max(size, round(side * scale)) for side in image.size)
            image = image.resize((wide, high), image_module.Resampling.BILINEAR)
            left, above = (wide - size) // 2, (high - size) // 2
            image = image.crop((left, above, left + size, above + size))
        pixels = np.asarray(image)
    return pixels[..., None] if grey else pixels


def is_grey(path: Path) -> bool:
    """Return whether the header says that a picture is grey; True for one that cannot be read."""
    try:
        with _opened(path, str(path)) as image:
            return image.mode in _GREY
    except ValueError:
        return True


def stack(images: Sequence[np.ndarray]) -> np.ndarray:
    """Stack images of one shape to [N, H, W, C]; raise ValueError for several shapes."""
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        raise ValueError(
            f"the images have {len(shapes)} shapes, from {shapes[0]} to {shapes[-1]}: pass size, "
            "such as size=224"
        )
    return np.stack(images)


@contextmanager
def _opened(picture: bytes | Path, name: str) -> Iterator[Any]:
    """Open a picture with Pillow, reading only its header yet; raise ValueError on failure."""
    image_module, _ = _pillow()
    try:
        with image_module.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as i:
            yield i
    except Exception as error:  # each of Pillow's formats raises other kinds
        raise ValueError(
            f"{name} cannot be read as a picture ({error}): repair, convert or remove it"
        ) from error


def _pillow() -> Any:
    """Return Pillow's modules Image and ImageOps."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(
            'pictures need the package Pillow: pip install "jaxadv[images]"', name="PIL"
        ) from error
    return Image, ImageOps
