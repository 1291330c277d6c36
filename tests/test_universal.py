"""Universal perturbations against closed forms, numpy, and what the paper says must hold."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.models import save_weights
from jaxadv.studies.networks import trained
from jaxadv.universal import activations, judge, paste
from jaxadv.universal.geometry import (
    controls,
    dominant,
    in_subspace,
    least_changes,
    normals,
    random_columns,
    similarity,
    singular_values,
)
from tests.commands import run_command
from tests.common import network, slow

from .test_blind_spots import setting

KEY = jax.random.key(3)
MODEL = network()
IMAGES, OTHERS = (
    np.asarray(jax.random.uniform(jax.random.key(seed), (count, 6, 6, 1)))
    for seed, count in ((1, 100), (2, 150))
)
LINEAR = np.random.default_rng(0).normal(size=(36, 2)).astype(np.float32)
LINES = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.asarray(LINEAR))
ONE = jax.devices()[:1]
QUICK = ja.UniversalAscent(epochs=5)
ALONE, TOGETHER = (ja.UniversalAggregation(epochs=3, batch_size=size) for size in (1, 32))


def answers(model: ja.Model, images: np.ndarray) -> np.ndarray:
    return np.asarray(model(jnp.asarray(images))).argmax(1)


@pytest.mark.parametrize(
    ("method", "norm"),
    [
        ("ascent", "linf"),
        ("ascent", "l2"),
        slow("aggregation", "l2"),
        slow("aggregation", "linf"),
    ],
)
def test_a_linear_class_is_flipped_along_its_weights(method, norm):
    """For two linear classes, and no box in the way, epsilon sign(w) (L2: epsilon w / |w|) moves
    every image as far as anything can."""
    rng = np.random.default_rng(1)
    images = rng.uniform(0.4, 0.6, (64, 6, 6, 1)).astype(np.float32)
    weight = (LINEAR[:, 1] - LINEAR[:, 0]).astype(np.float64)
    epsilon = {"linf": 0.01, "l2": 0.03}[norm]
    gaps = (images.reshape(64, -1) - 0.5) @ weight
    best = epsilon * (np.sign(weight) if norm == "linf" else weight / np.linalg.norm(weight))
    chosen = QUICK if method == "ascent" else ja.UniversalAggregation(batch_size=16, delta=0.0)
    found = ja.universal_perturbation(
        LINES, images, epsilon, norm, chosen, key=KEY, target=1, devices=ONE
    )
    flat = found.perturbation.ravel()
    if method == "ascent" or norm == "l2":  # the algorithm adds up changes that are short in L2
        np.testing.assert_allclose(flat, best, atol=2e-3 * epsilon)
        assert 0.2 < (gaps < 0).mean() < 0.8  # there is something to flip
        flipped = (gaps < 0) & (gaps + weight @ best > 0)
        assert found.given.rate_to(1) == pytest.approx(flipped.sum() / (gaps < 0).sum(), abs=0.03)
    else:
        assert (np.sign(flat) == np.sign(weight)).mean() > 0.9


@pytest.mark.parametrize(
    ("method", "norm", "epsilon"),
    [
        pytest.param(QUICK, "linf", 0.1, id="ascent-linf"),
        pytest.param(QUICK, "l2", 0.6, id="ascent-l2"),
        slow(ALONE, "linf", 0.1, id="one by one-linf"),
        pytest.param(ALONE, "l2", 0.6, id="one by one-l2"),
        slow(TOGETHER, "linf", 0.1, id="in batches-linf"),
        slow(TOGETHER, "l2", 0.6, id="in batches-l2"),
    ],
)
def test_what_every_method_owes(method, norm, epsilon):
    found = ja.universal_perturbation(
        MODEL, IMAGES, epsilon, norm, method, key=KEY, held_out=OTHERS, devices=ONE
    )
    # Everything recomputed from the perturbation alone.
    exact = found.perturbation.astype(np.float64).ravel()
    order = {"linf": np.inf, "l2": 2}[norm]
    assert found.distance <= epsilon
    assert found.distance == pytest.approx(np.linalg.norm(exact, order), rel=1e-15)
    for some, fooling in ((IMAGES, found.given), (OTHERS, found.held_out)):
        changed = np.clip(some + found.perturbation, 0, 1)
        away = (changed.astype(np.float64) - some).reshape(len(some), -1)
        assert (np.linalg.norm(away, order, axis=1) <= epsilon).all()
        rate = (answers(MODEL, some) != answers(MODEL, changed)).mean()
        assert fooling.rate == pytest.approx(rate, abs=1e-9)
    assert found.fooling_rate == found.held_out.rate
    # More than random vectors of the same length.
    noise = [controls(IMAGES, IMAGES, epsilon, norm, seed)["random"] for seed in range(10)]
    assert found.held_out.rate > 1.5 * np.mean([judge(MODEL, OTHERS, v).rate for v in noise])
    passes = len(found.history) * len(IMAGES)
    if method is QUICK:
        assert (found.forward, found.backward) == (passes + len(IMAGES), passes)
    else:
        assert found.forward > passes and found.backward <= passes * 10 * 3


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(QUICK, id="ascent"),
        slow(TOGETHER, id="aggregation"),
    ],
)
def test_any_number_of_devices_gives_equal_bits(method):
    found = [
        ja.universal_perturbation(
            MODEL, IMAGES, 0.1, method=method, key=KEY, devices=jax.devices()[:count]
        )
        for count in (1, 2, 8)
    ]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].perturbation, other.perturbation)
        np.testing.assert_array_equal(found[0].history, other.history)
        assert (found[0].forward, found[0].backward) == (other.forward, other.backward)


def test_a_target_and_chosen_classes():
    before = answers(MODEL, OTHERS)
    aimed = ja.universal_perturbation(
        MODEL, IMAGES, 0.15, method=QUICK, key=KEY, held_out=OTHERS, target=2, devices=ONE
    )
    after = answers(MODEL, np.clip(OTHERS + aimed.perturbation, 0, 1))
    reached = (after[before != 2] == 2).mean()
    assert aimed.held_out.rate_to(2) == pytest.approx(reached, abs=1e-9) and reached > 0.8
    moves = aimed.held_out.moves(4)
    np.testing.assert_array_equal(moves.sum(1), np.bincount(before, minlength=4))
    np.testing.assert_array_equal(moves.sum(0), np.bincount(after, minlength=4))
    assert dominant(moves) == [2]

    chosen = ja.universal_perturbation(
        MODEL, IMAGES, 0.1, method=QUICK, key=KEY, held_out=OTHERS, classes=[1], devices=ONE
    )
    after = answers(MODEL, np.clip(OTHERS + chosen.perturbation, 0, 1))
    fooled = before != after
    assert chosen.held_out.rate_of([1]) == pytest.approx(fooled[before == 1].mean())
    assert chosen.held_out.rate_of([1], inside=False) == pytest.approx(fooled[before != 1].mean())
    assert fooled[before == 1].mean() > 0.7 and fooled[before != 1].mean() < 0.3


def test_an_optimiser_a_start_and_the_clipped_loss():
    import optax

    adam = ja.UniversalAscent(epochs=5, optimizer=ja.Optimizer(optax.adam, learning_rate=0.02))
    found = ja.universal_perturbation(MODEL, IMAGES, 0.1, method=adam, key=KEY, devices=ONE)
    assert found.given.rate > 0.3 and found.distance <= 0.1
    # A loss that is clipped where it stands has no slope: nothing moves from the start.
    still = ja.UniversalAscent(epochs=1, clip=1e-6)
    start = np.full((6, 6, 1), 0.05, np.float32)
    same = ja.universal_perturbation(
        MODEL, IMAGES, 0.1, method=still, key=KEY, start=start, devices=ONE
    )
    np.testing.assert_array_equal(same.perturbation, start)


@pytest.mark.slow
def test_boundary_normals_share_a_subspace():
    """Section 4 of the paper: a linear network's normals span as many dimensions as it has pairs of
    classes; their singular values decay faster than those of random vectors."""
    weights = np.random.default_rng(0).normal(size=(36, 3)).astype(np.float32)
    three = ja.Model(LINES.apply, jnp.asarray(weights))
    inner = 0.3 + 0.4 * IMAGES  # away from the box
    columns = normals(least_changes(three, inner, devices=ONE))
    np.testing.assert_allclose(np.linalg.norm(columns, axis=0), 1, atol=1e-12)
    values = singular_values(columns)
    assert values[1] > 0.1 and values[2] < 1e-2  # three classes: differences span two dimensions
    vector = in_subspace(columns, 2)
    span = np.linalg.qr(weights[:, :2] - weights[:, 2:])[0]
    assert np.linalg.norm(span.T @ vector) == pytest.approx(1, abs=1e-4)

    changes = least_changes(MODEL, OTHERS, devices=ONE)
    curved = singular_values(normals(changes))
    random = singular_values(random_columns(36, normals(changes).shape[1]))
    assert np.square(curved[:5]).sum() > 1.5 * np.square(random[:5]).sum()
    rates = {}
    for name, draw in (
        ("subspace", lambda seed: in_subspace(normals(changes), 3, seed)),
        ("space", lambda seed: random_columns(36, 1, seed)[:, 0]),
    ):
        vectors = [1.2 * draw(seed).reshape(6, 6, 1) for seed in range(10)]
        rates[name] = np.mean([judge(MODEL, OTHERS, vector).rate for vector in vectors])
    assert rates["subspace"] > 1.3 * rates["space"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    given = setting(tmp_path_factory.mktemp("digits"))
    return given, trained(given, "FC100-100-10")


@pytest.mark.slow
def test_a_trained_network_is_fooled_by_far_more_than_by_chance(digits):
    """The paper's first claim, on digits: also for images that it never saw."""
    given, network = digits
    model, train, test = network.model, given.train.images[:200], given.test.images
    epsilon = 0.2
    found = ja.universal_perturbation(model, train, epsilon, key=KEY, held_out=test, devices=ONE)
    noise = [controls(train, train, epsilon, "linf", seed)["random"] for seed in range(10)]
    chance = np.mean([judge(model, test, v).rate for v in noise])
    mean = judge(model, test, controls(train, train, epsilon, "linf")["mean of the images"]).rate
    assert found.held_out.rate > 0.5 and found.held_out.rate > 3 * max(chance, mean)
    columns = normals(least_changes(model, train, devices=ONE))
    random = singular_values(random_columns(*columns.shape))
    assert np.square(singular_values(columns)[:10]).sum() > 1.5 * np.square(random[:10]).sum()


