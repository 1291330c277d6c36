"""Keys of other generators draw what those of JAX's default draw, whatever their neighbours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.core.random import threefry
from tests.common import IMAGES, LABELS, MODEL

OTHERS = ("rbg", "unsafe_rbg")


@pytest.mark.parametrize("generator", OTHERS)
def test_keys_of_one_seed_are_equal(generator):
    for seed in (0, 7):
        key, same = jax.random.key(seed, impl=generator), jax.random.key(seed)
        assert threefry(key) == same
        assert threefry(jax.random.key_data(key)) == same  # a raw key, of four words
        assert threefry(jax.random.key_data(same)) == same
    keys = threefry(jax.random.split(key, 3))
    assert keys.shape == (3,) and len(np.unique(jax.random.key_data(keys), axis=0)) == 3
    assert (jax.jit(threefry)(jax.random.split(key, 3)) == keys).all()


@pytest.mark.parametrize("generator", OTHERS)
def test_an_image_does_not_see_the_others(generator):
    goal, attack = ja.Untargeted(LABELS), ja.UniformNoise()

    def found(key, **settings):
        return ja.run(attack, MODEL, IMAGES, goal, 0.3, key=key, keep="last", **settings).images

    whole = found(jax.random.key(3))
    key = jax.random.key(3, impl=generator)
    np.testing.assert_array_equal(found(key, lanes=1), whole)
    np.testing.assert_array_equal(found(key), whole)
    inside = ja.perturb(attack, MODEL, jnp.asarray(IMAGES), goal, 0.3, key=key, keep="last")
    np.testing.assert_allclose(inside, whole, atol=1e-6)
    with jax.default_prng_impl(generator):
        np.testing.assert_array_equal(found(jax.random.key(3)), whole)
