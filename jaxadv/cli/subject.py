"""The model and the images that the options select."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxadv.cli.options import (
    EPOCHS,
    MODEL,
    Bounds,
    Data,
    DataDir,
    Epochs,
    Examples,
    LogitsOf,
    Mean,
    ModelSpec,
    Seed,
    Std,
    parse_number,
)
from jaxadv.cli.progress import Bars

if TYPE_CHECKING:
    from flax import linen as nn

    from jaxadv.core.attack import Attack
    from jaxadv.core.goals import Goal
    from jaxadv.core.model import Model
    from jaxadv.core.typing import Key, Numbers, Params
    from jaxadv.data import Dataset
    from jaxadv.protocols.cascades import Entry


@dataclass(frozen=True)
class Subject:
    """The options that select a model and the images to attack it with.

    Attributes:
        data: Name or path of the data set.
        data_dir: Folder of the data, or None.
        model: A model as `ja.load_model` takes it, the name of the definition to train, or None
            for `MODEL`.
        epochs: Number of epochs of the training, or None for `EPOCHS`.
        bounds: Least and largest value of an image, as text, or None.
        mean: What is subtracted in each channel before the model, as text, or None.
        std: What it is divided by then, as text, or None.
        logits_of: Key or index of the logits in the model's output, or None.
        examples: Number of test images, evenly chosen, or None for all.
        seed: Seed of the training and of the attacks.
    """

    data: Data = "mnist5k"
    data_dir: DataDir = None
    model: ModelSpec = None
    epochs: Epochs = None
    _: KW_ONLY
    bounds: Bounds = None
    mean: Mean = None
    std: Std = None
    logits_of: LogitsOf = None
    examples: Examples = 100
    seed: Seed = 0

    @property
    def is_trained_here(self) -> bool:
        """Whether the options name no model that exists."""
        from jaxadv.models.named import is_loaded

        return self.model is None or not is_loaded(self.model)

    @property
    def form(self) -> dict[str, Any]:
        """What the options say about a model that exists: arguments of `load_model`."""

        def numbers(text: str | None, name: str) -> tuple[float, ...] | None:
            return text and tuple(parse_number(one, name) for one in text.split(","))  # type: ignore

        bounds, part = numbers(self.bounds, "--bounds"), self.logits_of
        if bounds is not None and (len(bounds) != 2 or bounds[0] >= bounds[1]):
            raise ValueError(f"--bounds {self.bounds}: pass the least and the largest, as 0,1")
        return {
            "bounds": bounds,
            "mean": numbers(self.mean, "--mean"),
            "std": numbers(self.std, "--std"),
            "output": int(part) if part is not None and part.isdecimal() else part,
        }


class Loaded(NamedTuple):
    """The model and the images that a `Subject` selects.

    Attributes:
        model: The model.
        name: Its name.
        data: The test images.
        total: Number of test images from which they were chosen.
        seed: Seed of the training and of the attacks.
    """

    model: "Model"
    name: str
    data: "Dataset"
    total: int
    seed: int

    @property
    def key(self) -> "Key":
        """The random key of the attacks."""
        import jax

        return jax.random.key(self.seed)

    @property
    def about(self) -> dict[str, Any]:
        """Model, data and seed, as every report names them."""
        return {"model": self.name, "data": self.data.name, "seed": self.seed}


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
    module: "nn.Module"
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

    @property
    def title(self) -> str:
        """Name, epochs and seed, as the file of a kept network is named."""
        return f"{self.name}-{self.epochs}-{self.seed}".lower()

    def train(self, checkpoint: Path) -> "Params":
        """Train the network with a progress bar, and return its variables."""
        import jax

        from jaxadv.models.train import train

        with Bars() as bars:
            title = f"train {self.name}"

            def progress(done: int, loss: float) -> None:
                bars.show(title, done, self.epochs, f"loss {loss:.3f}")
                bars.interrupts.check()

            if not checkpoint.is_file():
                bars.show(title, 0, self.epochs, "compiling")
            return train(
                self.module,
                self.data,
                epochs=self.epochs,
                key=jax.random.key(self.seed),
                checkpoint=checkpoint,
                progress=progress,
                **self.how,
            )


def plan_training(subject: Subject, **how: Any) -> Training:
    """Return the training that the options describe.

    Args:
        subject: The options of the data and the model.
        **how: Further arguments of `train`.

    Returns:
        The training.

    Raises:
        ValueError: The data have no training images, the model is not known, or `how` is refused
            by `check_training`.
    """
    from jaxadv.data import load_data
    from jaxadv.models import get_definition
    from jaxadv.models.train import Recipe, check_training

    definition = get_definition(subject.model or MODEL)
    try:
        images = load_data(split_of(subject.data)[0], "train", data_dir=subject.data_dir)
    except ValueError as error:
        raise ValueError(
            f"--data {subject.data} has no images to train a network on ({error}): pass other "
            "data, or a trained network with --model"
        ) from None
    module = definition(classes=len(images.classes))
    epochs = subject.epochs or EPOCHS
    check_training(module, images, Recipe(epochs, **how))
    return Training(definition.__name__, module, images, epochs, subject.seed, how)


def find_subject(
    subject: Subject, folder: Path, *checks: Check, suffix: str = "", **how: Any
) -> Loaded:
    """Return the model that the options select and the test images.

    If the options name no model, one is trained here, after the checks.

    Args:
        subject: The options.
        folder: Folder in which a network trained here is kept.
        *checks: Functions called before the training with a model of the same shapes, the images
            and the number of classes.
        suffix: End of the name of the file of a network trained here.
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

    trained_here = _is_trained_here(subject)
    set_name, split = split_of(subject.data)
    test = load_data(set_name, split, data_dir=subject.data_dir)
    images = some_of(test, subject.examples or len(test.labels))
    training = None
    if trained_here:
        training = plan_training(subject, **how)
        network, name = training.untrained, training.name
    else:
        network, name = loaded_model(subject, images.images.shape[1:])
    *_, classes = check_problem(network, images.images, images.labels, images.ids)
    for check in checks:
        check(network, images, classes)
    if training is not None:
        file = folder / f"{folder_name(set_name)}-{training.title}{suffix}.safetensors"
        network = from_linen(training.module, training.train(file))
    return Loaded(network, name, images, len(test.labels), subject.seed)


