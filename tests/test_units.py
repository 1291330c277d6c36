"""Units and directions against closed forms, SciPy, and data whose answer is known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats

from jaxadv.data import load_data
from jaxadv.models import get_definition
from jaxadv.studies import EXPERIMENTS, Gallery, Setting, Table, Text, conduct, networks, units
from jaxadv.studies.directions import (
    activations,
    compare,
    counter_rotated,
    entropy,
    principal_components,
    purity,
    similarity,
    synthesize,
    top_images,
)
from tests.common import slow


def network(*widths: int, side: int = 6, seed: int = 0):
    module = get_definition("FC")(widths=widths, classes=10, activation="sigmoid")
    variables = module.init(jax.random.key(seed), jnp.zeros((1, side, side, 1)))
    return module, variables


def test_activations_are_those_of_the_layers_written_out():
    module, variables = network(7, 5)
    images = np.random.default_rng(0).uniform(size=(4, 6, 6, 1)).astype(np.float32)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    before = images.reshape(4, -1) @ p["fc1"]["kernel"] + p["fc1"]["bias"]
    once = 1 / (1 + np.exp(-before))
    twice = 1 / (1 + np.exp(-(once @ p["fc2"]["kernel"] + p["fc2"]["bias"])))
    traced = jax.jit(activations, static_argnums=(0, 3, 4))
    for layer, side, expected in (
        ("fc1", "output", before),
        ("fc2", "input", once),
        ("fc3", "input", twice),
    ):
        found = traced(module, variables, images, layer, side)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_activations_of_convolutions_are_those_of_flax_itself():
    module = get_definition("CNNA")()
    images = jax.random.uniform(jax.random.key(0), (3, 28, 28, 1))
    variables = module.init(jax.random.key(1), images)
    _, kept = module.apply(variables, images, capture_intermediates=True)
    for layer in ("conv2", "fc1"):
        expected = kept["intermediates"][layer]["__call__"][0].reshape(3, -1)
        np.testing.assert_array_equal(
            activations(module, variables, images, layer, "output"), expected
        )


class Nested(nn.Module):
    @nn.compact
    def __call__(self, x):
        shared = nn.Dense(6, name="shared")
        return get_definition("FC")(widths=(4,), name="inner")(shared(shared(x))[:, None, :, None])


def test_layers_within_layers_go_by_their_path_and_mistakes_say_what_there_is():
    module, images = Nested(), jnp.ones((2, 6))
    variables = module.init(jax.random.key(0), images)
    assert activations(module, variables, images, "inner/fc2").shape == (2, 4)
    with pytest.raises(ValueError, match=r"'fc9' is called 0 times: pass one of inner, inner/fc1"):
        activations(module, variables, images, "fc9")
    with pytest.raises(ValueError, match="'shared' is called 2 times"):
        activations(module, variables, images, "shared")
    with pytest.raises(ValueError, match="side='top': pass 'input' or 'output'"):
        activations(module, variables, images, "inner", "top")


@pytest.mark.parametrize("layer", [slow("fc2"), "fc3"])
def test_a_counter_rotated_network_is_the_same_function_of_other_units(layer):
    module, variables = network(20, 20)
    images = jax.random.uniform(jax.random.key(1), (50, 6, 6, 1))
    logits = module.apply(variables, images)
    phi = activations(module, variables, images, layer)
    for seed in range(3):
        rotation = scipy.stats.ortho_group.rvs(20, random_state=seed).astype(np.float32)
        model = counter_rotated(module, variables, layer, jnp.asarray(rotation))
        np.testing.assert_allclose(model(images), logits, atol=2e-6)
        kernel = model.params[1]["params"][layer]["kernel"]
        assert np.abs(kernel - variables["params"][layer]["kernel"]).max() > 0.1
        # The rotated units times the new weights are the old units times the old ones.
        np.testing.assert_allclose(
            phi @ rotation @ kernel, phi @ variables["params"][layer]["kernel"], atol=2e-6
        )
    # No rotation at all: the undoing alone is another function.
    params = (jnp.eye(20), model.params[1])
    assert np.abs(model.apply(params, images) - logits).max() > 0.1


def test_a_rotation_that_does_not_fit_is_refused():
    module, variables = network(20, 12)
    with pytest.raises(ValueError, match=r"shape \(20, 12\): a rotation of 12 units"):
        counter_rotated(module, variables, "fc2", jnp.eye(12))
    with pytest.raises(ValueError, match="'fc7' has a kernel of shape None"):
        counter_rotated(module, variables, "fc7", jnp.eye(12))


def test_top_images_are_the_first_of_a_sorted_list():
    values = np.random.default_rng(0).permuted(np.tile(np.arange(40.0), (6, 1)), axis=1).T
    expected = np.argsort(-values, axis=0)[:9].T
    np.testing.assert_array_equal(top_images(jnp.asarray(values), 9), expected)


def test_purity_and_entropy_are_those_of_scipy():
    labels = np.random.default_rng(0).integers(0, 4, (30, 8))
    for row, share, bits in zip(labels, purity(labels), entropy(labels), strict=True):
        counts = np.bincount(row)
        assert share == scipy.stats.mode(row).count / 8
        assert bits == pytest.approx(scipy.stats.entropy(counts, base=2), abs=1e-12)


def test_similarity_is_the_mean_of_all_pairs_in_scipy():
    rng = np.random.default_rng(0)
    vectors, top = rng.normal(size=(50, 7)) + 3, rng.integers(0, 50, (5, 8))
    centred = vectors - vectors.mean(0)
    expected = [1 - scipy.spatial.distance.pdist(centred[row], "cosine").mean() for row in top]
    np.testing.assert_allclose(similarity(vectors, top), expected, atol=1e-12)


@pytest.mark.parametrize("levels", [3, 8, 10**6])
@pytest.mark.parametrize(("n", "m", "shift"), [(20, 35, 0.0), (60, 40, 0.4), (200, 200, 3.0)])
def test_the_comparison_is_scipys_mann_whitney_ties_and_all(levels, n, m, shift):
    rng = np.random.default_rng(n)
    x = np.round(rng.normal(shift, 1, n) * levels) / levels
    y = np.round(rng.normal(0, 1, m) * levels) / levels
    expected = scipy.stats.mannwhitneyu(x, y, method="asymptotic")
    found = compare(x, y)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.effect == pytest.approx(2 * expected.statistic / (n * m) - 1, abs=1e-12)
    assert compare(y, x).effect == -found.effect


def test_its_p_is_that_of_permutations():
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 6, 40), rng.integers(1, 7, 40)

    def effect(x, y):
        return np.sign(x[:, None] - y).mean()

    by_chance = scipy.stats.permutation_test((x, y), effect, n_resamples=4000, rng=1)
    found = compare(x, y)
    assert 1e-3 < by_chance.pvalue < 0.2  # a case that chance can decide
    assert abs(found.p - by_chance.pvalue) < 4 * np.sqrt(by_chance.pvalue / 4000) + 2e-3


def test_its_interval_holds_the_true_effect_in_95_of_100_samples():
    truth = 2 * scipy.stats.norm.cdf(0.5 / np.sqrt(2)) - 1  # of two normal laws half apart
    rng = np.random.default_rng(0)
    trials = [compare(rng.normal(0.5, 1, 60), rng.normal(0, 1, 80)) for _ in range(2000)]
    held = np.mean([t.low <= truth <= t.high for t in trials])
    assert 0.93 < held < 0.965


def test_equal_samples_do_not_differ():
    assert compare([1.0] * 5, [1.0] * 9) == (0.0, 0.0, 0.0, 1.0)


def test_synthesis_finds_the_corner_that_a_first_layer_unit_likes_best():
    """A unit rises with w.x + b, at most b + the sum of the positive weights, in the box."""
    module, variables = network(30, 12)
    kernel, bias = variables["params"]["fc1"]["kernel"], variables["params"]["fc1"]["bias"]
    highest = jax.nn.sigmoid(jnp.maximum(kernel, 0).sum(0) + bias)

    def best(unit):
        return synthesize(
            lambda image: activations(module, variables, image[None], "fc2")[0] @ unit,
            jnp.full((6, 6, 1), 0.5),
        )

    images, reached = jax.jit(jax.vmap(best))(jnp.eye(30))
    np.testing.assert_allclose(reached, highest, atol=1e-6)
    np.testing.assert_array_equal(images.reshape(30, -1), (kernel.T > 0).astype(np.float32))


def test_synthesis_comes_up_to_scipys_l_bfgs_b_in_a_deeper_layer():
    module, variables = network(30, 12)
    variables = jax.tree.map(lambda leaf: 2 * leaf, variables)
    directions = jax.random.normal(jax.random.key(2), (6, 12))

    def value(image, direction):
        return activations(module, variables, image.reshape(1, 6, 6, 1), "fc3")[0] @ direction

    start = jnp.full((6, 6, 1), 0.5)
    ours = jax.vmap(lambda v: synthesize(lambda x: value(x, v), start)[1])(directions)
    slope = jax.jit(jax.value_and_grad(lambda x, v: -value(x, v)))
    theirs = [
        -scipy.optimize.minimize(
            lambda x: tuple(np.float64(a) for a in slope(jnp.float32(x), v)),
            start.ravel(),
            jac=True,
            bounds=[(0, 1)] * 36,
            method="L-BFGS-B",
        ).fun
        for v in directions
    ]
    assert (ours > np.array(theirs) - 2e-3).all()


def test_synthesis_moves_a_unit_that_has_hardly_a_gradient_and_keeps_the_best():
    far = synthesize(lambda x: jax.nn.sigmoid(4 * x.sum() - 40.0), jnp.zeros((2, 2, 1)))[0]
    np.testing.assert_array_equal(far, np.ones((2, 2, 1)))
    # Steps longer than the hill is wide: never worse than the start.
    image, best = synthesize(lambda x: -jnp.abs(x - 0.5).sum(), jnp.full((1, 1, 1), 0.5))
    assert float(best) == 0 and float(image[0, 0, 0]) == 0.5


def test_principal_components_are_those_of_the_singular_value_decomposition():
    images = np.random.default_rng(0).normal(size=(40, 3, 3, 1)).astype(np.float32)
    mean, components = principal_components(jnp.asarray(images), 4)
    flat = images.reshape(40, -1) - np.asarray(mean).ravel()
    _, singular, vectors = np.linalg.svd(flat, full_matrices=False)
    expected = vectors[:4] * singular[:4, None] / np.sqrt(40)
    found = np.asarray(components).reshape(4, -1)
    signs = np.sign((found * expected).sum(1))[:, None]
    np.testing.assert_allclose(found * signs, expected, atol=1e-5)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The quick study of a small set, whose networks saw 800 digits."""
    train = load_data("mnist5k", "train", 800)
    test = load_data("mnist5k", "test", 400)
    folder = tmp_path_factory.mktemp("units")
    setting = Setting(train, test, folder, seeds=1, quick=True)
    return setting, conduct("szegedy.units", setting)


