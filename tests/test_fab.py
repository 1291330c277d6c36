"""FAB against linear models of several classes, proved minimal distances, and its own count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.data import load_data
from jaxadv.models import from_torch_arrays
from jaxadv.models.definitions import get_definition
from tests.test_attacks import GOAL, IMAGES, KEY, LABELS, MODEL
from tests.test_closed_forms import SHAPE, SIZE, boxed_distance, logits

ONE = jax.devices()[:1]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_several_linear_classes(norm):
    """The distance is the least of those to the single classes; FAB-T tries each of them."""
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(SIZE, 4)).astype(np.float32)
    images = rng.choice([0.0, 0.3, 0.6, 1.0], (10, SIZE)).astype(np.float32)
    labels = (images @ weights).argmax(1)
    differences = [(weights[:, [y]] - np.delete(weights, y, 1)).T.astype(float) for y in labels]
    expected = np.array([
        min(boxed_distance(norm, w, w @ x.astype(float), x) for w in many)
        for many, x in zip(differences, images, strict=True)
    ])  # fmt: skip
    model = ja.Model(logits, (jnp.asarray(weights), jnp.zeros(4)))
    attack = ja.FAB(norm=norm, steps=20, targets=9)
    result = ja.run(attack, model, images.reshape(10, *SHAPE), ja.Untargeted(labels), key=KEY)
    assert result.success.all()
    ratio = result.distance / expected
    assert ratio.min() > 1 - 1e-5 and ratio.max() < 1 + 1e-4
    nearest = ja.run(
        ja.FAB(norm=norm, steps=20), model, images.reshape(10, *SHAPE), ja.Untargeted(labels),
        key=KEY,
    )  # fmt: skip
    ratio = nearest.distance / expected
    assert ratio.min() > 1 - 1e-5 and np.median(ratio) < 1 + 1e-4


@pytest.mark.parametrize(
    ("name", "norm"), [("mlp40_standard", "linf"), ("mlp40_standard", "l1"), ("mlp40_linf0.1", "linf")]
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
    result = ja.run(ja.FAB(norm=norm, steps=30), model, data.images[index], goal, key=KEY,
                    devices=ONE, lanes=64)  # fmt: skip
    assert result.success.all()
    ratio = result.distance / distance
    print(name, norm, f"min {ratio.min():.6f}, median {np.median(ratio):.4f}, max {ratio.max():.3f}")
    assert ratio.min() > 1 - 1e-4
    assert np.median(ratio) < 1.05


def test_what_is_counted():
    steps, search = 7, 2
    attack = ja.FAB(steps=steps, search=search)
    result = ja.run(attack, MODEL, IMAGES, GOAL, key=KEY, lanes=8, devices=ONE)
    there = result.status != ja.Status.MISCLASSIFIED
    assert (result.forward[there] == 1 + 2 * steps + search).all()
    assert (result.backward[there] == 3 * steps).all()  # four classes
    targets = ja.Targeted(LABELS, (LABELS + 1) % 4)
    towards = ja.run(attack, MODEL, IMAGES, targets, key=KEY, lanes=8, devices=ONE)
    assert set(towards.backward) == {0, steps}
    assert towards.success.mean() > 0.9
    # Three wrong classes, each with all its restarts.
    each = ja.FAB(steps=steps, search=search, targets=9, restarts=2)
    result = ja.run(each, MODEL, IMAGES, GOAL, key=KEY, lanes=8, devices=ONE)
    assert (result.backward[there] == 3 * 2 * steps).all()
    assert (result.forward[there] <= 1 + 3 * 2 * (2 * steps + search)).all()


def test_an_epsilon_ends_a_run_at_the_first_success_within():
    free = ja.run(ja.FAB(), MODEL, IMAGES, GOAL, key=KEY, lanes=8, devices=ONE)
    epsilon = float(np.median(free.distance))
    result = ja.run(ja.FAB(), MODEL, IMAGES, GOAL, epsilon, key=KEY, keep="first", lanes=8,
                    devices=ONE)  # fmt: skip
    np.testing.assert_array_equal(result.success, free.distance < epsilon)
    assert (result.distance[result.success] <= epsilon).all()
    assert (result.forward[result.success] < free.forward.max()).all()


def test_restarts_begin_within_half_of_epsilon():
    attack = ja.FAB(restarts=3, targets=2).for_classes(4)
    assert attack.entries == 6
    problem = ja.Problem(
        image=jnp.asarray(IMAGES[0]), goal=ja.Untargeted(jnp.int32(LABELS[0])),
        epsilon=jnp.float32(0.1), lower=jnp.float32(0), upper=jnp.float32(1),
        clean_logits=MODEL(IMAGES[:1])[0], rank=jnp.int32(0),
    )  # fmt: skip
    ranking = [c for c in np.argsort(-np.asarray(problem.clean_logits)) if c != LABELS[0]]
    for rank in range(6):
        for epsilon, most in ((0.1, 0.05), (np.inf, 0.15)):
            case = dict(vars(problem), rank=jnp.int32(rank), epsilon=jnp.float32(epsilon))
            state = attack.init(ja.Problem(**case), jax.random.key(rank))
            moved = float(jnp.abs(state.image - problem.image).max())
            assert (moved == 0) if rank % 3 == 0 else (0.8 * most < moved <= most * (1 + 1e-6))
            assert state.image.min() >= 0 and state.image.max() <= 1
            assert state.target == ranking[rank // 3]


@pytest.mark.parametrize(
    "arguments",
    [{"norm": "l0"}, {"norm": "l3"}, {"steps": 0}, {"restarts": 0}, {"targets": -1},
     {"search": -1}, {"alpha_max": 1.5}, {"eta": 0.9}, {"beta": -0.1}, {"beta": float("nan")}],
)  # fmt: skip
def test_settings_that_cannot_be_meant(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ja.FAB(**arguments)


def test_targets_of_its_own_and_of_the_goal():
    with pytest.raises(ValueError, match="targets=3"):
        ja.run(ja.FAB(targets=3), MODEL, IMAGES, ja.Targeted(LABELS, (LABELS + 1) % 4), key=KEY)
