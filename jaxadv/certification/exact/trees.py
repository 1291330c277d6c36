"""Exact minimal distances of decision trees and ensembles of trees, in any norm.

A leaf is a box: for one tree the nearest input lies in the nearest box of another class. For an
ensemble the boxes of all trees must meet, which is a mixed-integer program over the thresholds
(Kantchelian, Tygar and Joseph 2015, arXiv 1509.07892); every norm is a sum of costs of intervals.
"""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from jaxadv.certification.exact.answer import ExactDistance, Question, length

NORMS = ("l0", "l1", "l2", "linf")
# Estimators whose probabilities are the mean of their trees'; subclasses too.
FORESTS = {"RandomForestClassifier", "ExtraTreesClassifier", "BaggingClassifier"}
INFEASIBLE = 2  # SciPy's status of a program
DRAWS, STARTS = 64, 4  # random inputs, and how many of another class become mistakes
ROUNDS = 4  # programs for one class, each over a narrower range
HAIR = 1e-5  # fraction of the largest score by which another class must win


class TreeEnsemble(NamedTuple):
    """A sum of decision trees: scores = initial + the scores of the leaf of each tree.

    The M nodes of all T trees are in one list.

    Attributes:
        feature: Input that a node compares, int [M]; -1 at leaves.
        threshold: Largest value that still goes to `left`, float32 [M].
        left: Node of the smaller values, int [M].
        right: Node of the larger values, int [M].
        leaf_scores: Scores of the leaves, float64 [M, K]; 0 elsewhere.
        roots: Root of each tree, int [T].
        initial: Scores before any tree, [K].
        depth: Depth of the deepest tree.
        inputs: Number D of inputs.
    """

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    leaf_scores: np.ndarray
    roots: np.ndarray
    initial: np.ndarray
    depth: int
    inputs: int

    def checked(self) -> "TreeEnsemble":
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Number of inputs and of classes."""
        return self.inputs, len(self.initial)

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return the scores [N, K] of inputs [N, D], which are compared as float32."""
        x = np.asarray(x, np.float32)
        rows = np.arange(len(x))[:, None]
        node = np.broadcast_to(self.roots, (len(x), len(self.roots)))
        for _ in range(self.depth):
            feature = self.feature[node]
            goes_left = x[rows, np.maximum(feature, 0)] <= self.threshold[node]
            child = np.where(goes_left, self.left[node], self.right[node])
            node = np.where(feature < 0, node, child)
        return self.initial + self.leaf_scores[node].sum(1)


