"""Families of attacks that make tampered or unnatural images, against a plain or a defended model.

A family is the same attack in both cases: its images made for a plain network are negatives to
train on, and its images made for the defended network are the adaptive attack.
"""

import dataclasses
from typing import NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxadv.core.attack import Attack, safe_epsilon
from jaxadv.core.bounds import two_numbers
from jaxadv.core.goals import Evading, Untargeted
from jaxadv.core.model import Model
from jaxadv.core.norms import distance64
from jaxadv.core.result import Status
from jaxadv.core.typing import Key
from jaxadv.data import Dataset
from jaxadv.engine.devices import choose_devices
from jaxadv.engine.result_store import fingerprint
from jaxadv.engine.verify import predict
from jaxadv.fooling.evolution import fooling_images
from jaxadv.protocols.runs import Runs
from jaxadv.universal.ascent import UniversalAscent
from jaxadv.universal.method import Aim, Task
from jaxadv.universal.perturbation import check_ball, fit_variable


class Made(NamedTuple):
    """Images that a family made for one model.

    Attributes:
        images: Images, float32 [N, H, W, C].
        labels: Integers [N]. For natural images, the class to be misclassified; for others, the
            class that the image is made for (-1: any).
        distance: Distance from the natural image, float64 [N]; 0 where there is none.
        allowed: Whether the image counts, that is, lies within the family's radius, [N].
    """

    images: Float[np.ndarray, "N H W C"]
    labels: Int[np.ndarray, " N"]
    distance: Float[np.ndarray, " N"]
    allowed: Bool[np.ndarray, " N"]


class Family(Protocol):
    """What a family of attacks provides.

    Attributes:
        name: Name in tables.
        natural: Whether it starts at natural images.
    """

    @property
    def name(self) -> str: ...

    @property
    def natural(self) -> bool: ...

    def make(
        self, model: Model, given: Dataset, data: Dataset, rejected: int | None, key: Key
    ) -> Made:
        """Make images for a model, evading its class `rejected` if there is one.

        Args:
            model: The model to attack.
            given: Natural images to learn from.
            data: Natural images to be changed.
            rejected: Index of the rejection class (None: there is none).
            key: JAX random key.

        Returns:
            The images.
        """
        ...


def fools(family: Family, model: Model, made: Made, rejected: int | None) -> Bool[np.ndarray, " N"]:
    """Return whether images reach their goal on a model and are not rejected.

    A natural image must be assigned to another natural class, another image to the class that it
    was made for. The model is evaluated anew, one forward pass an image.

    Args:
        family: The family of the images.
        model: The model.
        made: The images.
        rejected: Index of the rejection class (None: there is none).

    Returns:
        The mask [N].
    """
    predicted = predict(model, made.images).argmax(1)
    reached = predicted != made.labels if family.natural else predicted == made.labels
    reached |= made.labels < 0
    return reached & made.allowed & (True if rejected is None else predicted != rejected)


def _goal(labels: np.ndarray, rejected: int | None) -> Untargeted:
    return Untargeted(labels) if rejected is None else Evading(labels, rejected)


@dataclasses.dataclass(frozen=True)
class Perturbed:
    """Any attack on one image at a time.

    Attributes:
        name: Name in tables.
        attack: The attack. For an attack without a radius (a minimal perturbation), results within
            `epsilon` count.
        epsilon: Radius in the attack's norm.
        runs: Where its results are stored.
    """

    name: str
    attack: Attack
    epsilon: float
    runs: Runs = dataclasses.field(default=Runs(), repr=False)
    natural = True

    def make(
        self, model: Model, given: Dataset, data: Dataset, rejected: int | None, key: Key
    ) -> Made:
        radius = self.epsilon if self.attack.needs_epsilon else None
        goal = _goal(data.labels, rejected)
        name = f"tampered-{self.attack.name}-{fingerprint(model.params, data.images)[:8]}"
        result = self.runs.run(name, self.attack, model, data.images, goal, radius, key=key)
        if (result.status == Status.NOT_RUN).any():
            raise KeyboardInterrupt  # a partial result must not be taken for a complete one
        return Made(result.images, data.labels, result.distance, result.distance <= self.epsilon)


