"""Rare probabilities against closed forms, and against counting where counting can."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import jaxadv as ja
from jaxadv.certification.rarity import (
    NOISES,
    Splitting,
    cap_probability,
    norm_at,
    perturb_randomly,
    probability,
)
from jaxadv.studies import Setting, conduct

SIDE = 8
NORMAL = np.random.default_rng(0).normal(size=(SIDE * SIDE, 2)).astype(np.float32)


def halfspace(distances, bounds=(-100.0, 100.0)):
    """A linear classifier and images at these distances from its boundary, all of class 0."""
    model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.asarray(NORMAL), bounds)
    way = NORMAL[:, 0] - NORMAL[:, 1]
    images = np.asarray(distances)[:, None] * way / np.linalg.norm(way)
    images = jnp.asarray(images.reshape(-1, SIDE, SIDE, 1), jnp.float32)
    return model, images, ja.Untargeted(jnp.zeros(len(images), int))


def deviations(found, truth):
    """By how many estimated standard errors the estimates are off."""
    return np.abs(np.asarray(found.probability) / truth - 1) / np.asarray(found.relative_error)


def test_gaussian_noise_crosses_a_hyperplane_as_often_as_the_normal_tail_says():
    truth = np.array([0.4, 1e-2, 1e-4, 1e-6, 1e-8, 1e-9])
    deviation = 0.3
    model, images, goal = halfspace(deviation * scipy.stats.norm.isf(truth))
    found = probability(
        model,
        images,
        goal,
        deviation,
        key=jax.random.key(1),
        noise="gaussian",
        splitting=Splitting(runs=32),
    )
    assert np.all(deviations(found, truth) < 3.5)
    assert np.all(np.asarray(found.relative_error) < 0.2)


def test_a_sphere_is_cut_as_often_as_its_cap_is_large():
    radius, distances = 2.0, np.array([0.1, 0.5, 1.0, 1.3, 1.35])
    truth = scipy.special.betainc((SIDE**2 - 1) / 2, 0.5, 1 - (distances / radius) ** 2) / 2
    assert truth[-1] < 2e-9
    model, images, goal = halfspace(distances)
    found = probability(
        model, images, goal, radius, key=jax.random.key(2), splitting=Splitting(runs=32)
    )
    assert np.all(deviations(found, truth) < 3.5)
    assert np.all(np.asarray(found.relative_error) < 0.2)


def test_the_estimate_is_unbiased_and_its_error_is_the_one_stated():
    truth = 1e-5
    model, images, goal = halfspace([scipy.stats.norm.isf(truth)])
    found = [
        probability(model, images, goal, 1.0, key=jax.random.key(seed), noise="gaussian")
        for seed in range(60)
    ]
    ratios = np.array([f.probability[0] / truth for f in found])
    assert abs(ratios.mean() - 1) < 3 * ratios.std(ddof=1) / len(ratios) ** 0.5
    stated = np.sqrt(np.mean([np.square(f.relative_error[0] * f.probability[0]) for f in found]))
    assert 0.7 < stated / truth / ratios.std(ddof=1) < 1.4


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("noise", NOISES)
def test_a_curved_boundary_is_crossed_as_often_as_counted(noise, clip):
    random = np.random.default_rng(4)
    one, two = random.normal(size=(16, 12)), random.normal(size=(12, 4))
    model = ja.Model(
        lambda w, x: jnp.tanh(x.reshape(len(x), -1) @ w[0]) @ w[1],
        (jnp.float32(one), jnp.float32(two)),
    )
    images = random.random((6, 4, 4, 1))

    def answer(x):
        return (np.tanh(x.reshape(-1, 16) @ one) @ two).argmax(1)

    size, draws = (1.2 if noise == "sphere" else 0.3), 200_000
    goals = ja.Untargeted(jnp.asarray(answer(images)))
    found = probability(
        model,
        jnp.asarray(images, jnp.float32),
        goals,
        size,
        key=jax.random.key(4),
        noise=noise,
        clip=clip,
        splitting=Splitting(runs=16),
    )
    rarest = 1.0
    for i, image in enumerate(images):
        steps = random.normal(size=(draws, 16))
        scale = np.linalg.norm(steps, axis=1, keepdims=True) if noise == "sphere" else 1
        noisy = image.ravel() + size * steps / scale
        counted = (answer(np.clip(noisy, 0, 1) if clip else noisy) != answer(image[None])).mean()
        rarest = min(rarest, counted)
        error = np.hypot(
            found.relative_error[i] * found.probability[i], np.sqrt(counted * (1 - counted) / draws)
        )
        assert abs(found.probability[i] - counted) < 4 * error
    assert 1e-4 < rarest < 1e-2


def test_what_the_box_forbids_has_no_probability():
    model = ja.Model(lambda w, x: jnp.stack([w + 0 * x.ravel(), x.ravel()], 1), jnp.float32(1.2))
    image, goal = jnp.full((1, 1, 1, 1), 0.5), ja.Targeted(jnp.zeros(1, int), jnp.ones(1, int))
    how = {"key": jax.random.key(5), "noise": "gaussian", "splitting": Splitting(runs=16)}
    free = probability(model, image, goal, 0.25, clip=False, **how)
    assert deviations(free, scipy.stats.norm.sf(0.7 / 0.25))[0] < 3.5
    boxed = probability(model, image, goal, 0.25, clip=True, **how)
    assert boxed.probability[0] == 0 and np.isnan(boxed.relative_error[0])


def test_rarer_than_the_floor_is_zero():
    model, images, goal = halfspace([9.0])
    found = probability(model, images, goal, 1.0, key=jax.random.key(6), noise="gaussian")
    assert found.probability[0] == 0


def test_noise_on_the_sphere_has_its_norm_and_the_box_is_kept():
    images, steps = jnp.full((2, 3, 3, 1), 0.5), jax.random.normal(jax.random.key(0), (2, 5, 9))
    free = perturb_randomly(images, steps, jnp.array([1.0, 3.0]))
    lengths = np.linalg.norm(np.asarray(free - images[:, None]).reshape(2, 5, 9), axis=2)
    np.testing.assert_allclose(lengths, [[1.0] * 5, [3.0] * 5], rtol=1e-5)
    boxed = perturb_randomly(images, steps, 3.0, "gaussian", (0.0, 1.0))
    assert boxed.min() == 0 and boxed.max() == 1


def test_the_cap_is_scipys():
    distances = np.array([0.0, 0.1, 1.0, 1.9, 2.0, 3.0])
    inside = np.maximum(1 - (distances / 2.0) ** 2, 0)
    for dimension in (3, 49, 784):
        truth = scipy.special.betainc((dimension - 1) / 2, 0.5, inside) / 2
        found = cap_probability(distances, 2.0, dimension)
        np.testing.assert_allclose(found, truth, rtol=2e-3, atol=1e-30)


@pytest.mark.parametrize("dimension", [64, 784])
def test_the_norm_of_a_probability_is_exact_before_flat_boundaries(dimension):
    distances = np.array([1.5, 3.0, 6.0])
    norms = np.geomspace(1, 60, 7)[:, None] + 0 * distances
    inside = np.maximum(1 - (distances / norms) ** 2, 0)
    caps = scipy.special.betainc((dimension - 1) / 2, 0.5, inside) / 2
    known = np.where(caps > 1e-9, caps, 0)
    for share in (1e-9, 1e-3, 0.25):
        # a cap of that share begins where 1 - cosine^2 is the quantile of twice the share
        cosine = (1 - scipy.special.betaincinv((dimension - 1) / 2, 0.5, 2 * share)) ** 0.5
        found = norm_at(share, norms, known, dimension)
        reached = caps.max(0) >= share
        np.testing.assert_allclose(found[reached], distances[reached] / cosine, rtol=2e-3)
        assert np.isnan(found[~reached]).all()
    assert not reached.all() or dimension == 784
    np.testing.assert_array_equal(norm_at(1e-9, norms[:2, :1], np.array([[0], [0.4]]), 64), 1.0)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"noise": "pink"}, "noise"),
        ({"splitting": Splitting(kept=1.5)}, "kept"),
        ({"splitting": Splitting(runs=1)}, "runs"),
        ({"splitting": Splitting(particles=4)}, "particles"),
    ],
)
def test_unusable_arguments_are_named(wrong, named):
    model, images, goal = halfspace([1.0])
    with pytest.raises(ValueError, match=named):
        probability(model, images, goal, 1.0, key=jax.random.key(0), **wrong)


@pytest.mark.slow
def test_the_study_finds_chance_far_behind_the_worst_case(tmp_path: Path, monkeypatch):
    train, test = (ja.load_data("digits", split) for split in ("train", "test"))
    findings = conduct("szegedy.rarity", Setting(train, test, tmp_path, 1, 20, quick=True))
    table, _, curves, *_ = findings.parts
    assert np.all(table.values[:, 0] < table.values[:, 1])
    worst, chance = (curves.lines[name][1] for name in ("worst case", "random, no box"))
    assert np.all(worst == 1)
    assert np.isnan(chance[0])  # at the nearest distance itself: fewer than one in 10^9
    assert chance[1] < 1 / 20  # at three times that; the cap of a flat boundary: 0.3 %
