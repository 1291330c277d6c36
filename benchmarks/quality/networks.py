"""The published networks of which `verdict` and `ablation` say how robust they are."""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxadv as ja
from benchmarks import common
from jaxadv.models.weights import flatten
from jaxadv.protocols.cascades import Chosen, get_cascade
from jaxadv.protocols.evaluation import SURVIVED


class Subject(NamedTuple):
    """A published network: its epsilon, on which images, published and proved accuracy in per cent
    of them (a published one may be of another sample: see `of`), and the norm."""

    epsilon: float
    images: str  # "all", or the name of a list in its folder
    published: float | None = None
    proved: float | None = None
    of: str = ""
    norm: str = "linf"


SUBJECTS = {
    "mnist_smallcnn_trades_linf0.3": Subject(0.3, "all", 92.81, None, "AutoAttack, 10,000"),
    "mnist_cnn_a_adv": Subject(0.3, "sdp200", 76.5, 76.0, "BaB, 200"),
    "mnist_rsl18a_mlp_linf0.1": Subject(0.1, "all", 85.61, 69.19, "measured, 10,000"),
    "mnist_wong_kolter_linf0.1": Subject(0.1, "all", 95.9, 94.2, "PGD, 10,000"),
    "cifar_cnn_a_adv": Subject(2 / 255, "sdp200", 50.0, 48.5, "attack, 200"),
    "cifar_cnn_a_mix": Subject(2 / 255, "sdp200", 53.0, 48.0, "attack, 200"),
    "cifar10_resnet2b": Subject(2 / 255, "all", 54.82, 26.88, "PGD, 10,000"),
    "cifar10_resnet32_linf8": Subject(8 / 255, "all"),
    "MadryCNN, standard-trained": Subject(0.1, "all"),
    "MadryCNN, standard-trained, 0.3": Subject(0.3, "all"),
}
HARD = ("mnist_cnn_a_adv", "cifar_cnn_a_adv", "cifar_cnn_a_mix")


class Images(NamedTuple):
    """ids [N], images [N, H, W, C], labels [N]."""

    ids: np.ndarray
    images: np.ndarray
    labels: np.ndarray

    def part(self, number: int, parts: int) -> "Images":
        return Images(*(rows[number::parts] for rows in self))

    def where(self, chosen: np.ndarray) -> "Images":
        return Images(*(rows[chosen] for rows in self))


def load(
    name: str, which: str, count: int, options: argparse.Namespace | None = None
) -> tuple[ja.Model, dict[str, np.ndarray], Images]:
    """The model, its weights as torch reads them, and the images.

    With the `options` of `common.load_own`, if they say which data, the name is that of a model.
    """
    if options is not None and options.data is not None:
        model, weights, data = common.load_own(name, options, count)
        return model, weights, Images(data.ids, data.images, data.labels)
    if name.startswith("MadryCNN"):
        model, images, labels = common.trained("MadryCNN")
        ids = np.arange(len(images))[-count:]
        return model, dict(flatten(model.params)), Images(ids, images[ids], labels[ids])
    model, weights, data = common.load(name)
    rows = np.arange(min(count, len(data.labels)))
    if which != "all":
        folder = common.SHARED / "models" / name
        wanted = np.loadtxt(folder / f"{which}_test_index.txt", dtype=int)
        place = {int(index): row for row, index in enumerate(data.ids)}
        rows = np.array([place[i] for i in wanted if i in place][:count])
    return model, weights, Images(data.ids[rows], data.images[rows], data.labels[rows])


class Verdict(NamedTuple):
    """One cascade's answer: which stage broke each image (as in a report), what was spent on it,
    whether the cascade attacked it, how many stages there were, and seconds."""

    broken_by: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    attacked: np.ndarray
    stages: int
    seconds: float

    @property
    def robust(self) -> np.ndarray:
        return self.broken_by == SURVIVED


def verdict(
    model: ja.Model,
    data: Images,
    subject: Subject,
    cascade: Any,
    seed: int,
    hardest: int | None = None,
    store: Path | None = None,
) -> Verdict:
    """The answer of one of our cascades, by name or as entries."""
    attacks: Any = cascade
    if hardest is not None:
        more = ja.Diverse(norm=subject.norm, steps=30, restarts=12)
        attacks = {
            name: ja.Hardest(entry.attack if isinstance(entry, Chosen) else entry, 0, hardest)
            for name, entry in get_cascade(cascade, subject.norm).items()
        }
        ranking = {"first": replace(more, restarts=1), "more": ja.Hardest(more, 0, 4 * hardest)}
        attacks = {**ranking, **attacks}
    begin = time.perf_counter()
    report = ja.evaluate(
        model,
        data.images,
        data.labels,
        subject.norm,
        epsilons=[subject.epsilon],
        attacks=attacks,
        ids=data.ids,
        key=jax.random.key(seed),
        distances=False,
        store=store,
    )
    attacking = sum(stage.result.cost.seconds for stage in report.stages)  # some in a run before
    seconds = max(time.perf_counter() - begin, attacking)
    attacked = np.zeros(len(data.labels), bool)
    for stage in report.stages[0 if hardest is None else 2 :]:
        attacked[stage.source] = True
    return Verdict(report.broken_by[0], *report.passes, attacked, len(report.stages), seconds)
