"""The nearest mistakes of linear models, trees, neighbours, kernels and a network, compared.

All classifiers have about equal accuracy and are attacked on the same images.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from jaxadv.attacks import FMN, GaussianNoise, HopSkipJump, MinimalEpsilon
from jaxadv.certification.exact import exact_distance, linear_classifier, tree_ensemble
from jaxadv.core.goals import Untargeted
from jaxadv.core.model import Model
from jaxadv.core.norms import distance64
from jaxadv.core.optional_dependency import extra
from jaxadv.data import Dataset
from jaxadv.engine.verify import predict
from jaxadv.models.scikit_learn import from_sklearn
from jaxadv.protocols.minimal_distance import minimal_distance
from jaxadv.protocols.portfolios import Portfolio
from jaxadv.studies.findings import Findings, Gallery, Part, Table, Text
from jaxadv.studies.setting import Setting
from jaxadv.studies.wording import tally
from jaxadv.universal import judge, universal_perturbation

SIZES = (4000, 2500, 1500, 1000, 600, 400, 250, 150, 100, 60)  # training images that are tried
QUERIES = 3000
QUICK_SKIPS = "naive Bayes", "three neighbours"  # one more of a kind that is compared anyway
QUICKLY: Portfolio = {"FMN": FMN(norm="l2", steps=200)}  # as many passes as the fast portfolio
EQUAL = 5.0  # per cent: accuracies that differ by more are not called equal
EXACT, GRADIENTS, QUERY_BASED = "proved", "gradients", "queries"


class Family(NamedTuple):
    """A kind of classifier.

    Attributes:
        how: How its nearest mistake is computed: `EXACT`, `GRADIENTS` or `QUERY_BASED`.
        make: Returns an estimator that is not fitted yet.
    """

    how: str
    make: Callable[[], Any]


def families() -> dict[str, Family]:
    """Return the classifiers to compare; ImportError names the missing extra."""
    with extra("sklearn", "this study"):
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.naive_bayes import GaussianNB
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.neural_network import MLPClassifier
        from sklearn.svm import SVC, LinearSVC
        from sklearn.tree import DecisionTreeClassifier
    return {
        "logistic regression": Family(EXACT, lambda: LogisticRegression(max_iter=300)),
        "linear SVM": Family(EXACT, lambda: LinearSVC(C=0.05, random_state=0)),
        "decision tree": Family(EXACT, lambda: DecisionTreeClassifier(random_state=0)),
        "naive Bayes": Family(GRADIENTS, lambda: GaussianNB(var_smoothing=0.1)),
        "SVM with RBF kernel": Family(GRADIENTS, lambda: SVC(gamma="scale")),
        "nearest neighbour": Family(GRADIENTS, lambda: KNeighborsClassifier(1)),
        "network, 100-100": Family(
            GRADIENTS, lambda: MLPClassifier((100, 100), max_iter=60, random_state=0)
        ),
        "three neighbours": Family(QUERY_BASED, lambda: KNeighborsClassifier(3)),
        "random forest": Family(QUERY_BASED, lambda: RandomForestClassifier(50, random_state=0)),
    }


class Fitted(NamedTuple):
    """A trained classifier.

    Attributes:
        estimator: The fitted estimator.
        model: The model to attack.
        size: Number of training images.
        accuracy: Accuracy on the test set in per cent.
    """

    estimator: Any
    model: Model
    size: int
    accuracy: float


def at_equal_accuracy(setting: Setting) -> dict[str, Fitted]:
    """Train each family on the number of images that brings its accuracy closest to the worst.

    Quick settings try four numbers of images of ten, and seven families of nine.
    """
    train, test = setting.train, setting.test
    sizes = [size for size in SIZES if size <= len(train.labels)][
        2 * setting.quick :: 1 + setting.quick
    ]
    flat, unseen = (data.images.reshape(len(data.images), -1) for data in (train, test))

    def fit(family: Family, size: int) -> Fitted:
        estimator = family.make().fit(flat[:size], train.labels[:size])
        accuracy = 100 * float(estimator.score(unseen, test.labels))
        return Fitted(estimator, from_sklearn(estimator), size, accuracy)

    kinds = families()
    if setting.quick:
        kinds = {name: family for name, family in kinds.items() if name not in QUICK_SKIPS}
    best = {}
    for number, (name, family) in enumerate(kinds.items()):
        setting.progress("train classifiers", number, len(kinds))
        best[name] = fit(family, sizes[0])
    common = min(one.accuracy for one in best.values())
    for number, (name, family) in enumerate(kinds.items()):
        setting.progress("at equal accuracy", number, len(kinds))
        for size in sizes[1:]:
            smaller = fit(family, size)
            if abs(smaller.accuracy - common) < abs(best[name].accuracy - common):
                best[name] = smaller
    return best


def nearest_mistakes(
    setting: Setting, name: str, fitted: Fitted, how: str, images: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the nearest mistakes of one classifier in L2.

    The distances are proved for linear classifiers and a single tree. Others are upper bounds: by
    `minimal_distance` (fast; quick settings: FMN alone), or, for classifiers with piecewise
    constant outputs, by HopSkipJump with 3,000 queries.

    Args:
        setting: The setting, whose folder stores the results.
        name: Name of the classifier.
        fitted: The classifier.
        how: `EXACT`, `GRADIENTS` or `QUERY_BASED`.
        images: Images [N, H, W, C].
        labels: Their labels [N], as indices of the classifier's classes.

    Returns:
        The distances [N] and the nearest misclassified images [N, H, W, C].
    """
    if how == EXACT:
        linear = hasattr(fitted.estimator, "coef_")
        classifier = (linear_classifier if linear else tree_ensemble)(fitted.estimator)
        pairs = zip(images, labels, strict=True)
        exact = [exact_distance(classifier, image, int(label), "l2") for image, label in pairs]
        witness = [
            image if answer.witness is None else answer.witness
            for image, answer in zip(images, exact, strict=True)
        ]
        return np.array([answer.distance for answer in exact]), np.array(witness, np.float32)
    if how == GRADIENTS:
        nearest = minimal_distance(
            fitted.model,
            images,
            labels,
            "l2",
            effort=QUICKLY if setting.quick else "fast",
            store=setting.folder / "classifiers" / name.replace(" ", "-"),
        )
        return nearest.distance, nearest.images
    result = setting.run(
        f"queries-{name.replace(' ', '-')}",
        HopSkipJump(budget=QUERIES),
        fitted.model,
        images,
        Untargeted(labels),
    )
    return np.where(result.success, result.distance, np.inf), result.images


