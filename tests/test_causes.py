"""Similarity, fits and explanations against closed forms and SciPy."""

import itertools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import linen as nn

import jaxadv as ja
from jaxadv.data import Dataset
from jaxadv.models import get_definition
from jaxadv.studies import Setting, conduct
from jaxadv.studies.causes import resize
from jaxadv.studies.networks import Network
from jaxadv.studies.similarity import (
    cosines,
    features,
    fit_pairs,
    linear_cka,
    margin_gradients,
    moved_to,
    transfer_explained,
)

RANDOM = np.random.default_rng(0)


def test_pixels_are_repeated_and_averaged():
    images = RANDOM.random((3, 4, 4, 2))
    large = resize(images, 2)
    np.testing.assert_array_equal(large, np.kron(images, np.ones((1, 2, 2, 1))))
    np.testing.assert_allclose(resize(large, 1 / 2), images)
    ramp = np.arange(16.0).reshape(1, 4, 4, 1)
    assert resize(ramp, 1 / 2).ravel().tolist() == [2.5, 4.5, 10.5, 12.5]
    with pytest.raises(ValueError, match="factor"):
        resize(np.zeros((1, 7, 7, 1)), 1 / 2)


def test_cka_is_what_the_grams_say():
    x, y = RANDOM.normal(size=(40, 6)), RANDOM.normal(size=(40, 9)) + 3
    centre = np.eye(40) - 1 / 40

    def hsic(k, m):
        return np.trace(k @ centre @ m @ centre)

    k, m = x @ x.T, y @ y.T
    assert linear_cka(x, y) == pytest.approx(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)))


def test_cka_knows_rotations_and_no_other_maps():
    x = RANDOM.normal(size=(60, 5))
    rotation = np.linalg.qr(RANDOM.normal(size=(5, 5)))[0]
    assert linear_cka(x, 7 * x @ rotation - 2) == pytest.approx(1)
    assert linear_cka(x, x @ np.diag([10.0, 1, 1, 1, 1])) < 0.9
    one, two = RANDOM.normal(size=(2, 60, 1))
    correlation = scipy.stats.pearsonr(one[:, 0], two[:, 0]).statistic
    assert linear_cka(one, two) == pytest.approx(correlation**2)


def test_the_margins_gradient_of_a_linear_model_is_a_difference_of_weights():
    weights = jnp.asarray(RANDOM.normal(size=(4, 3)), jnp.float32)
    model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, weights)
    images = jnp.asarray(RANDOM.random((5, 2, 2, 1)), jnp.float32)
    order = np.argsort(-np.asarray(model(images)), axis=1)
    slopes = margin_gradients(model, images, order[:, 0])
    np.testing.assert_allclose(slopes, (weights[:, order[:, 0]] - weights[:, order[:, 1]]).T)
    np.testing.assert_allclose(cosines(slopes, -3 * np.asarray(slopes)), -1, rtol=1e-6)
    assert cosines([[0.0, 0.0], [3.0, 4.0]], [[1.0, 1.0], [1.0, 0.0]]).tolist() == [0, 0.6]


