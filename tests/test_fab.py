"""FAB against linear models of several classes, proved minimal distances, and its own count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.core.norms import distance64
from jaxadv.data import load_data
from jaxadv.models import from_torch_arrays
from jaxadv.models.definitions import get_definition
from tests.common import GOAL, IMAGES, KEY, LABELS, MODEL, drive, slow
from tests.linear import SHAPE, SIZE, boxed_distance, logits


@pytest.mark.parametrize(("norm", "targets"), [slow("linf", 0), ("linf", 9), ("l2", 9), ("l1", 9)])
def test_several_linear_classes(norm, targets):
    """The distance is the least of those to the single classes; FAB-T tries each of them."""
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(SIZE, 4)).astype(np.float32)
    images = rng.choice([0.0, 0.3, 0.6, 1.0], (10, SIZE)).astype(np.float32)
    labels = (images @ weights).argmax(1)
    expected = np.array(
        [
            min(
                boxed_distance(norm, w, w @ x.astype(float), x)
                for w in (weights[:, [y]] - np.delete(weights, y, 1)).T.astype(float)
            )
            for x, y in zip(images, labels, strict=True)
        ]
    )
    model = ja.Model(logits, (jnp.asarray(weights), jnp.zeros(4)))
    images = images.reshape(10, *SHAPE)
    attack = ja.FAB(norm=norm, steps=20, targets=targets)
    found, success, _ = drive(attack, model, images, ja.Untargeted(labels))
    ratio = distance64(norm, np.asarray(found), images) / expected
    assert success.all()
    assert ratio.min() > 1 - 1e-5
    # Which hyperplane is nearest is judged without the box: mostly, but not always right.
    assert (ratio.max() if targets else np.median(ratio)) < 1.0005


@pytest.mark.parametrize(
    ("name", "norm"),
    [slow("mlp40_standard", "linf"), slow("mlp40_standard", "l1"), ("mlp40_linf0.1", "linf")],
)
def test_never_below_a_proved_distance(shared, name, norm):
    folder = shared / "data/exact" / name
    model = from_torch_arrays(
        get_definition("FC")(widths=(40,)), folder / "weights.npz", image_shape=(28, 28, 1)
    )
    with np.load(folder / f"{norm}.npz") as exact:
        index, distance = exact["index"], exact["distance"]
    data = load_data("mnist", data_dir=shared / "data/mnist")
    goal = ja.Untargeted(data.labels[index])
    result = ja.run(
        ja.FAB(norm=norm, steps=30),
        model,
        data.images[index],
        goal,
        key=KEY,
        devices=jax.devices()[:1],
        lanes=64,
    )
    assert result.success.all()
    ratio = result.distance / distance
    print(
        name, norm, f"min {ratio.min():.6f}, median {np.median(ratio):.4f}, max {ratio.max():.3f}"
    )
    assert ratio.min() > 1 - 1e-4
    assert np.median(ratio) < 1.01


@pytest.mark.slow
def test_what_is_counted():
    steps, search = 7, 2
    attack = ja.FAB(steps=steps, search=search)
    active = np.arange(21) != 3
    counts = drive(attack, MODEL, IMAGES, GOAL)[2]
    np.testing.assert_array_equal(counts.forward, (2 * steps + search) * active)
    np.testing.assert_array_equal(counts.backward, 3 * steps * active)  # four classes
    towards = ja.Targeted(LABELS, (LABELS + 2) % 4)
    _, success, counts = drive(attack, MODEL, IMAGES, towards)
    assert success.mean() > 0.9
    assert (counts.backward == steps).all()
    # Three wrong classes, each with all its restarts.
    each = ja.FAB(steps=steps, search=search, targets=9, restarts=2)
    counts = drive(each, MODEL, IMAGES, GOAL)[2]
    np.testing.assert_array_equal(counts.backward, 3 * 2 * steps * active)
    assert (counts.forward <= 3 * 2 * (2 * steps + search)).all()


def test_an_epsilon_ends_a_run_at_the_first_success_within():
    attack = ja.FAB(steps=30)
    images, success, free = drive(attack, MODEL, IMAGES, GOAL)
    distance = distance64("linf", np.asarray(images), IMAGES)
    epsilon = float(np.median(distance[success])) * 1.001
    images, found, counts = drive(attack, MODEL, IMAGES, GOAL, epsilon, keep="first")
    np.testing.assert_array_equal(found, success & (distance < epsilon))
    assert (distance64("linf", np.asarray(images), IMAGES)[found] <= epsilon).all()
    assert (counts.forward[found] < free.forward[found]).mean() > 0.5


def test_restarts_begin_within_half_of_epsilon():
    attack = ja.FAB(restarts=3, targets=2).specialize(GOAL, 4)
    assert attack.entries == 6
    image, answer = jnp.asarray(IMAGES[0]), MODEL(IMAGES[:1])[0]

    @jax.jit
    def begin(rank, epsilon):
        zero, one = jnp.float32(0), jnp.float32(1)
        goal = ja.Untargeted(jnp.int32(LABELS[0]))
        problem = ja.Problem(image, goal, epsilon, zero, one, answer, rank)
        return attack.init(problem, jax.random.key(rank))

    ranking = [c for c in np.argsort(-np.asarray(answer)) if c != LABELS[0]]
    for rank in range(6):
        for epsilon, radius in ((0.1, 0.05), (np.inf, 0.15)):
            state = begin(jnp.int32(rank), jnp.float32(epsilon))
            moved = np.abs(np.asarray(state.image) - IMAGES[0]).max()
            assert moved <= radius + 1e-6
            assert moved > 0.7 * radius if rank % 3 else moved == 0
            assert state.image.min() >= 0 and state.image.max() <= 1
            assert state.target == ranking[rank // 3]


@pytest.mark.parametrize(
    "arguments",
    [
        {"norm": "l0"},
        {"norm": "l3"},
        {"steps": 0},
        {"restarts": 0},
        {"targets": -1},
        {"search": -1},
        {"alpha_max": 1.5},
        {"eta": 0.9},
        {"beta": -0.1},
        {"beta": float("nan")},
    ],
)
def test_settings_that_cannot_be_meant(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ja.FAB(**arguments)


def test_targets_of_its_own_and_of_the_goal():
    with pytest.raises(ValueError, match="targets=3"):
        ja.run(ja.FAB(targets=3), MODEL, IMAGES, ja.Targeted(LABELS, (LABELS + 1) % 4), key=KEY)
