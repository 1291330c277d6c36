"""The margins of support vector machines, and what they prove of an image's nearest mistake.

The margin of a machine is the distance 1 / |w| from its boundary to where its score is 1 or -1: of
a linear one in the inputs, of one with an RBF kernel in the kernel's feature space.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from jaxadv.studies.findings import Table


def linear_margins(estimator: Any) -> Float[np.ndarray, " P"]:
    """Return 1 / |w| of each hyperplane of a linear machine, in L2.

    Args:
        estimator: A fitted LinearSVC, or SVC(kernel="linear").

    Returns:
        The margins.

    Example:
        >>> import numpy as np
        >>> from sklearn.svm import SVC
        >>> from jaxadv.studies.margins import linear_margins
        >>> fitted = SVC(kernel="linear", C=1e6).fit([[0.0, 0], [3, 4]], [0, 1])
        >>> linear_margins(fitted)  # half of the distance between the two
        array([2.5])
    """
    return 1 / np.linalg.norm(np.asarray(estimator.coef_, np.float64), axis=1)


def _pairs(estimator: Any) -> list[tuple[int, int, np.ndarray, np.ndarray, float]]:
    """Return (class, other class, support vectors, their factors, bias) of each pair of an SVC."""
    ends = np.concatenate([[0], np.cumsum(estimator.n_support_)])
    vectors, dual = np.asarray(estimator.support_vectors_, float), estimator._dual_coef_
    pairs = []
    for i in range(len(estimator.classes_)):
        for j in range(i + 1, len(estimator.classes_)):
            one, two = slice(ends[i], ends[i + 1]), slice(ends[j], ends[j + 1])
            factors = np.concatenate([dual[j - 1, one], dual[i, two]])
            own = np.concatenate([vectors[one], vectors[two]])
            pairs.append((i, j, own, factors, float(estimator._intercept_[len(pairs)])))
    return pairs


def _kernel(estimator: Any, one: np.ndarray, two: np.ndarray) -> np.ndarray:
    squared = (one**2).sum(1)[:, None] - 2 * one @ two.T + (two**2).sum(1)
    return np.exp(-estimator._gamma * np.maximum(squared, 0.0))


def kernel_margins(estimator: Any) -> Float[np.ndarray, " P"]:
    """Return 1 / |w| of each pair of classes of an SVC with RBF kernel, in its feature space."""
    return np.array(
        [
            1 / np.sqrt(factors @ _kernel(estimator, own, own) @ factors)
            for _, _, own, factors, _ in _pairs(estimator)
        ]
    )


def kernel_distances(estimator: Any, images: np.ndarray) -> Float[np.ndarray, " N"]:
    """Return for each image an L2 distance within which an SVC with RBF kernel keeps its class.

    A pair's score over |w| is the distance to its boundary in feature space, where two inputs at
    distance d lie sqrt(2 - 2 exp(-gamma d^2)) apart. If an image's class wins all its pairs, one of
    these must turn; otherwise any pair may be the first. Two classes are one pair.

    Args:
        estimator: A fitted SVC with RBF kernel.
        images: Images [N, ...].

    Returns:
        The distances, infinite where the boundary lies beyond the feature space's sphere.
    """
    x = np.asarray(images, np.float64).reshape(len(images), -1)
    pairs, count = _pairs(estimator), len(estimator.classes_)
    away, wins = np.empty((len(pairs), len(x))), np.zeros((len(x), count), int)
    for number, (i, j, own, factors, bias) in enumerate(pairs):
        score = _kernel(estimator, x, own) @ factors + bias
        np.add.at(wins, (np.arange(len(x)), np.where(score > 0, i, j)), 1)
        away[number] = np.abs(score) / np.sqrt(factors @ _kernel(estimator, own, own) @ factors)
    winner = wins.argmax(1)
    is_sure = wins.max(1) == count - 1
    part_of = np.array([(winner == i) | (winner == j) for i, j, *_ in pairs])
    away = np.where(part_of | ~is_sure, away, np.inf).min(0)
    with np.errstate(divide="ignore"):
        return np.sqrt(-np.log(np.maximum(1 - away**2 / 2, 0.0)) / estimator._gamma)


def margins_table(linear: Any, kernel: Any, images: np.ndarray, distances: np.ndarray) -> Table:
    """Return the margins of both machines, beside the nearest mistakes of the images.

    Args:
        linear: The fitted LinearSVC.
        kernel: The fitted SVC with RBF kernel.
        images: Images [N, ...] that both classify correctly.
        distances: Distances [2, N] of their nearest mistakes: of the linear, and of the other.

    Returns:
        The table.
    """
    of_linear, of_kernel = linear_margins(linear), kernel_margins(kernel)
    bound = kernel_distances(kernel, images)
    values = [
        [np.median(of_linear), of_linear.min(), of_linear.max(), np.nan, np.median(distances[0])],
        [
            np.median(of_kernel),
            of_kernel.min(),
            of_kernel.max(),
            np.median(bound),
            np.median(distances[1]),
        ],
    ]
    return Table(
        "The margins of the support vector machines",
        ("linear SVM, each class against the rest", "SVM with RBF kernel, pairs of classes"),
        ("margin 1/|w|", "least", "largest", "proved distance", "nearest mistake"),
        np.array(values),
        formats=".3g",
        note="The margin is the distance from the boundary, where the score is 0, to where it is 1 "
        "or -1: in L2 of the inputs (linear), or in the kernel's feature space, whose points all "
        "have length 1; median, least and largest over the hyperplanes. From the score over |w| "
        "of an image follows an L2 distance within which the machine with kernel keeps its class "
        "(proved distance, median over images), beside the mistake that was found.",
    )
