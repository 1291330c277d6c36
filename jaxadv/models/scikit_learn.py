"""Classifiers of scikit-learn as models: written in JAX where possible, else called on the host.

Those written in JAX run inside the compiled attack, and have gradients where the classifier has
any; scikit-learn itself is not imported.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxadv.certification.exact import linear_classifier, tree_ensemble
from jaxadv.core.bounds import Bounds
from jaxadv.core.images import as_floats
from jaxadv.core.model import Model, from_function
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import ArrayLike

if TYPE_CHECKING:
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neural_network import MLPClassifier
    from sklearn.svm import SVC

ACTIVATIONS = {
    "identity": lambda x: x,
    "logistic": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
}
Parts = tuple[Any, dict[str, Any]]  # a function (params, inputs [N, D]) -> scores, and its params


class Classifier(Protocol):
    """A fitted classifier with the interface of scikit-learn."""

    @property
    def classes_(self) -> Any: ...

    def predict(self, rows: Any, /) -> Any: ...


def from_sklearn(
    estimator: Classifier, bounds: Bounds = (0.0, 1.0), *, on_host: bool = False
) -> Model:
    """Convert a fitted classifier of scikit-learn to a `ja.Model`.

    With gradients: linear classifiers (see `linear_classifier`), LinearDiscriminantAnalysis,
    Gaussian and counting naive Bayes, SVC, MLPClassifier, nearest centroid and one nearest
    neighbour, each also at the end of a pipeline of scalers and PCA. In JAX but without gradients:
    trees and their ensembles (see `tree_ensemble`), several nearest neighbours. All others are
    called on the host, through `decision_function`, else `predict_proba`, else `predict`.

    The JAX version computes in float32: its labels agree except within rounding of a boundary (an
    SVC with three classes or more breaks ties of votes by confidence, as its decision_function
    does). Pass `judge=ja.from_sklearn(estimator, on_host=True)` to `ja.run` to judge on the
    original.

    Args:
        estimator: A classifier with `predict` that was fitted on rows [N, D], D being the entries
            of an image in row order (rows may also be attacked as they are: images [N, D]). Labels
            are indices into `estimator.classes_`.
        bounds: Least and largest value of a feature: numbers, or arrays [D] of one each.
        on_host: Whether to call the estimator on the host in any case.

    Returns:
        The model.

    Raises:
        ValueError: If the estimator is not fitted, has no classes or only one, or predicts several
            labels a row.

    >>> import numpy as np, jaxadv as ja
    >>> from sklearn.svm import SVC
    >>> model = ja.from_sklearn(SVC().fit(np.eye(4), [0, 0, 1, 1]))
    >>> model(np.eye(4, dtype=np.float32).reshape(4, 2, 2, 1)).argmax(1)
    Array([0, 0, 1, 1], dtype=int32)
    """
    classes, inputs = getattr(estimator, "classes_", None), _inputs(estimator)
    if classes is None:
        raise ValueError(
            f"estimator is {type(estimator).__name__} and has no classes_: pass a classifier of "
            "scikit-learn after its fit"
        )
    name = type(estimator).__name__
    if isinstance(classes, list) or (
        inputs and np.ndim(estimator.predict(np.zeros((1, inputs)))) != 1
    ):
        raise ValueError(
            f"estimator: this {name} predicts several labels a row, and an attack needs one: fit "
            "an estimator for each"
        )
    if len(classes) < 2:
        raise ValueError(f"estimator: this {name} knows one class only: fit it on two or more")
    parts = None if on_host else _in_jax(estimator)
    if parts is None:
        scores = _on_host(estimator)
        return from_function(scores, bounds, differentiable=False, classes=len(classes))
    apply, params = parts
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, _width(leaf)), params)
    return Model(_Rows(apply, inputs), params, bounds)


def _inputs(estimator: Classifier) -> int:
    """Return the number of entries of a row; 0 where the estimator does not state it."""
    return int(getattr(estimator, "n_features_in_", 0))


def _width(leaf: ArrayLike) -> type:
    return np.int32 if np.issubdtype(np.asarray(leaf).dtype, np.integer) else np.float32


@pytree
class _Rows:
    """A function of rows of `inputs` entries (0: not known), applied to images."""

    function: Callable[..., Any] = static()
    inputs: int = static()

    def __call__(self, params: dict[str, Any], images: Array) -> Array:
        images = as_floats(images)
        rows = images.reshape(len(images), -1)
        if self.inputs and rows.shape[1] != self.inputs:
            raise ValueError(
                f"images have {rows.shape[1]} entries, but the estimator was fitted on rows of "
                f"{self.inputs}"
            )
        return self.function(params, rows)


def _on_host(estimator: Classifier) -> Callable[[np.ndarray], np.ndarray]:
    """Return the estimator as a function of images to scores [N, K], largest at its label."""
    classes = np.asarray(estimator.classes_)
    order = np.argsort(classes)

    def scores_of(images: np.ndarray) -> np.ndarray:
        rows = images.reshape(len(images), -1)
        labels = order[np.searchsorted(classes, estimator.predict(rows), sorter=order)]
        scores = _scores(estimator, rows, len(classes))
        if scores is None:
            return labels
        # Where its label is not that of the largest score (thresholds, votes), the two scores
        # are exchanged.
        first = scores.argmax(1)
        differ = np.flatnonzero(first != labels)
        first, labels = first[differ], labels[differ]
        most = scores[differ, first]
        scores[differ, first] = scores[differ, labels]
        scores[differ, labels] = np.nextafter(most, np.inf)  # above equal scores
        return scores

    return scores_of


def _scores(estimator: Classifier, rows: np.ndarray, classes: int) -> np.ndarray | None:
    """Return scores [N, K] of one kind for all rows; None where a class has no score."""
    by_pairs = getattr(estimator, "decision_function_shape", "ovr") == "ovo"
    for method in ("decision_function", "predict_proba"):
        if hasattr(estimator, method) and not (by_pairs and method == "decision_function"):
            scores = np.array(getattr(estimator, method)(rows), np.float64)
            if scores.ndim == 1:
                return np.stack([np.zeros_like(scores), scores], 1)
            if scores.shape[1] == classes:
                return scores
    return None


def _in_jax(estimator: Classifier) -> Parts | None:
    """Return the estimator's function and arrays, or None where it is not implemented here."""
    name = type(estimator).__name__
    if name == "Pipeline":
        return _pipeline(estimator)
    if name in _KINDS:
        return _KINDS[name](estimator)
    for convert in (_linear, _trees):
        try:
            return convert(estimator)
        except ValueError:
            continue
    return None


