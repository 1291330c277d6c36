"""Features with ranges of their own, and features that must not change: tables and series.

The classifiers are linear with two classes, so that the nearest mistake within the box is the
solution of a linear program (Linf, L1) or a small quadratic one (L2): `tests.linear`'s, in units of
each feature.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog, minimize

import jaxadv as ja
from jaxadv.core.bounds import Ends, as_bounds, bounds_text, fitted, hull
from jaxadv.core.norms import diameter

SIZE, COUNT = 6, 5
LOW = np.array([-1.0, 0.0, 0.0, -3.0, 0.4, 0.0])
HIGH = np.array([1.0, 0.3, 5.0, 3.0, 0.6, 1.0])
KEY = jax.random.key(0)
RNG = np.random.default_rng(4)
WEIGHTS = RNG.normal(size=SIZE) / np.sqrt(HIGH - LOW)
ROWS = (LOW + RNG.uniform(0, 1, (COUNT, SIZE)) * (HIGH - LOW)).astype(np.float32)
ROWS[0, :3] = HIGH[:3]  # some lie on faces of the box


def halves(weights: Any, rows: Any) -> Any:
    """Logits [0, z] of z = w @ x + b, for inputs of any shape."""
    w, b = weights
    z = rows.reshape(len(rows), -1) @ w + b
    return jnp.stack([0 * z, z], 1)


BIAS = -float(np.median(ROWS @ WEIGHTS)) - 0.02
PARAMS = (jnp.asarray(WEIGHTS, jnp.float32), np.float32(BIAS))
LABELS = (ROWS.astype(np.float64) @ WEIGHTS + BIAS > 0).astype(int)


def nearest(norm: str, low: np.ndarray, high: np.ndarray, row: np.ndarray) -> float:
    """min |d| so that row + d lies in [low, high] and on the boundary, from SciPy (inf: none)."""
    x = row.astype(np.float64)
    z = x @ WEIGHTS + BIAS
    w, margin = (WEIGHTS, z) if z > 0 else (-WEIGHTS, -z)
    least, most = low - x, high - x
    if np.where(w > 0, w * least, w * most).sum() > -margin:
        return np.inf
    if norm == "linf":
        eye, ones = np.eye(SIZE), np.ones((SIZE, 1))
        found = linprog(
            np.r_[np.zeros(SIZE), 1.0],
            A_ub=np.vstack([np.hstack([eye, -ones]), np.hstack([-eye, -ones]), np.r_[w, 0.0]]),
            b_ub=np.r_[np.zeros(2 * SIZE), -margin],
            bounds=[*zip(least, most, strict=True), (0, None)],
        )
        return found.fun
    if norm == "l1":
        found = linprog(
            np.ones(2 * SIZE),
            A_ub=np.r_[w, -w][None],
            b_ub=[-margin],
            bounds=[(0, r) for r in np.r_[most, -least]],
        )
        return found.fun
    found = minimize(
        lambda d: d @ d,
        np.where(w > 0, least, most),
        jac=lambda d: 2 * d,
        bounds=list(zip(least, most, strict=True)),
        constraints={"type": "ineq", "fun": lambda d: -margin - w @ d, "jac": lambda d: -w},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    return float(np.sqrt(found.fun))


def expected(norm: str, low: np.ndarray = LOW, high: np.ndarray = HIGH) -> np.ndarray:
    """The exact distances of all rows."""
    return np.array([nearest(norm, low, high, row) for row in ROWS])


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_nearest_mistake_within_the_range_of_each_feature(norm: str) -> None:
    model, exact = ja.Model(halves, PARAMS, (LOW, HIGH)), expected(norm)
    found = ja.run(ja.FAB(norm=norm), model, ROWS, ja.Untargeted(LABELS), key=KEY)
    reached = np.isfinite(exact)
    assert reached.sum() >= 2
    np.testing.assert_array_equal(found.success, reached)
    np.testing.assert_allclose(found.distance[reached], exact[reached], rtol=5e-3, atol=1e-5)
    assert (found.distance[reached] >= exact[reached] - 1e-6).all()
    low, high = np.float32(LOW), np.float32(HIGH)
    assert ((found.images >= low) & (found.images <= high)).all()


def test_series_and_pictures_take_ranges_that_broadcast() -> None:
    series = ROWS.reshape(COUNT, 3, 2)  # [T, C]: a range for each channel, wide enough for all
    low, high = np.array([-3.0, -3.0]), np.array([5.0, 6.0])
    exact = expected("linf", np.tile(low, 3), np.tile(high, 3))
    goal = ja.Untargeted(LABELS)
    for shape in ((3, 2), (1, 3, 2)):
        model = ja.Model(halves, PARAMS, (low, high))
        found = ja.run(ja.FAB(), model, series.reshape(COUNT, *shape), goal, key=KEY)
        np.testing.assert_allclose(found.distance, exact, rtol=5e-3)


def test_one_range_for_all_is_the_same_stated_as_arrays() -> None:
    rows, both = np.clip(ROWS, 0, 1), []
    labels = np.asarray(ja.Model(halves, PARAMS)(rows)).argmax(1)
    goal = ja.Untargeted(labels)
    for bounds in ((0.0, 1.0), (np.zeros(SIZE), 1.0)):
        model = ja.Model(halves, PARAMS, bounds)
        both.append(ja.run(ja.FMN(steps=50), model, rows, goal, key=KEY).images)
    np.testing.assert_allclose(*both, atol=1e-6)


def test_evaluation_and_proof_keep_to_the_ranges() -> None:
    model, exact = ja.Model(halves, PARAMS, (LOW, HIGH)), expected("linf")
    levels, attacks = [0.05, 0.4], {"FAB": ja.FAB(search=0, bounded=True)}
    report = ja.evaluate(
        model, ROWS, LABELS, epsilons=levels, attacks=attacks, distances=False, key=KEY
    )
    robust = [(exact > level).mean() for level in levels]
    np.testing.assert_allclose(report.robust_accuracy, robust)
    assert report.bounds == model.bounds
    assert hull(report.bounds) == (-3.0, 5.0)  # what pages scale pictures with
    proof = ja.prove(model, ROWS, LABELS, 0.4, attacks={})
    np.testing.assert_array_equal(proof.proved, exact > 0.4)
    np.testing.assert_array_equal(proof.replay(model) > 0, proof.proved)


@pytest.mark.slow
def test_portfolios_cascades_and_checks_keep_to_the_ranges() -> None:
    model, exact = ja.Model(halves, PARAMS, (LOW, HIGH)), expected("linf")
    report = ja.evaluate(
        model, ROWS, LABELS, epsilons=[0.05, 0.4], attacks="fast", prove="fast", key=KEY
    )
    np.testing.assert_allclose(report.robust_bounds[:, 0], report.robust_accuracy)  # type: ignore
    found = ja.minimal_distance(model, ROWS, LABELS, effort="fast", key=KEY)
    reached = np.isfinite(exact)
    np.testing.assert_allclose(found.distance[reached], exact[reached], rtol=1e-2)
    assert [f.name for f in ja.check(model, ROWS, LABELS, epsilon=0.05) if not f.passed] == []


def test_ranges_may_be_open() -> None:
    low, high = np.array(LOW), np.array(HIGH)
    low[0], high[2] = -np.inf, np.inf
    model, exact = ja.Model(halves, PARAMS, (low, high)), expected("linf", low, high)
    found = ja.run(ja.PGD(), model, ROWS, ja.Untargeted(LABELS), 1.2 * exact.max(), key=KEY)
    assert found.success.all()
    with pytest.raises(ValueError, match="DDN searches the whole box"):
        ja.run(ja.DDN(), model, ROWS, ja.Untargeted(LABELS), key=KEY)


def test_what_is_wrong_with_ranges_is_said() -> None:
    with pytest.raises(ValueError, match=r"feature \[1\] is 2, and the largest 2 \(1 such"):
        ja.Model(halves, PARAMS, ([0, 2], [1, 2]))
    with pytest.raises(ValueError, match="two numbers or two arrays that broadcast"):
        ja.Model(halves, PARAMS, (np.zeros(2), np.ones(3)))
    model, goal = ja.Model(halves, PARAMS, (LOW, HIGH)), ja.Untargeted(LABELS)
    with pytest.raises(ValueError, match=r"shape \(6,\), which does not broadcast to one input"):
        ja.run(ja.FGSM(), model, ROWS.reshape(COUNT, 2, 3), goal, 0.1, key=KEY)
    with pytest.raises(ValueError, match=r"in feature \[4\], outside its bounds \(0.4, 0.6\)"):
        ja.run(ja.FGSM(), model, ROWS + np.float32([0, 0, 0, 0, 9, 0]), goal, 0.1, key=KEY)
    with pytest.raises(ValueError, match=r"mask has shape \(4,\), and the image \(1, 6, 1\)"):
        ja.run(ja.Masked(ja.FGSM(), FREE[:4]), model, ROWS, goal, 0.1, key=KEY)
    with pytest.raises(ValueError, match="exceeds 6, the largest linf distance"):
        ja.run(ja.FGSM(), model, ROWS, goal, 7.0, key=KEY)
    with pytest.raises(ValueError, match="ja.universal_perturbation takes one range for all"):
        ja.universal_perturbation(model, ROWS, epsilon=0.1, key=KEY)


def test_an_end_is_a_value() -> None:
    ends = as_bounds((LOW, HIGH))
    assert ends == as_bounds((list(LOW), HIGH)) and hash(ends) == hash(as_bounds((LOW, HIGH)))
    assert ends != as_bounds((LOW, HIGH + 1)) and ends != (0.0, 1.0)
    assert type(ends[1] - ends[0]) is np.ndarray
    with pytest.raises(ValueError, match="read-only"):
        ends[0][0] = 1
    assert as_bounds((0, 1)) == (0.0, 1.0) and not isinstance(as_bounds((0, 1))[0], Ends)
    assert hull(ends) == (-3.0, 5.0) and bounds_text(ends) == "(-3, 5, by feature)"
    assert fitted(as_bounds((np.zeros(2), 1.0)), (3, 2))[1].shape == (3, 2)  # type: ignore
    sides = HIGH - LOW
    for norm, order in (("linf", np.inf), ("l2", 2), ("l1", 1), ("l0", 0)):
        assert diameter(norm, SIZE, sides) == pytest.approx(np.linalg.norm(sides, order))


FREE = np.array([True, False, True, True, False, True])


def frozen(norm: str) -> np.ndarray:
    """The exact distances where features outside of FREE keep their values."""
    return np.array(
        [
            nearest(norm, np.where(FREE, LOW, row), np.where(FREE, HIGH, row), row)
            for row in ROWS.astype(np.float64)
        ]
    )


SEARCHES = {
    "FAB": (ja.FAB(norm="linf"), ja.FAB(norm="l2"), ja.FAB(norm="l1", restarts=2)),
    "others": (
        ja.MinimalEpsilon(ja.PGD(steps=20), rounds=12),
        ja.BrendelBethge(norm="l2"),
        ja.EAD(steps=300),
    ),
    "more": (ja.FMN(steps=300), ja.CW(norm="l2", steps=300), ja.BrendelBethge(norm="l1")),
}


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("kind", ["FAB", "others", pytest.param("more", marks=pytest.mark.slow)])
def test_the_nearest_mistake_with_features_that_must_not_change(kind: str, norm: str) -> None:
    model, exact = ja.Model(halves, PARAMS, (LOW, HIGH)), frozen(norm)
    attack = SEARCHES[kind][["linf", "l2", "l1"].index(norm)]
    masked = ja.Masked(attack, FREE)
    found = ja.run(masked, model, ROWS, ja.Untargeted(LABELS), key=KEY, keep="distance")
    reached = np.isfinite(exact)
    assert (found.images[:, ~FREE] == ROWS[:, ~FREE]).all()
    np.testing.assert_array_equal(found.success, reached)
    slack = 5e-3 if kind == "FAB" else 3e-2
    np.testing.assert_allclose(found.distance[reached], exact[reached], rtol=slack, atol=1e-4)
    assert (found.distance[reached] >= exact[reached] - 1e-6).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_radius_is_spent_on_free_features_only(norm: str) -> None:
    """PGD from a random start breaks what a hundredth more than the exact distance reaches."""
    model, exact = ja.Model(halves, PARAMS, (LOW, HIGH)), frozen(norm)
    reached, goal = np.isfinite(exact), ja.Untargeted(LABELS)
    attack = ja.Masked(ja.PGD(norm=norm, steps=100, random_start=True), FREE)
    for factor, broken in ((1.02, reached), (0.98, reached & False)):
        radii = np.where(reached, factor * exact, 0.1)
        found = ja.run(attack, model, ROWS, goal, radii, key=KEY)
        np.testing.assert_array_equal(found.success, broken)