@dataclasses.dataclass(frozen=True)
class Universal:
    """Universal perturbations by SGD-UAP, computed from the given images.

    Attributes:
        name: Name in tables.
        epsilon: Radius.
        norm: "linf" or "l2".
        epochs: Passes over the given images.
        count: Number of perturbations, assigned to the images in turn.
    """

    name: str
    epsilon: float
    norm: str = "linf"
    epochs: int = 10
    count: int = 1
    natural = True

    def make(
        self, model: Model, given: Dataset, data: Dataset, rejected: int | None, key: Key
    ) -> Made:
        shape, (lower, upper) = (
            tuple(data.images.shape[1:]),
            two_numbers(model.bounds, "this experiment"),
        )
        check_ball(self.norm, self.epsilon, shape, (lower, upper))
        task = Task(model, safe_epsilon(self.norm, self.epsilon), self.norm, shape)
        weights, images = np.ones(len(given.labels), np.float32), np.array(data.images)
        aim = Aim(given.images, _goal(given.labels.astype(np.int32), rejected), weights)
        for number in range(self.count):
            fit = fit_variable(
                UniversalAscent(epochs=self.epochs),
                task,
                aim,
                key=jax.random.fold_in(key, number),
                devices=choose_devices(None),
            )
            images[number :: self.count] += np.asarray(fit.variable)
        images = images.clip(lower, upper)
        distance = distance64(self.norm, images, data.images)
        return Made(images, data.labels, distance, distance <= self.epsilon)


@dataclasses.dataclass(frozen=True)
class Noise:
    """Uniform noise, as many images as there are natural ones.

    To evade a defence, each image is drawn several times, at any brightness and contrast, and the
    draw that is rejected least is kept.

    Attributes:
        name: Name in tables.
        draws: Draws for each image.
    """

    name: str = "noise"
    draws: int = 20
    natural = False

    def make(
        self, model: Model, given: Dataset, data: Dataset, rejected: int | None, key: Key
    ) -> Made:
        lower, upper = two_numbers(model.bounds, "the attack of this experiment")
        count, rng = len(data.labels), np.random.default_rng(np.asarray(jax.random.key_data(key)))
        shades = rng.random(data.images.shape)
        if rejected is not None:
            shades = self._evading(model, shades, rejected, rng)
        images = (lower + (upper - lower) * shades).astype(np.float32)
        return Made(images, np.full(count, -1), np.zeros(count), np.ones(count, bool))

    def _evading(
        self, model: Model, shades: np.ndarray, rejected: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Return for each image the one of several draws in [0, 1] that is rejected least."""
        lower, upper = two_numbers(model.bounds, "the attack of this experiment")
        count, best = len(shades), np.full(len(shades), -np.inf)
        for _ in range(self.draws):
            bright, contrast = rng.random((2, count, 1, 1, 1))
            drawn = (bright + 2 * contrast * (rng.random(shades.shape) - 0.5)).clip(0, 1)
            logits = predict(model, lower + (upper - lower) * drawn)
            ahead = np.delete(logits, rejected, 1).max(1) - logits[:, rejected]
            shades[ahead > best], best = drawn[ahead > best], np.maximum(best, ahead)
        return shades


@dataclasses.dataclass(frozen=True)
class Fooling:
    """Fooling images (Nguyen et al. 2014), one for each natural class in each run.

    Attributes:
        name: Name in tables.
        method: "cppn" or "direct" encoding, or "gradient" ascent.
        generations: Generations of the evolution, or steps of the gradient ascent.
        runs: Number of runs.
    """

    name: str
    method: str
    generations: int = 60
    runs: int = 3
    natural = False

    def make(
        self, model: Model, given: Dataset, data: Dataset, rejected: int | None, key: Key
    ) -> Made:
        classes, shape = len(data.classes), data.images.shape[1:]
        images = np.concatenate(
            [
                fooling_images(
                    model,
                    shape,
                    self.method,
                    generations=self.generations,
                    classes=classes,
                    key=jax.random.fold_in(key, run),
                ).images
                for run in range(self.runs)
            ]
        )
        labels = np.tile(np.arange(classes), self.runs)
        return Made(images, labels, np.zeros(len(images)), np.ones(len(images), bool))
