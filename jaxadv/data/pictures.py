"""Encoded images (PNG, JPEG, ...): decoded with Pillow, and resized."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_GREY = ("1", "L", "LA")  # Pillow's modes of grey, and all those of 8 bits
_BYTES = (*_GREY, "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def decode(picture: bytes | Path, size: int | None, grey: bool, name: str) -> np.ndarray:
    """The pixels of an encoded image, upright: turned as its EXIF entry says, if it has one.

    Transparency is dropped, and of several frames the first is taken.

    Args:
        picture: What a file holds, or its path.
        size: The shorter side is brought to size * 8 / 7 (256 for 224) and the middle cut out, as
            is usual on ImageNet; None leaves it as it is.
        grey: Whether one channel is wanted, not three.
        name: What an error calls the picture.

    Returns:
        uint8 [H, W, 1 or 3].

    Raises:
        ValueError: For what Pillow cannot read, and for pictures of more than 8 bits a channel.
        ImportError: Without Pillow.
    """
    image_module, image_ops = _pillow()
    with _opened(picture, name) as image:
        # Colours of 16 bits have a mode of 8: of them only the decoder's arguments tell.
        deep = any(re.search(r";16[BLN]", str(tile[3])) for tile in image.tile)
        if image.mode not in _BYTES or deep:
            raise ValueError(f"mode {image.mode}{' of 16 bits' * deep}, not 8 bits a channel")
        image_ops.exif_transpose(image, in_place=True)
        if "transparency" in image.info:
            image = image.convert("RGBA")  # in one step Pillow warns of it
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
    """Whether a picture is, by its header; one that cannot be read is no obstacle here."""
    try:
        with _opened(path, str(path)) as image:
            return image.mode in _GREY
    except ValueError:
        return True


def stack(images: Sequence[np.ndarray]) -> np.ndarray:
    """[N, H, W, C] of images of one shape; ValueError for others."""
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        raise ValueError(
            f"the images have {len(shapes)} shapes, from {shapes[0]} to {shapes[-1]}: pass size, "
            "such as size=224"
        )
    return np.stack(images)


@contextmanager
def _opened(picture: bytes | Path, name: str) -> Iterator[Any]:
    """Pillow's image, of which only the header is read as yet; ValueError for what goes wrong."""
    image_module, _ = _pillow()
    try:
        with image_module.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as i:
            yield i
    except Exception as error:  # each of Pillow's formats raises what it likes
        raise ValueError(
            f"{name} cannot be read as a picture ({error}): repair, convert or remove it"
        ) from error


def _pillow() -> Any:
    """Pillow's modules Image and ImageOps."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(
            'pictures need the package Pillow: pip install "jaxadv[images]"', name="PIL"
        ) from error
    return Image, ImageOps