def test_without_data_every_layer_is_excited(digits):
    given, network = digits
    images, params = given.test.images[:5], network.variables["params"]
    layers, x = [], images.reshape(5, -1).astype(np.float64)
    for number in (1, 2):
        layer = params[f"fc{number}"]
        x = 1 / (1 + np.exp(-(x @ np.float64(layer["kernel"]) + np.float64(layer["bias"]))))
        layers.append(x)
    met = activations(network.model, jnp.asarray(images))
    assert len(met) == 2
    for layer, exact in zip(met, layers, strict=True):
        np.testing.assert_allclose(layer, exact, atol=1e-5)
    # One layer without negative weights: every pixel goes up, as far as it may.
    rectified = ja.Model(lambda w, x: jnp.maximum(x.reshape(len(x), -1) @ w, 0), abs(LINEAR))
    for objective in ("l2", "mean"):
        v = ja.data_free_perturbation(rectified, (6, 6, 1), 0.1, objective=objective, key=KEY)
        np.testing.assert_allclose(v, 0.1, rtol=1e-4)
        assert np.abs(v.astype(np.float64)).max() <= 0.1


@pytest.mark.slow
def test_a_patch_works_wherever_it_is_pasted():
    keys = jax.random.split(KEY, 100)
    patch = np.full((2, 3, 1), 2, np.float32)
    pasted = np.asarray(paste(jnp.asarray(IMAGES), jnp.asarray(patch), keys))
    covered = (pasted == 2)[..., 0]
    assert (covered.sum((1, 2)) == 6).all() and (pasted[~covered] == IMAGES[~covered]).all()
    assert (covered.any(2).sum(1) == 2).all() and (covered.any(1).sum(1) == 3).all()
    assert covered.any(0).all()  # every place is met

    found = ja.universal_patch(MODEL, IMAGES, 3, key=KEY, target=0, held_out=OTHERS, devices=ONE)
    assert found.patch.shape == (3, 3, 1) and 0 <= found.patch.min() <= found.patch.max() <= 1
    assert found.held_out.distance.max() <= 9 and found.held_out.valid.all()
    rng = np.random.default_rng(0)
    places = rng.integers(0, 4, (len(OTHERS), 2))  # others than the judge's
    rates = []
    for square in (found.patch, *rng.random((10, 3, 3, 1))):
        changed = OTHERS.copy()
        for image, (row, column) in zip(changed, places, strict=True):
            image[row : row + 3, column : column + 3] = square
        rates.append((answers(MODEL, changed) == 0)[answers(MODEL, OTHERS) != 0].mean())
    assert rates[0] == pytest.approx(found.held_out.rate_to(0), abs=0.1)
    assert rates[0] > 1.5 * np.mean(rates[1:])
    with pytest.raises(ValueError, match="size"):
        ja.universal_patch(MODEL, IMAGES, 7, key=KEY)
    for wrong, words in (
        ({"target": 7}, "classes 0 to 3"),
        ({"held_out": IMAGES[:, 1:]}, "held_out"),
    ):
        with pytest.raises(ValueError, match=words):
            ja.universal_patch(MODEL, IMAGES, 2, key=KEY, **wrong)


