"""The experiments of Nguyen, Yosinski and Clune (2014, arXiv 1412.1897) on a LeNet."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from scipy.special import softmax

from jaxadv.core.files import slug
from jaxadv.core.model import Model
from jaxadv.engine.verify import predict
from jaxadv.fooling.evolution import FoolingImages, fooling_images
from jaxadv.fooling.resemblance import MOST, Resemblance, measured
from jaxadv.studies.findings import Curves, Findings, Gallery, Part, Table, Text
from jaxadv.studies.fooling_words import (
    NOTHING,
    fooling_in_words,
    nothing_in_words,
)
from jaxadv.studies.networks import autoencoder, names_of, network_of, trained
from jaxadv.studies.setting import Setting

NETWORKS = ("LeNet",)
METHODS = ("direct", "cppn", "gradient")
APART = ("direct, apart", "cppn, apart")  # evolved so that what resembles its class does not count
SURE = 0.9999
GENERATIONS, LONGEST = 200, 5000  # of evolution; of direct encoding until it is sure
REPEATS = 4  # evolutions of the images that are measured
NEIGHBOURS = 10_000  # training images at most, among which the nearest is sought


def probabilities(model: Model, images: np.ndarray) -> np.ndarray:
    """Return the softmax [N, K] in float64."""
    logits = predict(model, images).astype(np.float64)
    return softmax(logits, 1)


def images(setting: Setting) -> Findings:
    """Fooling images of a LeNet by evolution and gradient ascent, and their transfer.

    They are made in both encodings and by gradient ascent, and are also classified by another
    network: the second that the setting gives, or a first one that was trained again.
    """
    generations, longest = (60, 300) if setting.quick else (GENERATIONS, LONGEST)
    first, *others = names_of(setting, NETWORKS)
    networks = [network_of(setting, first)]
    if not others and (not setting.networks or setting.networks[0].model is None):
        others = [first]  # trained again
    networks += [network_of(setting, name, 1) for name in others[:1]]
    model, other = networks[0].model, networks[1].model if others else None
    shape = setting.test.images.shape[1:]
    resemblance = _resemblance(setting)
    kinds = (*METHODS, *APART)
    runs: dict[str, list[FoolingImages]] = {kind: [] for kind in kinds}
    seconds = {}
    for number, kind in enumerate(kinds):
        method = kind.split(",")[0]
        settings: dict[str, Any] = {"generations": generations}
        if method == "direct":
            settings = {"generations": longest, "until": SURE}
        for seed in range(1 if setting.quick else REPEATS):
            setting.progress("fooling images", number, len(kinds))
            made, took = evolved(
                setting,
                f"{kind} {seed}",
                model,
                shape,
                method,
                seed=seed,
                resemblance=resemblance if kind in APART else None,
                **settings,
            )
            runs[kind].append(made)
            seconds.setdefault(kind, took)
    results = {kind: runs[kind][0] for kind in METHODS}
    rows = [_row(results[m], seconds[m], other) for m in METHODS]
    published = np.full((len(METHODS), 8), np.nan)
    is_papers = setting.test.images.shape[-1] == 1 and not setting.networks
    if generations >= GENERATIONS and is_papers:
        published[:2, 0] = 99.99
    natural = probabilities(model, setting.test.images).max(1)
    noise = np.random.default_rng(0).random((1000, *shape)).astype(np.float32)
    sure = (probabilities(model, noise).max(1) > SURE).mean()
    errors = ", ".join(f"{100 * one.error(setting.test):.2f}" for one in networks)
    parts: list[Part] = [
        Table(
            "Confidence in per cent",
            METHODS,
            (
                "median",
                "least",
                "generations",
                "of these to a median of 99.99 %",
                "same class on another network",
                "median confidence there",
                "images classified",
                "seconds",
            ),
            np.array(rows),
            published=published,
            formats=(".4f", ".4f", ".0f", ".0f", ".0f", ".2f", ".0f", ".1f"),
            note=f"Errors on the test images in per cent: {errors} (published: 0.94). Seconds "
            f"include compilation. Direct encoding ends at 99.99 % or after {longest:,} "
            f"generations; the others take {generations}. Gradient ascent makes one step a "
            "generation.",
        ),
        Gallery(
            "One image for each class",
            np.stack([results[m].images for m in METHODS]),
            METHODS,
            tuple(setting.test.classes),
            tuple(tuple(f"{100 * c:.2f} %" for c in results[m].confidence) for m in METHODS),
            note="below each the network's confidence that this is the class of the column",
        ),
        Curves(
            "Median confidence",
            "generation",
            "1 - median confidence",
            {
                method: np.stack(
                    [
                        np.arange(1, len(result.history) + 1),
                        np.maximum(1 - np.median(result.history, 1), 1e-7),
                    ]
                )[:, :: max(1, len(result.history) // 300)]
                for method, result in results.items()
            },
            log="y",
        ),
        Text(
            fooling_in_words(
                float(np.median(natural)),
                {m: float(np.median(results[m].confidence)) for m in METHODS},
                {
                    m: row[4] / len(setting.test.classes)
                    for m, row in zip(METHODS, rows, strict=True)
                    if other is not None
                },
                float(sure),
            )
        ),
    ]
    parts += _of_nothing(setting, model, resemblance, runs)
    return Findings("fooling.images", "Meaningless images that a network is confident about", parts)


def _resemblance(setting: Setting) -> Resemblance:
    """Return what tells whether an image resembles a class, with limits from the test images.

    The other classifier is the sigmoid network FC100-100-10; the autoencoder has a quarter as many
    units as an image has pixels.
    """
    data = setting.train
    size, epochs = data.images[0].size, 5 if setting.quick else 20
    settings = max(size // 4, 1), 1e-6, epochs

    def fit() -> dict[str, np.ndarray]:
        layers = autoencoder(data.images, *settings, jax.random.key(0))
        return {f"{a} {b}": np.asarray(x) for a, part in layers.items() for b, x in part.items()}

    kept = setting.keep("fooling/autoencoder", (data.images, *settings), fit)
    layers: dict[str, dict[str, np.ndarray]] = {"encode": {}, "decode": {}}
    for name, value in kept.items():
        layer, part = name.split()
        layers[layer][part] = value
    rows = np.random.default_rng(0).permutation(len(data.labels))[:NEIGHBOURS]
    found = Resemblance(
        trained(setting, "FC100-100-10").model,
        data.images[rows].reshape(len(rows), -1),
        data.labels[rows],
        len(data.classes),
        layers,
    )
    test = setting.test
    seen = measured(found, test.images)
    distances = np.asarray(seen.distance)[np.arange(len(test.labels)), test.labels]
    near, error = np.quantile(distances, MOST), np.quantile(np.asarray(seen.error), MOST)
    return dataclasses.replace(found, distance=np.float32(near), error=np.float32(error))


def _of_nothing(
    setting: Setting,
    model: Model,
    resemblance: Resemblance,
    runs: Mapping[str, Sequence[FoolingImages]],
) -> list[Part]:
    """Return the table of what the images resemble, pictures of those apart, and the sentences."""
    test = setting.test
    usual = float(np.median(probabilities(model, test.images).max(1)))
    groups = {
        kind: (
            np.concatenate([one.images for one in made]),
            np.concatenate([np.arange(len(one.images)) for one in made]),
        )
        for kind, made in runs.items()
    }
    groups["test images"] = test.images, test.labels
    rows = []
    for images, classes in groups.values():
        seen, each = measured(resemblance, images), np.arange(len(images))
        confidence = probabilities(model, images)[each, classes]
        near = np.asarray(seen.distance)[each, classes]
        away, worse = near > resemblance.distance, np.asarray(seen.error) > resemblance.error
        neighbour, answer = (np.asarray(x) == classes for x in (seen.neighbour, seen.answer))
        nothing = away & worse & ~neighbour & ~answer
        rates = (away, neighbour, answer, worse, nothing, nothing & (confidence >= usual))
        away, neighbour, answer, worse, nothing, fooled = (100 * x.mean() for x in rates)
        rows.append(
            [
                len(images),
                100 * np.median(confidence),
                np.median(near),
                away,
                neighbour,
                answer,
                np.median(np.asarray(seen.error)),
                worse,
                nothing,
                fooled,
            ]
        )
    values = np.array(rows)
    return [
        Table(
            "Do they resemble their class?",
            tuple(groups),
            NOTHING,
            values,
            formats=(".0f", ".2f", ".2f", ".0f", ".0f", ".0f", ".3f", ".0f", ".0f", ".0f"),
            note=f"Medians, and images in per cent. Far: further (L2) from every training image of "
            f"the class than {100 * MOST:.0f} % of the test images are from one of theirs. Badly: "
            f"the autoencoder's root mean square error is larger than of {100 * MOST:.0f} % of the "
            f"test images. Of nothing: far, badly reconstructed, and given another class by the "
            f"nearest of {len(resemblance.examples):,} training images and by the sigmoid network "
            "FC100-100-10. Sure: confidence as on the median test image, or higher. Evolved apart: "
            "an image that is not of nothing is less fit than every one that is.",
        ),
        Gallery(
            "Evolved so that images that resemble their class do not count",
            np.stack([runs[kind][0].images for kind in APART]),
            APART,
            tuple(test.classes),
            tuple(tuple(f"{100 * c:.2f} %" for c in runs[kind][0].confidence) for kind in APART),
            note="below each the network's confidence that this is the class of the column",
        ),
        Text(nothing_in_words(tuple(runs), values)),
    ]


def evolved(
    setting: Setting,
    name: str,
    model: Model,
    shape: tuple[int, int, int],
    method: str,
    seed: int = 0,
    resemblance: Resemblance | None = None,
    **settings: Any,
) -> tuple[FoolingImages, float]:
    """Make fooling images or load those that are stored, and return the seconds that it took."""

    def compute() -> dict[str, Any]:
        begun = time.perf_counter()
        made = fooling_images(
            model, shape, method, key=jax.random.key(seed), resemblance=resemblance, **settings
        )
        return {**made._asdict(), "seconds": time.perf_counter() - begun}

    same = model.params, shape, method, seed, sorted(settings.items()), resemblance
    kept = setting.keep(f"fooling/{slug(name)}", same, compute)
    seconds, forward, backward = (kept.pop(key) for key in ("seconds", "forward", "backward"))
    return FoolingImages(**kept, forward=int(forward), backward=int(backward)), float(seconds)


def _row(result: FoolingImages, seconds: float, other: Model | None) -> list[float]:
    median = np.median(result.history, 1)
    own, agree, sure = np.arange(len(result.images)), np.nan, np.nan
    if other is not None:
        elsewhere = probabilities(other, result.images)
        agree = float((elsewhere.argmax(1) == own).sum())
        sure = 100 * float(np.median(elsewhere[own, own]))
    reached = np.flatnonzero(median >= SURE)
    return [
        100 * float(np.median(result.confidence)),
        100 * float(result.confidence.min()),
        float(len(median)),
        float(reached[0] + 1) if len(reached) else np.nan,
        agree,
        sure,
        float(result.forward),
        seconds,
    ]