def all_classifiers(setting: Setting) -> Findings:
    """The nearest mistakes of nine classifiers at equal accuracy; quick settings: of seven."""
    kinds, fitted = families(), at_equal_accuracy(setting)
    data = _right_everywhere(setting, list(fitted.values()))
    labels = data.labels
    away = _nearest_other(setting, data)
    rows, distances, pictures = [], {}, {}
    for name, one in fitted.items():
        own = np.searchsorted(one.estimator.classes_, labels)
        distance, images = nearest_mistakes(setting, name, one, kinds[name].how, data.images, own)
        noise = setting.run(
            f"noise-{name.replace(' ', '-')}",
            MinimalEpsilon(GaussianNoise(draws=10), rounds=8),
            one.model,
            data.images,
            Untargeted(own),
        )
        noisy = np.where(noise.success, noise.distance, np.inf)
        distances[name], pictures[name] = distance, images
        median = _median(distance)
        rows.append(
            [
                one.size,
                one.accuracy,
                median,
                median / float(np.median(away)),
                _median(noisy),
                _median(noisy / np.maximum(distance, 1e-9)),
            ]
        )
    hows = [kinds[name].how for name in fitted]
    parts: list[Part] = [
        Table(
            "The nearest mistake in L2, at equal accuracy",
            tuple(f"{name} ({kinds[name].how})" for name in fitted),
            (
                "training images",
                "accuracy, %",
                "median distance",
                "fraction of the way",
                "noise",
                "noise / mistake",
            ),
            np.array(rows),
            formats=(".0f", ".1f", ".3f", ".3f", ".2f", ".1f"),
            note=f"{len(labels)} test images that all of them get right. Distances: proved, or "
            "upper bounds from gradients or from queries alone. The way: from an image to the "
            f"nearest training image of another class, {np.median(away):.2f} in the median. Noise: "
            "the least length at which one of ten Gaussian draws is misclassified.",
        ),
        Gallery(
            "The nearest mistakes",
            np.stack([data.images[:8], *(nearest[:8] for nearest in pictures.values())]),
            ("image", *fitted),
            captions=(
                tuple(data.classes[k] for k in labels[:8]),
                *(tuple(f"{d:.2f}" for d in distances[name][:8]) for name in fitted),
            ),
        ),
        Text(classifiers_in_words(tuple(fitted), np.array(rows), hows)),
        _universal(setting, fitted, data),
        _far_from_all_data(setting, fitted["logistic regression"], data.images),
    ]
    return Findings("classifiers.distance", "Is it the network, or all classifiers?", parts)


