"""Measures of what is seen, against published figures and scikit-image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.core.colours import ciede2000, to_lab
from jaxadv.core.ssim import ssim
from jaxadv.engine.activations import activation_distance, activations
from jaxadv.models import get_definition
from jaxadv.models.adapters import from_linen

# Sharma, Wu and Dalal 2005, table 1: the two colours, and their difference.
PAIRS = """
50 2.6772 -79.7751 50 0 -82.7485 2.0425
50 3.1571 -77.2803 50 0 -82.7485 2.8615
50 2.8361 -74.02 50 0 -82.7485 3.4412
50 -1.3802 -84.2814 50 0 -82.7485 1
50 -1.1848 -84.8006 50 0 -82.7485 1
50 -0.9009 -85.5211 50 0 -82.7485 1
50 0 0 50 -1 2 2.3669
50 -1 2 50 0 0 2.3669
50 2.49 -0.001 50 -2.49 0.0009 7.1792
50 2.49 -0.001 50 -2.49 0.001 7.1792
50 2.49 -0.001 50 -2.49 0.0011 7.2195
50 2.49 -0.001 50 -2.49 0.0012 7.2195
50 -0.001 2.49 50 0.0009 -2.49 4.8045
50 -0.001 2.49 50 0.001 -2.49 4.8045
50 -0.001 2.49 50 0.0011 -2.49 4.7461
50 2.5 0 50 0 -2.5 4.3065
50 2.5 0 73 25 -18 27.1492
50 2.5 0 61 -5 29 22.8977
50 2.5 0 56 -27 -3 31.903
50 2.5 0 58 24 15 19.4535
50 2.5 0 50 3.1736 0.5854 1
50 2.5 0 50 3.2972 0 1
50 2.5 0 50 1.8634 0.5757 1
50 2.5 0 50 3.2592 0.335 1
60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644
63.0109 -31.0961 -5.8663 62.8187 -29.7946 -4.0864 1.263
61.2901 3.7196 -5.3901 61.4292 2.248 -4.962 1.8731
35.0831 -44.1164 3.7933 35.0232 -40.0716 1.5901 1.8645
22.7233 20.0904 -46.694 23.0331 14.973 -42.5619 2.0373
36.4612 47.858 18.3852 36.2715 50.5065 21.2231 1.4146
90.8027 -2.0831 1.441 91.1528 -1.6435 0.0447 1.4441
90.9257 -0.5406 -0.9208 88.6381 -0.8985 -0.7239 1.5381
6.7747 -0.2908 -2.4247 5.8714 -0.0985 -2.2286 0.6377
2.0776 0.0795 -1.135 0.9033 -0.0636 -0.5514 0.9082
"""


def test_ciede2000_is_that_of_the_published_pairs():
    table = np.array([line.split() for line in PAIRS.strip().splitlines()], float)
    for one, other in ((table[:, :3], table[:, 3:6]), (table[:, 3:6], table[:, :3])):
        np.testing.assert_allclose(ciede2000(one, other), table[:, 6], atol=5e-5)


def test_colours_and_their_differences_are_those_of_scikit_image():
    color = pytest.importorskip("skimage.color")
    rng = np.random.default_rng(0)
    one = rng.random((500, 3))
    other = np.clip(one + 0.1 * rng.normal(size=one.shape), 0, 1)
    other[:50] = other[:50, :1]  # greys
    lab = [color.rgb2lab(x) for x in (one, other)]
    np.testing.assert_allclose(to_lab(one), lab[0], atol=0.02)  # its matrix has more digits
    np.testing.assert_allclose(ciede2000(*lab), color.deltaE_ciede2000(*lab), atol=1e-10)


@pytest.mark.parametrize("shape", [(28, 28, 1), (17, 32, 3), (11, 12, 2)])
def test_ssim_is_that_of_scikit_image(shape):
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(0)
    images = rng.random((3, *shape))
    others = np.clip(images + 0.2 * rng.normal(size=images.shape), 0, 1)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = [
        metrics.structural_similarity(*pair, data_range=1, channel_axis=-1, **settings)
        for pair in zip(images, others, strict=True)
    ]
    np.testing.assert_allclose(ssim(images, others), expected, atol=1e-4)
    np.testing.assert_allclose(ssim(images[:, :8], images[:, :8]), 1)  # of 8 rows: a smaller window


def test_activations_are_those_that_flax_captures():
    module = get_definition("LeNet")(classes=4)
    images = np.random.default_rng(0).random((25, 12, 12, 1)).astype(np.float32)
    variables = module.init(jax.random.key(0), images)
    _, state = module.apply(variables, images, capture_intermediates=True)
    kernels = variables["params"]
    captured = [
        state["intermediates"][name]["__call__"][0] - layer["bias"]
        for name, layer in kernels.items()
    ]
    layers = activations(from_linen(module, variables), jnp.asarray(images))
    by_shape = {x.shape: x for x in captured}
    assert len(layers) == len(captured) == len(by_shape)
    expected = np.zeros(24)
    for layer in layers:
        np.testing.assert_allclose(layer, by_shape[layer.shape], atol=1e-5)
        unit = np.asarray(layer, np.float64)
        unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
        expected += np.square(unit[1:] - unit[:-1]).sum(-1).reshape(24, -1).mean(1) / len(layers)
    found = activation_distance(from_linen(module, variables), images[1:], images[:-1])
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_what_can_not_be_measured_is_nan():
    grey = np.random.default_rng(0).random((2, 6, 6, 1))
    model = ja.Model(lambda w, x: w * x.mean((1, 2)), jnp.ones(3))
    seen = ja.visibility(model, grey, grey)
    assert np.isnan(seen.ciede2000).all() and np.isnan(seen.activations).all()
    assert (seen.distortion == 0).all() and (seen.ssim == 1).all()
    with pytest.raises(ValueError, match="originals"):
        ja.visibility(model, grey, grey[:1])


def test_values_are_measured_in_the_range_of_the_model():
    wide = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(108)[:, :4], bounds=(-1, 3))
    unit = ja.Model(wide.apply, wide.params)
    image = np.random.default_rng(0).random((1, 6, 6, 3))
    other = np.random.default_rng(1).random((1, 6, 6, 3))
    one, two = (
        ja.visibility(model, a * image + b, a * other + b)
        for model, a, b in ((unit, 1, 0), (wide, 4, -1))
    )
    for ours, theirs in zip(one[:3], two[:3], strict=True):
        np.testing.assert_allclose(ours, theirs)
