"""`exact_distance` of linear classifiers and trees: against solvers, brute force, scikit-learn."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

import jaxadv as ja

sklearn = pytest.importorskip("sklearn")
from sklearn.ensemble import (  # noqa: E402
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression, RidgeClassifier  # noqa: E402
from sklearn.naive_bayes import ComplementNB, MultinomialNB  # noqa: E402
from sklearn.svm import SVC, LinearSVC  # noqa: E402
from sklearn.tree import DecisionTreeClassifier  # noqa: E402

NORMS = ("l0", "l1", "l2", "linf")


def linear(seed, inputs=5, classes=3):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(inputs, classes))
    weights[rng.random(inputs) < 0.2] = 0  # an input that the classifier does not read
    classifier = ja.LinearClassifier(weights, rng.normal(size=classes) / 3)
    image = rng.random(inputs).round(1)  # some at the bounds
    return classifier, image, int(classifier.scores(image).argmax())


def by_solver(classifier, x, label, norm, low=0.0, high=1.0):
    best, size = np.inf, x.size
    scores = classifier.scores(x)
    for other in set(range(len(scores))) - {label}:
        slope = classifier.weights[:, other] - classifier.weights[:, label]
        missing = scores[label] - scores[other]
        if norm == "l0":
            far = np.where(slope > 0, high - x, low - x)
            for count in range(size + 1):
                chosen = itertools.combinations(range(size), count)
                if any(slope[list(c)] @ far[list(c)] >= missing for c in chosen):
                    best = min(best, count)
                    break
        elif norm == "l2":
            far = np.where(slope > 0, high - x, low - x)
            if slope @ far < missing:
                continue
            found = minimize(
                lambda d: d @ d,
                far,
                jac=lambda d: 2 * d,
                method="SLSQP",
                bounds=list(zip(low - x, high - x, strict=True)),
                options={"ftol": 1e-14},
                constraints={
                    "type": "ineq",
                    "fun": lambda d: slope @ d - missing,
                    "jac": lambda d: slope,
                },
            )
            assert found.success
            best = min(best, np.sqrt(found.fun))
        else:
            slack = np.ones((size, 1)) if norm == "linf" else np.eye(size)
            one, none = np.eye(size), np.zeros((1, slack.shape[1]))
            found = linprog(
                np.r_[np.zeros(size), np.ones(slack.shape[1])],
                A_ub=np.block([[-slope[None], none], [one, -slack], [-one, -slack]]),
                b_ub=np.r_[-missing, np.zeros(2 * size)],
                bounds=[*zip(low - x, high - x, strict=True), *[(0, None)] * slack.shape[1]],
            )
            if found.status == 0:
                best = min(best, found.fun)
    return best


@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_classifier_against_a_solver(norm):
    none = 0
    for seed in range(30):
        classifier, image, label = linear(seed)
        expected = by_solver(classifier, image, label, norm)
        found = ja.exact_distance(classifier, image, label, norm)
        none += np.isinf(expected)
        assert found.proved
        assert found.distance == pytest.approx(expected, rel=1e-6, abs=1e-6)
        if found.witness is not None:
            scores = classifier.scores(found.witness)
            assert np.delete(scores, label).max() >= scores[label] - 1e-12
            assert found.witness.min() >= 0 and found.witness.max() <= 1
    assert none < 15


def test_one_unbounded_feature_is_enough():
    """A feature without bounds is pushed until the answer changes; which one, its weight says."""
    classifier, image, label = linear(3)
    free = {"bounds": (-np.inf, np.inf)}
    one = ja.exact_distance(classifier, image, label, "l0", **free)
    shortest = ja.exact_distance(classifier, image, label, "l1", **free)
    scores = classifier.scores(image)
    slopes = classifier.weights - classifier.weights[:, [label]]
    missing = np.delete(scores[label] - scores, label)
    assert one.distance == 1
    largest = np.abs(np.delete(slopes, label, 1)).max(0)
    assert shortest.distance == pytest.approx((missing / largest).min())
    assert (shortest.witness != image).sum() == 1


def grown(seed, kind, classes=3):
    rng = np.random.default_rng(seed)
    x = rng.random((120, 3)).astype(np.float32)
    y = ((x @ [1.0, 1.5, 0.5] + 0.4 * np.sin(9 * x[:, 0])) * classes / 3.4).astype(int)
    estimators = {
        "tree": DecisionTreeClassifier(max_depth=5, random_state=seed),
        "forest": RandomForestClassifier(5, max_depth=3, random_state=seed),
        "extra": ExtraTreesClassifier(4, max_depth=3, random_state=seed),
        "boosting": GradientBoostingClassifier(n_estimators=4, max_depth=2, random_state=seed),
    }
    return estimators[kind].fit(x, np.minimum(y, classes - 1)), x


def by_cells(estimator, trees, x, label, norm):
    """The nearest point of every cell of the grid of all thresholds that scikit-learn puts into
    another class."""
    sides = []
    for feature in range(3):
        cuts = np.unique(trees.threshold[trees.feature == feature])
        least = np.r_[np.float32(0), np.nextafter(cuts, np.float32(9))]
        most = np.r_[cuts, np.float32(1)]
        sides.append(np.clip(x[feature], least, most))
    points = np.stack([axis.ravel() for axis in np.meshgrid(*sides)], 1)
    scores = trees.scores(points)
    wins = np.delete(scores, label, 1).max(1) > scores[:, label] + 1e-4
    found = estimator.predict(points[wins])
    assert (found != estimator.classes_[label]).all()
    delta = np.abs(points[wins].astype(np.float64) - x)
    order = {"l0": 0, "l1": 1, "l2": 2, "linf": np.inf}[norm]
    return np.linalg.norm(delta, order, axis=1).min(initial=np.inf)


@pytest.mark.parametrize("kind", ["tree", "forest", "extra", "boosting"])
def test_trees_against_every_cell(kind):
    for seed in range(4):
        estimator, data = grown(seed, kind, classes=2 + seed % 2)
        trees = ja.tree_ensemble(estimator)
        for x in data[:2]:
            label = int(trees.scores(x[None]).argmax())
            for norm in NORMS:
                found = ja.exact_distance(trees, x, label, norm)
                assert found.proved
                expected = by_cells(estimator, trees, x, label, norm)
                assert found.distance == pytest.approx(expected, rel=1e-6, abs=1e-6), (seed, norm)
                if found.witness is not None:
                    answer = estimator.predict(found.witness[None].astype(np.float32))
                    assert answer[0] != estimator.classes_[label]


@pytest.mark.parametrize("kind", ["tree", "forest", "extra", "boosting"])
@pytest.mark.parametrize("classes", [2, 3])
def test_trees_answer_as_scikit_learn(kind, classes):
    estimator, data = grown(0, kind, classes)
    edges = np.unique(ja.tree_ensemble(estimator).threshold).astype(np.float32)
    data = np.concatenate(
        [data, np.stack([edges, edges[::-1], np.nextafter(edges, np.float32(1))], 1)]
    )
    scores = ja.tree_ensemble(estimator).scores(data)
    if kind == "boosting":
        raw = estimator.decision_function(data)
        np.testing.assert_allclose(scores[:, 1] if classes == 2 else scores, raw, atol=1e-12)
    else:
        np.testing.assert_allclose(scores, estimator.predict_proba(data), atol=1e-12)


def test_a_radius_within_which_there_is_nothing():
    for kind in ("tree", "forest"):
        estimator, data = grown(1, kind)
        trees = ja.tree_ensemble(estimator)
        label = int(trees.scores(data[:1]).argmax())
        whole = ja.exact_distance(trees, data[0], label, "l2")
        near = ja.exact_distance(trees, data[0], label, "l2", upper=0.9 * whole.distance)
        assert near.witness is None and not near.proved
        assert near.lower == pytest.approx(0.9 * whole.distance)
        again = ja.exact_distance(trees, data[0], label, "l2", upper=1.01 * whole.distance)
        assert again.distance == whole.distance and again.proved
        assert ja.exact_distance(trees, data[0], (label + 1) % 3, "l2").distance == 0


LINEAR = [LogisticRegression(), LinearSVC(), RidgeClassifier(), MultinomialNB(), ComplementNB()]


@pytest.mark.parametrize("estimator", LINEAR, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("classes", [2, 3])
def test_linear_classifiers_answer_as_scikit_learn(estimator, classes):
    rng = np.random.default_rng(0)
    x = rng.random((60, 4))
    y = np.array(["a", "b", "c"])[np.minimum((x[:, 0] * classes).astype(int), classes - 1)]
    fitted = estimator.fit(x, y)
    scores = ja.linear_classifier(fitted).scores(x)
    assert (fitted.classes_[scores.argmax(1)] == fitted.predict(x)).all()


@pytest.mark.parametrize("estimator", LINEAR, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_stepping_over_changes_scikit_learns_own_answer(estimator, kind):
    rng = np.random.default_rng(1)
    x = rng.random((60, 20)).astype(kind)
    y = np.minimum((x[:, 0] * 3).astype(int), 2)
    fitted = estimator.fit(x, y)
    classifier, before = ja.linear_classifier(fitted), fitted.predict(x)
    for norm in ("l2", "linf", "l1"):
        exact = [ja.exact_distance(classifier, *pair, norm) for pair in zip(x, before, strict=True)]
        rows = [i for i, one in enumerate(exact) if one.witness is not None]
        ties = np.stack([exact[i].witness for i in rows])
        assert (fitted.predict(ties.astype(kind)) == before[rows]).any()  # hence the need
        over = ja.step_over(fitted.predict, x[rows], ties, before[rows])
        assert over.flips.all() and over.images.dtype == kind
        assert (fitted.predict(over.images) != before[rows]).all()
        for row, image in zip(rows, over.images, strict=True):
            assert fitted.predict(image[None])[0] != before[row]
        away = np.abs(over.images - ties).max()
        assert away < (1e-5 if kind is np.float32 else 1e-13)


def test_what_never_flips_stays_and_says_so():
    over = ja.step_over(
        lambda rows: np.zeros(len(rows), int), np.zeros((2, 3)), np.ones((2, 3)), [0, 1]
    )
    assert over.flips.tolist() == [False, True] and over.stretch.tolist() == [0, 0]
    with pytest.raises(ValueError, match="witnesses of shape"):
        ja.step_over(len, np.zeros((2, 3)), np.ones((2, 2)), [0, 0])


def test_a_near_mistake_of_a_forest_is_proved_in_l2_too():
    """Squares of small distances are below the gap that the solver stops at: it is asked again."""
    rng = np.random.default_rng(0)
    x = rng.random((200, 30))
    y = (x[:, 0] + 0.02 * rng.normal(size=200) > 0.5).astype(int)
    trees = ja.tree_ensemble(RandomForestClassifier(5, random_state=0).fit(x, y))
    near = x[np.argsort(np.abs(x[:, 0] - 0.5))[:6]]
    for image in near:
        label = int(trees.scores(image[None])[0].argmax())
        found = ja.exact_distance(trees, image, label, "l2")
        assert found.proved and found.lower >= found.distance * (1 - 2e-5)


def test_estimators_of_another_kind_are_refused():
    x, y = np.eye(6), [0, 0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="votes of pairs"):
        ja.linear_classifier(SVC(kernel="linear").fit(x, y))
    with pytest.raises(ValueError, match="estimator is LogisticRegression"):
        ja.linear_classifier(LogisticRegression())
    with pytest.raises(ValueError, match="estimator is RandomForestClassifier"):
        ja.tree_ensemble(RandomForestClassifier())
    with pytest.raises(ValueError, match="classifier is LogisticRegression"):
        ja.exact_distance(LogisticRegression().fit(x, y), x[0], 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weights have shape"):
        ja.exact_distance(ja.LinearClassifier(x, np.zeros(2)), x[0], 0)
