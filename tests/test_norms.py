"""The norms against SciPy's solvers, brute force and float64 arithmetic."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from jaxadv.core.attack import safe_epsilon
from jaxadv.core.norms import NORMS, distance64, get_norm, largest

NAMES = sorted(NORMS)
SHAPES = [(3,), (5, 4, 1), (16, 16, 3)]
BOUNDS = [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)]


@functools.cache
def projector(name):
    return jax.jit(get_norm(name).project)


@functools.cache
def drawer(name):
    def draw(key, centre, radius, lower, upper):
        norm = get_norm(name)
        raw = norm.random(key, centre, radius, lower, upper)
        return raw, norm.project(raw, centre, radius, lower, upper)

    return jax.jit(draw)


@functools.cache
def steepest(name):
    return jax.jit(get_norm(name).steepest)


def project(name, image, centre, radius, lower, upper):
    floats = [np.asarray(v, np.float32) for v in (image, centre, radius, lower, upper)]
    return np.asarray(projector(name)(*floats))


def solve(name, image, centre, radius, lower, upper):
    """The nearest point of ball and box, by other means."""
    size = len(image)
    if name == "linf":  # separable: each entry is a problem of its own
        low, high = np.maximum(centre - radius, lower), np.minimum(centre + radius, upper)
        return np.array([min(max(v, a), b) for v, a, b in zip(image, low, high, strict=True)])
    if name == "l0":
        best, least = centre, np.square(image - centre).sum()
        for chosen in itertools.combinations(range(size), min(size, int(radius))):
            point = centre.copy()
            point[list(chosen)] = np.clip(image, lower, upper)[list(chosen)]
            if np.square(point - image).sum() < least:
                best, least = point, np.square(point - image).sum()
        return best
    goal = image - centre
    if name == "l2":
        found = minimize(
            lambda d: np.square(d - goal).sum(),
            np.zeros(size),
            jac=lambda d: 2 * (d - goal),
            bounds=list(zip(lower - centre, upper - centre, strict=True)),
            constraints={
                "type": "ineq",
                "fun": lambda d: radius**2 - d @ d,
                "jac": lambda d: -2 * d,
            },
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        return centre + found.x
    split = np.hstack([np.eye(size), -np.eye(size)])  # d = plus - minus
    found = minimize(
        lambda v: np.square(split @ v - goal).sum(),
        np.zeros(2 * size),
        jac=lambda v: 2 * split.T @ (split @ v - goal),
        bounds=[(0, r) for r in np.r_[upper - centre, centre - lower]],
        constraints={
            "type": "ineq",
            "fun": lambda v: radius - v.sum(),
            "jac": lambda v: -np.ones(2 * size),
        },
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return centre + split @ found.x


@pytest.mark.parametrize("reach", [0.3, 1.5, 5.0])
@pytest.mark.parametrize("radius", [0.05, 0.4, 1.1, 2.5])
@pytest.mark.parametrize("name", NAMES)
def test_projection_is_the_solvers(name, radius, reach):
    rng = np.random.default_rng(7)
    if name == "l0":
        radius = {0.05: 0, 0.4: 1, 1.1: 3, 2.5: 6.5}[radius]
    for _ in range(8):
        centre = rng.uniform(0, 1, 8).astype(np.float32).astype(np.float64)
        centre[:2] = rng.integers(0, 2, 2)  # some entries lie at the box
        image = (centre + reach * rng.normal(size=8)).astype(np.float32).astype(np.float64)
        lower, upper = np.zeros(8), np.ones(8)
        ours = project(name, image, centre, radius, 0, 1).astype(np.float64)
        theirs = solve(name, image, centre, radius, lower, upper)
        assert distance64(name, ours[None], centre[None])[0] <= radius * (1 + 1e-6) + 1e-7
        assert ours.min() >= 0
        assert ours.max() <= 1
        a, b = (np.linalg.norm(v - image) for v in (ours, theirs))
        assert a <= b * (1 + 1e-5) + 1e-5  # as near as the solver's
        np.testing.assert_allclose(ours, theirs, atol=2e-3 if name != "l0" else 1e-6)


@pytest.mark.parametrize("radius", [0.02, 0.5, 3.0])
@pytest.mark.parametrize("name", ["l1", "l2"])
def test_projection_is_optimal_in_many_dimensions(name, radius):
    # Variational inequality: <image - p, z - p> <= 0 for all z of the convex set; its largest
    # value over the set is found exactly, from the support function of ball and box (an LP for L1).
    rng = np.random.default_rng(3)
    centre = rng.uniform(0, 1, 60).astype(np.float32)
    centre[:10] = rng.integers(0, 2, 10)
    image = (centre + rng.normal(size=60)).astype(np.float32)
    ours = project(name, image, centre, radius, 0, 1).astype(np.float64)
    normal = image - ours
    if name == "l1":
        cost = np.r_[-normal, normal]
        room = np.r_[1.0 - centre, centre]
        found = linprog(cost, A_ub=np.ones((1, 120)), b_ub=[radius], bounds=[(0, r) for r in room])
        support = -found.fun
    else:
        found = minimize(
            lambda d: -normal @ d,
            np.zeros(60),
            jac=lambda d: -normal,
            bounds=[(-c, 1 - c) for c in centre.astype(np.float64)],
            constraints={
                "type": "ineq",
                "fun": lambda d: radius**2 - d @ d,
                "jac": lambda d: -2 * d,
            },
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 1000},
        )
        support = -found.fun
    gap = support - normal @ (ours - centre)
    assert abs(gap) <= 1e-4 * max(1.0, support)


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    shape=st.sampled_from(SHAPES),
    bounds=st.sampled_from(BOUNDS),
    exponent=st.floats(-3, 3),
    far=st.sampled_from([1e-4, 0.1, 1.0, 30.0, 1e30]),
    corner=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
def test_nothing_leaves_ball_or_box(name, shape, bounds, exponent, far, corner, seed):
    rng = np.random.default_rng(seed)
    lower, upper = bounds
    epsilon = np.ceil(10.0**exponent) if name == "l0" else 10.0**exponent
    radius = safe_epsilon(name, epsilon)
    centre = rng.uniform(lower, upper, shape)
    if corner:
        centre = np.where(rng.random(shape) < 0.5, lower, upper)
    centre = np.clip(centre.astype(np.float32), np.float32(lower), np.float32(upper))
    noise = far * (upper - lower) * rng.normal(size=shape)
    image = (centre + noise).astype(np.float32)
    inside = project(name, image, centre, radius, lower, upper)
    # Not just close: what is projected once stays inside when it is projected again and again.
    for point in (inside, project(name, inside, centre, radius, lower, upper)):
        assert point.dtype == np.float32
        assert np.isfinite(point).all()
        assert distance64(name, point[None], centre[None])[0] <= epsilon
        assert lower <= point.min()
        assert point.max() <= upper
    again = project(name, inside, centre, radius, lower, upper)
    np.testing.assert_allclose(again, inside, rtol=0, atol=3e-6 * max(1.0, upper))


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("epsilon", [0.01, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("name", NAMES)
def test_random_points(name, epsilon, bounds):
    rng = np.random.default_rng(0)
    lower, upper = bounds
    shape = (16, 16, 3)
    centre = rng.uniform(lower, upper, shape).astype(np.float32)
    radius = safe_epsilon(name, epsilon)
    for seed in range(5):
        raw, inside = (
            np.asarray(v)
            for v in drawer(name)(
                jax.random.key(seed), centre, radius, np.float32(lower), np.float32(upper)
            )
        )
        # Unprojected, up to what rounding centre + noise to float32 does to the distance.
        blur = 0 if name == "l0" else {"linf": 1, "l2": 28, "l1": 768}[name] * upper * 2.0**-24
        assert distance64(name, raw[None], centre[None])[0] <= epsilon * (1 + 1e-5) + blur
        assert distance64(name, inside[None], centre[None])[0] <= epsilon
        assert lower <= inside.min()
        assert inside.max() <= upper
        assert epsilon < 1 or (inside != centre).any()


@pytest.mark.parametrize("name", ["linf", "l1", "l2"])
def test_random_points_are_uniform_in_the_ball(name):
    # In dimension n the radius of a uniform point to the power n is uniform on [0, 1], and by
    # symmetry every entry has mean 0 and the same second moment.
    size, count = 4, 20_000
    norm = get_norm(name)
    draw = jax.vmap(lambda key: norm.random(key, jnp.zeros(size), 2.0, -1e9, 1e9))
    points = np.asarray(draw(jax.random.split(jax.random.key(0), count)), np.float64)
    share = (distance64(name, points, np.zeros_like(points)) / 2) ** size
    assert share.max() <= 1 + 1e-5
    np.testing.assert_allclose(share.mean(), 1 / 2, atol=0.01)
    np.testing.assert_allclose(np.square(share).mean(), 1 / 3, atol=0.01)
    moment = {"linf": 4 / 3, "l2": 4 / (size + 2), "l1": 8 / ((size + 1) * (size + 2))}[name]
    np.testing.assert_allclose(points.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(np.square(points).mean(0), moment, rtol=0.05)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e10, 1e30])
@pytest.mark.parametrize("name", ["linf", "l1", "l2"])
def test_steepest_is_the_best_direction_of_the_unit_ball(name, scale):
    rng = np.random.default_rng(1)
    image = rng.uniform(0.1, 0.9, 12).astype(np.float32)
    gradient = (scale * rng.normal(size=12)).astype(np.float32)
    u = np.asarray(steepest(name)(gradient, image, 0.0, 1.0, 1e-3), np.float64)
    g = gradient.astype(np.float64)
    dual = {"linf": np.abs(g).sum(), "l2": np.linalg.norm(g), "l1": np.abs(g).max()}[name]
    np.testing.assert_allclose(distance64(name, u[None], 0 * u[None])[0], 1, rtol=1e-6)
    np.testing.assert_allclose(g @ u, dual, rtol=1e-6)


def test_steepest_l1_leaves_out_what_is_stuck_at_the_box():
    rng = np.random.default_rng(2)
    for _ in range(20):
        image = rng.choice([0.0, 0.3, 1.0], 10).astype(np.float32)
        gradient = rng.normal(size=10).astype(np.float32)
        u = np.asarray(steepest("l1")(gradient, image, 0.0, 1.0, 1e-3), np.float64)
        up, down = np.where(image >= 1, 0, 1), np.where(image <= 0, 0, 1)  # room in u = p - q
        cost = np.r_[-gradient, gradient]
        limits = [(0, v) for v in np.r_[up, down]]
        best = -linprog(cost, A_ub=np.ones((1, 20)), b_ub=[1.0], bounds=limits).fun
        np.testing.assert_allclose(gradient @ u, best, rtol=1e-6)
        assert np.abs(u).sum() <= 1 + 1e-6


@pytest.mark.parametrize("share", [1e-3, 0.1, 0.35, 1.0])
@pytest.mark.parametrize("name", ["l1", "l0"])
def test_steepest_moves_its_share(name, share):
    rng = np.random.default_rng(4)
    image, gradient = rng.uniform(0.1, 0.9, 20), rng.normal(size=20)
    u = np.asarray(steepest(name)(gradient, image, 0.0, 1.0, share))
    count = max(1, int(np.ceil(np.float32(share) * 20)))
    chosen = np.argsort(-np.abs(gradient))[:count]
    truth = np.zeros(20)
    truth[chosen] = np.sign(gradient[chosen]) / (count if name == "l1" else 1)
    np.testing.assert_allclose(u, truth, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_steepest_of_nothing_is_nothing(name):
    u = np.asarray(steepest(name)(np.zeros(12), np.full(12, 0.5), 0.0, 1.0, 0.1))
    np.testing.assert_array_equal(u, 0)


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(
        st.sampled_from([0.0, 1e-45, 1e-38, 1e-7, 0.5, 0.5, 1.0, 1.0, 3e38, np.inf]),
        min_size=12,
        max_size=12,
    ),
    count=st.integers(0, 14),
)
def test_largest_is_a_stable_sort(values, count):
    values = np.array(values, np.float32)
    truth = np.zeros(12, bool)
    truth[np.argsort(-values, kind="stable")[:count]] = True
    ours = _largest(values.reshape(3, 4), np.int32(count))
    np.testing.assert_array_equal(np.asarray(ours).ravel(), truth)


_largest = jax.jit(largest)


@pytest.mark.parametrize("seed", range(3))
def test_largest_of_many(seed):
    values = np.random.default_rng(seed).exponential(size=768).astype(np.float32)
    for count in (0, 1, 100, 767, 768):
        truth = np.zeros(768, bool)
        truth[np.argsort(-values, kind="stable")[:count]] = True
        np.testing.assert_array_equal(np.asarray(_largest(values, np.int32(count))), truth)


@pytest.mark.parametrize("name", NAMES)
def test_a_point_inside_stays_put(name):
    rng = np.random.default_rng(5)
    for bounds in BOUNDS:
        lower, upper = bounds
        centre = rng.uniform(lower, upper, (5, 4, 1)).astype(np.float32)
        image = centre.copy()
        image.flat[:4] = rng.uniform(lower, upper, 4)
        radius = 1.001 * max(distance64(name, image[None], centre[None])[0], 1e-3)
        ours = project(name, image, centre, radius, lower, upper)
        np.testing.assert_allclose(ours, image, rtol=0, atol=max(map(abs, bounds)) * 2.0**-23)


@pytest.mark.parametrize("far", [0.0, 0.5, 1e30])
@pytest.mark.parametrize("name", NAMES)
def test_radius_zero_gives_the_centre(name, far):
    rng = np.random.default_rng(6)
    centre = rng.uniform(0, 1, (5, 4, 1)).astype(np.float32)
    image = (centre + far * rng.normal(size=centre.shape)).astype(np.float32)
    np.testing.assert_array_equal(project(name, image, centre, 0.0, 0, 1), centre)


@pytest.mark.parametrize("name", NAMES)
def test_the_centre_stays_the_centre(name):
    for value in (0.0, 0.3, 1.0):
        centre = np.full((5, 4, 1), value, np.float32)
        np.testing.assert_array_equal(project(name, centre, centre, 2.0, 0, 1), centre)


@pytest.mark.parametrize("name", NAMES)
def test_infinite_radius_leaves_the_box_only(name):
    rng = np.random.default_rng(8)
    centre = rng.uniform(0, 1, (5, 4, 1)).astype(np.float32)
    image = (centre + rng.normal(size=centre.shape)).astype(np.float32)
    ours = project(name, image, centre, np.inf, 0, 1)
    np.testing.assert_allclose(ours, np.clip(image, 0, 1), atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_distance_is_numpys(name):
    delta = np.random.default_rng(9).normal(size=(5, 4, 1)).astype(np.float32)
    delta.flat[::3] = 0
    order = {"linf": np.inf, "l2": 2, "l1": 1, "l0": 0}[name]
    truth = np.linalg.norm(delta.astype(np.float64).ravel(), order)
    np.testing.assert_allclose(get_norm(name).distance(jnp.asarray(delta)), truth, rtol=1e-6)
    np.testing.assert_allclose(distance64(name, delta[None], 0 * delta[None])[0], truth, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_safe_epsilon_is_just_below(name):
    for epsilon in (0.0, 1e-3, 8 / 255, 1.0, 1000.0):
        radius = np.float64(safe_epsilon(name, epsilon))
        if name == "l0":
            assert np.floor(radius) == np.floor(epsilon)
        else:
            assert epsilon * (1 - 2e-6) <= radius <= epsilon


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("name", NAMES)
def test_no_sum_of_roundings_leaves_the_ball(name, bounds):
    # Twelve thousand entries, all moved: their rounding errors add up to more than the hair's
    # breadth by which `safe_epsilon` shrinks the ball.
    rng = np.random.default_rng(10)
    for epsilon in (1e-3, 0.1, 1.0, 10.0):
        centre = rng.uniform(*bounds, (64, 64, 3)).astype(np.float32)
        image = (centre + 0.1 * rng.normal(size=centre.shape)).astype(np.float32)
        radius = safe_epsilon(name, epsilon)
        inside = project(name, image, centre, radius, *bounds)
        assert distance64(name, inside[None], centre[None])[0] <= epsilon


def test_a_huge_input_keeps_its_direction():
    centre = np.full(4, 0.5)
    image = centre + np.array([3.0, -4.0, 0.0, 0.0]) * 1e29
    ours = project("l2", image, centre, 0.1, 0, 1)
    np.testing.assert_allclose(ours, [0.56, 0.42, 0.5, 0.5], atol=1e-6)


def test_safe_epsilon_of_l0_does_not_round_up():
    for epsilon in (0.9999999999, 2.999999999):
        assert np.floor(safe_epsilon("l0", epsilon)) == np.floor(epsilon)


def test_l0_keeps_no_more_where_changes_are_equal_up_to_rounding():
    """The changes come from the same program: XLA may compute them twice, rounded otherwise."""

    l0 = get_norm("l0")

    def moved(key, centre, radius):
        sign = jax.random.rademacher(key, (1, *centre.shape[1:]), centre.dtype)
        sign = jnp.broadcast_to(sign, centre.shape)
        return l0.project(centre + radius * sign / l0.distance(sign), centre, radius, 0.0, 1.0)

    centres = np.asarray(jax.random.uniform(jax.random.key(1), (21, 6, 6, 1)))
    keys = jax.random.split(jax.random.key(0), 21)
    images = jax.jit(jax.vmap(moved, (0, 0, None)))(keys, centres, jnp.float32(12))
    np.testing.assert_array_equal(distance64("l0", np.asarray(images), centres), 12)
