"""Opens the models and data sets that a grid names, once in each process."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadv.core.jaxprs import without_addresses
from jaxadv.core.model import Model
from jaxadv.data.dataset import load_data, some_of
from jaxadv.data.form import Dataset, Source
from jaxadv.engine.checks import count_classes
from jaxadv.engine.devices import APPLY
from jaxadv.engine.result_store import fingerprint
from jaxadv.sweep.grid import DataEntry, Grid, ModelEntry

BLOCK = 4096  # images read at a time from a whole set


class Subject(NamedTuple):
    """A model of the grid.

    Attributes:
        model: The model that is attacked.
        judge: The model that judges the adversarial images, or None for the same.
        fingerprint: Fingerprint of the model.
    """

    model: Model
    judge: Model | None
    fingerprint: str


class Images(NamedTuple):
    """A data set that is read in parts.

    Attributes:
        source: Number of images, and a function from a range to a `Dataset`.
        fingerprint: Fingerprint of all images, labels and ids.
        shape: Shape of an image.
        classes: Number of classes.
    """

    source: Source
    fingerprint: str
    shape: tuple[int, ...]
    classes: int


class Given(NamedTuple):
    """Models and data sets that Python hands in.

    Attributes:
        models: Models by the names that the grid gives them.
        data: Data sets by the names that the grid gives them.
    """

    models: Mapping[str, Model] = {}
    data: Mapping[str, Dataset | Source] = {}


def as_source(data: Dataset | Source, count: int | None) -> Source:
    """Return a data set that is read in parts: its first `count` images (None: all)."""
    if isinstance(data, Dataset):
        data = Source(len(data.labels), data.take)
    if count is not None:
        data = data._replace(count=min(count, data.count))
    return data


def open_data(grid: Grid, entry: DataEntry, given: Given) -> Images:
    """Open a data set of a grid.

    Raises:
        ValueError, FileNotFoundError, ImportError: As `ja.load_data` raises them.
    """
    count = entry.examples or grid.examples
    if entry.name in given.data:
        source = as_source(given.data[entry.name], count)
    else:
        whole = load_data(entry.name, data_dir=entry.data_dir)
        source = as_source(whole if count is None else some_of(whole, count), None)
    digest, shape, classes = hashlib.sha256(), (), 0
    for part in blocks(source):
        for array in (part.images, part.labels, part.ids):
            digest.update(f"{array.dtype}{array.shape[1:]}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        shape, classes = part.images.shape[1:], len(part.classes)
    return Images(source, digest.hexdigest()[:32], shape, classes)


def blocks(source: Source) -> Iterator[Dataset]:
    """Yield all images of a source in blocks."""
    for begin in range(0, source.count, BLOCK):
        yield source.read(range(begin, min(begin + BLOCK, source.count)))


def open_model(
    entry: ModelEntry,
    data: DataEntry,
    images: Images,
    given: Given,
    train: Callable[[ModelEntry, DataEntry], Model],
) -> Subject:
    """Open a model of a grid for the images of a data set.

    Args:
        entry: Entry of the model.
        data: Entry of the data set.
        images: The data set.
        given: Models and data sets that Python hands in.
        train: Function that returns the model of an entry with `train`.

    Returns:
        The model.

    Raises:
        ValueError: The model does not take such images.
    """
    if entry.given is not None:
        if entry.given not in given.models:
            raise ValueError(
                f"models: {entry.given!r} was not handed in: pass models={{{entry.given!r}: model}}"
            )
        model = given.models[entry.given]
    elif entry.load is not None:
        from jaxadv.models import load_model

        model = load_model(entry.load, images.shape, **entry.form)
    else:
        model = train(entry, data)
    try:
        classes = count_classes(model, images.shape)
    except ValueError as error:
        raise ValueError(
            f"model {entry.title!r} does not take the images {images.shape} of {data.name!r} "
            f"({error}): name the data sets that it is for, data = [...]"
        ) from None
    if images.classes > classes:
        raise ValueError(
            f"model {entry.title!r} tells {classes} classes apart, {data.name!r} has "
            f"{images.classes}: name the data sets that it is for, data = [...]"
        )
    traced = APPLY.trace(model, jax.ShapeDtypeStruct((1, *images.shape), jnp.float32))
    program = without_addresses(str(traced.jaxpr))
    digest = fingerprint(model.params, list(model.bounds), program, entry.dtype)
    if entry.dtype == "bfloat16":
        from jaxadv.models.adapters import in_bfloat16

        return Subject(in_bfloat16(model), model, digest)
    return Subject(model, None, digest)


@functools.cache
def software() -> dict[str, str]:
    """Return the versions, the platform, and a fingerprint of jaxadv's own files."""
    from importlib import metadata

    import jaxadv

    package = Path(jaxadv.__file__).parent
    digest = hashlib.sha256()
    for folder in ("core", "attacks", "engine", "models"):
        for file in sorted((package / folder).rglob("*.py")):
            digest.update(file.relative_to(package).as_posix().encode() + b"\0")
            digest.update(file.read_bytes())
    found = {"jaxadv": jaxadv.__version__, "files": digest.hexdigest()[:16]}
    for name in ("jax", "jaxlib", "flax", "optax", "numpy"):
        found[name] = metadata.version(name)
    return {**found, "platform": jax.default_backend()}
