"""`load_data`: a data set by its name or its path."""

import inspect
import os
from pathlib import Path

import numpy as np

from jaxadv.core.files import cache_dir
from jaxadv.core.optional_dependency import extra
from jaxadv.core.python_objects import called, load_object, names_object
from jaxadv.data.folders import find_folder
from jaxadv.data.form import (
    FORMS,
    Dataset,
    Source,
    Split,
    find_split,
    parse_split,
    part_of_name,
)
from jaxadv.data.idx import load_idx
from jaxadv.data.npz import from_arrays, load_npz, load_npz_split, splits_of
from jaxadv.engine.checks import check_counts

_EMBEDDED = ("mnist5k", "digits")
_IDX = ("mnist", "fashion_mnist")
DATASETS = (*_EMBEDDED, *_IDX, "cifar10", "imagenet_v2")
_CLASSES = {
    "fashion_mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
}


def load_data(
    name: str | os.PathLike[str] = "mnist5k",
    split: str | None = None,
    count: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    size: int | None = None,
    layout: str | None = None,
) -> Dataset:
    """Load a data set, or a part of it, from local files; nothing is downloaded.

    Available are "mnist5k" (5,000 MNIST digits, 28 x 28) and "digits" (1,797 images, 8 x 8), which
    come with Python packages and are prepared once in a cache directory; "mnist" and
    "fashion_mnist" also from their four published idx files (gzipped or not); any set of image
    classification of tensorflow-datasets (tfds), prepared as array_record, by its name there
    ("cifar10", "imagenet_v2/topimages", ...); and paths.

    Images come in the order of the original set, and `ids` are their positions in it. All splits of
    a folder of pictures number the classes alike (see `jaxadv.data.folders.find_folder`). A
    CheckWarning is issued where the labels of a folder of pictures may not be the intended ones.

    Args:
        name: The name of a data set, or a path (with a separator, or ending in .npz): an npz file
            (see `load_npz`), or a folder with one folder of pictures per class, with idx files, or
            with a prepared set of tfds; or "file.py:name", a pair (images, labels), a `Dataset`, or
            a function that returns one of these (the file is run). "name:split" gives the split,
            too.
        split: "test" (the default), "train", ..., in lower or upper case, or a synonym ("training",
            "testing", and "valid", "validation" or "dev" for "val"); or a slice of a split, such as
            "test[:1000]" or "test[10%:20%]", in the order in which the source stores the images
            (for tfds, the order of hashes). A set without splits is "test".
        count: The number of images to keep, from the start (or evenly spaced, if the set is sorted
            by class); None keeps all.
        data_dir: The cache directory (default: the environment's JAXADV_CACHE, else the user's);
            for idx files the folder that holds them (default: the folder of that name in the cache
            directory); for tfds its data directory (default: the cache directory, then that of
            tfds).
        size: Side of the images in pixels, for encoded pictures. Each picture is turned upright as
            its EXIF entry says, its shorter side is resized to size * 8 / 7, and the central size x
            size pixels are cut out. None leaves pictures as they are.
        layout: "NHWC" or "NCHW", for npz files (see `load_npz`).

    Returns:
        The images with their labels and ids.

    Raises:
        ValueError: If the name or split is unknown, `count` is not between 1 and the number of
            images, `size` is not a positive integer, `size` or `layout` does not apply to the
            source, or files are damaged or have another form.
        ImportError: If a package is missing.
        FileNotFoundError: If files are missing; the message says how to prepare them.

    >>> from jaxadv.data import load_data
    >>> data = load_data("digits", count=8)
    >>> data.images.shape, data.labels.tolist(), data.ids.tolist()[:3]
    ((8, 8, 8, 1), [0, 5, 0, 5, 0, 5, 0, 5], [0, 5, 10])
    """
    if not isinstance(name, str | os.PathLike):
        raise ValueError(f"name={name!r}: pass the name of a data set, or a path")
    if size is not None:
        check_counts(size=size)
    whole, own = part_of_name(str(name))
    if own is not None:
        if split is not None:
            raise ValueError(f"name={name!r} with split={split!r}: pass the split once")
        name, split = whole if isinstance(name, str) else Path(whole), own
    part = parse_split("test" if split is None else split)
    source = _open(name, part, data_dir, size, layout)
    if size is not None and "size" not in source.options:
        raise ValueError(f"size={size}: only encoded pictures are resized; leave size out")
    if layout is not None and "layout" not in source.options:
        raise ValueError(f"layout={layout!r} is for npz files: leave layout out")
    if not source.count:
        raise ValueError(f"{name} {part.name} has no images: pass another")
    data = source.read(part.rows(source.count))
    if count is None:
        return data
    total = len(data.labels)
    if not isinstance(count, int | np.integer) or not 0 < count <= total:
        raise ValueError(f"count={count}: {name} {part.name} has {total} images; pass 1 to {total}")
    return some_of(data, count)


