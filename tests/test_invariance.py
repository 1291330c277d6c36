"""The invariance score of Goodfellow et al.: closed forms, chance, and layers of a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxadv.data import load_data
from jaxadv.models.adapters import from_linen
from jaxadv.models.definitions import get_definition
from jaxadv.studies.invariance import Layer, best, measure, rotated, scores, translated
from jaxadv.studies.networks import Network


def test_what_never_changes_scores_one_over_g_and_what_forgets_scores_one():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1000, 30))
    np.testing.assert_allclose(scores(values, np.stack([values] * 3)), 100)
    forgotten = scores(values, rng.normal(size=(400, 1000, 30)))
    # 4,000 draws a unit at a rate of 0.01 (of the sampled threshold: 0.01 within a third or so).
    assert forgotten.mean() == pytest.approx(1.0, abs=0.15)
    half = np.stack([values, np.full_like(values, -9.0)])
    np.testing.assert_allclose(scores(values, half), 50)
    assert np.isnan(scores(np.zeros((100, 1)), np.zeros((1, 100, 1)))).all()


def test_the_best_fifth_is_the_mean_of_the_largest():
    assert best(np.array([1.0, 5, 2, 3, 4, np.nan])) == 5
    assert best(np.arange(10.0)) == 8.5


def test_images_are_moved_and_rotated():
    images = np.zeros((1, 9, 9, 1), np.float32)
    images[0, 4, 4] = 1
    places = [tuple(np.argwhere(one[0, ..., 0] == 1)[0]) for one in translated(images)]
    expected = {(4 + i, 4) for i in (-2, -1, 1, 2)} | {(4, 4 + i) for i in (-2, -1, 1, 2)}
    assert len(places) == 8 and set(places) == expected
    for one in rotated(images):  # the centre stays
        assert one.shape == images.shape and one[0, 4, 4, 0] == pytest.approx(1, abs=1e-4)


def test_channels_of_a_convolution_are_invariant_to_what_it_is_equivariant_to():
    """Far from the border a channel's largest value does not change when the image moves."""
    digits = load_data("mnist5k", "test", 200)
    images = np.pad(digits.images[:, 4:24, 4:24], ((0, 0), (4, 4), (4, 4), (0, 0)))
    module = get_definition("LeNet")()
    variables = module.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    layer = Layer(
        "LeNet conv1",
        Network("L", module, variables, from_linen(module, variables)),
        "conv1",
        False,
    )
    assert layer.features(images[:3]).shape == (3, 784, 16)
    found = measure(layer, None, images, digits.labels)
    assert np.nanmin(found.translation) > 80 and found.purity.min() >= 1 / 8
    random = jax.random.normal(jax.random.key(1), (16, 16))
    assert np.nanmin(measure(layer, random, images, digits.labels).translation) > 80
    dense = layer._replace(layer="fc1")
    assert dense.features(images[:3]).shape == (3, 1, 120)
    assert np.nanmean(measure(dense, None, images, digits.labels).translation) < 80
