"""Fooling images: published confidences, the encodings against formulas, evolution's promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import kstest
from sklearn.neighbors import KNeighborsClassifier

import jaxadv as ja
from jaxadv.fooling.encodings import CPPN, INPUTS, Direct, Painter, polynomial
from jaxadv.fooling.resemblance import Resemblance, measured
from tests.common import slow

LINEAR = ja.Model(lambda w, x: 6 * (x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(9)[:, :4])
SHAPE = (3, 3, 1)


@pytest.mark.parametrize("method", ["direct", slow("cppn"), "gradient"])
def test_images_are_what_they_are_said_to_be(method):
    found = ja.fooling_images(LINEAR, SHAPE, method, generations=40)
    logits = 6 * (found.images.reshape(4, 9).astype(np.float64) - 0.5)[:, :4]
    odds = np.exp(logits)
    np.testing.assert_allclose(found.confidence, np.diag(odds / odds.sum(1)[:, None]), atol=1e-6)
    assert (found.answers == np.arange(4)).all()
    assert found.images.min() >= 0 and found.images.max() <= 1
    np.testing.assert_allclose(found.history[-1], found.confidence, atol=1e-5)
    if method != "gradient":
        assert (np.diff(found.history, axis=0) >= 0).all()  # elites only improve
        assert found.forward == 200 * 41


def test_evolution_finds_the_corner_of_the_box():
    """The best image for class k of a linear model: pixel k white, the other classes' black."""
    found = ja.fooling_images(LINEAR, SHAPE, "direct", generations=150)
    best = np.exp(3) / (np.exp(3) + 3 * np.exp(-3))
    assert (found.confidence > best - 1e-3).all() and (found.confidence <= best + 1e-6).all()


@pytest.mark.slow
def test_a_class_may_be_left_out_and_bounds_are_kept():
    model = ja.Model(LINEAR.apply, LINEAR.params, bounds=(-1.0, 3.0))
    found = ja.fooling_images(model, SHAPE, "cppn", generations=20, classes=2)
    assert found.images.shape == (2, 3, 3, 1)
    assert found.images.min() >= -1 and found.images.max() <= 3 and found.images.max() > 1


def test_equal_seeds_give_equal_images():
    one, two, other = (
        ja.fooling_images(LINEAR, SHAPE, "cppn", generations=5, key=jax.random.key(seed))
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.images, two.images)
    assert (one.images != other.images).any()


def test_polynomial_mutation_has_its_distribution():
    """Deb's density: (eta + 1) / 2 * (1 - |d|)^eta, and the rate is kept."""
    values = jnp.full(40_000, 0.0)
    moved = np.asarray(polynomial(jax.random.key(0), values, 0.3, -1.0, 1.0))
    changed = moved[moved != 0] / 2  # in units of the range
    assert len(changed) / len(moved) == pytest.approx(0.3, abs=0.01)
    inside = np.abs(changed) < 0.5  # farther ones were clipped
    assert inside.mean() > 0.999

    def cumulative(d):
        tail = 0.5 * (1 - np.abs(d)) ** 16
        return np.where(d < 0, tail, 1 - tail)

    assert kstest(changed[inside], cumulative).pvalue > 0.01


def test_a_child_without_crossover_differs_in_a_tenth_of_its_genes():
    encoding = Direct((40, 40, 1), crossover=0.0)
    mother, father = (encoding.random(jax.random.key(k)) for k in (0, 1))
    child = encoding.offspring(jax.random.key(2), mother, father, 0)
    assert float((child != mother).mean()) == pytest.approx(0.1, abs=0.03)
    later = encoding.offspring(jax.random.key(2), mother, father, 2000)
    assert float((later != mother).mean()) == pytest.approx(0.025, abs=0.015)


def test_crossover_keeps_the_mean_of_the_parents():
    """Simulated binary crossover is symmetric: before the box cuts, children lie about the mean."""
    encoding = Direct((60, 60, 1), crossover=1.0, rate=0.0)
    mother, father = jnp.full((60, 60, 1), 0.45), jnp.full((60, 60, 1), 0.55)
    child = encoding.offspring(jax.random.key(3), mother, father, 0)
    away = np.abs(np.asarray(child) - 0.5) / 0.05  # the spread factor
    assert np.median(away) == pytest.approx(1.0, abs=0.02)
    np.testing.assert_allclose(np.quantile(away, 0.25), 0.5 ** (1 / 11), atol=0.01)
    np.testing.assert_allclose(np.quantile(away, 0.75), 2 ** (1 / 11), atol=0.01)


