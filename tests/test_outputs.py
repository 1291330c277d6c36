"""What classifiers return, and how labels come: one logit, parts, half precision, many classes.

The models are linear: the distance of a row from the boundary is |z| / ||w||_dual.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.models import selected

KEY = jax.random.key(0)
RNG = np.random.default_rng(8)
W = RNG.normal(size=5).astype(np.float32)
ROWS = RNG.uniform(0.3, 0.7, (6, 5)).astype(np.float32)
BIAS = np.float32(-np.median(ROWS @ W))
Z = ROWS.astype(np.float64) @ W + BIAS
LABELS = (Z > 0).astype(int)
AWAY = np.abs(Z) / np.abs(W).sum()  # in Linf; the box is far
GOAL = ja.Untargeted(LABELS)


def logit(params: Any, rows: Any) -> Any:
    return rows @ params[0] + params[1]


def both(params: Any, rows: Any) -> Any:
    z = logit(params, rows)
    return jnp.stack([0 * z, z], 1)


def distances(model: ja.Model, labels: Any = LABELS) -> np.ndarray:
    found = ja.run(ja.FAB(), model, ROWS, ja.Untargeted(labels), key=KEY)
    assert found.success.all()
    return found.distance


@pytest.mark.parametrize("width", [(), (1,)])
def test_one_logit_is_a_binary_classifier(width: tuple[int, ...]) -> None:
    def one(params: Any, rows: Any) -> Any:
        return logit(params, rows).reshape(len(rows), *width)

    model = ja.Model(one, (W, BIAS))
    np.testing.assert_array_equal(np.asarray(model(ROWS)).argmax(1), LABELS)
    np.testing.assert_allclose(model(ROWS)[:, 1], Z, atol=1e-5)
    np.testing.assert_allclose(distances(model), AWAY, rtol=5e-3)


def test_one_logit_in_evaluation_proof_and_in_the_mean_of_draws() -> None:
    from flax import linen as nn

    module, weights = nn.Dense(1), {"params": {"kernel": W[:, None], "bias": BIAS[None]}}
    model, levels = ja.from_linen(module, weights), [float(np.median(AWAY))]
    attacks = {"PGD": ja.PGD(steps=5)}
    report = ja.evaluate(model, ROWS, LABELS, epsilons=levels, attacks=attacks, key=KEY)
    np.testing.assert_allclose(report.robust_accuracy, [(levels[0] < AWAY).mean()])
    proof = ja.prove(model, ROWS, LABELS, levels[0], attacks={})
    np.testing.assert_array_equal(proof.proved, levels[0] < AWAY)
    drawn = ja.Model(lambda p, x, key: logit(p, x), (W, BIAS), random=True)
    np.testing.assert_allclose(drawn(ROWS), model(ROWS), atol=1e-6)
    np.testing.assert_allclose(ja.EOT(drawn, 2)(ROWS), model(ROWS), atol=1e-6)
    np.testing.assert_allclose(ja.ensemble([model, model])(ROWS), model(ROWS), atol=1e-6)


def test_half_precision_logits() -> None:
    model = ja.Model(lambda p, x: both(p, x).astype(jnp.float16), (W, BIAS))
    assert model(ROWS).dtype == np.float32
    found = ja.run(ja.PGD(), model, ROWS, GOAL, 1.1 * AWAY + 2e-3, key=KEY)
    assert found.success.all()


@pytest.mark.parametrize("labels", [list(map(int, LABELS)), LABELS.astype(np.int64), tuple(LABELS)])
def test_labels_of_every_kind_of_integer(labels: Any) -> None:
    model = ja.Model(both, (W, BIAS))
    report = ja.evaluate(
        model, ROWS, labels, epsilons=[0.0], attacks={"FGSM": ja.FGSM()}, distances=False
    )
    assert report.clean_accuracy == 1


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.eye(2)[LABELS], r"labels has shape \(6, 2\).*labels.argmax\(1\)"),
        (LABELS[:, None], r"labels.ravel\(\)"),
        (LABELS.astype(bool), r"dtype bool: pass 6 integers.*labels.astype\(int\)"),
        (LABELS.astype(np.float32), r"labels.astype\(int\)"),
        (LABELS + 1, "reach from 1 to 2, but the model has 2 classes"),
    ],
)
def test_labels_that_are_no_integers_are_refused_with_their_cure(labels: Any, words: str) -> None:
    model = ja.Model(both, (W, BIAS))
    with pytest.raises(ValueError, match=words):
        ja.run(ja.FGSM(), model, ROWS, ja.Untargeted(labels), 0.1, key=KEY)


def test_several_outputs() -> None:
    parts = ja.Model(lambda p, x: {"logits": both(p, x), "features": x}, (W, BIAS))
    pair = ja.Model(lambda p, x: (x, both(p, x)), (W, BIAS))
    for model, part in ((parts, "logits"), (pair, 1)):
        with pytest.raises(ValueError, match=r"choose one part.*--logits-of.*selected\(model"):
            ja.run(ja.FGSM(), model, ROWS, GOAL, 0.1, key=KEY)
        np.testing.assert_allclose(distances(selected(model, part)), AWAY, rtol=5e-3)


def test_labels_and_probabilities_in_place_of_logits() -> None:
    model = ja.Model(lambda p, x: (logit(p, x) > 0).astype(jnp.int32), (W, BIAS))
    with pytest.raises(ValueError, match=r"labels have no gradient: ja.from_function"):
        ja.run(ja.FGSM(), model, ROWS, GOAL, 0.1, key=KEY)
    sigmoid = ja.Model(lambda p, x: jax.nn.sigmoid(logit(p, x)), (W, BIAS))
    with pytest.warns(ja.CheckWarning, match=r"for a probability p return log\(p / \(1 - p\)\)"):
        ja.evaluate(
            sigmoid, ROWS, LABELS, epsilons=[0.1], attacks={"FGSM": ja.FGSM()}, distances=False
        )
    host = ja.from_function(lambda x: 1 / (1 + np.exp(-x @ W - BIAS)), differentiable=False)
    with pytest.raises(ValueError, match=r"np.stack\(\[1 - p, p\], 1\)"):
        ja.run(ja.Square(), host, ROWS, GOAL, 0.1, key=KEY)


def test_a_binary_estimator_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    estimator = linear_model.LogisticRegression().fit(ROWS, np.where(LABELS, "yes", "no"))
    model, w = ja.from_sklearn(estimator), estimator.coef_[0]
    z = estimator.decision_function(ROWS)
    exact = np.abs(z) / np.abs(w).sum()
    labels = (z > 0).astype(int)
    found = ja.run(
        ja.FAB(), ja.Model(model.apply, model.params, (-9, 9)), ROWS, ja.Untargeted(labels), key=KEY
    )
    np.testing.assert_allclose(found.distance, exact, rtol=5e-3)


@pytest.mark.parametrize("classes", [1000, 21841])
def test_many_classes(classes: int) -> None:
    weights = np.random.default_rng(1).normal(size=(5, classes)).astype(np.float32)
    model = ja.from_function(lambda x: (x - 0.5) @ weights)
    z = (ROWS.astype(np.float64) - 0.5) @ weights
    labels = z.argmax(1)
    steps = weights[:, labels].T[:, :, None].astype(np.float64) - weights  # [N, 5, K]
    gaps = z.max(1)[:, None] - z
    with np.errstate(invalid="ignore"):
        away = np.nanmin(gaps / np.abs(steps).sum(1), 1)
    found = ja.run(
        ja.PGD(steps=20, loss="margin"), model, ROWS, ja.Untargeted(labels), 1.5 * away, key=KEY
    )
    assert found.success.all()
    assert (found.distance >= away * (1 - 1e-4) - 1e-6).all()
    below = ja.run(ja.APGD(), model, ROWS, ja.Untargeted(labels), 0.95 * away, key=KEY)
    assert not below.success.any()
