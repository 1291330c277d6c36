"""The model and the images that the options select."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxadv.cli.options import EPOCHS, MODEL
from jaxadv.cli.progress import Bars

if TYPE_CHECKING:
    from jaxadv.core.goals import Goal
    from jaxadv.core.model import Model
    from jaxadv.data import Dataset


class Subject(NamedTuple):
    """A model and the images to attack it with.

    Attributes:
        model: The model.
        name: Its name.
        data: The test images.
        total: Number of test images from which they were chosen.
    """

    model: "Model"
    name: str
    data: "Dataset"
    total: int


Check = Callable[["Model", "Dataset", int], None]  # of model, images, number of classes


class Training(NamedTuple):
    """A training that the options describe.

    Attributes:
        name: Name of the definition.
        module: The module to train.
        data: The training images.
        epochs: Number of epochs.
        seed: Seed of the training.
        how: Further arguments of `train`.
    """

    name: str
    module: Any
    data: "Dataset"
    epochs: int
    seed: int
    how: Mapping[str, Any]

    @property
    def untrained(self) -> "Model":
        """An untrained model of the same shapes, for checks before the training."""
        from jaxadv.models import from_linen
        from jaxadv.models.train import untrained

        return from_linen(self.module, untrained(self.module, self.data.images.shape[1:])[0])

    def train(self, checkpoint: Callable[[str], Path]) -> Any:
        """Train the network with a progress bar, and return its variables."""
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
                self.module,
                self.data,
                epochs=self.epochs,
                key=jax.random.key(self.seed),
                checkpoint=path,
                progress=progress,
                **self.how,
            )


def plan_training(
    data: str, data_dir: Path | None, model: str | None, epochs: int | None, seed: int, **how: Any
) -> Training:
    """Return the training that the options describe.

    Args:
        data: Name or path of the data set.
        data_dir: Folder of the data, or None.
        model: Name of the definition, or None for `MODEL`.
        epochs: Number of epochs, or None for `EPOCHS`.
        seed: Seed of the training.
        **how: Further arguments of `train`.

    Returns:
        The training.

    Raises:
        ValueError: `data` has no training images, `model` is not known, or `how` is refused by
            `check_training`.
    """
    from jaxadv.data import load_data
    from jaxadv.models import get_definition
    from jaxadv.models.train import Recipe, check_training

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
    check_training(module, images, Recipe(epochs, **how))
    return Training(definition.__name__, module, images, epochs, seed, how)


def find_subject(
    data: str,
    data_dir: Path | None,
    examples: int | None,
    weights: Path | None,
    published: Path | None,
    model: str | None,
    epochs: int | None,
    seed: int,
    checkpoint: Callable[[str], Path],
    check: Check | None = None,
    **how: Any,
) -> Subject:
    """Return the model that the options select and the test images.

    If the options name no model, one is trained here, after the checks.

    Args:
        data: Name or path of the data set.
        data_dir: Folder of the data, or None.
        examples: Number of test images, evenly chosen, or None for all.
        weights: File of a trained network, or None.
        published: Folder of a published network, or None.
        model: Name of the definition to train, or None for `MODEL`.
        epochs: Number of epochs of the training, or None for `EPOCHS`.
        seed: Seed of the training.
        checkpoint: Function from the name of a training to the file of its weights.
        check: Function called before the training with a model of the same shapes, the images and
            the number of classes.
        **how: Further arguments of `train`.

    Returns:
        The model, its name and the images.

    Raises:
        ValueError: The options exclude each other, or model and images do not fit together.
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
        variables = training.train(lambda name: checkpoint(f"{folder_name(set_name)}-{name}"))
        network = from_linen(training.module, variables)
    return Subject(network, name, images, len(whole.labels))


def _given_model(
    weights: Path | None, published: Path | None, model: str | None, epochs: int | None
) -> tuple["Model", str, tuple[int, ...] | None] | None:
    """Return the model of a file or a folder, or None if the options name neither.

    Returns:
        The model, its name, and the shape of its images if the file holds it.
    """
    from jaxadv.models import get_definition, load_published, load_weights

    if weights is None and published is None:
        get_definition(model or MODEL)  # refuses an unknown name before any data are read
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
    """Return the check, for `find_subject`, of a cascade's or a portfolio's untargeted attacks.

    Args:
        entries: Entries of the cascade or the portfolio.
        epsilons: The radii.

    Returns:
        A function of a model, the images and the number of classes.
    """
    from jaxadv.core.goals import Untargeted
    from jaxadv.engine.checks import check_attacks
    from jaxadv.protocols.cached_run import attack_of

    def check(model: "Model", data: "Dataset", classes: int) -> None:
        goal, shape = Untargeted(data.labels), data.images.shape[1:]
        check_attacks(map(attack_of, entries), model, goal, classes, epsilons, shape)

    return check


def goal_of(data: "Dataset", targeted: bool) -> "Goal":
    """Return the untargeted goal, or the targeted goal of class label + 1."""
    from jaxadv.core.goals import Targeted, Untargeted

    if not targeted:
        return Untargeted(data.labels)
    return Targeted(data.labels, (data.labels + 1) % len(data.classes))


def split_of(data: str) -> tuple[str, str]:
    """Return the name or path of the data set and the split to attack.

    The split follows the name, as in "cifar10:test[:100]"; by default it is "test".

    Example:
        >>> from jaxadv.cli.subject import split_of
        >>> split_of("mnist5k"), split_of("cifar10:test[:100]")
        (('mnist5k', 'test'), ('cifar10', 'test[:100]'))
    """
    found = re.fullmatch(r"(.+):([A-Za-z_]\w*(?:\[.*\])?)", data)
    return (found[1], found[2]) if found else (data, "test")


def folder_name(data: str) -> str:
    """A data set's name as that of a folder: words joined by dashes, also of a path."""
    return re.sub(r"\W+", "-", data).strip("-")