@pytest.mark.slow
def test_the_study_shows_every_kind_and_tells_what_it_found(study):
    _, findings = study
    assert EXPERIMENTS["szegedy.units"] == "units:units" and findings.name == "szegedy.units"
    text = " ".join(part.text for part in findings.parts if isinstance(part, Text))
    assert "random directions and random images: those of random directions have more" in text
    galleries = [part for part in findings.parts if isinstance(part, Gallery)]
    assert [g.images.shape for g in galleries] == [(8, 8, 28, 28, 1)] * 3 + [(9, 8, 28, 28, 1)]
    for gallery in galleries:
        assert len(gallery.rows) == len(gallery.images)
        assert gallery.images.min() >= 0 and gallery.images.max() <= 1


@pytest.mark.slow
def test_top_images_have_more_in_common_than_chance_and_chance_is_the_closed_form(study):
    """Random images: cosine -1/(N-1), and the purity and entropy of draws of their labels."""
    setting, findings = study
    table = next(part for part in findings.parts if isinstance(part, Table))
    rows = dict(zip(table.rows, table.values, strict=True))
    place = "FC100-100-10 layer 2"
    rng = np.random.default_rng(0)
    drawn = np.stack([rng.choice(setting.test.labels, 8, replace=False) for _ in range(4000)])
    chance = rows[f"{place}: random images"]
    assert chance[0] == pytest.approx(purity(drawn).mean(), abs=0.03)
    assert chance[1] == pytest.approx(entropy(drawn).mean(), abs=0.1)
    np.testing.assert_allclose(chance[2:], 0, atol=0.03)
    for kind in ("units", "random directions", "rotated basis"):
        better = rows[f"{place}: {kind}"] - chance
        assert better[0] > 0.2 and better[1] < -0.5 and (better[2:] > 0.1).all()


@pytest.mark.slow
def test_the_rotated_network_of_the_study_decides_as_before(study):
    _, findings = study
    table = next(p for p in findings.parts if isinstance(p, Table) and "turned back" in p.title)
    change, largest, changed, before, after, _ = table.values.T
    assert (change < 1e-5 * largest).all() and (changed == 0).all()
    np.testing.assert_array_equal(before, after)


def test_an_unknown_network_is_refused(tmp_path):
    digits = load_data("digits", "test")
    with pytest.raises(ValueError, match="is not known: pass one of"):
        networks.trained(Setting(digits, digits, tmp_path), "FC1")
    assert set(units.NETWORKS) | {units.JUDGE} <= set(networks.RECIPES)