def _pipeline(pipeline: Any) -> Parts | None:
    """Return scalers and PCA before a classifier, as affine maps of the rows."""
    *before, (_, last) = pipeline.steps
    inner = _in_jax(last)
    maps = [_affine(step) for _, step in before if step != "passthrough"]
    if inner is None or any(affine is None for affine in maps):
        return None
    function, params = inner
    return _Composed(function), {"maps": maps, "rest": params}


@pytree
class _Composed:
    function: Callable[..., Any] = static()

    def __call__(self, params: dict[str, Any], x: Array) -> Array:
        for factor, shift in params["maps"]:
            x = x * factor + shift if factor.ndim == 1 else x @ factor + shift
        return self.function(params["rest"], x)


def _affine(step: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (factor [D] or [D, E], shift) of a fitted scaler or PCA; None for any other step."""
    name = type(step).__name__
    if name == "StandardScaler":
        size = step.n_features_in_
        scale = np.ones(size) if step.scale_ is None else step.scale_
        mean = step.mean_ if step.with_mean else np.zeros(size)
        return 1 / scale, -mean / scale
    if name == "MinMaxScaler" and not step.clip:
        return step.scale_, step.min_
    if name == "PCA":
        factor = step.components_.T
        if step.whiten:
            factor = factor / np.sqrt(step.explained_variance_)
        return factor, -step.mean_ @ factor
    return None


def _linear(estimator: Classifier) -> Parts:
    weights, biases = linear_classifier(estimator)
    return _linear_scores, {"weights": weights, "biases": biases}


def _linear_scores(params: dict[str, Any], x: Float[Array, "N D"]) -> Float[Array, "N K"]:
    return x @ params["weights"] + params["biases"]


def _trees(estimator: Classifier) -> Parts:
    trees = tree_ensemble(estimator)
    arrays = {k: v for k, v in trees._asdict().items() if k not in ("depth", "inputs")}
    return _TreeScores(trees.depth), arrays


@jax.custom_jvp
def _in_steps(scores: Array, x: Array) -> Array:
    """Return the scores, a piecewise constant function of x."""
    return scores


@_in_steps.defjvp
def _no_gradient(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> NoReturn:
    raise ValueError("trees and neighbours have piecewise constant outputs, without a gradient")


@pytree
class _TreeScores:
    depth: int = static()

    def __call__(self, params: dict[str, Any], x: Float[Array, "N D"]) -> Float[Array, "N K"]:
        rows = jnp.arange(len(x))[:, None]

        def descend(_: int, node: Array) -> Array:
            feature = params["feature"][node]
            goes_left = x[rows, jnp.maximum(feature, 0)] <= params["threshold"][node]
            child = jnp.where(goes_left, params["left"][node], params["right"][node])
            return jnp.where(feature < 0, node, child)

        roots = jnp.broadcast_to(params["roots"], (len(x), len(params["roots"])))
        leaves = lax.fori_loop(0, self.depth, descend, roots)
        return _in_steps(params["initial"] + params["leaf_scores"][leaves].sum(1), x)


def _gaussian_bayes(estimator: "GaussianNB") -> Parts:
    params = {
        "mean": estimator.theta_,
        "variance": estimator.var_,
        "prior": np.log(estimator.class_prior_),
    }
    return _gaussian_scores, params


def _gaussian_scores(params: dict[str, Any], x: Float[Array, "N D"]) -> Float[Array, "N K"]:
    away = (x[:, None] - params["mean"]) ** 2 / params["variance"]
    return params["prior"] - 0.5 * (away + jnp.log(params["variance"])).sum(2)


def _centroids(estimator: Any) -> Parts | None:
    if estimator.metric != "euclidean" or getattr(estimator, "priors", "uniform") != "uniform":
        return None
    classes = len(estimator.classes_)
    return _NearestPoints(classes), {"points": estimator.centroids_, "own": np.arange(classes)}


def _neighbours(estimator: Any) -> Parts | None:
    euclidean = estimator.effective_metric_ == "euclidean"
    if not euclidean or estimator.weights != "uniform" or estimator.outputs_2d_:
        return None
    points = np.asarray(getattr(estimator._fit_X, "toarray", lambda: estimator._fit_X)())
    params = {"points": points, "own": estimator._y}
    if estimator.n_neighbors == 1:
        return _NearestPoints(len(estimator.classes_)), params
    return _Votes(estimator.n_neighbors, len(estimator.classes_)), params


def _squared(x: Float[Array, "N D"], points: Float[Array, "M D"]) -> Float[Array, "N M"]:
    return (x**2).sum(1)[:, None] - 2 * x @ points.T + (points**2).sum(1)


@pytree
class _NearestPoints:
    """Minus the squared distance to the nearest point of each class."""

    classes: int = static()

    def __call__(self, params: dict[str, Any], x: Float[Array, "N D"]) -> Float[Array, "N K"]:
        away = _squared(x, params["points"]).T
        return -jax.ops.segment_min(away, params["own"], num_segments=self.classes).T


@pytree
class _Votes:
    neighbours: int = static()
    classes: int = static()

    def __call__(self, params: dict[str, Any], x: Float[Array, "N D"]) -> Float[Array, "N K"]:
        _, nearest = lax.top_k(-_squared(x, params["points"]), self.neighbours)
        return _in_steps(jax.nn.one_hot(params["own"][nearest], self.classes).sum(1), x)


def _perceptron(estimator: "MLPClassifier") -> Parts | None:
    params = {"weights": list(estimator.coefs_), "biases": list(estimator.intercepts_)}
    return _PerceptronScores(estimator.activation, len(estimator.classes_) == 2), params


@pytree
class _PerceptronScores:
    activation: str = static()
    single: bool = static()

    def __call__(self, params: dict[str, Any], x: Float[Array, "N D"]) -> Float[Array, "N K"]:
        layers = list(zip(params["weights"], params["biases"], strict=True))
        for weights, biases in layers[:-1]:
            x = ACTIVATIONS[self.activation](x @ weights + biases)
        x = x @ layers[-1][0] + layers[-1][1]
        return jnp.concatenate([jnp.zeros_like(x), x], 1) if self.single else x


def _support_vectors(estimator: "SVC") -> Parts | None:
    if callable(estimator.kernel) or estimator.kernel == "precomputed":
        return None
    vectors, dual = (
        np.asarray(getattr(array, "toarray", lambda a=array: a)())
        for array in (estimator.support_vectors_, estimator.dual_coef_)
    )
    classes, ends = len(estimator.classes_), np.cumsum(estimator.n_support_)
    if classes == 2:
        pairs = dual.T
    else:
        begins = np.r_[0, ends[:-1]]
        columns = []
        for i in range(classes):
            for j in range(i + 1, classes):
                column = np.zeros(len(vectors))
                column[begins[i] : ends[i]] = dual[j - 1, begins[i] : ends[i]]
                column[begins[j] : ends[j]] = dual[i, begins[j] : ends[j]]
                columns.append(column)
        pairs = np.stack(columns, 1)
    params = {
        "vectors": vectors,
        "pairs": pairs,
        "biases": np.ravel(estimator.intercept_),
        "gamma": estimator._gamma,
        "coef0": estimator.coef0,
    }
    return _PairScores(estimator.kernel, int(estimator.degree), classes), params


@pytree
class _PairScores:
    """Decisions between pairs of classes; for more than two classes their votes.

    Ties of votes are broken by the sum of the decisions, squashed to less than a vote.
    """

    kernel: str = static()
    degree: int = static()
    classes: int = static()

    def __call__(self, params: dict[str, Any], x: Float[Array, "N D"]) -> Float[Array, "N K"]:
        inner = x @ params["vectors"].T
        if self.kernel == "rbf":
            values = jnp.exp(-params["gamma"] * _squared(x, params["vectors"]))
        elif self.kernel == "poly":
            values = (params["gamma"] * inner + params["coef0"]) ** self.degree
        elif self.kernel == "sigmoid":
            values = jnp.tanh(params["gamma"] * inner + params["coef0"])
        else:
            values = inner
        decisions = values @ params["pairs"] + params["biases"]
        if self.classes == 2:
            return jnp.concatenate([jnp.zeros_like(decisions), decisions], 1)
        first, second = np.triu_indices(self.classes, 1)
        sign = jax.nn.one_hot(first, self.classes) - jax.nn.one_hot(second, self.classes)
        confidence = decisions @ sign
        wins = jnp.where((decisions > 0)[..., None], sign > 0, sign < 0).sum(1)
        return wins + confidence / (3 * (jnp.abs(confidence) + 1))


_KINDS: dict[str, Callable[[Any], Parts | None]] = {
    "GaussianNB": _gaussian_bayes,
    "KNeighborsClassifier": _neighbours,
    "MLPClassifier": _perceptron,
    "NearestCentroid": _centroids,
    "NuSVC": _support_vectors,
    "SVC": _support_vectors,
}