def tree_ensemble(estimator: Any) -> TreeEnsemble:
    """Read the trees of a fitted classifier of scikit-learn.

    The scores are mean probabilities, or the raw scores of boosting (with two classes the score of
    the first is 0).

    Args:
        estimator: A fitted DecisionTreeClassifier, ExtraTreeClassifier, RandomForestClassifier,
            ExtraTreesClassifier, BaggingClassifier of trees or GradientBoostingClassifier.

    Returns:
        The trees.

    Raises:
        ValueError: `estimator` is of another kind or not fitted, predicts several labels, or is a
            boosting whose `init` is another estimator.

    Example:
        >>> import numpy as np, jaxadv as ja
        >>> from sklearn.tree import DecisionTreeClassifier
        >>> fitted = DecisionTreeClassifier().fit(np.eye(3), [0, 1, 2])
        >>> ja.tree_ensemble(fitted).scores(np.eye(3)).argmax(1)
        array([0, 1, 2])
    """
    name, grown = type(estimator).__name__, getattr(estimator, "estimators_", None)
    if isinstance(getattr(estimator, "classes_", None), list):
        raise ValueError(f"estimator: this {name} predicts several labels: fit one for each")
    if hasattr(estimator, "tree_") and hasattr(estimator, "classes_"):
        trees = [(estimator, None, 1.0)]
    elif name == "GradientBoostingClassifier" and grown is not None:
        if estimator.init not in (None, "zero"):
            raise ValueError(f"estimator: {name} begins with init={estimator.init}, not a constant")
        raw = grown.shape[1] == 1  # with two classes: one score, that of the second
        trees = [
            (tree, place + raw, estimator.learning_rate)
            for row in grown
            for place, tree in enumerate(row)
        ]
    elif grown is not None and all(hasattr(tree, "tree_") for tree in grown):
        if FORESTS.isdisjoint(kind.__name__ for kind in type(estimator).__mro__):
            raise ValueError(f"estimator is {name}: its trees do not vote alike")
        trees = [(tree, None, 1 / len(grown)) for tree in grown]
    else:
        raise ValueError(
            f"estimator is {name}: pass a fitted decision tree, random forest, bagged trees or "
            "GradientBoostingClassifier"
        )
    classes, inputs = len(estimator.classes_), int(estimator.n_features_in_)
    # A bagged tree may use some inputs only, and may have been fitted without some class.
    looked_at = getattr(estimator, "estimators_features_", [np.arange(inputs)] * len(trees))
    parts, roots, nodes = [], [], 0
    for (one, place, weight), own in zip(trees, looked_at, strict=True):
        tree = one.tree_
        leaf = tree.children_left < 0
        value = tree.value[:, 0]
        scores = np.zeros((tree.node_count, classes))
        if place is not None:
            scores[leaf, place] = weight * value[leaf, 0]
        else:
            seen = np.arange(classes) if value.shape[1] == classes else one.classes_.astype(int)
            fractions = value[leaf] / value[leaf].sum(1, keepdims=True)
            scores[np.ix_(leaf, seen)] = weight * fractions
        parts.append(
            (
                np.where(leaf, -1, own[np.maximum(tree.feature, 0)]),
                _below(tree.threshold),
                np.where(leaf, 0, tree.children_left + nodes),
                np.where(leaf, 0, tree.children_right + nodes),
                scores,
            )
        )
        roots.append(nodes)
        nodes += tree.node_count
    feature, threshold, left, right, scores = (
        np.concatenate(part) for part in zip(*parts, strict=True)
    )
    ensemble = TreeEnsemble(
        feature,
        threshold,
        left,
        right,
        scores,
        np.array(roots),
        np.zeros(classes),
        max(one.tree_.max_depth for one, _, _ in trees),
        inputs,
    )
    if trees[0][1] is None:
        return ensemble
    blank = np.zeros((1, ensemble.inputs), np.float32)  # its difference is `initial`
    raw = np.ravel(estimator.decision_function(blank))
    raw = np.r_[0.0, raw] if classes == 2 else raw
    return ensemble._replace(initial=raw - ensemble.scores(blank)[0])


def _below(thresholds: np.ndarray) -> np.ndarray:
    """Return the largest float32 that is at most each threshold: inputs are compared as float32."""
    near = thresholds.astype(np.float32)
    return np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near)