def test_a_painting_network_by_hand():
    """One hidden node: sine of twice the column, its output in the step function."""
    encoding = CPPN((3, 5, 1), hidden=2)
    size, node, out = encoding.nodes, INPUTS, INPUTS + 2
    linked, weights = np.zeros((size, size), bool), np.zeros((size, size), np.float32)
    linked[0, node], weights[0, node] = True, 2.0
    linked[node, out], weights[node, out] = True, 1.5
    weights[1, out] = 7.0  # not linked: without effect
    alive = np.array([True] * 4 + [True, False] + [True])
    kind = np.array([3, 3, 3, 3, 0, 0, 1])
    image = encoding.image(Painter(*map(jnp.asarray, (weights, linked, alive, kind))))
    columns = np.linspace(-1, 1, 5)
    expected = 1 / (1 + np.exp(-2 * (1.5 * np.sin(2 * columns) - 0.5)))
    np.testing.assert_allclose(image[..., 0], np.tile(expected, (3, 1)), atol=1e-6)


def test_networks_stay_feed_forward_as_they_grow():
    encoding = CPPN((4, 4, 3), hidden=5)
    genome, grown, born = encoding.random(jax.random.key(0)), 0, jax.jit(encoding.offspring)
    for step in range(150):
        genome = born(jax.random.key(step), genome, genome, step)
        linked, alive = np.asarray(genome.linked), np.asarray(genome.alive)
        ends = np.argwhere(linked)
        assert (ends[:, 0] < ends[:, 1]).all() and (ends[:, 1] >= INPUTS).all()
        assert alive[ends].all() and linked.any()  # no link to what is not there
        assert np.abs(genome.weights).max() <= 10
        grown = max(grown, int(alive[INPUTS:-3].sum()))
    image = encoding.image(genome)
    assert grown == 5 and image.min() >= 0 and image.max() <= 1


def test_what_cannot_be_meant():
    for settings, match in (
        ({"method": "paint"}, "method='paint'"),
        ({"generations": 0}, "generations=0"),
        ({"classes": 5}, "classes=5"),
    ):
        with pytest.raises(ValueError, match=match):
            ja.fooling_images(LINEAR, SHAPE, **settings)


def resemblance(**limits):
    """Examples are white pixels of each class; the other classifier shifts the classes by one."""
    other = ja.Model(LINEAR.apply, jnp.roll(LINEAR.params, 1, axis=1))
    layers = {
        "encode": {"kernel": jnp.zeros((9, 2)), "bias": jnp.zeros(2)},
        "decode": {"kernel": jnp.zeros((2, 9)), "bias": jnp.zeros(9)},  # always grey
    }
    return Resemblance(other, jnp.eye(9)[:8], jnp.arange(8) % 4, 4, layers, **limits)


def test_what_is_measured_of_an_image_is_what_others_measure():
    images = np.random.default_rng(0).random((7, *SHAPE)).astype(np.float32)
    judge = resemblance(distance=1.6, error=0.28)
    seen = measured(judge, images)
    rows, examples = images.reshape(7, 9), np.asarray(judge.examples)
    for k in range(4):
        expected = cdist(rows, examples[judge.labels == k]).min(1)
        np.testing.assert_allclose(seen.distance[:, k], expected, rtol=1e-5)
    nearest = KNeighborsClassifier(1).fit(examples, judge.labels)
    np.testing.assert_array_equal(seen.neighbour, nearest.predict(rows))
    np.testing.assert_allclose(seen.error, np.sqrt(np.square(rows - 0.5).mean(1)), rtol=1e-5)
    expected = (seen.distance <= 1.6) | (seen.error <= 0.28)[:, None]
    for answers in (seen.neighbour, seen.answer):
        expected |= answers[:, None] == np.arange(4)
    np.testing.assert_array_equal(judge(jnp.asarray(images)), expected)


def test_evolution_keeps_apart_from_what_resembles_a_class():
    judge = resemblance(distance=0.9, error=0.3)
    own = np.arange(4)
    free = ja.fooling_images(LINEAR, SHAPE, "direct", generations=60)
    apart = ja.fooling_images(LINEAR, SHAPE, "direct", generations=60, resemblance=judge)
    assert np.asarray(judge(jnp.asarray(free.images)))[own, own].all()  # they are examples, nearly
    assert not np.asarray(judge(jnp.asarray(apart.images)))[own, own].any()
    assert (apart.answers == own).all() and (apart.confidence > 0.9).all()
    with pytest.raises(ValueError, match="for evolution"):
        ja.fooling_images(LINEAR, SHAPE, "gradient", resemblance=judge)


def test_evolution_ends_where_it_is_sure():
    found = ja.fooling_images(LINEAR, SHAPE, "direct", generations=300, until=0.992)
    sure = np.median(found.history, 1) >= np.float32(0.992)
    assert 1 < len(sure) < 300 and sure[-1] and not sure[:-1].any()
    assert found.forward == 200 * (len(sure) + 1)
