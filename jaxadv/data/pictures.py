"""Encoded images (PNG, JPEG, ...): decoded with Pillow, resized, and read from folders."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxadv.data.form import Source, Split, check_split, make_dataset

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
SPLITS = ("train", "test", "val", "validation")
_BYTES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # Pillow's modes of 8 bits


def decode(picture: Any, size: int | None, grey: bool) -> np.ndarray:
    """Pixels uint8 [H, W, 1 or 3] of an encoded image: bytes or a path.

    size: the shorter side is brought to size * 8 / 7 (256 for 224) and the middle cut out, as is
    usual on ImageNet; None leaves it as it is.
    """
    image_module = _pillow()
    with image_module.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
        if image.mode not in _BYTES:
            name = "a picture" if isinstance(picture, bytes) else picture
            raise ValueError(f"{name} has mode {image.mode}, not 8 bits a channel: convert it")
        image = image.convert("L" if grey else "RGB")
        if size is not None:
            scale = round(size * 8 / 7) / min(image.size)
            wide, high = (max(size, round(side * scale)) for side in image.size)
            image = image.resize((wide, high), image_module.Resampling.BILINEAR)
            left, above = (wide - size) // 2, (high - size) // 2
            image = image.crop((left, above, left + size, above + size))
        pixels = np.asarray(image)
    return pixels[..., None] if grey else pixels


def stack(images: Sequence[np.ndarray]) -> np.ndarray:
    """[N, H, W, C] of images of one shape; ValueError for others."""
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        raise ValueError(
            f"the images have {len(shapes)} shapes, from {shapes[0]} to {shapes[-1]}: pass size, "
            "such as size=224"
        )
    return np.stack(images)


def find_folder(folder: str | os.PathLike[str], split: Split, size: int | None) -> Source:
    """The images of a folder that has one folder for each class, in the order of their names.

    Where it has folders named "train", "test", "val" or "validation", those have the classes; else
    all is "test". Grey if all images read are. Raises ValueError for another split, for pictures of
    several shapes without `size`, and where no images are found; ImportError without Pillow.
    """
    root = Path(folder)
    named = {path.name: path for path in _folders(root) if path.name in SPLITS} or {"test": root}
    check_split(split, list(named))
    classes = _folders(named[split.name])
    files = [
        (path, label)
        for label, each in enumerate(classes)
        for path in sorted(each.rglob("*"))
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
    if not files:
        raise ValueError(
            f"{root} has no images: pass a folder with one folder of pictures for each class, an "
            "npz file, idx files or a prepared tensorflow-datasets folder"
        )

    def read(rows: range) -> Any:
        chosen = [files[row] for row in rows]
        grey = all(_is_grey(path) for path, _ in chosen)
        pixels = stack([decode(path, size, grey) for path, _ in chosen])
        labels = np.array([label for _, label in chosen])
        names = tuple(each.name for each in classes)
        return make_dataset(pixels, 255, labels, np.array(rows), root.name, names)

    return Source(len(files), read, ("size",))


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def _is_grey(path: Path) -> bool:
    with _pillow().open(path) as image:
        return image.mode in ("1", "L")


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            'pictures need the package Pillow: pip install "jaxadv[images]"', name="PIL"
        ) from error
    return Image