def _boxes(ensemble: TreeEnsemble) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the leaves [L] of the first tree and their boxes, low and high [L, D] (inclusive)."""
    leaves, lows, highs = [], [], []
    everywhere = np.full(ensemble.inputs, np.inf)
    stack = [(ensemble.roots[0], -everywhere, everywhere)]
    while stack:
        node, low, high = stack.pop()
        feature, threshold = ensemble.feature[node], ensemble.threshold[node]
        if feature < 0:
            leaves.append(node)
            lows.append(low)
            highs.append(high)
            continue
        to_left, to_right = high.copy(), low.copy()
        to_left[feature] = min(high[feature], threshold)
        to_right[feature] = max(low[feature], np.nextafter(threshold, np.float32(np.inf)))
        stack += [(ensemble.left[node], low, to_left), (ensemble.right[node], to_right, high)]
    return np.array(leaves), np.array(lows), np.array(highs)


def nearest(ensemble: TreeEnsemble, question: Question) -> ExactDistance:
    """Return the nearest input at which another score exceeds the label's by at least `HAIR`."""
    begun = time.monotonic()
    x, label, norm, low, high = question[:5]
    hair = HAIR * np.abs(ensemble.leaf_scores).max() * len(ensemble.roots)
    best, witness = math.inf, None
    if len(ensemble.roots) == 1:
        leaves, least, most = _boxes(ensemble)
        least, most = np.maximum(least, low), np.minimum(most, high)
        scores = ensemble.initial + ensemble.leaf_scores[leaves]
        wins = np.delete(scores, label, 1).max(1) >= scores[:, label] + hair
        for leaf in np.flatnonzero(wins & (least <= most).all(1)):
            there = np.clip(x, least[leaf], most[leaf])
            if (distance := length(norm, there - x)) < best:
                best, witness = distance, there
        if best > question.limit:
            return question.answer(math.inf, None, question.limit)
        return question.answer(best, witness, best if witness is not None else question.whole)
    witness = _incumbent(ensemble, question, hair)
    if witness is not None and (distance := length(norm, witness - x)) < question.limit:
        best = distance
    else:
        witness = None
    program, lower = _Program(ensemble, question), math.inf
    for other in np.argsort(-ensemble.scores(x[None])[0]):  # the runner-up first
        if other == label:
            continue
        reach, below, there = min(question.limit, best), 0.0, None
        for _ in range(ROUNDS):
            left = question.seconds - (time.monotonic() - begun)
            bound, found = program.solve(int(other), hair, reach, left)
            below = max(below, bound)
            if found is None:
                break
            there, distance = found, length(norm, found - x)
            # A program over a range that is far too wide ends with a wide gap: again, closer.
            if below >= distance * (1 - question.gap) or 2 * distance > reach:
                break
            reach = distance * (1 + question.gap)
        lower = min(lower, below)
        if there is not None and (distance := length(norm, there - x)) < min(best, question.limit):
            best, witness = distance, there
    return question.answer(best, witness, min(lower, question.limit))


