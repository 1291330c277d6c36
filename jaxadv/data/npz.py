"""Images and labels in one npz file of plain arrays."""

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxadv.data.form import (
    SPLITS,
    Dataset,
    Split,
    find_split,
    make_dataset,
    numbered,
    usual_name,
)
from jaxadv.engine.checks import TOLERANCE

LAYOUTS = ("NHWC", "NCHW")
_CHANNELS = (1, 3, 4)
_NAMES = ("x", "images", "y", "labels", "index", "classes", "features")
_MOST = 2**20  # limit of class numbers: larger labels are ids or hashes


def load_npz(path: str | os.PathLike[str], layout: str | None = None) -> Dataset:
    """Load the images and labels of an npz file.

    The file holds `x` or `images`, [N, H, W], [N, H, W, C] or [N, C, H, W], bytes from 0 to 255 or
    floats in [0, 1] (rounding errors are clipped as in `ja.run`), or rows [N, D] of a table, which
    stay as they are, and `y` or `labels`, [N] integers from 0. Optional are `index`, the positions
    of the images in the original set (default: 0 to N - 1), `classes`, the names of the classes,
    and `features`, the names of the D features. Other arrays are not read.

    Args:
        path: The file, as `np.savez` writes it.
        layout: "NHWC" or "NCHW"; needed where the shape is ambiguous (unless exactly one of the two
            axes has 1, 3 or 4 entries).

    Returns:
        The data set, with the name of the file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged, or arrays are missing or have another form.

    >>> import numpy as np, tempfile
    >>> from jaxadv.data import load_npz
    >>> path = tempfile.mkdtemp() + "/two.npz"
    >>> np.savez(path, x=np.zeros((2, 3, 8, 8), "uint8"), y=[0, 1])
    >>> load_npz(path).images.shape
    (2, 8, 8, 3)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: pass an npz file")
    return from_arrays(path, _read(path), layout)


def splits_of(folder: Path) -> dict[str, list[Path]]:
    """Return the npz files of a folder by the split that a word of their names names.

    Args:
        folder: The folder, such as one with cifar10_train_batch1.npz and cifar10_test.npz.

    Returns:
        For each split its files in the order of their names; empty where no file names one.
    """
    parts: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*.npz")):
        for split in {*map(usual_name, re.split(r"[\W_]+", file.stem))} & {*SPLITS}:
            parts.setdefault(split, []).append(file)
    return parts


def load_npz_split(folder: Path, split: Split, layout: str | None = None) -> Dataset:
    """Load one split of a folder of npz files, all its files one after the other.

    Args:
        folder: The folder, as for `splits_of`.
        split: The split.
        layout: As for `load_npz`.

    Returns:
        The data set, with the name of the folder.

    Raises:
        ValueError: If no file is of that split, or the files do not fit together.
    """
    parts = splits_of(folder)
    files = parts[find_split(split, list(parts), f"{folder} has npz files")]
    sets = [load_npz(file, layout) for file in files]
    shapes = {data.images.shape[1:] for data in sets}
    if len(shapes) > 1:
        raise ValueError(f"{folder} has images of the shapes {sorted(shapes)}: pass one file")
    classes = max((data.classes for data in sets), key=len)
    images, labels, ids = map(np.concatenate, zip(*(data[:3] for data in sets), strict=True))
    if len(set(ids.tolist())) < len(ids):  # each file counts from 0
        ids = np.arange(len(ids), dtype=np.int32)
    first = sets[0]._replace(images=images, labels=labels, ids=ids, classes=classes)
    return first._replace(name=folder.absolute().name)


def from_arrays(
    path: str | os.PathLike[str], arrays: Mapping[str, Any], layout: str | None = None
) -> Dataset:
    """Make a data set of arrays as `load_npz` finds them.

    Args:
        path: Where they come from, for errors and the set's name.
        arrays: The arrays by name.
        layout: As for `load_npz`.

    Returns:
        The data set.

    Raises:
        ValueError: If arrays are missing or have another form.
    """
    path = Path(path)
    images, labels = (
        next((arrays[name] for name in names if arrays.get(name) is not None), None)
        for names in (("x", "images"), ("y", "labels"))
    )
    if images is None or labels is None:
        raise ValueError(
            f"{path} holds {sorted(arrays)}: name the images x or images, the labels y or labels"
        )
    if images.ndim == 2 and layout is None:
        images, top = _table(path, images), 1
    else:
        images, top = _in_range(path, _channels_last(path, images, layout))
    classes = _names(path, arrays.get("classes"))
    labels = _class_numbers(path, labels, len(images), len(classes))
    ids = arrays.get("index", np.arange(len(labels)))
    if ids.shape != labels.shape or ids.dtype.kind not in "iu" or not _within(ids, 2**31):
        raise ValueError(
            f"{path}: index of shape {ids.shape} and dtype {ids.dtype}: pass {len(labels)} "
            "integers from 0 to 2**31 - 1, the images' positions in the original set"
        )
    features = _names(path, arrays.get("features"), "features") if images.ndim == 2 else ()
    if features and len(features) != images.shape[1]:
        raise ValueError(
            f"{path}: features has {len(features)} names for {images.shape[1]}: pass one for each"
        )
    data = make_dataset(images, top, labels, ids, path.stem, classes or numbered(labels))
    return data._replace(features=features)


def _read(path: Path) -> dict[str, Any]:
    """Return the arrays in the file by name; None for those that are not used."""
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is damaged or no npz file: write it with np.savez(path, x=images, y=labels)"
        )
    try:
        with np.load(path) as file:
            return {name: np.asarray(file[name]) if name in _NAMES else None for name in file.files}
    except Exception as error:  # numpy, zipfile and zlib raise many kinds
        raise ValueError(f"{path} is damaged or holds no plain arrays ({error})") from error


def _in_range(path: Path, images: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the images, floats clipped to [0, 1], and the largest value allowed (255 or 1)."""
    if images.size == 0 or images.dtype.kind not in "iufb":
        raise ValueError(
            f"{path}: images of shape {images.shape} and dtype {images.dtype}: pass at least one, "
            "of bytes, or of floats in [0, 1]"
        )
    top = 255 if images.dtype.kind in "iu" else 1
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
        images = images if top == 255 else images.astype(np.float32)
    least, greatest = images.min(initial=0), images.max(initial=0)
    # Integers of 0 and 1 are black and white, and would all be black if they were taken for bytes.
    if not (least >= -TOLERANCE and greatest <= top + TOLERANCE) or (greatest == 1 < top):
        raise ValueError(
            f"{path}: {images.dtype} images reach from {least:g} to {greatest:g}: pass bytes from "
            "0 to 255, or floats in [0, 1] (normalisation belongs into the model)"
        )
    return (images if top == 255 else images.clip(0, 1)), top


