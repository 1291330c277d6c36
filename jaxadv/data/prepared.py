"""Prepared data sets of tensorflow-datasets (array_record), read without TensorFlow."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.json_format import ParseError
from tensorflow_datasets.core.registered import DatasetNotFoundError

from jaxadv.data.form import Dataset, Source, Split, find_split, make_dataset, numbered
from jaxadv.data.pictures import decode, stack


def find_prepared(name: str, folders: Sequence[Path | None]) -> Any:
    """Find the builder of a prepared set by its tfds name; nothing is downloaded.

    Args:
        name: The name of the set, as tfds writes it.
        folders: The data directories to search in order; None stands for that of tfds.

    Returns:
        The builder, from the first folder in which the set is prepared.

    Raises:
        KeyError: If tfds does not know the name.
        FileNotFoundError: If the set is not prepared in any of the folders.
        ValueError: If its prepared files are damaged.
    """
    if not re.fullmatch(r"\w+(/[\w.-]+)*(:\d+\.\d+\.\d+)?", name):
        raise KeyError(name)  # tfds would look elsewhere for names with other characters
    builder = None
    for folder in folders:
        try:
            builder = tfds.builder(name, data_dir=folder)
        except DatasetNotFoundError:
            continue
        except ParseError as error:
            raise ValueError(
                f"{name} is damaged in {folder or 'the folder of tensorflow-datasets'} ({error}): "
                "remove it and prepare it again"
            ) from error
        if builder.info.splits:
            return builder
    if builder is None:
        raise KeyError(name)
    raise FileNotFoundError(
        f"{name} is not prepared in {builder.data_dir}, and jaxadv downloads nothing: prepare it "
        + _how_to_prepare(name, folders[0])
    )


def _how_to_prepare(name: str, folder: Path | None) -> str:
    where = "" if folder is None else f"data_dir={str(folder)!r}, "
    return (
        'once, with TensorFlow and the network: pip install "jaxadv[prepare]", then in Python: '
        f"import tensorflow_datasets as tfds; tfds.builder({name!r}, {where}"
        "file_format='array_record').download_and_prepare()"
    )


def find_directory(folder: Path) -> Any:
    """Return the builder of the prepared files in a folder that holds dataset_info.json.

    Raises:
        ValueError: If the files are damaged.
    """
    try:
        return tfds.builder_from_directory(folder)
    except (ParseError, ValueError, OSError) as error:
        raise ValueError(
            f"{folder} has no set that tensorflow-datasets can read ({error}): prepare it again"
        ) from error


def open_builder(builder: Any, split: Split, size: int | None) -> Source:
    """Open a split of a prepared builder of image classification.

    tfds stores images in the order of the hashes of their keys. The images read are in the order of
    their `index` (an integer) or of the number at the end of their `id`, where there is one: the
    position in the original set. Otherwise the ids are the positions in the prepared files.

    Args:
        builder: The builder of tfds.
        split: The split, or slice of it, to read.
        size: The side of the images, for encoded pictures (see `decode`); None leaves them as they
            are.

    Returns:
        The split, not yet read. Reading raises ValueError for damaged files.

    Raises:
        ValueError: If the split does not exist, the set is not one of images with one class each,
            or its files are in another format than array_record.
    """
    name, info = builder.name, builder.info
    part = find_split(split, list(info.splits))
    image, label = _keys(name, info)
    feature = info.features[image]
    if feature.np_dtype != np.uint8:
        raise ValueError(f"{name} has images of {feature.np_dtype}: only those of 8 bits are read")
    encoded = isinstance(feature, tfds.features.Image)
    decoders: Any = {image: tfds.decode.SkipDecoding()} if encoded else None
    try:
        source = builder.as_data_source(split=part, decoders=decoders)
    except NotImplementedError:
        raise ValueError(
            f"{name} is prepared as {info.file_format.value} in {builder.data_dir}, which only "
            "TensorFlow reads: pass another data_dir and prepare it there "
            + _how_to_prepare(name, Path("FOLDER"))
        ) from None

    def read(rows: range) -> Dataset:
        try:
            records = source.__getitems__(list(rows))
            if any(value is None for record in records for value in record.values()):
                raise ValueError("records are missing")
        except Exception as error:  # array_record raises many kinds for a damaged file
            raise ValueError(
                f"{name} {part} cannot be read from {builder.data_dir} ({error}): prepare it again"
            ) from error
        ids = _ids(records, rows)
        order = ids.argsort(kind="stable")
        grey = feature.shape[-1] == 1
        pixels = [
            decode(r[image], size, grey, f"image {row} of {name} {part}") if encoded else r[image]
            for row, r in zip(rows, records, strict=True)
        ]
        labels = np.array([record[label] for record in records])
        names = getattr(info.features[label], "names", None)
        classes = tuple(names) if names else numbered(labels)
        top = getattr(builder, "top", 255)
        stacked = stack([pixels[row] for row in order])
        return make_dataset(stacked, top, labels[order], ids[order], name, classes)

    return Source(len(source), read, ("size",))


def _keys(name: str, info: Any) -> tuple[str, str]:
    """Return the names of the image and of the class in a record."""
    keys = info.supervised_keys or ("image", "label")
    if len(keys) != 2 or not all(key in info.features for key in keys):
        raise ValueError(f"{name} is no set of images with one class each: pass another name")
    feature = info.features[keys[0]]
    if len(feature.shape) != 3 or not isinstance(info.features[keys[1]], tfds.features.ClassLabel):
        raise ValueError(f"{name} is no set of images with one class each: pass another name")
    return keys[0], keys[1]


def _ids(records: Sequence[Any], rows: range) -> np.ndarray:
    if "index" in records[0]:
        return np.array([int(record["index"]) for record in records])
    named = [re.fullmatch(rb"([A-Za-z]*_?)(\d{1,9})", record.get("id", b"")) for record in records]
    if all(named) and len({found[1] for found in named if found}) == 1:
        return np.array([int(found[2]) for found in named if found])
    return np.array(rows)
