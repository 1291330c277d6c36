"""A window that slides over faults, attacks and a change of scene: against figures by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.core.window import far_out
from jaxadv.protocols.sliding import EVENTS, faulty, moving
from jaxadv.studies import Table, Text
from jaxadv.studies.sliding import during, sliding_parts

# Is the image brighter than a half?
BRIGHT = ja.Model(lambda w, x: (x.mean((1, 2, 3))[:, None] - 0.5) @ w, jnp.array([[-9.0, 9.0]]))
LABELS = np.arange(8) % 2
IMAGES = np.repeat(np.where(LABELS, 0.7, 0.3), 4).reshape(8, 2, 2, 1).astype(np.float32)


def film(frames: int, lengths: list[int], epsilon: float = 0.1, **settings):
    return ja.sliding(
        BRIGHT,
        IMAGES,
        LABELS,
        epsilon,
        frames=frames,
        lengths=lengths,
        sigma=0.02,
        attack=ja.PGD(loss="margin", steps=10),
        lanes=8,
        **settings,
    )


@pytest.fixture(scope="module")
def short():
    return film(3, [1], 0.5, defences=["mean", "majority", "outliers"])


def test_frames_without_noise_are_the_image_moved():
    image = np.zeros((1, 7, 7, 1), np.float32)
    image[0, 3, 3] = 1
    frames = moving(image, 8, 0.0, 2, key=jax.random.key(0))[0, ..., 0]
    places = np.argwhere(frames == 1)[:, 1:]
    assert len(places) == 8 and frames.sum() == 8  # one bright pixel in each
    away = np.linalg.norm(places - 3, axis=1)
    assert ((away > 1.3) & (away < 2.3)).all() and len(np.unique(places, axis=0)) == 8
    still = moving(image, 3, 0.0, 0, key=jax.random.key(0))
    np.testing.assert_array_equal(still, np.repeat(image[:, None], 3, 1))


def test_faults_are_what_they_are_called():
    frames = np.ones((4, 3, 8, 8, 1), np.float32)
    assert not faulty(frames, "blank").any()
    occluded = faulty(frames, "occluded")
    assert ((occluded == 0).sum((2, 3, 4)) <= 16).all() and (occluded == 0).any((2, 3, 4)).all()
    noise = faulty(frames, "corrupted")
    assert abs(noise.mean() - 0.5) < 0.05 and abs(noise.std() - np.sqrt(1 / 12)) < 0.05
    with pytest.raises(ValueError, match="fault='rain'"):
        faulty(frames, "rain")


def test_the_lag_is_the_frames_that_each_recipe_needs(short):
    """Of w frames of 0.3 and 0.7 the mean crosses a half, and a vote turns, with most of them."""
    np.testing.assert_array_equal(short.lag, 1)
    longer = film(5, [1], defences=["majority"])
    np.testing.assert_array_equal(longer.lag, 2)


def test_a_blank_frame_turns_the_mean_and_neither_votes_nor_the_recipe_for_outliers(short):
    """One blank of three: (0.7 + 0.7 + 0) / 3 is below a half, 0.2 is right for the dark ones."""
    blank = EVENTS.index("blank")
    touched = short.touched(1)
    assert touched == slice(1, 4)
    np.testing.assert_array_equal(short.accuracy[blank, 0, 0, touched], 0.5)
    np.testing.assert_array_equal(short.accuracy[blank, 0, 1:], 1)
    np.testing.assert_array_equal(short.calm, 1)
    np.testing.assert_array_equal(short.accuracy[:, :, :, [0, 4]], 1)  # not in the window
    assert short.thrown[blank, 0, 0] == 1 and short.thrown[blank, 0, 1] < 0.3


def test_an_attack_through_the_mean_turns_it_and_one_frame_never_turns_a_vote(short):
    """One of three frames moves the mean by a third of 0.5, less than 0.2: by epsilon 1 it does."""
    through = EVENTS.index("attacked through the defence")
    np.testing.assert_array_equal(short.accuracy[through, 0, :2], 1)
    wide = film(3, [1, 2], 1.0, defences=["mean", "majority"])
    np.testing.assert_array_equal(wide.accuracy[through, 0, 0, 1:4], 0)
    np.testing.assert_array_equal(wide.accuracy[through, 0, 1], 1)
    # Two frames of three are a majority, in the two of four windows that hold both.
    np.testing.assert_array_equal(wide.accuracy[through, 1, 1], [1, 1, 0, 0, 1, 1])


def test_what_is_thrown_out_lies_farther_than_three_median_distances():
    rng = np.random.default_rng(0)
    readings = rng.random((50, 5, 3, 1, 1)).astype(np.float32)
    readings[::2, 2] += 4
    middle = np.median(readings, 1, keepdims=True)
    away = np.linalg.norm((readings - middle).reshape(50, 5, -1), axis=-1)
    expected = away > 3 * np.median(away, 1, keepdims=True)
    np.testing.assert_array_equal(np.asarray(far_out(jnp.asarray(readings))).T, expected)
    assert expected[::2, 2].all()


def test_the_page_shows_what_was_measured(short):
    parts = sliding_parts(short)
    table, thrown, lag = (part for part in parts if isinstance(part, Table))
    _, events = during(short)
    np.testing.assert_allclose(table.values[:, 1:], events[:, 0].T)
    assert thrown.values[EVENTS.index("blank"), 0] == 100
    np.testing.assert_array_equal(lag.values, [[1, 0, 0]] * 3)
    words = next(part.text for part in parts if isinstance(part, Text))
    assert "100 % of blank" in words and "lags by 1.00 windows" in words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lengths": [4]}, "lengths"),
        ({"lengths": []}, "lengths"),
        ({"defences": []}, "defences is empty"),
        ({"labels": np.zeros(8, int)}, "one class"),
    ],
)
def test_what_cannot_be_meant_is_said(change, words):
    settings = {"labels": LABELS, "frames": 3} | change
    with pytest.raises(ValueError, match=words):
        ja.sliding(BRIGHT, IMAGES, settings.pop("labels"), 0.1, **settings)
