"""Attacks beyond the norms' balls: against SciPy, closed forms, exact transport."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage as ndimage
import scipy.special
from scipy.optimize import linprog
from scipy.sparse import csr_matrix, vstack

import jaxadv as ja
from jaxadv.attacks.non_lp.colours import from_luv, to_luv
from jaxadv.attacks.non_lp.functional import differences
from jaxadv.attacks.non_lp.resample import resample
from jaxadv.attacks.non_lp.sinkhorn import Prices, arrived, costs, lambert, plan_of, sinkhorn
from jaxadv.attacks.non_lp.spatial import grid, turned
from jaxadv.core.attack import Problem, attack_key
from jaxadv.engine.verify import margins as margins_of
from tests.common import GOAL, IMAGES, KEY, LABELS, MODEL
from tests.random_state import restored

ONE = jax.local_devices()[:1]
RNG = np.random.default_rng(0)
restored_before_each_test = restored(RNG)
PICTURE = RNG.random((9, 7, 3), np.float32)


@pytest.mark.parametrize(
    ("outside", "mode"), [(0.0, "grid-constant"), (0.3, "grid-constant"), (None, "nearest")]
)
def test_reading_off_between_pixels_is_scipys(outside: Any, mode: str) -> None:
    rows, columns = RNG.uniform(-3, 11, (2, 9, 7)).astype(np.float32)
    ours = np.asarray(
        resample(jnp.asarray(PICTURE), jnp.asarray(rows), jnp.asarray(columns), outside)
    )
    for channel in range(3):
        theirs = ndimage.map_coordinates(
            PICTURE[..., channel], [rows, columns], order=1, mode=mode, cval=outside or 0.0
        )
        np.testing.assert_allclose(ours[..., channel], theirs, atol=2e-6)


@pytest.mark.parametrize(("degrees", "down", "right"), [(30, 0, 0), (-17, 1.5, -2), (90, 0, 3)])
def test_turning_is_scipys(degrees: float, down: float, right: float) -> None:
    ours = np.asarray(turned(jnp.asarray(PICTURE), degrees, down, right, 0.0))
    angle, centre = np.deg2rad(degrees), np.array([4.0, 3.0])
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    offset: Any = centre - matrix @ (centre + np.array([down, right]))
    for channel in range(3):
        theirs = ndimage.affine_transform(
            PICTURE[..., channel], matrix, offset, order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(ours[..., channel], theirs, atol=1e-5)
    quarter = np.asarray(turned(jnp.asarray(PICTURE[:7]), 90, 0, 0, 0.0))
    np.testing.assert_allclose(quarter, np.rot90(PICTURE[:7]), atol=1e-5)  # anticlockwise


def test_the_grid_has_every_transformation_once_the_smallest_first() -> None:
    every = grid(31, 5)
    assert every.shape == (775, 3) and len(np.unique(every, axis=0)) == 775
    np.testing.assert_array_equal(every[0], 0)
    assert (np.diff(np.abs(every).max(1)) >= 0).all() and np.abs(every).max() == 1


def turned_by_scipy(image: np.ndarray, degrees: float, down: float, right: float) -> np.ndarray:
    centre = (np.array(image.shape[:2]) - 1) / 2
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    offset: Any = centre - matrix @ (centre + np.array([down, right]))
    return ndimage.affine_transform(
        image[..., 0].astype(np.float64), matrix, offset, order=1, mode="grid-constant"
    )[..., None]


@pytest.mark.slow
def test_the_grid_search_finds_what_a_loop_over_scipy_finds() -> None:
    attack = ja.Spatial(rotation=30, translation=1, angles=7, shifts=3, batch=10)
    result = ja.run(attack, MODEL, IMAGES, GOAL, key=KEY, lanes=8, devices=ONE)
    every = grid(7, 3) * [30, 1, 1]
    images = np.array([[turned_by_scipy(image, *one) for one in every] for image in IMAGES])
    answers = np.asarray(MODEL(jnp.asarray(images.reshape(-1, 6, 6, 1), jnp.float32))).argmax(1)
    wrong = answers.reshape(21, -1) != LABELS[:, None]
    assert wrong.any(1).sum() > 5 and not wrong.all()
    np.testing.assert_array_equal(result.success, wrong.any(1))
    first = wrong.argmax(1)
    for row in np.flatnonzero(wrong.any(1) & (result.status != ja.Status.MISCLASSIFIED)):
        np.testing.assert_allclose(result.images[row], images[row, first[row]], atol=1e-5)
        assert result.queries[row] == min((first[row] // 10 + 1) * 10, 63)
    survived = ~result.success
    np.testing.assert_array_equal(result.queries[survived], 63)


@pytest.mark.slow
def test_worst_of_k_is_the_highest_loss_of_k_draws() -> None:
    attack = ja.Spatial(draws=12, batch=5)
    result = ja.run(attack, MODEL, IMAGES, GOAL, key=KEY, keep="loss", lanes=8, devices=ONE)
    np.testing.assert_array_equal(result.queries, 12)
    for row in range(21):
        drawn = jax.random.uniform(attack_key(attack, KEY, row, 0), (12, 3), minval=-1.0)
        images = [turned_by_scipy(IMAGES[row], *one) for one in np.asarray(drawn) * [30, 3, 3]]
        logits = np.asarray(MODEL(jnp.asarray(np.array(images), jnp.float32)))
        margins = margins_of(ja.Untargeted(np.full(12, LABELS[row])), logits)
        np.testing.assert_allclose(result.margin[row], np.min(margins), atol=1e-4)
        assert np.abs(result.images[row] - images).reshape(12, -1).max(1).min() < 1e-4


@pytest.mark.slow
def test_what_is_bounded_by_no_ball_is_refused_where_a_norm_is_asked_for() -> None:
    spatial: Any = {"turned": ja.Spatial()}
    goal = ja.Untargeted(LABELS)
    with pytest.raises(ValueError, match="bounded by its rotation and translation, not by a ball"):
        ja.run(ja.Spatial(), MODEL, IMAGES, goal, 0.1, key=KEY)
    with pytest.raises(ValueError, match=r"attacks\['turned'\].*in no norm"):
        ja.evaluate(MODEL, IMAGES, LABELS, norm="l2", attacks=spatial)
    with pytest.raises(ValueError, match=r"effort\['turned'\].*in no norm"):
        ja.minimal_distance(MODEL, IMAGES, LABELS, norm="l2", effort=spatial)
    with pytest.raises(ValueError, match="takes an epsilon"):
        ja.MinimalEpsilon(ja.Spatial())
    with pytest.raises(ValueError, match="start: Spatial"):
        ja.run(ja.Spatial(), MODEL, IMAGES, goal, key=KEY, start=IMAGES)
    asked = ja.compare_queries(MODEL, IMAGES, LABELS, spatial, budget=50)
    assert asked.results["turned"].success.all()


def problem_of(image: np.ndarray) -> Problem:
    """The image's problem in the unit box."""
    box = jnp.float32(0), jnp.float32(1)
    goal = ja.Untargeted(jnp.int32(0))
    return Problem(jnp.asarray(image), goal, jnp.float32(jnp.inf), *box, jnp.zeros(2), jnp.int32(0))


