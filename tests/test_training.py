"""Adversarial training against closed forms, and against what it is for."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.attacks.gradient_based.pgd import PGD
from jaxadv.data import load_data
from jaxadv.models import from_linen, get_definition
from jaxadv.models.train import Recipe, TRADESAscent, train
from jaxadv.models.train import _gradient as training_gradient


class Line(nn.Module):
    """A linear classifier of two classes: the worst case in a ball has a closed form."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x.reshape(len(x), -1))


@pytest.mark.slow
def test_adversarial_training_of_a_linear_model_descends_its_closed_form():
    """In an Linf ball the gap of two linear logits falls by exactly epsilon * |w|_1."""
    rng, epsilon = np.random.default_rng(0), 0.05
    images = rng.uniform(0.3, 0.7, (16, 3, 3, 1)).astype(np.float32)  # the box is out of reach
    labels = rng.integers(0, 2, 16)
    module = Line()
    variables = module.init(jax.random.key(0), images)

    def worst(params):
        kernel, bias = params["Dense_0"]["kernel"], params["Dense_0"]["bias"]
        direction = kernel[:, labels] - kernel[:, 1 - labels]
        gap = (images.reshape(16, -1) * direction.T).sum(1) + bias[labels] - bias[1 - labels]
        return jax.nn.softplus(-(gap - epsilon * jnp.abs(direction).sum(0))).mean()

    recipe = Recipe(1, attack=PGD(steps=3, step_size=1.0), epsilon=jnp.float32(epsilon))
    (loss, _), slope = training_gradient(
        module, recipe, variables, images, labels, jnp.arange(16), jax.random.key(1)
    )
    expected, expected_slope = jax.value_and_grad(worst)(variables["params"])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(slope), jax.tree.leaves(expected_slope), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.slow
def test_adversarially_trained_networks_withstand_what_breaks_the_standard_one():
    data, held_out = load_data("digits", "train"), load_data("digits", "test", 300)
    robust = {}
    for name, how in {
        "standard": {},
        "pgd": {"attack": PGD(steps=4, step_size=0.4), "epsilon": 0.15},
        "trades": {"attack": TRADESAscent(steps=4, step_size=0.4), "epsilon": 0.15, "beta": 6.0},
    }.items():
        module = get_definition("FC")(widths=(32,), classes=10)
        how |= {"devices": jax.devices()[:1], "key": jax.random.key(0)}
        variables = train(module, data, epochs=8, **how)
        result = ja.run(
            PGD(steps=20, step_size=0.2),
            from_linen(module, variables),
            held_out.images,
            ja.Untargeted(held_out.labels),
            0.15,
            key=jax.random.key(1),
            lanes=64,
        )
        robust[name] = 1 - result.success.mean()
    assert robust["pgd"] > robust["standard"] + 0.15, robust
    assert robust["trades"] > robust["standard"] + 0.15, robust


def test_adversarial_training_argument_errors():
    data = load_data("digits", "train", 64)
    module = get_definition("FC")(widths=(4,), classes=10)
    for how, message in (
        ({"attack": PGD()}, "epsilon=None"),
        ({"epsilon": 0.1}, "attack=None"),
        ({"attack": PGD(), "epsilon": 0.1, "beta": 6.0}, "TRADESAscent"),
    ):
        with pytest.raises(ValueError, match=message):
            train(module, data, epochs=1, key=jax.random.key(0), **how)


@pytest.mark.slow
def test_devices_share_a_batch_and_change_nothing_but_rounding():
    """The mean of the parts' gradients is the batch's; random starts go by place in the batch."""
    data = load_data("digits", "train", 64)
    module = get_definition("FC")(widths=(16,))
    how = {
        "epochs": 2,
        "batch_size": 16,
        "attack": PGD(steps=3, step_size=0.5),
        "epsilon": 0.1,
        "key": jax.random.key(0),
    }
    one, two = (train(module, data, devices=jax.devices()[:n], **how) for n in (1, 2))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="batch_size=15"):
        train(module, data, devices=jax.devices()[:2], **{**how, "batch_size": 15})
