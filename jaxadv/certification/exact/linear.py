"""Exact minimal distances of linear classifiers, in closed form, with the box.

The inputs at which one other class wins are a half-space. Its nearest point within the box is found
by water-filling: every entry moves at the pace that the norm sets, until it reaches the box.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from jaxadv.certification.exact.answer import ExactDistance, Question, length

NORMS = ("l0", "l1", "l2", "linf")


class LinearClassifier(NamedTuple):
    """A linear classifier: scores = x @ weights + biases.

    Attributes:
        weights: float64 [D, K].
        biases: float64 [K].
    """

    weights: np.ndarray
    biases: np.ndarray

    def checked(self) -> "LinearClassifier":
        """Return the classifier in float64; ValueError if arrays do not fit or are not finite."""
        weights, biases = np.asarray(self.weights, float), np.asarray(self.biases, float)
        if weights.ndim != 2 or biases.shape != weights.shape[1:] or len(biases) < 2:
            raise ValueError(
                f"weights have shape {weights.shape} and biases {biases.shape}: pass [D, K] and "
                "[K] with K of 2 or more"
            )
        if not (np.isfinite(weights).all() and np.isfinite(biases).all()):
            raise ValueError("weights or biases hold values that are not finite")
        return LinearClassifier(weights, biases)

    @property
    def size(self) -> tuple[int, int]:
        """Number of inputs and of classes."""
        return self.weights.shape  # type: ignore[return-value]

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return the scores [..., K] of inputs [..., D]."""
        return np.asarray(x, np.float64) @ self.weights + self.biases


def linear_classifier(estimator: Any) -> LinearClassifier:
    """Read the weights of a fitted linear classifier of scikit-learn.

    With two classes the score of the first is 0.

    Args:
        estimator: A fitted estimator with `coef_` and `intercept_` (LogisticRegression, LinearSVC,
            SVC(kernel="linear") with two classes, SGDClassifier, RidgeClassifier, Perceptron,
            LinearDiscriminantAnalysis), or a naive Bayes classifier of counts (MultinomialNB,
            ComplementNB), which is linear too.

    Returns:
        The classifier in float64.

    Raises:
        ValueError: `estimator` is not linear, not of these kinds or not fitted.

    Example:
        >>> import numpy as np, jaxadv as ja
        >>> from sklearn.linear_model import LogisticRegression
        >>> fitted = LogisticRegression().fit(np.eye(3), [0, 1, 2])
        >>> ja.linear_classifier(fitted).weights.shape
        (3, 3)
    """
    name = type(estimator).__name__
    if name in ("MultinomialNB", "ComplementNB") and hasattr(estimator, "feature_log_prob_"):
        weights, biases = estimator.feature_log_prob_, estimator.class_log_prior_
        if name == "ComplementNB":  # it uses the prior only with a single class
            biases = np.zeros(len(weights)) if len(weights) > 1 else biases
    elif hasattr(estimator, "coef_") and hasattr(estimator, "classes_"):
        weights = getattr(estimator.coef_, "toarray", lambda: estimator.coef_)()
        biases = np.ravel(estimator.intercept_) * np.ones(len(np.atleast_2d(weights)))
    else:
        raise ValueError(
            f"estimator is {name}: pass a fitted linear classifier (one with coef_, intercept_ and "
            "classes_), or ja.LinearClassifier(weights [D, K], biases [K])"
        )
    weights, biases = np.atleast_2d(np.asarray(weights, np.float64)), np.asarray(biases, np.float64)
    classes = len(estimator.classes_)
    if len(weights) == 1 and classes == 2:
        weights, biases = np.stack([0 * weights[0], weights[0]]), np.r_[0.0, biases]
    elif name in ("SVC", "NuSVC") or len(weights) != classes:
        raise ValueError(
            f"estimator: {name} decides between {classes} classes by votes of pairs, which is not "
            "linear: pass a LinearSVC, or take ja.from_sklearn and attacks"
        )
    return LinearClassifier(weights.T, biases)


def nearest(classifier: LinearClassifier, question: Question) -> ExactDistance:
    """Return the nearest input at which another score is at least the label's."""
    x, label, norm, low, high = question[:5]
    scores = classifier.scores(x)
    best, witness = math.inf, None
    for other in np.delete(np.arange(len(scores)), label):
        slope = classifier.weights[:, other] - classifier.weights[:, label]
        missing = scores[label] - scores[other]
        delta = half_space_step(slope, missing, low - x, high - x, norm)
        if delta is not None and (distance := length(norm, delta)) < best:
            best, witness = distance, np.clip(x + delta, low, high)
    if best > question.limit:
        return question.answer(math.inf, None, question.limit)
    return question.answer(best, witness, best)


def half_space_step(
    slope: np.ndarray, missing: float, down: np.ndarray, up: np.ndarray, norm: str
) -> np.ndarray | None:
    """Return the shortest delta [D] with slope @ delta >= missing and down <= delta <= up.

    Exact up to rounding: the entries are sorted by when they reach the box.

    Args:
        slope: Normal [D] of the half-space.
        missing: Value that slope @ delta has to reach.
        down: Lower bounds [D] of delta, at most 0; may be infinite.
        up: Upper bounds [D] of delta, at least 0; may be infinite.
        norm: "l0", "l1", "l2" or "linf".

    Returns:
        The step, or None if no step within the bounds reaches the half-space.

    Example:
        >>> import numpy as np
        >>> from jaxadv.certification.exact.linear import half_space_step
        >>> half_space_step(np.array([2.0, 1.0]), 3.0, -np.ones(2), np.array([1.0, 9.0]), "linf")
        array([1., 1.])
    """
    if missing <= 0:
        return np.zeros_like(slope)
    steep, sign = np.abs(slope), np.sign(slope)
    room = np.where(slope > 0, up, np.where(slope < 0, -down, 0.0))
    with np.errstate(invalid="ignore"):
        gain = np.where(steep > 0, steep * room, 0.0)  # of each entry at the edge of the box
    if gain.sum() < missing:
        return None
    if norm in ("l0", "l1"):  # the entries that gain most, one after the other
        order = np.argsort(-(gain if norm == "l0" else steep), kind="stable")
        before = np.concatenate([[0.0], np.cumsum(gain[order])[:-1]])
        with np.errstate(invalid="ignore", divide="ignore"):
            wanted = np.clip(missing - before, 0.0, None) / np.where(steep > 0, steep, 1.0)[order]
        size = np.zeros_like(room)
        size[order] = np.minimum(np.where(steep[order] > 0, wanted, 0.0), room[order])
        return sign * size
    pace = np.where(steep > 0, 1.0 if norm == "linf" else steep, 0.0)  # of each entry
    with np.errstate(divide="ignore", invalid="ignore"):
        end = np.where(pace > 0, room / pace, np.inf)
    order = np.argsort(end, kind="stable")
    rate = (steep * pace)[order]
    left = rate[::-1].cumsum()[::-1]  # gain per unit of time of all entries still moving
    finite = np.isfinite(end[order])
    times = np.where(finite, end[order], 0.0)
    done = np.concatenate([[0.0], np.where(finite, rate * times, 0.0).cumsum()[:-1]])
    # Between two ends the sum is done + left * time: the first stretch that reaches it.
    beyond = np.where(left > 0, np.inf, -np.inf)  # for as long as any entry can move
    reached = np.where(finite, done + left * times, beyond) >= missing
    if not reached.any():  # by rounding alone: every entry at the edge of the box
        return sign * np.where(pace > 0, room, 0.0)
    first = int(reached.argmax())
    time = (missing - done[first]) / left[first]
    return sign * np.minimum(pace * time, room)