def _median(values: np.ndarray) -> float:
    return float(np.quantile(values, 0.5, method="inverted_cdf")) if len(values) else np.nan


def _right_everywhere(setting: Setting, fitted: list[Fitted]) -> Dataset:
    """Return test images that all classifiers classify correctly.

    There are at most a fifth of the setting's examples, or ten if that is more.
    """
    test = setting.test
    right = np.ones(len(test.labels), bool)
    for one in fitted:
        predicted = one.estimator.classes_[predict(one.model, test.images).argmax(1)]
        right &= predicted == test.labels
    rows = np.flatnonzero(right)
    if not len(rows):
        raise ValueError("no test image is classified right by all classifiers")
    return test.take(rows[: max(10, setting.examples // 5)])


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
        f"made on {name}": universal_perturbation(
            fitted[name].model, given, epsilon, key=jax.random.key(0)
        ).perturbation
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


def classifiers_in_words(
    names: Sequence[str], rows: Float[np.ndarray, "F 6"], hows: Sequence[str]
) -> str:
    """Return whether the network's nearest mistakes are nearer than those of other classifiers.

    Args:
        names: The classifiers, the network as "network, 100-100" among them.
        rows: Their rows of the table: accuracy in the second column, the fraction of the way to
            another class in the fourth.
        hows: How the distance of each was computed.

    Returns:
        The paragraph.
    """
    place = list(names).index("network, 100-100")
    ratio, accuracy = rows[:, 3], rows[:, 1]
    order = ", ".join(f"{names[i]} {ratio[i]:.3f}" for i in np.argsort(ratio))
    others = [i for i in range(len(names)) if i != place]
    titles = [names[i] for i in others]
    nearer = ratio[others] <= ratio[place]
    near = ratio[others] <= 2 * ratio[place]
    alone = "the network's alone" if not near.any() else "not the network's alone"
    words = (
        f"From near to far, in parts of the way to another class: {order}. The nearest mistake is "
        f"as near as the network's in {tally(titles, nearer, 'other classifiers')}, and within "
        f"twice its distance in {tally(titles, near, 'other classifiers')}: blind spots are "
        f"{alone}. The accuracies are {accuracy.min():.1f} to {accuracy.max():.1f} %"
    )
    if np.ptp(accuracy) > EQUAL:
        words += ", which is not equal: the page does not compare them at equal accuracy"
    bounded = [how == QUERY_BASED for how in hows]
    if any(bounded):
        words += (
            f". The distances of {tally(names, bounded, 'classifiers')} are upper bounds from "
            "queries alone"
        )
    return words + "."


def corners_in_words(sure: float, natural: float, away: float, usual: float) -> str:
    """Return whether logistic regression is most confident where there is no data.

    Args:
        sure: Median confidence at the best corners of the box.
        natural: Median confidence on test images.
        away: Median L2 distance from these corners to the nearest training image.
        usual: Median L2 distance of training images to their nearest neighbour.

    Returns:
        The paragraph.
    """
    is_shown = sure > natural and away > usual
    return (
        f"At the corner of the box that suits a class best the median confidence of logistic "
        f"regression is {100 * sure:.2f} %, on test images {100 * natural:.2f} %; the corner lies "
        f"at an L2 distance of {away:.1f} from the nearest training image, training images have "
        f"their nearest neighbour at {usual:.1f}. It is {'' if is_shown else 'not '}shown to be "
        "more confident where there is no data."
    )