@pytest.mark.slow
def test_training_against_one_perturbation(digits):
    """A network trained with it is fooled less by one made anew for it, and still knows digits."""
    given, _ = digits
    train, test = given.train, given.test
    module = ja.models.get_definition("FC")(widths=(64,), classes=10)
    rates = {1e-6: [], 0.2: []}
    for epsilon, seed in itertools.product(rates, range(3)):
        key = jax.random.key(seed)
        variables, last = ja.universal_training(
            module, train, epsilon, key=key, epochs=20, learning_rate=5e-3
        )
        model = ja.from_linen(module, variables)
        assert np.abs(last.astype(np.float64)).max() <= epsilon
        assert (answers(model, test.images) == test.labels).mean() > 0.85
        made = ja.universal_perturbation(
            model, train.images[:200], 0.2, key=key, devices=ONE, held_out=test.images
        )
        rates[epsilon].append(made.held_out.rate)
    assert np.mean(rates[0.2]) < 0.7 * np.mean(rates[1e-6])


@pytest.mark.slow
def test_the_command(digits, tmp_path, monkeypatch):
    for name, value in (("JAX_NUM_CPU_DEVICES", "8"), ("JAX_COMPILATION_CACHE_DIR", "unused")):
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    _, network = digits
    save_weights(
        "fc.safetensors",
        "FC",
        {"widths": [100, 100], "activation": "sigmoid"},
        network.variables,
        image_shape=(8, 8, 1),
    )
    line = "universal --data digits --model fc.safetensors --epsilon 1/5 --target 3 --rounds 5"
    line += " --json a.json --save v.npz"
    result = run_command(line)
    assert result.exit_code == 0, result.output
    data = json.loads((tmp_path / "a.json").read_text())
    with np.load(tmp_path / "v.npz") as file:
        v = file["perturbation"]
    test = ja.load_data("digits", "test").images
    before, after = (answers(network.model, x) for x in (test, np.clip(test + v, 0, 1)))
    rates = data["fooling_rate"]["held_out"], data["rate_to_target"]["held_out"]
    assert rates[0] == pytest.approx((before != after).mean(), abs=1e-9)
    assert rates[1] == pytest.approx((after == 3)[before != 3].mean(), abs=1e-9)
    assert f"{100 * rates[0]:.1f}" in result.stdout
    page = (tmp_path / "jaxadv-results" / "universal.html").read_text()
    assert "data:image/png" in page and f"{100 * rates[1]:.1f}" in page
    for wrong, words in (("--norm", "l1"), ("--method", "zork"), ("--target", "77")):
        result = run_command(line, wrong, words)
        assert result.exit_code == 2 and words in result.stderr, result.output


