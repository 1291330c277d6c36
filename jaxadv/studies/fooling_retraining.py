"""Retraining with a class for fooling images (Nguyen, Yosinski and Clune 2014, arXiv 1412.1897)."""

import numpy as np

from jaxadv.data import Dataset
from jaxadv.studies.findings import Findings, Gallery, Part, Table, Text
from jaxadv.studies.fooling_images import (
    GENERATIONS,
    NETWORKS,
    evolved,
    probabilities,
)
from jaxadv.studies.fooling_words import retraining_in_words
from jaxadv.studies.networks import names_of, network_of
from jaxadv.studies.setting import Setting

ROUNDS = 5


def retraining(setting: Setting) -> Findings:
    """Retraining with a class for fooling images, round after round: is the next network fooled?

    A round adds about as many of them as the data have images of one class.
    """
    rounds, generations = (3, 40) if setting.quick else (ROUNDS, GENERATIONS)
    data, classes = setting.train, len(setting.train.classes)
    published_runs = max(1, round(len(data.labels) / classes**2))
    runs = min(6, published_runs) if setting.quick else published_runs
    shape = data.images.shape[1:]
    negatives, name = np.zeros((0, *shape), np.float32), names_of(setting, NETWORKS)[0]
    rows, pictures = [], []
    for number in range(rounds):
        setting.progress("rounds of retraining", number, rounds)
        network = network_of(setting, name, number, with_negatives(data, negatives))
        model = network.model
        known = (
            100 * float((probabilities(model, negatives).argmax(1) == classes).mean())
            if len(negatives)
            else np.nan
        )
        made = []
        for run in range(runs):
            setting.progress(f"evolutions of round {number + 1}", run, runs)
            one, _ = evolved(
                setting,
                f"round {number + 1}, {run + 1}",
                model,
                shape,
                "cppn",
                generations=generations,
                classes=classes,
                seed=runs * number + run,
            )
            made.append(one)
        confidence = np.concatenate([one.confidence for one in made])
        fooled = np.concatenate([one.answers == np.arange(classes) for one in made])
        rows.append(
            [
                100 * network.error(setting.test),
                known,
                100 * float(np.median(confidence)),
                100 * float(fooled.mean()),
                len(negatives),
            ]
        )
        pictures.append(made[0].images)
        negatives = np.concatenate([negatives, *(one.images for one in made)])
    names = tuple(f"network {number + 1}" for number in range(rounds))
    published = np.full((rounds, 5), np.nan)
    published[:, 2] = np.nan if setting.networks else 99.99
    parts: list[Part] = [
        Table(
            "Networks with a class for fooling images, each attacked again",
            names,
            (
                "test error in %",
                "rejects those before it, %",
                "median confidence in new ones, %",
                "new ones that fool it, %",
                "fooling images known",
            ),
            np.array(rows),
            published=published,
            formats=(".2f", ".1f", ".2f", ".0f", ".0f"),
            note=f"{runs} evolutions of painting networks a round, {generations} generations each: "
            f"{runs * classes} images; one class has {len(data.labels) / classes:.0f} training "
            "images (the paper adds thousands a round). The first network has no such images to "
            "learn from. Published: all fifteen networks are fooled at a median of 99.99 %.",
        ),
        Gallery(
            "What fools each network",
            np.stack(pictures),
            names,
            tuple(data.classes),
        ),
        Text(retraining_in_words(np.array(rows), runs * classes)),
    ]
    return Findings("fooling.retraining", "Is a network that knows fooling images safe?", parts)


def with_negatives(data: Dataset, negatives: np.ndarray) -> Dataset:
    """Return the data set with one more class, which holds the negatives.

    Negatives that are fewer than the images of one other class are repeated until they are not.

    Args:
        data: The data set.
        negatives: Images [M, H, W, C] of the new class, which may be none.

    Returns:
        The data set, in random order.
    """
    classes = (*data.classes, "none of these")
    if not len(negatives):
        return data._replace(classes=classes)
    times = max(1, round(len(data.labels) / len(data.classes) / len(negatives)))
    repeated = np.repeat(negatives, times, axis=0)
    labels = np.full(len(repeated), len(data.classes), data.labels.dtype)
    order = np.random.default_rng(0).permutation(len(data.labels) + len(repeated))
    return data._replace(
        images=np.concatenate([data.images, repeated])[order],
        labels=np.concatenate([data.labels, labels])[order],
        ids=np.arange(len(order), dtype=np.int32),
        classes=classes,
    )
