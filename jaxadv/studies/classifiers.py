"""The nearest mistakes of linear models, trees, neighbours, kernels and a network, compared.

All classifiers have about equal accuracy and are attacked on the same images.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from scipy.special import softmax

from jaxadv.attacks import GaussianNoise, MinimalEpsilon
from jaxadv.certification.exact import linear_classifier
from jaxadv.core.files import slug
from jaxadv.core.goals import Untargeted
from jaxadv.core.model import Model
from jaxadv.core.norms import distance64
from jaxadv.data import Dataset
from jaxadv.engine.verify import predict
from jaxadv.studies.classifiers_words import (
    classifiers_in_words,
    corners_in_words,
    equal_data_in_words,
)
from jaxadv.studies.families import GRADIENTS, QUERY_BASED, Fitted, families, fit_families
from jaxadv.studies.findings import Findings, Gallery, Part, Table, Text
from jaxadv.studies.forests import forest_norms
from jaxadv.studies.margins import margins_table
from jaxadv.studies.nearest import Mistakes, nearest_mistakes
from jaxadv.studies.one_feature import one_feature_table
from jaxadv.studies.setting import Setting
from jaxadv.universal import judge, universal_perturbation


class Compared(NamedTuple):
    """Classifiers and their nearest mistakes on the same images.

    Attributes:
        table: The table.
        mistakes: The mistakes, by name.
        hows: How far each distance is proved, by name: "proved", "17 of 20 proved", "gradients".
    """

    table: Table
    mistakes: Mapping[str, Mistakes]
    hows: Mapping[str, str]


def all_classifiers(setting: Setting) -> Findings:
    """The nearest mistakes of nine classifiers, at equal accuracy and on equal data (quick: 7)."""
    kinds, (equal, largest) = families(), fit_families(setting)
    hows = {name: kinds[name].how for name in equal}
    data = _right_everywhere(setting, [*equal.values(), *largest.values()])
    labels = data.labels
    most = max(one.size for one in largest.values())
    few = compare(setting, "The nearest mistake in L2, at equal accuracy", equal, data)
    many = compare(
        setting, f"The nearest mistake in L2, all trained on {most:,} images", largest, data
    )
    distances = {name: found.distance for name, found in few.mistakes.items()}
    linear, kernel = [largest[name].estimator for name in ("linear SVM", "SVM with RBF kernel")]
    beside = [many.mistakes[name].distance for name in ("linear SVM", "SVM with RBF kernel")]
    some = data.take(slice(10 if setting.quick else 100))
    far = one_feature_table(setting, largest, hows, some.images, some.labels)
    parts: list[Part] = [
        few.table,
        Text(classifiers_in_words(tuple(equal), few.table.values, tuple(few.hows.values()))),
        many.table,
        Text(equal_data_in_words(tuple(largest), many.table.values)),
        Gallery(
            "The nearest mistakes",
            np.stack([data.images[:8], *(found.images[:8] for found in few.mistakes.values())]),
            ("image", *equal),
            captions=(
                tuple(data.classes[k] for k in labels[:8]),
                *(tuple(f"{d:.2f}" for d in distances[name][:8]) for name in equal),
            ),
        ),
        *_table_and_text(far),
        margins_table(linear, kernel, data.images, np.stack(beside)),
        *_table_and_text(forest_norms(setting, equal["random forest"], data)),
        _universal(setting, equal, data),
        _far_from_all_data(setting, equal["logistic regression"], data.images),
    ]
    return Findings("classifiers.distance", "Is it the network, or all classifiers?", parts)


def _table_and_text(made: tuple[Table, str]) -> list[Part]:
    return [made[0], Text(made[1])]


def compare(setting: Setting, title: str, fitted: Mapping[str, Fitted], data: Dataset) -> Compared:
    """Find the nearest mistakes of classifiers on the same images, beside noise.

    Args:
        setting: The setting.
        title: Title of the table.
        fitted: The classifiers by name.
        data: Images that all of them classify correctly.

    Returns:
        The table, the mistakes, and how far they are proved.
    """
    kinds, away, rows = families(), _nearest_other(setting, data), []
    mistakes, hows = {}, {}
    for name, one in fitted.items():
        own = np.searchsorted(one.estimator.classes_, data.labels)
        how, kept = kinds[name].how, f"{name}-{one.size}"
        found = nearest_mistakes(setting, kept, one, how, data.images, own)
        noise = setting.run(
            f"noise-{slug(kept)}",
            MinimalEpsilon(GaussianNoise(draws=10), rounds=8),
            one.model,
            data.images,
            Untargeted(own),
        )
        noisy = np.where(noise.success, noise.distance, np.inf)
        median, both = _median(found.distance), np.isfinite(found.distance)
        times = noisy[both] / np.maximum(found.distance[both], 1e-9)
        rows.append(
            [
                one.size,
                one.accuracy,
                median,
                median / float(np.median(away)),
                _median(noisy),
                _median(times),
                100 * found.flips.mean(),
            ]
        )
        mistakes[name], hows[name] = found, how
        if how not in (GRADIENTS, QUERY_BASED):
            count, all_proved = int(found.proved.sum()), bool(found.proved.all())
            hows[name] = "proved" if all_proved else f"{count} of {len(found.proved)} proved"
    table = Table(
        title,
        tuple(f"{name} ({hows[name]})" for name in fitted),
        (
            "training images",
            "accuracy, %",
            "median distance",
            "fraction of the way",
            "noise",
            "noise / mistake",
            "flips, %",
        ),
        np.array(rows),
        formats=(".0f", ".1f", ".3f", ".3f", ".2f", ".1f", ".1f"),
        note=f"{len(data.labels)} test images that all classifiers of this page get right. "
        "Distances: proved, or upper bounds from gradients, from queries alone, or from a program "
        "that was stopped. The way: from an image to the nearest training image of another class, "
        f"{np.median(away):.2f} in the median. Noise: the least length at which one of ten "
        "Gaussian draws is misclassified. Flips: how many of the nearest mistakes scikit-learn's "
        "own predict misclassifies; one on the boundary was moved over it by the least amount, and "
        "where it answers as before the distance counts as infinite.",
    )
    return Compared(table, mistakes, hows)


def _median(values: np.ndarray) -> float:
    return float(np.quantile(values, 0.5, method="inverted_cdf")) if len(values) else np.nan


def _right_everywhere(setting: Setting, fitted: list[Fitted]) -> Dataset:
    """Return test images that all classifiers classify correctly.

    There are at most a fifth of the setting's examples (quick: a tenth), or ten if that is more.
    """
    test = setting.test
    right = np.ones(len(test.labels), bool)
    for one in fitted:
        predicted = one.estimator.classes_[predict(one.model, test.images).argmax(1)]
        right &= predicted == test.labels
    rows = np.flatnonzero(right)
    if not len(rows):
        raise ValueError("no test image is classified right by all classifiers")
    return test.take(rows[: max(10, setting.examples // (10 if setting.quick else 5))])


def _nearest_other(setting: Setting, data: Dataset) -> np.ndarray:
    """Return the L2 distance [N] of each image to the nearest training image of another class."""
    train = setting.train
    out = []
    for image, label in zip(data.images, data.labels, strict=True):
        others = train.images[train.labels != label]
        out.append(distance64("l2", others, np.broadcast_to(image, others.shape)).min())
    return np.array(out)


def _universal(setting: Setting, fitted: dict[str, Fitted], data: Dataset) -> Table:
    """Evaluate universal perturbations, made on a linear model and the network, on all models."""
    epsilon, makers = 0.2, ("logistic regression", "network, 100-100")
    given, others = setting.train.images[:500], setting.test.images[:500]
    made = {
        f"made on {name}": _made_on(setting, name, fitted[name].model, given, epsilon)
        for name in makers
    }
    rng = np.random.default_rng(0)
    made["random signs"] = epsilon * rng.choice([-1.0, 1.0], given.shape[1:]).astype(np.float32)
    values = [
        [100 * judge(one.model, others, change).rate for change in made.values()]
        for one in fitted.values()
    ]
    return Table(
        f"One perturbation for all images (Linf {epsilon}): images that change their class, in %",
        tuple(fitted),
        tuple(made),
        np.array(values),
        formats=".1f",
        heat=True,
        note=f"{len(others)} test images, against each classifier's own answers",
    )


def _made_on(
    setting: Setting, name: str, model: Model, given: np.ndarray, epsilon: float
) -> np.ndarray:
    """Make a universal perturbation, or load the one that is stored."""

    def compute() -> dict[str, np.ndarray]:
        made = universal_perturbation(model, given, epsilon, key=jax.random.key(0))
        return {"perturbation": np.asarray(made.perturbation)}

    kept = setting.keep(f"universal/{slug(name)}", (model.params, given, epsilon), compute)
    return kept["perturbation"]


def _far_from_all_data(setting: Setting, fitted: Fitted, images: np.ndarray) -> Text:
    """Describe how far the points of highest linear confidence are from all data."""
    classifier = linear_classifier(fitted.estimator)
    slope = classifier.weights - classifier.weights.mean(1, keepdims=True)
    corners = (slope.T > 0).astype(np.float32)
    scores = classifier.scores(corners)
    sure = np.diag(softmax(scores, 1))
    flat = setting.train.images.reshape(len(setting.train.images), -1)[:2000]

    def nearest(points: np.ndarray, own: bool) -> np.ndarray:
        far = [np.sort(np.linalg.norm(flat - point, axis=1))[int(own)] for point in points]
        return np.array(far)

    natural = softmax(classifier.scores(images.reshape(len(images), -1)), 1).max(1)
    return Text(
        corners_in_words(
            float(np.median(sure)),
            float(np.median(natural)),
            float(np.median(nearest(corners, False))),
            float(np.median(nearest(flat[:200], True))),
        )
    )
