"""The experiments of Nguyen, Yosinski and Clune (2014, arXiv 1412.1897) on a LeNet."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from jaxadv.core.files import slug
from jaxadv.core.model import Model
from jaxadv.data import Dataset
from jaxadv.engine.verify import predict
from jaxadv.fooling.evolution import FoolingImages, fooling_images
from jaxadv.studies.findings import Curves, Findings, Gallery, Part, Table, Text
from jaxadv.studies.networks import names_of, network_of
from jaxadv.studies.setting import Setting
from jaxadv.studies.wording import side, tally

NETWORKS = ("LeNet",)
METHODS = ("direct", "cppn", "gradient")
SURE = 0.9999
ROUNDS, RUNS = 5, 4  # of retraining, and of evolution in each round


def _probabilities(model: Model, images: np.ndarray) -> np.ndarray:
    """Return the softmax [N, K] in float64."""
    logits = predict(model, images).astype(np.float64)
    return softmax(logits, 1)


def _error(model: Model, data: Dataset) -> float:
    predicted = predict(model, data.images).argmax(1)
    return 100 * float((predicted != data.labels).mean())


def images(setting: Setting) -> Findings:
    """Fooling images of a LeNet by evolution and gradient ascent, and their transfer.

    They are made in both encodings and by gradient ascent, and are also classified by another
    network: the second that the setting gives, or a first one that was trained again.
    """
    generations = 60 if setting.quick else 200
    first, *others = names_of(setting, NETWORKS)
    model = network_of(setting, first).model
    others = others[:1] or [one.name for one in setting.networks if one.model is None][:1]
    other = network_of(setting, others[0], 1).model if others else None
    shape = setting.test.images.shape[1:]
    results: dict[str, FoolingImages] = {}
    seconds = {}
    for number, method in enumerate(METHODS):
        setting.progress("fooling images", number, len(METHODS))
        results[method], seconds[method] = _made(
            setting, method, model, shape, method, generations=generations
        )
    rows = [_row(results[m], seconds[m], other) for m in METHODS]
    published = np.full((len(METHODS), 7), np.nan)
    if generations >= 200 and setting.test.images.shape[-1] == 1 and not setting.networks:
        published[:2, 0] = 99.99
    natural = _probabilities(model, setting.test.images).max(1)
    noise = np.random.default_rng(0).random((1000, *shape)).astype(np.float32)
    sure = (_probabilities(model, noise).max(1) > SURE).mean()
    errors = ", ".join(
        f"{_error(one, setting.test):.2f}" for one in (model, other) if one is not None
    )
    parts: list[Part] = [
        Table(
            f"Confidence in per cent after {generations} generations",
            METHODS,
            (
                "median",
                "least",
                "generations to a median of 99.99 %",
                "same class on another network",
                "median confidence there",
                "images classified",
                "seconds",
            ),
            np.array(rows),
            published=published,
            formats=(".4f", ".4f", ".0f", ".0f", ".2f", ".0f", ".1f"),
            note=f"Errors on the test images in per cent: {errors}. Seconds "
            "include compilation. Gradient ascent makes one step a generation.",
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
                        np.arange(1, generations + 1),
                        np.maximum(1 - np.median(result.history, 1), 1e-7),
                    ]
                )
                for method, result in results.items()
            },
            log="y",
        ),
        Text(
            fooling_in_words(
                float(np.median(natural)),
                {m: float(np.median(results[m].confidence)) for m in METHODS},
                {
                    m: row[3] / len(setting.test.classes)
                    for m, row in zip(METHODS, rows, strict=True)
                    if other is not None
                },
                float(sure),
            )
        ),
    ]
    return Findings("fooling.images", "Meaningless images that a network is confident about", parts)


def _made(
    setting: Setting,
    name: str,
    model: Model,
    shape: tuple[int, int, int],
    method: str,
    seed: int = 0,
    **settings: int,
) -> tuple[FoolingImages, float]:
    """Make fooling images or load those that are stored, and return the seconds that it took."""

    def compute() -> dict[str, Any]:
        begun = time.perf_counter()
        made = fooling_images(model, shape, method, key=jax.random.key(seed), **settings)
        return {**made._asdict(), "seconds": time.perf_counter() - begun}

    same = model.params, shape, method, seed, sorted(settings.items())
    kept = setting.keep(f"fooling/{slug(name)}", same, compute)
    seconds, forward, backward = (kept.pop(key) for key in ("seconds", "forward", "backward"))
    return FoolingImages(**kept, forward=int(forward), backward=int(backward)), float(seconds)


def _row(result: FoolingImages, seconds: float, other: Model | None) -> list[float]:
    median = np.median(result.history, 1)
    own, agree, sure = np.arange(len(result.images)), np.nan, np.nan
    if other is not None:
        elsewhere = _probabilities(other, result.images)
        agree = float((elsewhere.argmax(1) == own).sum())
        sure = 100 * float(np.median(elsewhere[own, own]))
    reached = np.flatnonzero(median >= SURE)
    return [
        100 * float(np.median(result.confidence)),
        100 * float(result.confidence.min()),
        float(reached[0] + 1) if len(reached) else np.nan,
        agree,
        sure,
        float(result.forward),
        seconds,
    ]


def retraining(setting: Setting) -> Findings:
    """Retraining with a class for fooling images, round after round: is the next network fooled?"""
    rounds, generations = (3, 40) if setting.quick else (ROUNDS, 200)
    runs = 2 if setting.quick else RUNS
    data, classes = setting.train, len(setting.train.classes)
    shape = data.images.shape[1:]
    negatives, name = np.zeros((0, *shape), np.float32), names_of(setting, NETWORKS)[0]
    rows, pictures = [], []
    for number in range(rounds):
        setting.progress("rounds of retraining", number, rounds)
        model = network_of(setting, name, number, with_negatives(data, negatives)).model
        known = (
            100 * float((_probabilities(model, negatives).argmax(1) == classes).mean())
            if len(negatives)
            else np.nan
        )
        made = [
            _made(
                setting,
                f"round {number + 1}, {run + 1}",
                model,
                shape,
                "cppn",
                generations=generations,
                classes=classes,
                seed=100 * number + run,
            )[0]
            for run in range(runs)
        ]
        confidence = np.concatenate([one.confidence for one in made])
        fooled = np.concatenate([one.answers == np.arange(classes) for one in made])
        rows.append(
            [
                _error(model, setting.test),
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
            note=f"{runs} evolutions of painting networks a round, {generations} generations each. "
            "The first network has no such images to learn from. Published: all fifteen LeNets "
            "are fooled at a median of 99.99 %.",
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

    The negatives are repeated until they are about as many as the images of one other class.

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


def fooling_in_words(
    natural: float, made: Mapping[str, float], elsewhere: Mapping[str, float], noise: float
) -> str:
    """Return where the network is more confident: on test images, or on what was made to fool it.

    Args:
        natural: Median confidence on test images.
        made: Median confidence on the fooling images, by method.
        elsewhere: Fraction of these to which another network gives the same class, by method;
            empty without one.
        noise: Fraction of images of uniform noise with a confidence above 99.99 %.

    Returns:
        The paragraph.
    """
    names = list(made)
    more = [confidence >= natural for confidence in made.values()]
    moved = [fraction > 0.5 for fraction in elsewhere.values()]
    another = "Another network gives more than half of the images the same class for "
    another = f"{another}{tally(names, moved, 'methods')}. " if elsewhere else ""
    return (
        f"The network's median confidence on test images is {100 * natural:.2f} %, on these "
        + ", ".join(f"{100 * confidence:.2f} ({name})" for name, confidence in made.items())
        + f": at least as high for {tally(names, more, 'methods')}. {another}The "
        f"confidence is above 99.99 % for {100 * noise:.1f} % of 1,000 images of uniform noise. "
        "Whether a person sees nothing in an image, the page does not measure."
    )


def retraining_in_words(rows: Float[np.ndarray, "R 5"], made: int) -> str:
    """Return whether a class for fooling images keeps out the next ones.

    Args:
        rows: Rows of the table of `retraining`, one for each network.
        made: Number of images made for each network.

    Returns:
        The paragraph.
    """
    first, last = rows[0], rows[-1]
    fewer = side(last[3], first[3], made) < 0
    verdict = (
        "fewer than fooled the first network, beyond their 95 % intervals: the rounds kept some out"
        if fewer
        else "not shown to be fewer than fooled the first network: to learn what fooled its "
        "predecessors did not save it"
    )
    return (
        f"After {len(rows)} rounds the network knows {int(last[4])} fooling images and rejects "
        f"{last[1]:.0f} % of them; of {made} new ones, made for it, {last[3]:.0f} % fool it "
        f"(of the first network {first[3]:.0f} %), at a median confidence of {last[2]:.2f} %. "
        f"That is {verdict}. It errs on {last[0]:.2f} % of the test images (the first on "
        f"{first[0]:.2f})."
    )