def test_fits_are_scipys():
    x, off = RANDOM.normal(size=(7, 7)), ~np.eye(7, dtype=bool)
    y = 2 * x + RANDOM.normal(size=(7, 7))
    fit, line = fit_pairs(x, y), scipy.stats.linregress(x[off], y[off])
    assert fit.correlation == pytest.approx(line.rvalue)
    assert (fit.slope, fit.intercept) == pytest.approx((line.slope, line.intercept))
    theirs = scipy.stats.bootstrap(
        (x[off], y[off]),
        lambda a, b: scipy.stats.pearsonr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (fit.low, fit.high) == pytest.approx(theirs, abs=0.03)
    assert fit.p_value < 0.01


def test_permuting_networks_gives_the_exact_p_value():
    x, y = RANDOM.normal(size=(2, 5, 5))
    y = y + 0.5 * x
    off = ~np.eye(5, dtype=bool)

    def pearson(order):
        return abs(scipy.stats.pearsonr(x[np.ix_(order, order)][off], y[off]).statistic)

    known = pearson(range(5)) - 1e-12
    exact = np.mean([pearson(order) >= known for order in itertools.permutations(range(5))])
    assert fit_pairs(x, y).p_value == pytest.approx(exact, abs=0.03)


def test_features_are_what_the_last_layer_reads():
    images = RANDOM.random((6, 3, 3, 1)).astype(np.float32)
    for widths in ((), (5,), (5, 4)):
        module = get_definition("FC")(widths=widths, classes=3, activation="sigmoid")
        variables = module.init(jnp.zeros(2, jnp.uint32), images)
        network = Network("", module, variables, ja.from_linen(module, variables))
        last = variables["params"][f"fc{len(widths) + 1}"]
        logits = nn.Dense(3).apply({"params": last}, features(network, images))
        np.testing.assert_allclose(logits, network.model(images), rtol=1e-5, atol=1e-6)


def test_amplified_images_lie_at_the_norm_on_the_same_way_and_in_the_box():
    originals = np.full((3, 2, 2, 1), 0.5)
    images = originals + 0.01 * RANDOM.normal(size=(3, 2, 2, 1))
    images[2] = originals[2]
    far = moved_to(images, originals, 0.4) - originals
    np.testing.assert_allclose(np.linalg.norm(far.reshape(3, 4), axis=1), [0.4, 0.4, 0], rtol=1e-6)
    np.testing.assert_allclose(cosines(far, images - originals), [1, 1, 0], rtol=1e-6)
    farther = moved_to(images, originals, 10.0)
    assert farther.min() == 0 and farther.max() == 1


def test_for_two_linear_classes_flat_boundaries_explain_all():
    count, networks, attacked, nearest = 200, [], [], []
    images = RANDOM.normal(size=(count, 2, 2, 1)).astype(np.float32)
    ways = RANDOM.normal(size=(3, 4)).astype(np.float32)
    flat = images.reshape(count, 4)
    flat = flat * np.where(flat @ ways[0] < 0, -1, 1)[:, None]  # all on the first one's side
    ways[1:] = ways[0] + 0.7 * ways[1:]
    flat = flat[np.all(flat @ ways.T > 0, 1)]
    images, labels = flat.reshape(-1, 2, 2, 1), np.zeros(len(flat), int)
    module = get_definition("FC")(widths=(), classes=2)
    for way in ways:
        kernel = jnp.stack([way, -way], 1)
        variables = {"params": {"fc1": {"kernel": kernel, "bias": jnp.zeros(2)}}}
        networks.append(Network("", module, variables, ja.from_linen(module, variables)))
        unit = way / np.linalg.norm(way)
        depth = flat @ unit
        nearest.append((flat - depth[:, None] * unit).reshape(images.shape))
        attacked.append((flat - 0.8 * np.sign(depth)[:, None] * unit).reshape(images.shape))
    test = Dataset(images, labels, labels, "", ("a", "b"))
    rate, reasons = transfer_explained(networks, np.array(attacked), np.array(nearest), test)
    assert rate[~np.eye(3, dtype=bool)].min() > 0 and rate.max() < 1
    np.testing.assert_allclose(reasons["flat boundaries"], rate)
    unit = ways / np.linalg.norm(ways, axis=1, keepdims=True)
    np.testing.assert_allclose(reasons["gradient cosine"], unit @ unit.T, atol=1e-6)
    np.testing.assert_allclose(reasons["CKA of features"], 1)


@pytest.mark.slow
def test_the_study_runs(tmp_path: Path, monkeypatch):
    train, test = (ja.load_data("digits", split) for split in ("train", "test"))
    findings = conduct("szegedy.causes", Setting(train, test, tmp_path, 1, 20, quick=True))
    titles = [part.title for part in findings.parts if hasattr(part, "title")]
    assert len(titles) == 8
    heat = next(part for part in findings.parts if getattr(part, "heat", False))
    off = ~np.eye(len(heat.rows), dtype=bool)
    assert heat.values[~off].mean() > heat.values[off].mean()