def test_controls_and_similarity():
    changes = OTHERS[:100] - 0.5
    for norm, order in (("l2", 2), ("linf", np.inf)):
        found = controls(IMAGES, changes, 0.7, norm)
        assert set(found) == {"random", "one image's", "sum", "mean of the images"}
        for vector in found.values():
            assert np.linalg.norm(vector.ravel(), order) == pytest.approx(0.7, rel=1e-12)
    a, b = np.eye(36)[:2].reshape(2, 6, 6, 1)
    np.testing.assert_allclose(similarity([a, b, a + b])[2], [0.5**0.5, 0.5**0.5, 1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"epsilon": 8}, "largest linf distance"),
        ({"norm": "l1"}, "linf, l2"),
        ({"method": "zork"}, "aggregation"),
        ({"target": 7}, "classes 0 to 3"),
        ({"classes": [1], "method": "aggregation"}, "ascent"),
        ({"held_out": np.zeros((2, 5, 5, 1), np.float32)}, "held_out"),
        ({"images": np.zeros((2, 6, 6, 1), np.uint8)}, "images"),
    ],
)
def test_mistakes_are_named(arguments, words):
    how = {"images": IMAGES, "epsilon": 0.1, "key": KEY, **arguments}
    with pytest.raises(ValueError, match=words):
        ja.universal_perturbation(MODEL, **how)
    asked = ja.from_function(lambda x: x.reshape(len(x), -1)[:, :4], differentiable=False)
    with pytest.raises(ValueError, match="differentiated"):
        ja.universal_perturbation(asked, IMAGES, 0.1, key=KEY)
    with pytest.raises(ValueError, match="step_size"):
        ja.UniversalAscent(step_size=0.0)
    with pytest.raises(ValueError, match="epochs"):
        ja.UniversalAscent(epochs=0)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_radius_rounded_to_float32_counts_as_the_radius_stated(norm):
    """float32(10/255) lies above 10/255, and a sum with a pixel in float32 beside it."""
    model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
    images = np.random.default_rng(0).uniform(0.1, 0.9, (200, 2, 2, 1)).astype(np.float32)
    size = {"linf": 1, "l2": 2, "l1": 4}[norm]  # of four equal entries
    change = np.full((2, 2, 1), np.float32(10 / 255) / size, np.float32)
    assert np.float64(np.float32(10 / 255)) > 10 / 255
    assert judge(model, images, change, norm, 10 / 255).valid.all()
    assert not judge(model, images, 1.00001 * change, norm, 10 / 255).valid.any()
