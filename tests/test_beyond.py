"""Attacks beyond the norms' balls: against SciPy, closed forms, exact transport."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage as ndimage

import jaxadv as ja
from jaxadv.attacks.beyond.resample import resample
from jaxadv.attacks.beyond.spatial import grid, turned
from tests.test_attacks import GOAL, IMAGES, KEY, LABELS, MODEL

ONE = jax.local_devices()[:1]
RNG = np.random.default_rng(0)
PICTURE = RNG.random((9, 7, 3), np.float32)


@pytest.mark.parametrize(
    ("outside", "mode"), [(0.0, "grid-constant"), (0.3, "grid-constant"), (None, "nearest")]
)
def test_reading_off_between_pixels_is_scipys(outside: Any, mode: str) -> None:
    rows, columns = RNG.uniform(-3, 11, (2, 9, 7)).astype(np.float32)
    ours = np.asarray(resample(jnp.asarray(PICTURE), *map(jnp.asarray, (rows, columns)), outside))
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
    offset = centre - matrix @ (centre + np.array([down, right]))
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
    offset = centre - matrix @ (centre + np.array([down, right]))
    return ndimage.affine_transform(
        image[..., 0].astype(np.float64), matrix, offset, order=1, mode="grid-constant"
    )[..., None]


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


def test_worst_of_k_draws_the_same_whatever_the_batch() -> None:
    few, many = (
        ja.run(ja.Spatial(draws=12, batch=batch), MODEL, IMAGES, GOAL, key=KEY, keep="loss",
               lanes=8, devices=ONE)
        for batch in (5, 12)
    )  # fmt: skip
    np.testing.assert_allclose(few.images, many.images, atol=1e-6)
    np.testing.assert_array_equal(few.queries, 12)


def test_what_is_bounded_by_no_ball_is_refused_where_a_norm_is_asked_for() -> None:
    spatial, goal = {"turned": ja.Spatial()}, ja.Untargeted(LABELS)
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


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ja.Spatial(rotation=-1), "rotation"),
        (lambda: ja.Spatial(translation=np.inf), "translation"),
        (lambda: ja.Spatial(shifts=0), "shifts"),
        (lambda: ja.Spatial(norm="linf"), "l2"),
    ],
)
def test_settings_that_cannot_be_meant(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
