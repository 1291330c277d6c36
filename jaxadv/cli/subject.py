"""The model and the images that the options name."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxadv.cli.options import EPOCHS, MODEL
from jaxadv.cli.progress import Bars
from jaxadv.core.files import slug

if TYPE_CHECKING:
    from jaxadv.core.goals import Goal
    from jaxadv.core.model import Model
    from jaxadv.data import Dataset


class Subject(NamedTuple):
    """A model, what it is called, and the images to attack it with."""

    model: "Model"
    name: str
    data: "Dataset"
    total: int


Check = Callable[["Model", "Dataset", int], None]  # of a model, the images, and its classes


class Training(NamedTuple):
    """What is to be trained: a definition's name, its module, the images, and how."""

    name: str
    module: Any
    data: "Dataset"
    epochs: int
    seed: int
    how: Mapping[str, Any]

    @property
    def untrained(self) -> "Model":
        """A model of the same shape, on which it is checked what goes with it."""
        from jaxadv.models import from_linen
        from jaxadv.models.train import untrained

        return from_linen(self.module, untrained(self.module, self.data.images.shape[1:])[0])

    def train(self, checkpoint: Callable[[str], Path]) -> Any:
        """The trained variables."""
        import jax

        from jaxadv.models.train import train

        path = checkpoint(f"{self.name}-{self.epochs}-{self.seed}".lower())
        with Bars() as bars:
            title = f"train {self.name}"

            def progress(done: int, loss: float) -> None:
                bars.show(title, done, self.epochs, f"loss {loss:.3f}")
                bars.interrupts.check()

            if not path.is_file():
                bars.show(title, 0, self.epochs, "compiling")
            return train(
                self.module, self.data, epochs=self.epochs, key=jax.random.key(self.seed),
                checkpoint=path, progress=progress, **self.how,
            )  # fmt: skip


def plan_training(
    data: str, data_dir: Path | None, model: str | None, epochs: int | None, seed: int, **how: Any
) -> Training:
    """The training that the options name; `how` goes to `train`. ValueError where it cannot be."""
    from jaxadv.data import load_data
    from jaxadv.models import get_definition
    from jaxadv.models.train import check_training

    definition = get_definition(model or MODEL)
    try:
        images = load_data(split_of(data)[0], "train", data_dir=data_dir)
    except ValueError as error:
        raise ValueError(
            f"--data {data} has no images to train a network on ({error}): pass other data, or a "
            "network with --weights or --published"
        ) from None
    module = definition(classes=len(images.classes))
    epochs = epochs or EPOCHS
    check_training(module, images, epochs=epochs, **how)
    return Training(definition.__name__, module, images, epochs, seed, how)


def find_subject(
    data: str, data_dir: Path | None, examples: int | None, weights: Path | None,
    published: Path | None, model: str | None, epochs: int | None, seed: int,
    checkpoint: Callable[[str], Path], check: Check | None = None, **how: Any,
) -> Subject:  # fmt: skip
    """The model that the options name and the test images.

    If they name none it is trained here, and `how` goes to `train`; before that `check` is called,
    with a model of the same shape.
    """
    from jaxadv.data import load_data
    from jaxadv.data.dataset import some_of
    from jaxadv.engine.checks import check_problem
    from jaxadv.models import from_linen

    found = _given_model(weights, published, model, epochs)
    set_name, split = split_of(data)
    whole = load_data(set_name, split, data_dir=data_dir)
    images = some_of(whole, examples or len(whole.labels))
    training = None
    if found is None:
        training = plan_training(data, data_dir, model, epochs, seed, **how)
        found = training.untrained, training.name, None
    network, name, shape = found
    if shape not in (None, images.images.shape[1:]):
        raise ValueError(
            f"--weights {weights} takes images {shape}, {data} has {images.images.shape[1:]}: "
            "pass the --data that it was trained on"
        )
    *_, classes = check_problem(network, images.images, images.labels, images.ids)
    if check is not None:
        check(network, images, classes)
    if training is not None:
        variables = training.train(lambda name: checkpoint(f"{slug(set_name)}-{name}"))
        network = from_linen(training.module, variables)
    return Subject(network, name, images, len(whole.labels))


def _given_model(
    weights: Path | None, published: Path | None, model: str | None, epochs: int | None
) -> tuple["Model", str, tuple[int, ...] | None] | None:
    """The model that a file or a folder holds, what it is called, and its images' shape where the
    file says it; None where the options name neither."""
    from jaxadv.models import get_definition, load_published, load_weights

    if weights is None and published is None:
        get_definition(model or MODEL)  # says what is not known before any data are read
        return None
    if weights is not None and published is not None:
        raise ValueError("--weights and --published exclude each other: pass one")
    for option, value in (("--model", model), ("--epochs", epochs)):
        if value is not None:
            raise ValueError(
                f"{option} {value} is for a network trained here, "
                f"{'--published' if weights is None else '--weights'} brings its own: pass one"
            )
    if published is not None:
        return load_published(published), published.name, None
    assert weights is not None
    loaded, about = load_weights(weights)
    return loaded, f"{about['definition']} ({weights.name})", tuple(about["image_shape"])


def attacks_check(entries: Iterable[Any], epsilons: Any) -> Check:
    """What `find_subject` is to check of the attacks of a cascade or portfolio at these epsilons,
    which are run away from the labels."""
    from jaxadv.core.goals import Untargeted
    from jaxadv.engine.checks import check_attacks
    from jaxadv.engine.stage import attack_of

    def check(model: "Model", data: "Dataset", classes: int) -> None:
        goal, shape = Untargeted(data.labels), data.images.shape[1:]
        check_attacks(map(attack_of, entries), model, goal, classes, epsilons, shape)

    return check


def goal_of(data: "Dataset", targeted: bool) -> "Goal":
    """Away from the labels, or towards class label + 1."""
    from jaxadv.core.goals import Targeted, Untargeted

    if not targeted:
        return Untargeted(data.labels)
    return Targeted(data.labels, (data.labels + 1) % len(data.classes))


def split_of(data: str) -> tuple[str, str]:
    """The data set's name or path, and the split to attack: "cifar10:test[:100]" has its own.

    >>> from jaxadv.cli.subject import split_of
    >>> split_of("mnist5k"), split_of("cifar10:test[:100]")
    (('mnist5k', 'test'), ('cifar10', 'test[:100]'))
    """
    found = re.fullmatch(r"(.+):([A-Za-z_]\w*(?:\[.*\])?)", data)
    return (found[1], found[2]) if found else (data, "test")
