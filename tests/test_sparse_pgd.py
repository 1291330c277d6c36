"""Sparse-PGD on linear models, where the best k pixels are known, and its rules one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.core.attack import Answer, Problem

KEY = jax.random.key(2)
SHAPE = (5, 4, 2)
RNG = np.random.default_rng(3)
WEIGHTS = RNG.normal(size=SHAPE).astype(np.float32)
IMAGE = RNG.uniform(size=SHAPE).astype(np.float32)


def gains(k):
    """What the best k pixels can take from the margin: each at its corner of the colour cube."""
    weights, image = WEIGHTS.astype(np.float64), IMAGE.astype(np.float64)
    entry = np.where(weights > 0, weights * image, -weights * (1 - image))
    return np.sort(entry.sum(-1).ravel())[::-1][:k].sum()


def logits(params, images):
    weights, bias = params
    margin = ((images - IMAGE) * weights).sum((1, 2, 3)) + bias
    return jnp.stack([margin, jnp.zeros(len(images))], 1)


@pytest.mark.parametrize("unprojected", [True, False])
@pytest.mark.parametrize("k", [1, 4])
def test_a_linear_model_is_broken_where_the_best_pixels_cross(k, unprojected):
    images, goal = np.stack([IMAGE] * 4), ja.Untargeted(np.zeros(4, int))
    attack = ja.SparsePGD(steps=300, unprojected=unprojected, restarts=3)
    for factor, broken in ((0.99, True), (1.01, False)):
        model = ja.Model(logits, (jnp.asarray(WEIGHTS), jnp.float32(factor * gains(k))))
        result = ja.run(attack, model, images, goal, 2.0 * k, key=KEY, lanes=4)
        assert (result.success == broken).all()
        assert ((result.images != images).any(-1).sum((1, 2)) <= k).all()


def problem(k, start=None):
    return Problem(
        image=jnp.asarray(IMAGE),
        goal=ja.Untargeted(jnp.int32(0)),
        epsilon=jnp.float32(2 * k + 1),  # a half pixel is none
        lower=jnp.float32(0),
        upper=jnp.float32(1),
        clean_logits=jnp.array([5.0, 0.0]),
        rank=jnp.int32(0),
        start=start,
    )


def answer(gradient):
    false, true = jnp.zeros(1, bool), jnp.ones(1, bool)
    return Answer(jnp.float32([[5.0, 0.0]]), jnp.float32(gradient)[None, None], false, true)


def changed(state):
    return (np.asarray(state.image) != IMAGE).any(-1)


@pytest.mark.parametrize("unprojected", [True, False])
def test_one_step_in_numpy(unprojected):
    given = problem(3)
    attack = ja.SparsePGD(unprojected=unprojected)
    state = attack.init(given, KEY)
    mask, p = np.asarray(state.mask, np.float64), np.asarray(state.magnitude, np.float64)
    chosen = mask >= np.sort(mask.ravel())[-3]
    np.testing.assert_array_equal(changed(state), chosen)
    np.testing.assert_allclose(state.image, IMAGE + p * chosen[..., None], atol=1e-6)

    gradient = RNG.normal(size=SHAPE)
    after = attack.tell(given, state, answer(gradient))
    moving = np.ones_like(chosen) if unprojected else chosen
    wanted = np.clip(p + 0.25 * np.sign(gradient) * moving[..., None], -IMAGE, 1 - IMAGE)
    np.testing.assert_allclose(after.magnitude, wanted, atol=1e-6)
    # The derivative of gradient @ (p * sigmoid(mask)), by the difference quotient.
    loss = lambda m: (gradient * p * (1 / (1 + np.exp(-m)))[..., None]).sum()  # noqa: E731
    slope = np.zeros_like(mask)
    for place in np.ndindex(mask.shape):
        step = np.zeros_like(mask)
        step[place] = 1e-5
        slope[place] = (loss(mask + step) - loss(mask - step)) / 2e-5
    wanted = mask + 0.25 * np.sqrt(20) * slope / np.linalg.norm(slope)
    np.testing.assert_allclose(after.mask, wanted, atol=1e-4)


def test_a_mask_that_chooses_the_same_pixels_is_drawn_anew():
    given, attack = problem(2), ja.SparsePGD(patience=3)
    state, drawn = attack.init(given, KEY), []
    for _ in range(9):  # without a gradient nothing moves but by patience
        following = attack.tell(given, state, answer(np.zeros(SHAPE)))
        np.testing.assert_array_equal(following.magnitude, state.magnitude)
        drawn.append(bool((following.mask != state.mask).any()))
        assert changed(following).sum() == 2
        state = following
    assert drawn == [False, False, False, True] * 2 + [False]


def test_a_start_keeps_its_pixels():
    start = IMAGE.copy()
    start[1, 2], start[3, 0] = 1.0, 0.0
    for k, pixels in ((2, 2), (1, 1), (3, 2)):
        state = ja.SparsePGD().init(problem(k, jnp.asarray(start)), KEY)
        assert changed(state).sum() == pixels
        same = np.isclose(np.asarray(state.image), start).all(-1)
        assert same[changed(state)].all()


@pytest.mark.parametrize(
    "settings",
    [{"norm": "l2"}, {"steps": 0}, {"patience": 0}, {"loss": "hinge"}, {"mask_step": 0.0}],
)
def test_bad_settings(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ja.SparsePGD(**settings)
