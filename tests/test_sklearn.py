"""scikit-learn's classifiers as models, against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja

pytest.importorskip("sklearn")
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.naive_bayes import BernoulliNB, GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC, NuSVC
from sklearn.tree import DecisionTreeClassifier

X, Y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
IMAGES = X[500:].reshape(-1, 8, 8, 1)
SMOOTH = {
    "logistic": LogisticRegression(), "svm": LinearSVC(), "ridge": RidgeClassifier(),
    "discriminant": LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1),
    "bayes": GaussianNB(var_smoothing=1e-3), "counts": MultinomialNB(), "rbf": SVC(), "nu": NuSVC(),
    "poly": SVC(kernel="poly", degree=2, coef0=1.0), "sigmoid": SVC(kernel="sigmoid"),
    "linear": SVC(kernel="linear"), "mlp": MLPClassifier((16, 8), "tanh", max_iter=60),
    "centroid": NearestCentroid(), "1-nn": KNeighborsClassifier(1),
    "pipeline": make_pipeline(StandardScaler(), PCA(12, whiten=True), SVC()),
    "scaled": make_pipeline(MinMaxScaler((-1, 1)), "passthrough", LogisticRegression()),
}  # fmt: skip
STEPS = {
    "tree": DecisionTreeClassifier(), "forest": RandomForestClassifier(10),
    "boosting": GradientBoostingClassifier(n_estimators=5), "3-nn": KNeighborsClassifier(3),
}  # fmt: skip
HOST = {
    "bernoulli": BernoulliNB(binarize=0.5), "ada": AdaBoostClassifier(n_estimators=5),
    "histogram": HistGradientBoostingClassifier(max_iter=5),
    "weighted": KNeighborsClassifier(3, weights="distance"),
}  # fmt: skip
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
        answers = np.asarray(ja.from_sklearn(estimator)(jnp.asarray(images))).argmax(1)
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


@pytest.mark.parametrize("name", ["tree", "3-nn", "ada"])
def test_what_answers_in_steps_is_only_asked(name):
    estimator, images = fitted(name, 4)
    model = ja.from_sklearn(estimator)
    goal = ja.Untargeted(np.asarray(model(jnp.asarray(images[:20]))).argmax(1))
    with pytest.raises(ValueError, match="PGD asks for gradients"):
        ja.run(ja.PGD(), model, images[:20], goal, 0.1, key=jax.random.key(0))
    result = ja.run(
        ja.Square(steps=200), model, images[:20], goal, 0.3, key=jax.random.key(0),
        judge=ja.from_sklearn(estimator, on_host=True),
    )  # fmt: skip
    assert result.success.mean() > 0.5
    changed = estimator.predict(result.images[result.success].reshape(-1, 64))
    assert (changed != estimator.classes_[goal.labels[result.success]]).all()


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
