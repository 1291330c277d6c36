"""The model and the images that the options name."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxadv.cli.progress import Bars
from jaxadv.core.files import slug

if TYPE_CHECKING:
    from jaxadv.core.model import Model
    from jaxadv.data import Dataset


class Subject(NamedTuple):
    """A model, what it is called, and the images to attack it with."""

    model: "Model"
    name: str
    data: "Dataset"
    total: int


def find_subject(
    data: str, data_dir: Path | None, examples: int | None, weights: Path | None,
    published: Path | None, model: str, epochs: int, seed: int, checkpoint: Callable[[str], Path],
    **how: Any,
) -> Subject:  # fmt: skip
    """The model that the options name and the test images; if they name none it is trained here,
    and `how` goes to `train`."""
    if weights is not None and published is not None:
        raise ValueError("--weights and --published exclude each other: pass one")
    from jaxadv.data import load_data
    from jaxadv.data.dataset import some_of

    name, split = split_of(data)
    whole = load_data(name, split, data_dir=data_dir)
    total = len(whole.labels)
    images = some_of(whole, examples or total)
    shape = images.images.shape[1:]
    if published is not None:
        from jaxadv.models import load_published

        return Subject(load_published(published), published.name, images, total)
    if weights is not None:
        from jaxadv.models import load_weights

        loaded, about = load_weights(weights)
        if tuple(about["image_shape"]) != shape:
            raise ValueError(
                f"--weights {weights} takes images {tuple(about['image_shape'])}, {data} has "
                f"{shape}: pass the --data that it was trained on"
            )
        return Subject(loaded, f"{about['definition']} ({weights.name})", images, total)
    from jaxadv.models import from_linen

    name, module, variables = train_model(
        data,
        data_dir,
        model,
        epochs,
        seed,
        lambda name: checkpoint(f"{slug(split_of(data)[0])}-{name}"),
        **how,
    )
    return Subject(from_linen(module, variables), name, images, total)


def split_of(data: str) -> tuple[str, str]:
    """The data set's name or path, and the split to attack: "cifar10:test[:100]" has its own.

    >>> from jaxadv.cli.subject import split_of
    >>> split_of("mnist5k"), split_of("cifar10:test[:100]")
    (('mnist5k', 'test'), ('cifar10', 'test[:100]'))
    """
    found = re.fullmatch(r"(.+):([A-Za-z_]\w*(?:\[.*\])?)", data)
    return (found[1], found[2]) if found else (data, "test")


def train_model(
    data: str, data_dir: Path | None, model: str, epochs: int, seed: int,
    checkpoint: Callable[[str], Path], **how: Any,
) -> tuple[str, Any, Any]:  # fmt: skip
    """The definition's name, its module and trained variables; `how` goes to `train`."""
    import jax

    from jaxadv.data import load_data
    from jaxadv.models import get_definition
    from jaxadv.models.train import train

    definition = get_definition(model)
    name = definition.__name__
    data_set = load_data(split_of(data)[0], "train", data_dir=data_dir)
    module = definition(classes=len(data_set.classes))
    with Bars() as bars:

        def progress(done: int, loss: float) -> None:
            bars.show(f"train {name}", done, epochs, f"loss {loss:.3f}")
            bars.interrupts.check()

        path = checkpoint(f"{name}-{epochs}-{seed}".lower())
        if not path.is_file():
            bars.show(f"train {name}", 0, epochs, "compiling")
        variables = train(
            module, data_set, epochs=epochs, key=jax.random.key(seed), checkpoint=path,
            progress=progress, **how,
        )  # fmt: skip
    return name, module, variables
