"""All classifiers compared, and nonsense with a document's topics, against scikit-learn itself."""

import numpy as np
import pytest

import jaxadv as ja
from jaxadv.data import load_data
from jaxadv.studies import Gallery, Setting, Table, conduct
from jaxadv.studies.families import EXACT, GRADIENTS, Fitted
from jaxadv.studies.margins import kernel_distances, kernel_margins, linear_margins
from jaxadv.studies.one_feature import of_linear, one_feature
from jaxadv.studies.topics import corpus, nonsense

pytest.importorskip("sklearn")
from sklearn.datasets import load_iris
from sklearn.decomposition import NMF, LatentDirichletAllocation
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

IRIS, KINDS = load_iris(return_X_y=True)
IRIS = (IRIS / IRIS.max(0)).astype(np.float32)


@pytest.mark.parametrize("kind", [NMF, LatentDirichletAllocation])
def test_nonsense_has_the_topics_and_none_of_the_words(kind) -> None:
    counter = CountVectorizer(token_pattern=r"[a-z]{3,}", stop_words="english", min_df=8)
    counts = counter.fit_transform(corpus()).toarray().astype(float)
    model = kind(n_components=6, random_state=0).fit(counts)
    longest = np.argsort(-counts.sum(1))[:8]
    found = [nonsense(model, counts[i]) for i in longest]
    for i, one in zip(longest, found, strict=True):
        assert (one.counts[counts[i] > 0] == 0).all()
        assert (one.counts == np.rint(one.counts)).all() and one.counts.sum() > 0
        bound = max(counts[i].max() / counts[i].sum(), 0.05)  # a word's share, as in the text
        assert one.counts.max() <= 3 * counts[i].sum() * bound and (one.counts > 0).sum() >= 5
        have, wanted = model.transform(np.stack([one.counts, counts[i]]))
        difference = have / have.sum() - wanted / wanted.sum()
        # NMF ends by a tolerance over all rows that it transforms at a time.
        assert one.error == pytest.approx(0.5 * np.abs(difference).sum(), abs=1e-4)
    assert np.median([one.error for one in found]) < 0.05
    with pytest.raises(ValueError, match="lacks only"):
        nonsense(model, np.ones(counts.shape[1]))


def of(estimator) -> Fitted:
    return Fitted(estimator, None, len(IRIS), 0.0)


def test_the_least_change_of_one_feature_of_a_linear_classifier_is_its_l1_distance() -> None:
    """Without a box the nearest point in L1 moves one feature only."""
    fitted = LogisticRegression().fit(IRIS, KINDS)
    classifier = ja.linear_classifier(fitted)
    for row in IRIS[::10]:
        label = int(classifier.scores(row).argmax())
        _, anywhere = of_linear(*classifier, row, label)
        exact = ja.exact_distance(classifier, row, label, "l1", bounds=(-np.inf, np.inf))
        assert anywhere == pytest.approx(exact.distance)


def test_one_feature_of_a_tree_is_enough_where_its_l0_distance_is_one() -> None:
    fitted = DecisionTreeClassifier(random_state=0).fit(IRIS, KINDS)
    trees, rows = ja.tree_ensemble(fitted), IRIS[::5]
    labels = fitted.predict(rows)
    inside, anywhere = one_feature(of(fitted), EXACT, rows, labels)
    exact = [
        ja.exact_distance(trees, row, int(k), "l0") for row, k in zip(rows, labels, strict=True)
    ]
    assert (np.isfinite(inside) == [one.distance == 1 for one in exact]).all()
    assert (anywhere <= inside).all()
    longest = [
        ja.exact_distance(trees, row, int(k), "linf") for row, k in zip(rows, labels, strict=True)
    ]
    assert (inside >= [one.distance for one in longest]).all()


def test_one_feature_on_a_grid_comes_up_to_the_closed_form() -> None:
    fitted = LogisticRegression().fit(IRIS, KINDS)
    labels, rows = fitted.predict(IRIS[::15]), IRIS[::15]
    exact = one_feature(of(fitted), EXACT, rows, labels)
    # The same classifier without its weights in sight.
    hidden = type("Hidden", (), {"predict": fitted.predict, "classes_": fitted.classes_})()
    same = Fitted(hidden, ja.from_sklearn(fitted), len(IRIS), 0.0)
    found = one_feature(same, GRADIENTS, rows, labels)
    for ours, true in zip(found, exact, strict=True):
        np.testing.assert_allclose(ours, true, rtol=2e-3, atol=2e-3)


def test_margins_of_support_vector_machines_are_those_of_geometry() -> None:
    two = np.array([[0.1, 0.2], [0.7, 1.0]])  # 1 apart: the boundary is half-way
    assert linear_margins(SVC(kernel="linear", C=1e9).fit(two, [0, 1]))[0] == pytest.approx(0.5)
    fitted = SVC(gamma=1.0, C=1e9).fit(two, [0, 1])
    apart = np.sqrt(2 - 2 * np.exp(-1.0))  # of the two in feature space
    assert kernel_margins(fitted)[0] == pytest.approx(apart / 2, rel=1e-3)
    assert (kernel_distances(fitted, two) <= 0.5).all() and (
        kernel_distances(fitted, two) > 0.3
    ).all()
    iris = SVC(gamma=2.0).fit(IRIS, KINDS)
    radius, labels = kernel_distances(iris, IRIS), iris.predict(IRIS)
    draw = np.random.default_rng(0).normal(size=(50, *IRIS.shape))
    draw *= radius[:, None] / np.linalg.norm(draw, axis=-1, keepdims=True)
    assert all((iris.predict(IRIS + step) == labels).all() for step in draw)
    assert np.median(radius) > 0.02


@pytest.mark.slow
def test_every_kind_has_blind_spots(tmp_path) -> None:
    train, test = (load_data("digits", split) for split in ("train", "test"))
    setting = Setting(train, test, tmp_path, seeds=1, examples=60, quick=True)
    parts = conduct("classifiers.distance", setting).parts
    table, whole, far, margins, forest, universal = (p for p in parts if isinstance(p, Table))
    gallery = next(part for part in parts if isinstance(part, Gallery))
    assert np.ptp(table.values[:, 1]) < 12  # accuracy, near enough to equal
    assert np.ptp(whole.values[:, 0]) == 0
    assert (table.values[:, 6] == 100).all() and (whole.values[:, 6] == 100).all()
    assert (far.values[:2, 2] == 100).all()  # linear: one feature without bounds is enough
    assert margins.values[1, 3] <= margins.values[1, 4]
    assert forest.rows == ("L0", "L1", "L2", "Linf")
    assert forest.values[:, 0].max() > 0  # how many within the seconds depends on the machine
    assert (forest.values[:, 2] <= forest.values[:, 1] + 1e-9).all()
    median, way, ratio = table.values[:, 2], table.values[:, 3], table.values[:, 5]
    assert (median > 0).all() and (way < 1).all() and (ratio > 1).all()
    assert gallery.images.shape[0] == 8
    own = universal.values[universal.rows.index("logistic regression")]
    assert own[0] > 1.5 * own[universal.columns.index("random signs")]
