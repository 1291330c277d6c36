"""One feature pushed far: the least change of a single feature that a classifier misclassifies.

It is exact for linear classifiers and trees; for others it is found on a grid of changes of every
feature and then bisected, and counts if scikit-learn's own predict changes: an upper bound.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxadv.certification.exact import TreeEnsemble, linear_classifier, tree_ensemble
from jaxadv.core.model import Model
from jaxadv.engine.verify import predict
from jaxadv.studies.families import EXACT, FOREST, Fitted
from jaxadv.studies.findings import Table
from jaxadv.studies.nearest import indices
from jaxadv.studies.setting import Setting
from jaxadv.studies.wording import tally

FAR = 1000.0  # the largest change that is tried, where the box is 0 to 1
GRID = FAR / 2.0 ** np.arange(18)  # down to 0.008
ROWS = 20_000  # changed inputs that are classified at once


class OneFeature(NamedTuple):
    """The least change of one feature for each of N images, infinite where none was found.

    Attributes:
        inside: The changed feature stays in [0, 1].
        anywhere: The feature may leave the box.
    """

    inside: Float[np.ndarray, " N"]
    anywhere: Float[np.ndarray, " N"]


def one_feature(fitted: Fitted, how: str, images: np.ndarray, labels: np.ndarray) -> OneFeature:
    """Compute the least change of one feature that changes the class.

    Args:
        fitted: The classifier.
        how: How its nearest mistake is computed.
        images: Images [N, ...].
        labels: Their labels [N], as indices of the classifier's classes.

    Returns:
        The changes.
    """
    rows = images.reshape(len(images), -1)
    linear = hasattr(fitted.estimator, "coef_")
    trees = None if linear or how not in (EXACT, FOREST) else tree_ensemble(fitted.estimator)
    found = np.full((len(rows), 2), np.inf)
    for number, (row, label) in enumerate(zip(rows, labels, strict=True)):
        if linear:
            found[number] = of_linear(*linear_classifier(fitted.estimator), row, int(label))
            continue
        own = indices(fitted.estimator)
        feature, change = _grid(row) if trees is None else _steps(trees, row)
        if trees is None:
            feature, change = _bisected(fitted.model, row, int(label), feature, change)
        wrong = _changed(own, row, feature, change) != label
        value = row[feature] + change
        inside = wrong & (value >= 0) & (value <= 1)
        found[number] = [
            np.abs(change[mask]).min() if mask.any() else np.inf for mask in (inside, wrong)
        ]
    return OneFeature(*found.T)


def of_linear(
    weights: Float[np.ndarray, "D K"], biases: Float[np.ndarray, " K"], row: np.ndarray, label: int
) -> tuple[float, float]:
    """Return the least changes of one feature at which another score reaches the label's.

    Args:
        weights: Weights of a linear classifier.
        biases: Its biases.
        row: The input [D].
        label: Its class.

    Returns:
        The change if the feature stays in [0, 1], and if it may leave it; infinite if there is
        none.

    Example:
        >>> import numpy as np
        >>> from jaxadv.studies.one_feature import of_linear
        >>> of_linear(np.array([[1.0, 0], [0, 4]]), np.zeros(2), np.array([1.0, 0.1]), 0)
        (0.15, 0.15)
    """
    x = row.astype(np.float64)
    scores = x @ weights + biases
    slope = np.delete(weights - weights[:, [label]], label, 1)  # [D, K - 1]
    missing = np.maximum(np.delete(scores[label] - scores, label), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.where(slope == 0, np.inf, missing / np.abs(slope))
    room = np.where(slope > 0, 1 - x[:, None], x[:, None])
    inside = np.where(change <= room, change, np.inf)
    return float(inside.min()), float(change.min())


def _steps(trees: TreeEnsemble, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each cell of each feature the least change into it: (features, changes)."""
    inner = np.flatnonzero(trees.feature >= 0)
    pairs = np.unique(np.stack([trees.feature[inner], trees.threshold[inner]], 1), axis=0)
    feature, threshold = pairs[:, 0].astype(int), pairs[:, 1].astype(np.float32)
    above = np.nextafter(threshold, np.float32(np.inf))
    value = np.where(row[feature] <= threshold, above, threshold).astype(np.float64)
    return feature, value - row[feature]


