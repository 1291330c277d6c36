"""Brendel-Bethge: its step against SciPy, distances known exactly, its count, and its radius."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import jaxadv as ja
from jaxadv.attacks.common.boundary_step import boundary_step
from jaxadv.core.norms import distance64
from jaxadv.data import load_data
from jaxadv.models import from_torch_arrays
from jaxadv.models.definitions import get_definition
from tests.common import GOAL, IMAGES, KEY, LABELS, MODEL, QUICK, drive, slow
from tests.linear import COUNT, SHAPE, exact, logits, problem

SIZE = 10
ORDER = {"linf": np.inf, "l2": 2, "l1": 1, "l0": 0}


@functools.partial(jax.jit, static_argnames="norm", compiler_options=QUICK)
def steps(norm, images, originals, normals, changes, radii):
    step = functools.partial(boundary_step, norm)
    return jax.vmap(lambda *a: step(*a, -1.0, 2.0))(images, originals, normals, changes, radii)


def solved(norm, x, x0, b, c, r, guess):
    """The least distance, by SLSQP in float64 from a guess."""
    cost = {
        "l2": lambda v: ((v[:SIZE] - x0) ** 2).sum(),
        "linf": lambda v: v[SIZE],
        "l1": lambda v: v[SIZE:].sum(),
    }[norm]
    away = np.abs(guess - x0)
    more = {"l2": [], "linf": [away.max()], "l1": away}[norm]
    within = [
        {"type": "eq", "fun": lambda v: b @ (v[:SIZE] - x) - c},
        {"type": "ineq", "fun": lambda v: r**2 - ((v[:SIZE] - x) ** 2).sum()},
    ]
    if norm != "l2":
        within += [
            {"type": "ineq", "fun": lambda v, sign=sign: v[SIZE:] - sign * (v[:SIZE] - x0)}
            for sign in (1, -1)
        ]
    found = minimize(
        cost,
        np.r_[guess, more],
        constraints=within,
        method="SLSQP",
        bounds=[(-1, 2)] * SIZE + [(0, None)] * len(more),
        options={"ftol": 1e-14, "maxiter": 2000},
    )
    return np.linalg.norm(found.x[:SIZE] - x0, ORDER[norm])


def fewest(x, x0, b, c, r):
    """The fewest entries that must differ from x0, over all supports, by bisection in float64."""
    support = np.array(list(itertools.product([False, True], repeat=SIZE)))

    def step(s):
        return np.where(support, np.clip(s[:, None] * b, -1 - x, 2 - x), x0 - x)

    low, high = np.full(len(support), -1e4), np.full(len(support), 1e4)
    for _ in range(60):
        middle = (low + high) / 2
        enough = step(middle) @ b >= c
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    d = step(high)
    arrives = (np.abs(d @ b - c) < 1e-5) & (np.linalg.norm(d, axis=1) <= r * (1 + 1e-4))
    return support[arrives].sum(1).min()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_the_step_is_the_best_one(norm):
    rng = np.random.default_rng(3)
    count = 24
    originals = rng.choice([-1.0, -0.3, 0.4, 1.2, 2.0], (count, SIZE))
    images = np.clip(originals + 0.4 * rng.normal(size=(count, SIZE)), -1, 2)
    if norm == "l0":
        images = np.where(rng.random((count, SIZE)) < 0.5, images, originals)
    scale = 10.0 ** rng.integers(-25, 4, (count, 1))  # squares that float32 does not hold
    normals = scale * rng.normal(size=(count, SIZE))
    radii = 10 ** rng.uniform(-2, 1, count)
    shares = rng.uniform(-0.4, 0.3, count) * np.minimum(radii, 0.5)
    changes = shares * np.linalg.norm(normals, axis=1)
    arrays = [np.float32(a) for a in (images, originals, normals, changes, radii)]
    found = np.asarray(steps(norm, *arrays)).astype(float)
    assert found.min() >= -1 and found.max() <= 2
    more = []
    for z, x, x0, b, c, r in zip(found, *(a.astype(float) for a in arrays), strict=True):
        assert np.linalg.norm(z - x) <= r * (1 + 1e-4) + 1e-6
        reached = b @ (z - x) / np.abs(b).max()
        assert reached == pytest.approx(c / np.abs(b).max(), rel=1e-3, abs=1e-5)
        if norm == "l0":
            more.append(
                (z != x0).sum() - fewest(x, x0, b / np.abs(b).max(), c / np.abs(b).max(), r)
            )
            continue
        best = solved(norm, x, x0, b / np.abs(b).max(), c / np.abs(b).max(), r, z)
        assert np.linalg.norm(z - x0, ORDER[norm]) <= best * (1 + 1e-3) + 1e-5
    if norm == "l0":  # not convex: a multiplier finds most, not all
        print("entries more than the fewest", more)
        assert min(more) >= 0 and np.mean(more) < 0.5


def test_steps_that_cannot_arrive():
    """Beyond the ball: all of it in the best direction. Beyond the box: its corner. No gradient:
    towards the image."""
    rng = np.random.default_rng(4)
    images, originals = rng.uniform(-1, 2, (2, 4, SIZE)).astype(np.float32)
    normals = rng.normal(size=(4, SIZE)).astype(np.float32)
    normals[2:] = [[0.0], [1e-38]]
    radii = np.array([0.1, 1e3, 0.1, 0.1], np.float32)
    changes = np.full(4, -1e3, np.float32)
    found = np.asarray(steps("l2", images, originals, normals, changes, radii))
    assert np.isfinite(found).all()
    moved = found[0] - images[0]
    assert np.linalg.norm(moved) == pytest.approx(0.1, rel=1e-4)
    free = (found[0] > -1) & (found[0] < 2)
    np.testing.assert_allclose(
        moved[free] / normals[0][free], (moved / normals[0])[free].mean(), rtol=1e-2
    )
    np.testing.assert_array_equal(found[1], np.where(normals[1] > 0, -1, 2))
    np.testing.assert_allclose(
        found[2:],
        images[2:]
        + 0.1
        * (originals - images)[2:]
        / np.linalg.norm((originals - images)[2:], axis=1, keepdims=True),
        atol=1e-3,
    )


@pytest.mark.parametrize("box", [slow(False), True])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_linear_models(norm, box):
    weights, bias, images, labels = problem(box)
    distance = exact(norm, box)
    model = ja.Model(logits, (jnp.asarray(weights), jnp.asarray(bias)))
    images = images.reshape(COUNT, *SHAPE)
    attack = ja.BrendelBethge(norm=norm, steps=40)
    found, success, _ = drive(attack, model, images, ja.Untargeted(labels))
    possible = np.isfinite(distance)
    np.testing.assert_array_equal(success, possible)
    ratio = distance64(norm, np.asarray(found), images)[possible] / distance[possible]
    print(norm, box, f"min {ratio.min():.6f}, max {ratio.max():.5f}")
    assert ratio.min() > 1 - 1e-5
    assert ratio.max() < 1.001


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "norm", "most"), [("mlp40_standard", "linf", 1.03), ("mlp40_standard", "l1", 1.1)]
)
def test_never_below_a_proved_distance(shared, name, norm, most):
    folder = shared / "data/exact" / name
    model = from_torch_arrays(
        get_definition("FC")(widths=(40,)), folder / "weights.npz", image_shape=(28, 28, 1)
    )
    with np.load(folder / f"{norm}.npz") as proved:
        index, distance = proved["index"], proved["distance"]
    data = load_data("mnist", data_dir=shared / "data/mnist")
    goal, attack = ja.Untargeted(data.labels[index]), ja.BrendelBethge(norm=norm, steps=100)
    result = ja.run(
        attack, model, data.images[index], goal, key=KEY, devices=jax.devices()[:1], lanes=64
    )
    assert result.success.all()
    ratio = result.distance / distance
    print(
        name, norm, f"min {ratio.min():.6f}, median {np.median(ratio):.4f}, max {ratio.max():.3f}"
    )
    assert ratio.min() > 1 - 1e-4
    assert np.median(ratio) < most


@pytest.mark.slow
def test_what_is_counted():
    steps, search, draws = 9, 4, 3
    attack = ja.BrendelBethge(steps=steps, search=search, draws=draws)
    active = np.arange(21) != 3
    _, success, counts = drive(attack, MODEL, IMAGES, GOAL)
    np.testing.assert_array_equal(counts.backward, steps * active)
    found = {start + search + steps + 1 for start in range(1, draws + 1)}
    assert set(counts.forward[active].tolist()) <= found | {draws + steps + 1}
    assert (counts.forward <= attack.ticks).all()
    assert success.mean() > 0.9


@pytest.mark.slow
def test_company_and_no_start():
    """Foolbox's radius grows with the entries of the whole batch: alone, images end elsewhere.
    With no start at all the steps begin at the image."""
    attack = ja.BrendelBethge(norm="l2", steps=40, draws=0)
    images, success, counts = drive(attack, MODEL, IMAGES, GOAL)
    active = np.arange(21) != 3
    assert success.mean() > 0.9
    np.testing.assert_array_equal(counts.forward, (attack.steps + 1) * active)
    alone, _, _ = drive(attack, MODEL, IMAGES[:1], ja.Untargeted(LABELS[:1]))
    distance = distance64("l2", np.asarray(images), IMAGES)
    np.testing.assert_allclose(distance64("l2", np.asarray(alone), IMAGES[:1]), distance[:1], 1e-5)


@pytest.mark.slow
def test_a_start_is_asked_first():
    answers = np.asarray(MODEL(IMAGES).argmax(-1))
    targets = (LABELS + 1) % 4
    start = np.stack([IMAGES[np.flatnonzero(answers == target)[0]] for target in targets])
    attack = ja.BrendelBethge(norm="l2", steps=40, draws=0)
    found = ja.run(
        attack,
        MODEL,
        IMAGES,
        ja.Targeted(LABELS, targets),
        key=KEY,
        start=start,
        devices=jax.devices()[:1],
        lanes=21,
    )
    assert found.success.all()
    away = found.distance / distance64("l2", start, IMAGES)
    assert away.max() < 1 and np.median(away) < 0.5
    running = found.forward > 1  # the others fulfil their goal from the start
    assert (found.forward[running] == 1 + 1 + attack.search + attack.steps + 1).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"norm": "l3"},
        {"steps": 0},
        {"restarts": 0},
        {"draws": -1},
        {"search": -1},
        {"decays": 0},
        {"learning_rate": -1.0},
        {"decay": 1.5},
        {"momentum": 2.0},
        {"overshoot": 0.9},
    ],
)
def test_settings_that_cannot_be_meant(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ja.BrendelBethge(**arguments)