def flowed_by_scipy(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(image.shape[:2])
    where = [rows + flow[..., 0], columns + flow[..., 1]]
    return np.stack(
        [
            ndimage.map_coordinates(c, where, order=1, mode="nearest")
            for c in np.moveaxis(image, 2, 0)
        ],
        -1,
    )


def test_a_flow_and_the_gradient_through_it_are_scipys() -> None:
    attack, problem = ja.StAdv(bound=2.0), problem_of(PICTURE)
    flow = RNG.uniform(-2, 2, (9, 7, 2)).astype(np.float32)
    weights = RNG.normal(size=PICTURE.shape)
    ours = np.asarray(attack.rendered(problem, jnp.asarray(flow)))
    np.testing.assert_allclose(ours, flowed_by_scipy(PICTURE, flow), atol=2e-6)
    slope = jax.grad(lambda f: (attack.rendered(problem, f) * weights).sum())(jnp.asarray(flow))
    picture = PICTURE.astype(np.float64)
    for place in RNG.integers(0, (9, 7, 2), (20, 3)):
        step = np.zeros(flow.shape)
        step[tuple(place)] = 1e-6
        up, down = (flowed_by_scipy(picture, flow + sign * step) for sign in (1, -1))
        expected = ((up - down) * weights).sum() / 2e-6
        np.testing.assert_allclose(slope[tuple(place)], expected, atol=1e-4)


@pytest.mark.slow
def test_the_roughness_is_the_papers_double_sum() -> None:
    flow = RNG.normal(size=(5, 4, 2)).astype(np.float32)
    total = 0.0
    for i, j in np.ndindex(5, 4):
        for k, m in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            if 0 <= k < 5 and 0 <= m < 4:
                total += np.linalg.norm(flow[i, j] - flow[k, m])
    np.testing.assert_allclose(differences(jnp.asarray(flow), 2), total, rtol=1e-5)
    assert not np.asarray(jax.grad(lambda f: differences(f, 2))(jnp.zeros((5, 4, 2)))).any()


@pytest.mark.slow
def test_a_flow_below_a_pixel_stays_between_the_neighbours() -> None:
    """To be seen in the returned image alone; and it finds what random flows do not."""
    attack = ja.StAdv(bound=0.8, steps=60)
    result = ja.run(attack, MODEL, IMAGES, GOAL, key=KEY, lanes=8, devices=ONE)
    for image, original in zip(result.images[..., 0], IMAGES[..., 0], strict=True):
        assert (image <= ndimage.maximum_filter(original, 3, mode="nearest") + 1e-6).all()
        assert (image >= ndimage.minimum_filter(original, 3, mode="nearest") - 1e-6).all()
    flows = RNG.uniform(-0.8, 0.8, (20, 6, 6, 2))
    moved = np.array([[flowed_by_scipy(image, flow) for flow in flows] for image in IMAGES])
    answers = np.asarray(MODEL(jnp.asarray(moved.reshape(-1, 6, 6, 1), jnp.float32))).argmax(1)
    by_chance = (answers.reshape(21, -1) != LABELS[:, None]).any(1)
    assert result.success.sum() >= by_chance.sum() and result.success.mean() > 0.7


def luv(rgb: np.ndarray) -> np.ndarray:
    """CIELUV under D65 by the formulas of the standards, float64."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz, white = linear @ np.transpose(matrix), np.sum(matrix, 1)

    def chromaticity(c: np.ndarray) -> np.ndarray:
        total = c[..., 0] + 15 * c[..., 1] + 3 * c[..., 2]
        return np.stack([4 * c[..., 0], 9 * c[..., 1]], -1) / np.maximum(total, 1e-30)[..., None]

    y = xyz[..., 1]
    lightness = np.where(y > (6 / 29) ** 3, 116 * np.cbrt(y) - 16, (29 / 3) ** 3 * y)
    away = 13 * lightness[..., None] * (chromaticity(xyz) - chromaticity(white))
    return np.concatenate([lightness[..., None], away], -1)


@pytest.mark.slow
def test_cieluv_is_the_standards_and_back() -> None:
    published = {  # L*, u*, v* of the primaries of sRGB and of white, as tables have them
        (1, 1, 1): (100, 0, 0),
        (0, 0, 0): (0, 0, 0),
        (1, 0, 0): (53.24, 175.01, 37.76),
        (0, 1, 0): (87.73, -83.08, 107.40),
        (0, 0, 1): (32.30, -9.41, -130.34),
        (1, 1, 0): (97.14, 7.71, 106.79),
        (0, 1, 1): (91.11, -70.46, -15.21),
    }
    for colour, expected in published.items():
        ours = to_luv(jnp.array(colour, jnp.float32))
        np.testing.assert_allclose(ours, expected, atol=0.06)
    every = np.stack(np.meshgrid(*[np.linspace(0, 1, 18)] * 3), -1).reshape(-1, 3)
    ours = to_luv(jnp.asarray(every, jnp.float32))
    np.testing.assert_allclose(ours[1:], luv(every)[1:], atol=2e-3)
    np.testing.assert_allclose(from_luv(ours), every, atol=2e-5)
    slope = jax.vmap(jax.jacobian(from_luv))(ours)
    assert np.isfinite(slope).all()


FEW = np.array([[0.6, 0.5, 0.4], [0.4, 0.55, 0.5], [0.5, 0.45, 0.55], [0.55, 0.6, 0.5]], np.float32)
COLOURED = FEW[RNG.integers(0, 4, (12, 6, 6))]
TINTS = ja.Model(lambda w, x: x.mean((1, 2)) @ w, jnp.asarray(RNG.normal(size=(3, 4))))


@pytest.mark.slow
@pytest.mark.parametrize("space", ["cieluv", "rgb"])
def test_recolouring_moves_each_colour_as_one_and_within_its_bound(space: str) -> None:
    labels = np.asarray(TINTS(jnp.asarray(COLOURED)).argmax(1))
    attack = ja.ReColorAdv(space=space, resolution=(8, 9, 10), smoothness=0)
    result = ja.run(
        attack, TINTS, COLOURED, ja.Untargeted(labels), key=KEY, keep="loss", lanes=12, devices=ONE
    )
    largest = 0.0
    for image, original in zip(result.images, COLOURED, strict=True):
        for colour in FEW:
            mine = image[(original == colour).all(-1)]
            assert np.ptp(mine, axis=0).max() < 1e-6
            if space == "cieluv":
                away = luv(mine[:1].astype(float)) - luv(colour.astype(float))
                away = away / [100, 200, 200]
            else:
                away = mine[:1] - colour
            assert np.abs(away).max() < 0.06 + 1e-5
            largest = max(largest, np.abs(away).max())
    assert largest > 0.05


@pytest.mark.slow
def test_of_grey_images_the_lightness_moves() -> None:
    """By six units at most: the darkest and the lightest that a tone can become."""
    tones = np.linspace(0.05, 0.95, 36, dtype=np.float32).reshape(1, 6, 6, 1)
    brightness = ja.Model(lambda w, x: x.mean((1, 2, 3))[:, None] * w, jnp.array([1.0, -1.0]))
    result = ja.run(
        ja.ReColorAdv(steps=80),
        brightness,
        tones,
        ja.Untargeted(np.array([0])),
        key=KEY,
        keep="loss",
        devices=ONE,
    )
    before, after = (
        luv(np.repeat(x, 3, -1).astype(np.float64))[..., 0] for x in (tones, result.images)
    )
    assert (after - before).max() < 0 and (before - after).max() < 6 + 1e-3
    assert (before - after).max() > 5.9


def moves(height: int, width: int, reach: int) -> tuple[np.ndarray, csr_matrix, csr_matrix]:
    """All moves of mass of at most `reach` pixels along each axis: their squared lengths, and
    which pixel each leaves and enters, [pixels, moves]."""
    place = np.indices((height, width)).reshape(2, -1).T
    way = place[:, None] - place
    source, target = np.nonzero(np.abs(way).max(-1) <= reach)
    cost = np.square(way[source, target]).sum(-1).astype(float)
    number, ones = np.arange(len(cost)), np.ones(len(cost))
    leaves, enters = csr_matrix((ones, (source, number))), csr_matrix((ones, (target, number)))
    return cost, leaves, enters


def wasserstein(image: np.ndarray, original: np.ndarray) -> float:
    """The least cost of any transport from one to the other, by linear programming."""
    total, mass = float(original.sum(dtype=float)), original.ravel().astype(float)
    ends = image.ravel() * (total / image.sum(dtype=float))
    cost, leaves, enters = moves(image.shape[0], image.shape[1], max(image.shape))
    # One equation follows from the others, and rounding would set them at odds.
    every = vstack([leaves, enters[:-1]])
    return linprog(cost, A_eq=every, b_eq=np.concatenate([mass, ends[:-1]]) / total).fun


# With black and white pixels, which can give and take nothing.
CONTRASTED = np.clip(2 * IMAGES - 0.5, 0, 1)


@pytest.mark.slow
def test_the_cheapest_transport_to_what_is_returned_is_within_the_radius() -> None:
    labels = np.asarray(MODEL(jnp.asarray(CONTRASTED)).argmax(1))
    attack = ja.Wasserstein(radius=0.15, steps=20)
    result = ja.run(
        attack, MODEL, CONTRASTED, ja.Untargeted(labels), key=KEY, lanes=8, keep="loss", devices=ONE
    )
    totals = result.images.sum((1, 2, 3), dtype=float)
    np.testing.assert_allclose(totals, CONTRASTED.sum((1, 2, 3), dtype=float), rtol=1e-5)
    assert result.images.min() >= 0 and result.images.max() <= 1
    cost = np.array([wasserstein(a, b) for a, b in zip(result.images, CONTRASTED, strict=True)])
    assert (cost <= 0.15 + 1e-5).all() and np.median(cost) > 0.12
    assert result.success.sum() > 10


@pytest.mark.slow
def test_against_a_linear_class_it_nears_the_best_of_all_plans() -> None:
    """The best plan within the window, the radius and the box is a linear program, too."""
    weights = np.random.default_rng(0).normal(size=36)
    linear = ja.Model(
        lambda w, x: jnp.stack([-(x.reshape(len(x), -1) @ w), 0 * x[:, 0, 0, 0]], 1),
        jnp.asarray(weights, jnp.float32),
    )
    images = np.concatenate([0.5 * IMAGES[:4] + 0.2, CONTRASTED[:4]])
    goal = ja.Untargeted(np.zeros(8, int))
    attack = ja.Wasserstein(radius=0.15)
    result = ja.run(attack, linear, images, goal, key=KEY, keep="loss", lanes=8, devices=ONE)
    cost, leaves, enters = moves(6, 6, 2)
    share = []
    for image, original in zip(result.images, images, strict=True):
        total, mass = original.sum(dtype=float), original.ravel().astype(float)
        best = linprog(
            -(enters.T @ weights),
            A_ub=vstack([cost[None], enters]),
            b_ub=np.concatenate([[0.15 * total], np.ones(36)]),
            A_eq=leaves,
            b_eq=mass,
        )
        gain = (image.ravel() - mass) @ weights
        share.append(gain / (-best.fun - mass @ weights))
    assert min(share) > 0.7 and np.mean(share) > 0.85 and max(share) < 1 + 1e-5


def test_sinkhorn_meets_the_conditions_of_the_optimum() -> None:
    """Of a convex problem: a plan from the prices, mass where the worth says, the whole radius."""
    mass = RNG.random((5, 4, 2)).astype(np.float32)
    mass /= mass.sum()
    wanted = mass + 0.03 * RNG.normal(size=mass.shape).astype(np.float32)
    cost, sharpness = costs(5, 2.0), 200.0
    mass, wanted = jnp.asarray(mass), jnp.asarray(wanted)
    begin = Prices(0 * mass, jnp.float32(1))
    prices = sinkhorn(mass, wanted, 0.1, begin, cost, 5, sharpness, 400)
    plan = plan_of(mass, prices, cost, 5)
    np.testing.assert_allclose(plan.sum(0), mass, atol=1e-6)
    np.testing.assert_allclose(arrived(plan, 5), wanted - prices.worth / sharpness, atol=1e-5)
    np.testing.assert_allclose((plan * cost).sum(), 0.1, rtol=1e-3)
    far = np.asarray(plan).copy()
    for number, (down, right) in enumerate(np.ndindex(5, 5)):
        rows, columns = np.indices((5, 4)) + np.array([down - 2, right - 2]).reshape(2, 1, 1)
        outside = (rows < 0) | (rows >= 5) | (columns < 0) | (columns >= 4)
        assert not far[number][outside].any()
    logs = np.linspace(-30, 60, 400, dtype=np.float32)
    theirs = scipy.special.lambertw(np.exp(logs.astype(float))).real
    np.testing.assert_allclose(lambert(jnp.asarray(logs)), theirs, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ja.Spatial(rotation=-1), "rotation"),
        (lambda: ja.Spatial(translation=np.inf), "translation"),
        (lambda: ja.Spatial(shifts=0), "shifts"),
        (lambda: ja.Spatial(restarts=2), "restarts"),
        (lambda: ja.Spatial(norm="linf"), "l2"),
        (lambda: ja.StAdv(bound=-1), "bound"),
        (lambda: ja.StAdv(loss="hinge"), "loss"),
        (lambda: ja.Wasserstein(window=4), "window"),
        (lambda: ja.Wasserstein(radius=0), "radius"),
        (lambda: ja.ReColorAdv(space="hsv"), "space"),
        (lambda: ja.ReColorAdv(resolution=(1, 2, 2)), "resolution"),
        (lambda: ja.ReColorAdv().untouched(problem_of(np.zeros((4, 4, 2)))), "2 channels"),
    ],
)
def test_settings_that_cannot_be_meant(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