def _table(path: Path, rows: np.ndarray) -> np.ndarray:
    """Return the rows [N, D] of a table, as floats; their range is that of the model."""
    if rows.size == 0 or rows.dtype.kind not in "iufb":
        raise ValueError(
            f"{path}: rows of shape {rows.shape} and dtype {rows.dtype}: pass at least one, of "
            "numbers; write categories as numbers, or as one column for each"
        )
    rows = rows.astype(np.float32)
    if not np.isfinite(rows).all():
        row, feature = np.argwhere(~np.isfinite(rows))[0]
        raise ValueError(
            f"{path}: row {row} has {rows[row, feature]} as feature {feature}: fill in or drop "
            "what is missing"
        )
    return rows


def _names(path: Path, names: np.ndarray | None, of: str = "classes") -> tuple[str, ...]:
    """Return the names of the classes or features; empty where the file has none."""
    if names is None:
        return ()
    if names.ndim != 1 or names.dtype.kind not in "USiu":
        raise ValueError(
            f"{path}: {of} of shape {names.shape} and dtype {names.dtype}: pass one name for each"
        )
    return tuple(each.decode() if isinstance(each, bytes) else str(each) for each in names)


def _class_numbers(path: Path, labels: np.ndarray, count: int, classes: int) -> np.ndarray:
    """Return the labels [N]; `classes` is the number of classes with names, or 0."""
    labels = labels.reshape(-1) if labels.shape == (count, 1) else labels
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: labels of shape {labels.shape} and dtype {labels.dtype} for {count} "
            "images: pass one integer for each, and labels.argmax(1) in place of one-hot labels"
        )
    if not _within(labels, classes or _MOST):
        named = f", but classes has {classes} names" if classes else ""
        raise ValueError(
            f"{path}: labels reach from {labels.min()} to {labels.max()}{named}: pass the numbers "
            f"of classes, from 0 to {(classes or _MOST) - 1}"
        )
    return labels


def _within(numbers: np.ndarray, limit: int) -> bool:
    return bool((numbers >= 0).all() and (numbers < limit).all())


def _channels_last(path: Path, images: np.ndarray, layout: str | None) -> np.ndarray:
    if layout not in (None, *LAYOUTS):
        raise ValueError(f"layout={layout!r}: pass 'NHWC' or 'NCHW'")
    if images.ndim == 3:
        return images[..., None]
    if images.ndim != 4:
        raise ValueError(
            f"{path}: images of shape {images.shape}: pass images [N, H, W, C] or rows [N, D] of a "
            "table; series [N, T, C] are named as a ja.data.Dataset"
        )
    if layout is None:
        fits = [images.shape[axis] in _CHANNELS for axis in (3, 1)]
        if fits[0] == fits[1]:
            raise ValueError(
                f"{path}: images of shape {images.shape} may be NHWC or NCHW: pass layout to "
                "load_data, or let Python code return a ja.data.Dataset, whose images are NHWC"
            )
        layout = LAYOUTS[fits.index(True)]
    return images if layout == "NHWC" else images.transpose(0, 2, 3, 1)