def _is_trained_here(subject: Subject) -> bool:
    """Return whether a network is trained, after a check of the options that go with it or not."""
    from jaxadv.models import get_definition
    from jaxadv.models.named import FORMS

    form = {f"--{name}": value for name, value in subject.form.items()}
    form["--logits-of"] = form.pop("--output")
    if not subject.is_trained_here:
        if subject.epochs is not None:
            raise ValueError(
                f"--epochs {subject.epochs} is for a network trained here, --model {subject.model} "
                "is one that exists: leave --epochs out"
            )
        return False
    try:
        get_definition(subject.model or MODEL)  # refuses an unknown name before any data are read
    except ValueError as error:
        raise ValueError(f"--model: {error}; or {FORMS}") from None
    for option, value in form.items():
        if value is not None:
            raise ValueError(
                f"{option} is for a model of yours, and a network is trained here: leave it out, "
                f"or pass --model {FORMS}"
            )
    return True


def loaded_model(subject: Subject, shape: tuple[int, ...]) -> tuple["Model", str]:
    """Return the model that exists, and its name in reports."""
    from jaxadv.models import load_model
    from jaxadv.models.named import name_of
    from jaxadv.models.weights import read_metadata

    spec = str(subject.model)
    os.environ.setdefault("KERAS_BACKEND", "jax")  # read where Keras is imported, if at all
    if not spec.endswith(".safetensors"):
        return load_model(spec, shape, **subject.form), name_of(spec)
    about = read_metadata(Path(spec).expanduser())
    trained_on = tuple(about.get("image_shape", shape))
    if trained_on != tuple(shape):
        raise ValueError(
            f"--model {spec} takes images {trained_on}, {subject.data} has {tuple(shape)}: pass "
            "the --data that it was trained on"
        )
    return load_model(spec, shape, **subject.form), f"{about['definition']} ({Path(spec).name})"


def check_entries(entries: "Iterable[Entry]", epsilons: "Numbers | None") -> Check:
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


def check_proof(prove: str | None, norm: str) -> Check:
    """Return the check, for `find_subject`, of a proof's effort, norm and model; None is none."""

    def check(model: "Model", data: "Dataset", classes: int) -> None:
        from jaxadv.protocols.prover import Prover

        if prove is not None:
            Prover(prove).check(model, data.images.shape[1:], norm)

    return check


def check_attack(attack: "Attack", epsilon: float | None, targeted: bool = False) -> Check:
    """Return the check, for `find_subject`, of one attack that an option names.

    Args:
        attack: The attack.
        epsilon: Its radius, or None.
        targeted: Whether the goal is class label + 1.

    Returns:
        A function of a model, the images and the number of classes.
    """
    import jax

    from jaxadv.core.contract import check_contract
    from jaxadv.core.shapes import image_shape
    from jaxadv.engine.checks import prepare_attack

    def check(model: "Model", data: "Dataset", classes: int) -> None:
        goal, shape = goal_of(data, targeted), data.images.shape[1:]
        prepared, _ = prepare_attack(attack, model, goal, classes, epsilon, 1, shape)
        try:  # as the run does: an attack that begins at other images than these is refused
            check_contract(prepared, goal, image_shape(shape), classes, jax.random.key(0), False)
        except ValueError as error:
            raise ValueError(f"{attack.name} is not for the command line: {error}") from None

    return check


def goal_of(data: "Dataset", targeted: bool) -> "Goal":
    """Return the untargeted goal, or the targeted goal of class label + 1."""
    from jaxadv.core.goals import Targeted, Untargeted

    if not targeted:
        return Untargeted(data.labels)
    return Targeted(data.labels, (data.labels + 1) % len(data.classes))


def split_of(data: str) -> tuple[str, str]:
    """Return the name or path of the data set and the split to attack.

    Args:
        data: What `--data` was given; the split follows the name, as in "cifar10:test[:100]".

    Returns:
        The name or path, and the split, by default "test".

    Example:
        >>> from jaxadv.cli.subject import split_of
        >>> split_of("mnist5k"), split_of("cifar10:test[:100]")
        (('mnist5k', 'test'), ('cifar10', 'test[:100]'))
    """
    from jaxadv.data.form import part_of_name

    name, split = part_of_name(data)
    return name, split or "test"


def folder_name(data: str) -> str:
    """A data set's name as that of a folder: words joined by dashes, also of a path."""
    return re.sub(r"\W+", "-", data).strip("-")
