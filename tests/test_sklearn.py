"""scikit-learn's classifiers as models, against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

import jaxadv as ja

pytest.importorskip("sklearn")
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.naive_bayes import BernoulliNB, GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, Normalizer, StandardScaler
from sklearn.svm import SVC, LinearSVC, NuSVC
from sklearn.tree import DecisionTreeClassifier

X, Y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
IMAGES = X[500:].reshape(-1, 8, 8, 1)
SMOOTH = {
    "logistic": LogisticRegression(),
    "svm": LinearSVC(),
    "ridge": RidgeClassifier(),
    "discriminant": LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1),
    "bayes": GaussianNB(var_smoothing=1e-3),
    "counts": MultinomialNB(),
    "rbf": SVC(),
    "nu": NuSVC(),
    "poly": SVC(kernel="poly", degree=2, coef0=1.0),
    "sigmoid": SVC(kernel="sigmoid"),
    "linear": SVC(kernel="linear"),
    "mlp": MLPClassifier((16, 8), "tanh", max_iter=60),
    "centroid": NearestCentroid(),
    "1-nn": KNeighborsClassifier(1),
    "pipeline": make_pipeline(StandardScaler(), PCA(12, whiten=True), SVC()),
    "scaled": make_pipeline(MinMaxScaler((-1, 1)), "passthrough", LogisticRegression()),
}
TREE = DecisionTreeClassifier(max_depth=3)
BASES = [("a", TREE), ("b", DecisionTreeClassifier())]
STEPS = {
    "extra": ExtraTreesClassifier(5),
    "bags": BaggingClassifier(TREE, 5, max_features=0.3),
    "bootstrapped": BaggingClassifier(TREE, 5, max_samples=3, bootstrap_features=True),
    "tree": DecisionTreeClassifier(),
    "forest": RandomForestClassifier(10),
    "boosting": GradientBoostingClassifier(n_estimators=5),
    "3-nn": KNeighborsClassifier(3),
}
HOST = {
    "bernoulli": BernoulliNB(binarize=0.5),
    "ada": AdaBoostClassifier(n_estimators=5),
    "histogram": HistGradientBoostingClassifier(max_iter=5),
    "weighted": KNeighborsClassifier(3, weights="distance"),
    "voting": VotingClassifier(BASES),
    "unequal": VotingClassifier(BASES, voting="soft", weights=[5, 1]),
    "stacking": StackingClassifier(BASES, LogisticRegression(), cv=2),
    "begins": GradientBoostingClassifier(n_estimators=2, init=LogisticRegression()),
    "forests": BaggingClassifier(RandomForestClassifier(3), 2),
    "calibrated": CalibratedClassifierCV(TREE, cv=2),
    "by pairs": make_pipeline(Normalizer(), SVC(decision_function_shape="ovo")),
}
ALL = {**SMOOTH, **STEPS, **HOST}


def fitted(name, classes):
    chosen = Y[:500] < classes
    names = np.array([f"digit {k}" for k in range(10)])
    estimator = ALL[name].fit(X[:500][chosen], names[Y[:500][chosen]])
    return estimator, IMAGES[Y[500:] < classes][:150]


@pytest.mark.parametrize("name", ALL)
def test_the_same_answers_as_scikit_learn(name):
    for classes in (2, 4):
        estimator, images = fitted(name, classes)
        model = ja.from_sklearn(estimator)
        answers = np.asarray(model(images)).argmax(1)
        for given in (jnp.asarray(images), images.reshape(-1, 64), images.astype(np.float64)):
            np.testing.assert_array_equal(np.asarray(model(given)).argmax(1), answers)
        np.testing.assert_array_equal(np.asarray(model(images[:9].tolist())).argmax(1), answers[:9])
        compiled = jax.jit(lambda model, images: model(images))(model, images)
        np.testing.assert_array_equal(np.asarray(compiled).argmax(1), answers)
        expected = estimator.predict(images.reshape(len(images), -1))
        same = estimator.classes_[answers] == expected
        ties = 1 if name in ("rbf", "nu", "poly", "sigmoid", "linear", "pipeline") else 0
        assert (~same).sum() <= ties * (classes > 2)  # votes of pairs


@pytest.mark.parametrize("name", ["logistic", "bayes", "rbf", "mlp", "pipeline", "poly"])
def test_gradients_are_those_of_the_decision(name):
    """Against finite differences of scikit-learn's own numbers, in float64."""
    estimator, images = fitted(name, 2)
    model = ja.from_sklearn(estimator)
    point = images[3].ravel().astype(np.float64)

    def decision(x):
        if hasattr(estimator, "decision_function"):
            return estimator.decision_function(x[None])[0]
        p = estimator.predict_log_proba(x[None])[0]
        return p[1] - p[0]

    gradient = jax.grad(lambda x: jnp.diff(model(x[None])[0])[0])(jnp.asarray(images[3]))
    step, places = 1e-4, [10, 20, 27, 36, 44]
    for place in places:
        change = np.eye(64)[place] * step
        slope = (decision(point + change) - decision(point - change)) / (2 * step)
        assert float(gradient.ravel()[place]) == pytest.approx(slope, rel=2e-3, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tree", "3-nn", "ada"])
def test_what_answers_in_steps_is_only_asked(name):
    estimator, images = fitted(name, 4)
    model = ja.from_sklearn(estimator)
    goal = ja.Untargeted(np.asarray(model(jnp.asarray(images[:20]))).argmax(1))
    with pytest.raises(ValueError, match="PGD needs gradients"):
        ja.run(ja.PGD(), model, images[:20], goal, 0.1, key=jax.random.key(0))
    result = ja.run(
        ja.Square(steps=200),
        model,
        images[:20],
        goal,
        0.3,
        key=jax.random.key(0),
        judge=ja.from_sklearn(estimator, on_host=True),
    )
    assert result.success.mean() > 0.5
    changed = estimator.predict(result.images[result.success].reshape(-1, 64))
    assert (changed != estimator.classes_[goal.labels[result.success]]).all()


@pytest.mark.slow
def test_an_attack_is_never_nearer_than_the_proof():
    estimator, images = fitted("logistic", 4)
    model, linear = ja.from_sklearn(estimator), ja.linear_classifier(estimator)
    labels = np.asarray(model(jnp.asarray(images[:12]))).argmax(1)
    attack = ja.EachTarget(ja.FMN(norm="l2", steps=200))
    found = ja.run(attack, model, images[:12], ja.Untargeted(labels), key=jax.random.key(0))
    proved = [
        ja.exact_distance(linear, image, int(label), "l2").distance
        for image, label in zip(images[:12], labels, strict=True)
    ]
    np.testing.assert_allclose(found.distance, proved, rtol=2e-3)
    assert (found.distance > np.array(proved) * (1 - 1e-5)).all()


def test_what_was_not_fitted_is_refused():
    with pytest.raises(ValueError, match="estimator is LogisticRegression and has no classes_"):
        ja.from_sklearn(LogisticRegression())


@pytest.mark.parametrize("name", ["forest", "bags", "bootstrapped", "boosting"])
def test_an_ensemble_of_trees_has_the_probabilities_of_scikit_learn(name):
    estimator, images = fitted(name, 3)
    rows = images.reshape(len(images), -1)
    if name == "boosting":
        expected = estimator.decision_function(rows)
    else:
        expected = estimator.predict_proba(rows)
    for given in (rows, rows.astype(np.float64), rows.tolist()):
        scores = ja.tree_ensemble(estimator).scores(given)
        np.testing.assert_allclose(scores - scores[:, :1], expected - expected[:, :1], atol=1e-6)


@pytest.mark.parametrize("name", ["stacking", "unequal", "begins", "forests"])
def test_what_is_no_mean_of_trees_is_not_read_as_one(name):
    with pytest.raises(ValueError, match="estimator"):
        ja.tree_ensemble(fitted(name, 3)[0])


@pytest.mark.parametrize(
    "estimator",
    [
        NearestCentroid(),
        SVC(decision_function_shape="ovo"),
        BaggingClassifier(SVC(), 3, random_state=0),
        FixedThresholdClassifier(LogisticRegression(), threshold=0.1, pos_label=1),
    ],
)
def test_on_the_host_the_prediction_wins_whatever_the_scores_say(estimator):
    classes = 2 if "Threshold" in str(estimator) else 3
    estimator.fit(X[:500][Y[:500] < classes], Y[:500][Y[:500] < classes])
    answers = np.asarray(ja.from_sklearn(estimator, on_host=True)(IMAGES)).argmax(1)
    np.testing.assert_array_equal(answers, estimator.predict(IMAGES.reshape(-1, 64)))


@pytest.mark.parametrize("name", ["forest", "logistic", "3-nn", "bernoulli"])
def test_rows_of_another_length_are_refused(name):
    model = ja.from_sklearn(fitted(name, 3)[0])
    with pytest.raises(ValueError, match="49.*64|49 features"):
        model(IMAGES[:, 1:, 1:])


def test_several_labels_a_row_are_refused():
    several = np.stack([Y[:500] > 4, Y[:500] % 2], 1)
    for estimator in (
        RandomForestClassifier(2),
        KNeighborsClassifier(3),
        MLPClassifier((4,), max_iter=2),
    ):
        with pytest.raises(ValueError, match="several labels"):
            ja.from_sklearn(estimator.fit(X[:500], several))
    with pytest.raises(ValueError, match="one class only"):
        ja.from_sklearn(TREE.fit(X, 0 * Y))


def test_sparse_images_are_refused():
    with pytest.raises(ValueError, match="toarray"):
        ja.from_sklearn(fitted("forest", 3)[0])(sparse.csr_matrix(X))
