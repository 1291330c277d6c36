"""`load_data`: a data set by name."""

import os
from pathlib import Path

import numpy as np

from jaxadv.data.form import Dataset, make_dataset
from jaxadv.data.idx import load_idx

_IDX = ("mnist", "fashion_mnist")
DATASETS = ("mnist5k", "digits", *_IDX)
_CLASSES = {
    "fashion_mnist": ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt",
                      "Sneaker", "Bag", "Ankle boot"),
}  # fmt: skip


def load_data(
    name: str = "mnist5k",
    split: str = "test",
    count: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """A data set, or `count` images of it.

    name: "mnist5k" (5,000 MNIST digits, 28 x 28) and "digits" (1,797, 8 x 8) come with Python
    packages and are prepared once in a cache directory; "mnist" and "fashion_mnist" are read from
    their four published idx files (gzipped or not). split: "train" or "test". count: the first so
    many (of "mnist5k", which is sorted by class: evenly spread ones). data_dir: the cache
    directory (default: the environment's JAXADV_CACHE, else the user's), or the folder that holds
    the idx files (default: the folder of that name in the cache directory).

    Raises ValueError for another name or split and for a count that the split does not have,
    ImportError for a missing package, FileNotFoundError for missing idx files.

    >>> from jaxadv.data import load_data
    >>> data = load_data("digits", count=8)
    >>> data.images.shape, data.labels.tolist(), data.ids.tolist()[:3]
    ((8, 8, 8, 1), [0, 5, 0, 5, 0, 5, 0, 5], [0, 5, 10])
    """
    if name not in DATASETS:
        raise ValueError(f"name={name!r} is not known: pass one of {list(DATASETS)}")
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r} is not known: pass 'train' or 'test'")
    load = _load_idx if name in _IDX else _load_embedded
    data = load(name, split, data_dir)
    if count is None:
        return data
    size = len(data.labels)
    if not 0 < count <= size:
        raise ValueError(f"count={count}: {name} {split} has {size} images; pass 1 to {size}")
    step = size if name == "mnist5k" else count
    rows = np.arange(count) * step // count
    return data._replace(images=data.images[rows], labels=data.labels[rows], ids=data.ids[rows])


def cache_dir() -> Path:
    """Where prepared data lie: the environment's JAXADV_CACHE, else the user's cache directory."""
    if os.environ.get("JAXADV_CACHE"):
        return Path(os.environ["JAXADV_CACHE"])
    import platformdirs

    return Path(platformdirs.user_cache_dir("jaxadv"))


def _load_idx(name: str, split: str, data_dir: str | os.PathLike[str] | None) -> Dataset:
    folder = Path(data_dir) if data_dir is not None else cache_dir() / name
    paths = []
    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        stem = folder / f"{'t10k' if split == 'test' else 'train'}-{kind}"
        found = [p for p in (stem, stem.with_name(f"{stem.name}.gz")) if p.is_file()]
        if not found:
            raise FileNotFoundError(
                f"{stem}.gz does not exist: pass data_dir=folder, a folder with {name}'s idx files"
            )
        paths.append(found[0])
    data = load_idx(*paths, name=name)
    return data._replace(classes=_CLASSES.get(name, data.classes))


def _load_embedded(name: str, split: str, data_dir: str | os.PathLike[str] | None) -> Dataset:
    try:
        import array_record  # noqa: F401 (tfds imports it only once it writes)

        from jaxadv.data import builders

        cache = Path(data_dir) if data_dir is not None else cache_dir()
        pixels, top, labels, indices = builders.read(name, split, cache)
    except ImportError as error:
        raise ImportError(
            f'{name} needs the package {error.name}: pip install "jaxadv[demo]"', name=error.name
        ) from error
    return make_dataset(pixels, top, labels, indices, name, builders.DIGITS)