def _incumbent(ensemble: TreeEnsemble, question: Question, hair: float) -> np.ndarray | None:
    """Return a mistake from which no feature can be reset alone, or None: where programs begin.

    Random inputs of another class are moved to the boundary along the line to the image; then
    blocks of features, ever smaller, are reset to the image's, and what is left is moved to the
    nearest threshold that keeps the mistake.
    """
    x, label = question.x, question.label
    low, high = (np.clip(end, x.min() - 1, x.max() + 1) for end in (question.low, question.high))
    used = np.unique(ensemble.feature[ensemble.feature >= 0])

    def wrong(points: np.ndarray) -> np.ndarray:
        scores = ensemble.scores(points)
        return np.delete(scores, label, 1).max(1) >= scores[:, label] + hair

    rng = np.random.default_rng(0)
    draws = np.tile(x, (DRAWS, 1))
    draws[:, used] = rng.uniform(low, high, (DRAWS, len(used)))
    draws[1::2, used] = np.where(rng.random((DRAWS // 2, len(used))) < 0.5, low, high)
    made = []
    for point in draws[wrong(draws)][:STARTS]:
        near, far = 0.0, 1.0
        for _ in range(12):
            middle = (near + far) / 2
            flips = wrong((x + middle * (point - x))[None])[0]
            near, far = (near, middle) if flips else (middle, far)
        there = x + far * (point - x)
        for size in (256, 64, 16, 4, 1, 1):
            changed = used[there[used] != x[used]]
            changed = changed[np.argsort(-np.abs(there - x)[changed], kind="stable")]
            for block in np.split(changed, range(size, len(changed), size)):
                reset = there.copy()
                reset[block] = x[block]
                there = reset if wrong(reset[None])[0] else there
        made.append(_to_thresholds(ensemble, x, there, wrong))
    return min(made, key=lambda point: length(question.norm, point - x), default=None)


def _to_thresholds(
    ensemble: TreeEnsemble,
    x: np.ndarray,
    there: np.ndarray,
    wrong: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Return a mistake whose features lie, one after the other, at the nearest threshold."""
    there = there.copy()
    for feature in np.flatnonzero(there != x):
        steps = np.unique(ensemble.threshold[ensemble.feature == feature]).astype(np.float64)
        if there[feature] > x[feature]:
            steps = np.nextafter(steps.astype(np.float32), np.float32(np.inf)).astype(np.float64)
        between = steps[(steps - x[feature]) * (steps - there[feature]) <= 0]
        between = between[np.argsort(np.abs(between - x[feature]))]
        tries = np.tile(there, (len(between), 1))
        tries[:, feature] = between
        flips = np.flatnonzero(wrong(tries)) if len(tries) else []
        if len(flips):
            there = tries[flips[0]]
    return there


class _Program:
    """The mixed-integer program of an ensemble of trees.

    Its variables are, for each threshold of each feature, whether the input is at most the
    threshold (binary); for each leaf, whether the input falls into it; and last the distance in
    Linf, in other norms the number 1, which carries the constant of the costs.
    """

    def __init__(self, ensemble: TreeEnsemble, question: Question) -> None:
        self.ensemble, self.question = ensemble, question
        self.norm, x = question.norm, question.x
        inner = np.flatnonzero(ensemble.feature >= 0)
        self.features = np.unique(ensemble.feature[inner])
        self.thresholds = [
            np.unique(ensemble.threshold[inner][ensemble.feature[inner] == f])
            for f in self.features
        ]
        self.first = np.concatenate([[0], np.cumsum([len(t) for t in self.thresholds])])
        self.splits = int(self.first[-1])
        leaf = np.flatnonzero(ensemble.feature < 0)
        self.place = np.full(len(ensemble.feature), -1)  # variable of each leaf
        self.place[leaf] = self.splits + np.arange(len(leaf))
        self.leaf, self.size = leaf, self.splits + len(leaf) + 1

        # Intervals of each feature, from - to, and their costs.
        self.least, self.most, self.cost = [], [], []
        for f, t in zip(self.features, self.thresholds, strict=True):
            least = np.maximum(np.r_[-np.inf, np.nextafter(t, np.float32(np.inf))], question.low)
            most = np.minimum(np.r_[t, np.inf], question.high)
            away = np.maximum(np.maximum(least - x[f], x[f] - most), 0.0)
            self.least.append(least)
            self.most.append(most)
            self.cost.append(np.where(least <= most, self._power(away), np.inf))
        self.rows = self._structure()

    def _power(self, away: np.ndarray) -> np.ndarray:
        if self.norm == "l0":
            return (away > 0).astype(float)
        return away**2 if self.norm == "l2" else away

    def _split(self, node: int) -> int:
        """Return the variable of a node's threshold."""
        place = int(np.searchsorted(self.features, self.ensemble.feature[node]))
        where = np.searchsorted(self.thresholds[place], self.ensemble.threshold[node])
        return int(self.first[place] + where)

    def _structure(self) -> list[tuple[dict[int, float], float, float]]:
        """Return the rows (coefficients, least, most) that tie leaves to thresholds.

        Each tree has one leaf, which lies on the side of each node that the node's threshold says;
        thresholds of one feature are in order.
        """
        rows: list[tuple[dict[int, float], float, float]] = []

        def under(node: int) -> list[int]:
            if self.ensemble.feature[node] < 0:
                return [int(self.place[node])]
            left, right = under(self.ensemble.left[node]), under(self.ensemble.right[node])
            split = self._split(node)
            rows.append(({**dict.fromkeys(left, 1.0), split: -1.0}, -np.inf, 0.0))
            rows.append(({**dict.fromkeys(right, 1.0), split: 1.0}, -np.inf, 1.0))
            return left + right

        for root in self.ensemble.roots:
            rows.append((dict.fromkeys(under(int(root)), 1.0), 1.0, 1.0))
        for place, thresholds in enumerate(self.thresholds):
            start = int(self.first[place])
            for at in range(start, start + len(thresholds) - 1):
                rows.append(({at: 1.0, at + 1: -1.0}, -np.inf, 0.0))
        return rows

    def _price(self, place: int, cost: np.ndarray) -> tuple[dict[int, float], float]:
        """Return (coefficients, constant) of the cost of one feature.

        Interval j costs `cost[j]` where the input is at most its upper threshold and not at most
        its lower one.
        """
        start = int(self.first[place])
        steps = cost[:-1] - cost[1:]
        return {start + j: float(step) for j, step in enumerate(steps)}, float(cost[-1])

    def solve(
        self, other: int, hair: float, reach: float, seconds: float
    ) -> tuple[float, np.ndarray | None]:
        """Return (proved lower bound, input) towards `other`, searching up to distance `reach`."""
        if seconds <= 0:
            return 0.0, None
        limit = self._power(np.array(reach)) if self.norm != "l0" else 1.0 * (reach >= 1)
        # HiGHS compares its gaps with the whole objective, constant included, and with 1e-6.
        scale = float(limit) if 0 < limit < np.inf else 1.0
        least, most = np.zeros(self.size), np.ones(self.size)
        objective = np.zeros(self.size)
        rows = list(self.rows)
        for place, cost in enumerate(self.cost):
            near = np.flatnonzero((cost <= limit) & (cost < np.inf))
            start, end = int(self.first[place]), int(self.first[place + 1])
            most[start : start + near[0]] = 0.0  # the input lies above these thresholds
            least[start + near[-1] : end] = 1.0
            price, base = self._price(place, np.where(cost < np.inf, cost, 0.0) / scale)
            if self.norm == "linf":
                rows.append(({**price, self.size - 1: -1.0}, -np.inf, -base))
                continue
            objective[list(price)] += list(price.values())
            objective[-1] += base
        if self.norm == "linf":
            objective[-1], most[-1] = 1.0, np.inf
        else:
            least[-1] = 1.0
        scores, label = self.ensemble.leaf_scores[self.leaf], self.question.label
        gain = scores[:, other] - scores[:, label]
        ahead = self.ensemble.initial[label] - self.ensemble.initial[other]
        places = self.place[self.leaf].tolist()
        rows.append((dict(zip(places, gain, strict=True)), ahead + hair, np.inf))
        found = milp(
            objective,
            constraints=_constraint(rows, self.size),
            bounds=Bounds(least, most),  # type: ignore[arg-type]
            integrality=np.arange(self.size) < self.splits,
            options={"time_limit": max(min(seconds, 1e7), 0.01), "mip_rel_gap": self.question.gap},
        )
        if found.status == INFEASIBLE:
            return reach, None
        bound = scale * max(found.mip_dual_bound or 0.0, 0.0)
        bound = math.sqrt(bound) if self.norm == "l2" else bound
        if found.x is None:
            return min(bound, reach), None
        there = self._inside(found.x)
        scores = self.ensemble.scores(there[None])[0]
        return min(bound, reach), there if scores[other] > scores[label] else None

    def _inside(self, values: np.ndarray) -> np.ndarray:
        """Return the nearest input in the intervals that a solution selects."""
        there = self.question.x.copy()
        for place, feature in enumerate(self.features):
            split = values[self.first[place] : self.first[place + 1]]
            at = int((split < 0.5).sum())
            there[feature] = np.clip(there[feature], self.least[place][at], self.most[place][at])
        return there


def _constraint(rows: list[tuple[dict[int, float], float, float]], size: int) -> LinearConstraint:
    values = np.concatenate([list(row.values()) for row, _, _ in rows])
    columns = np.concatenate([list(row) for row, _, _ in rows]).astype(np.int32)
    ends = np.concatenate([[0], np.cumsum([len(row) for row, _, _ in rows])])
    matrix = sparse.csr_array((values, columns, ends), shape=(len(rows), size))
    least, most = (np.array([row[side] for row in rows]) for side in (1, 2))
    return LinearConstraint(matrix, least, most)  # type: ignore[arg-type]