def _grid(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return changes of every feature, up and down, and those to the ends of the box."""
    change = np.concatenate([GRID, -GRID])
    change = np.concatenate([np.tile(change, (len(row), 1)), -row[:, None], 1 - row[:, None]], 1)
    return np.repeat(np.arange(len(row)), change.shape[1]), change.ravel().astype(np.float64)


def _changed(
    answer: Callable[[np.ndarray], np.ndarray],
    row: np.ndarray,
    feature: np.ndarray,
    change: np.ndarray,
) -> np.ndarray:
    """Return a classifier's labels of a row with one feature changed, for each of the changes."""
    labels = np.empty(len(feature), int)
    for start in range(0, len(feature), ROWS):
        part = slice(start, start + ROWS)
        rows = np.tile(row, (len(feature[part]), 1))
        rows[np.arange(len(rows)), feature[part]] = row[feature[part]] + change[part]
        labels[part] = answer(rows)
    return labels


def _bisected(
    model: Model, row: np.ndarray, label: int, feature: np.ndarray, change: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest mistakes of a grid, each moved towards the row as far as it stays one."""

    def answer(rows: np.ndarray) -> np.ndarray:
        return predict(model, rows).argmax(1)

    wrong = _changed(answer, row, feature, change) != label
    if not wrong.any():
        return feature[:0], change[:0]
    # Only what may become the least: less than twice the least, inside the box or anywhere.
    size, value = np.abs(change), row[feature] + change
    inside = wrong & (value >= 0) & (value <= 1)
    close = [mask & (size <= 2 * size[mask].min()) for mask in (inside, wrong) if mask.any()]
    chosen = np.logical_or.reduce(close)
    feature, high = feature[chosen], change[chosen]
    low = np.zeros_like(high)
    for _ in range(12):
        middle = (low + high) / 2
        flips = _changed(answer, row, feature, middle) != label
        low, high = np.where(flips, low, middle), np.where(flips, middle, high)
    # Beside it a hundredth farther, where the rounding of the two no longer matters.
    return np.tile(feature, 2), np.r_[high, 1.01 * high]


def one_feature_table(
    setting: Setting,
    fitted: Mapping[str, Fitted],
    hows: Mapping[str, str],
    images: np.ndarray,
    labels: np.ndarray,
) -> tuple[Table, str]:
    """Return the table of one feature pushed far, and its sentence.

    Args:
        setting: The setting.
        fitted: The classifiers by name.
        hows: How the nearest mistake of each is computed.
        images: Images [N, H, W, C].
        labels: Their labels [N].

    Returns:
        The table and the paragraph.
    """
    rows = []
    for number, (name, one) in enumerate(fitted.items()):
        setting.progress("one feature", number, len(fitted))
        own = np.searchsorted(one.estimator.classes_, labels)
        arrays = setting.keep(
            f"one-feature/{name.replace(' ', '-')}",
            (name, one.size, images, labels, setting.train.labels),
            lambda one=one, name=name, own=own: one_feature(one, hows[name], images, own)._asdict(),
        )
        cells = []
        for change in (arrays["inside"], arrays["anywhere"]):
            found = np.isfinite(change)
            cells += [100 * found.mean(), np.median(change[found]) if found.any() else np.nan]
        rows.append(cells)
    exact = {EXACT: "exact", FOREST: "exact"}
    return Table(
        "One feature pushed far",
        tuple(f"{name} ({exact.get(hows[name], 'grid')})" for name in fitted),
        ("in the box: %", "median change", "anywhere: %", "median change"),
        np.array(rows),
        formats=(".1f", ".3f", ".1f", ".3f"),
        note=f"{len(labels)} images; the least change of one pixel, all others as they are, that "
        "changes the class: for how many images there is one, and its median over these. In the "
        "box the pixel stays within 0 to 1; anywhere it may leave it"
        f" (grid: by at most {FAR:,.0f}, each pixel at 36 changes, then bisected: upper bounds).",
    ), one_feature_in_words(tuple(fitted), np.array(rows))


def one_feature_in_words(names: Sequence[str], rows: Float[np.ndarray, "F 4"]) -> str:
    """Return of which classifiers one feature is enough, within the box and beyond it.

    Args:
        names: The classifiers.
        rows: Their rows of the table.

    Returns:
        The paragraph.
    """
    inside, anywhere = rows[:, 0], rows[:, 2]
    words = (
        "One feature alone, left in the box, changes the class of more than half of the images in "
        f"{tally(names, inside > 50, 'classifiers')}; pushed as far as it takes, in "
        f"{tally(names, anywhere > 50, 'classifiers')}"
    )
    far = [i for i in range(len(names)) if anywhere[i] > 50 and np.isfinite(rows[i, 3])]
    if far:
        nearest, farthest = (pick(far, key=lambda i: rows[i, 3]) for pick in (min, max))
        words += (
            f", by {rows[nearest, 3]:.3g} ({names[nearest]}) to {rows[farthest, 3]:.3g} "
            f"({names[farthest]}) in the median"
        )
    return words + "."