def some_of(data: Dataset, count: int) -> Dataset:
    """Return the first `count` images, or all; evenly spaced ones if the set is sorted by class."""
    total = len(data.labels)
    count = min(count, total)
    in_classes = (np.diff(data.labels) >= 0).all()
    return data.take(np.arange(count) * (total if in_classes else count) // count)


def _open(
    name: str | os.PathLike[str],
    split: Split,
    data_dir: str | os.PathLike[str] | None,
    size: int | None,
    layout: str | None,
) -> Source:
    """Open the split without reading it."""
    text = os.fspath(name)
    path = Path(text).expanduser()
    if names_object(text) and ".py:" in text:
        return _open_object(text, split, layout)
    if isinstance(name, os.PathLike) or _is_path(text):
        return _open_path(path, split, size, layout)
    if text in _EMBEDDED:
        return _open_embedded(text, split, data_dir)
    folder = Path(data_dir) if data_dir is not None else cache_dir() / text
    if text in _IDX and _has_idx(folder):
        return _read_source(_load_idx(text, split, folder))
    return _open_prepared(text, split, data_dir, size)


def _open_object(text: str, split: Split, layout: str | None) -> Source:
    """Open what Python code names: a Dataset, a pair (images, labels), or a function of the split
    or of nothing that returns one of these."""
    value = load_object(text)
    whole = called(value, split.name)
    if whole is value or not inspect.signature(value).parameters:  # type: ignore[arg-type]
        find_split(split, ["test"], f"{text} is not split")
    if isinstance(whole, Dataset):
        return _read_source(whole)
    if not isinstance(whole, tuple | list) or len(whole) != 2:
        raise ValueError(
            f"{text} is {type(whole).__name__}: name a pair (images [N, H, W, C] or rows [N, D], "
            "labels [N]), a ja.data.Dataset, or a function that returns one of these"
        )
    arrays = {"x": np.asarray(whole[0]), "y": np.asarray(whole[1])}
    columns = getattr(whole[0], "columns", None)  # of a DataFrame
    if columns is not None:
        arrays["features"] = np.asarray(columns, str)
    return _read_source(from_arrays(text, arrays, layout), "layout")


def _is_path(text: str) -> bool:
    """Return whether a text is a path and not the name of a data set (which may have a slash)."""
    marked = any(sign in text for sign in (os.sep, os.altsep, ".") if sign)
    there = marked and Path(text).expanduser().exists()
    return there or text.startswith((".", "~", os.sep)) or text.lower().endswith(".npz")


def _open_path(path: Path, split: Split, size: int | None, layout: str | None) -> Source:
    if path.suffix.lower() == ".npz":
        find_split(split, ["test"], f"{path} is not split")
        return _read_source(load_npz(path, layout), "layout")
    if path.is_file():
        raise ValueError(f"{path} is a file of another form than those that are read: pass {FORMS}")
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist: pass {FORMS}")
    if (path / "dataset_info.json").is_file():
        from jaxadv.data.prepared import find_directory, open_builder

        return open_builder(find_directory(path), split, size)
    if _has_idx(path):
        return _read_source(_load_idx(path.name, split, path))
    if splits_of(path):
        return _read_source(load_npz_split(path, split, layout), "layout")
    return find_folder(path, split, size)


def _open_prepared(
    name: str, split: Split, data_dir: str | os.PathLike[str] | None, size: int | None
) -> Source:
    from jaxadv.data.prepared import find_prepared, open_builder

    folders = [Path(data_dir)] if data_dir is not None else [cache_dir(), None]
    try:
        return open_builder(find_prepared(name, folders), split, size)
    except KeyError:
        there = f"; for the folder of that name pass './{name}'" if Path(name).is_dir() else ""
        raise ValueError(
            f"name={name!r} is not known: pass one of {list(DATASETS)}, another name of "
            f"tensorflow-datasets, or a path that exists{there}"
        ) from None
    except FileNotFoundError as error:
        if name not in _IDX:
            raise
        raise FileNotFoundError(
            f"{error}; or pass data_dir=folder, a folder with {name}'s idx files"
        ) from None


def _open_embedded(name: str, split: Split, data_dir: str | os.PathLike[str] | None) -> Source:
    with extra("demo", name):
        import array_record  # noqa: F401 (tfds imports it only when it writes)

        from jaxadv.data.builders import prepared
        from jaxadv.data.prepared import open_builder

        cache = Path(data_dir) if data_dir is not None else cache_dir()
        return open_builder(prepared(name, cache), split, None)


def _has_idx(folder: Path) -> bool:
    return any(folder.glob("*[-.]idx3-ubyte*"))


def _load_idx(name: str, split: Split, folder: Path) -> Dataset:
    part = find_split(split, ["test", "train"])
    paths = []
    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        stem = folder / f"{'t10k' if part == 'test' else 'train'}-{kind}"
        dotted = folder / stem.name.replace("-idx", ".idx")  # as some archives write it
        ends = [Path(f"{each}{end}") for each in (stem, dotted) for end in ("", ".gz")]
        existing = [path for path in ends if path.is_file()]
        if not existing:
            raise FileNotFoundError(
                f"{stem}.gz does not exist: pass data_dir=folder, a folder with {name}'s idx files"
            )
        paths.append(existing[0])
    data = load_idx(*paths, name=name)
    return data._replace(classes=_CLASSES.get(name, data.classes))


def _read_source(data: Dataset, *options: str) -> Source:
    return Source(len(data.labels), data.take, options)
