"""Trains the models that a sweep defines, and keeps them in its store."""

from pathlib import Path
from typing import Any, Protocol

import jax
from filelock import FileLock

from jaxadv.core.files import slug
from jaxadv.core.model import Model
from jaxadv.data.dataset import load_data
from jaxadv.data.form import Dataset, part_of_name
from jaxadv.models.adapters import from_linen
from jaxadv.models.definitions import get_definition
from jaxadv.models.train import Recipe, check_training, train
from jaxadv.models.train import untrained as zeros
from jaxadv.models.weights import load_weights, save_weights
from jaxadv.sweep.grid import DataEntry, ModelEntry
from jaxadv.sweep.resources import Given


class SweepProgress(Protocol):
    """Callback of a sweep: title, epochs or rows done, their total, and successes."""

    def __call__(self, title: str, done: int, total: int, successes: int, /) -> Any: ...


def weights_of(folder: Path, entry: ModelEntry, data: DataEntry) -> Path:
    """Return the file of a model that a sweep trained; `jaxadv --model` reads it too."""
    name = slug(f"{entry.train}-{data.name}")
    return folder / "models" / f"{name}-{entry.epochs}-{entry.train_seed}.safetensors"


def trained(
    folder: Path, entry: ModelEntry, data: DataEntry, given: Given, progress: SweepProgress | None
) -> Model:
    """Return a definition trained on a data set's training images.

    One process trains it, and continues from the last checkpoint.
    """
    path = weights_of(folder, entry, data)
    path.parent.mkdir(parents=True, exist_ok=True)

    def report(epoch: int, loss: float) -> None:
        if progress is not None:
            progress(f"train {entry.train}", epoch, entry.epochs, 0)

    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():
            examples = _examples(entry, data, given)
            definition = get_definition(str(entry.train))
            checkpoint = path.with_suffix(".checkpoint")
            variables = train(
                definition(classes=len(examples.classes)),
                examples,
                epochs=entry.epochs,
                key=jax.random.key(entry.train_seed),
                checkpoint=checkpoint,
                progress=report,
            )
            save_weights(
                path,
                definition.__name__,
                {"classes": len(examples.classes)},
                variables,
                image_shape=examples.images.shape[1:],
            )
            checkpoint.unlink(missing_ok=True)
    return load_weights(path)[0]


def untrained(folder: Path, entry: ModelEntry, data: DataEntry, given: Given) -> Model:
    """Return the trained model if the store has it, else one of the same shapes with zero weights.

    Raises:
        ValueError: The model cannot be trained on that data set.
    """
    path = weights_of(folder, entry, data)
    if path.is_file():
        return load_weights(path)[0]
    examples = _examples(entry, data, given)
    module = get_definition(str(entry.train))(classes=len(examples.classes))
    check_training(module, examples, Recipe(entry.epochs))
    return from_linen(module, zeros(module, examples.images.shape[1:])[0])


def _examples(entry: ModelEntry, data: DataEntry, given: Given) -> Dataset:
    """Return the images that a model is trained on."""
    if data.name in given.data:
        raise ValueError(
            f"models: {entry.train!r} is to be trained, but {data.name!r} was handed "
            "in: hand in the model too, given = ..."
        )
    return load_data(part_of_name(data.name)[0], "train", data_dir=data.data_dir)
