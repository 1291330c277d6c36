"""Windows of readings: breakdown points in closed form, votes by hand, and the findings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.core.window import DEFENCES, trimmed_mean
from jaxadv.protocols.streams import ATTACKS
from jaxadv.studies.streams import streams_findings
from tests.random_state import restored

KEY = jax.random.key(0)
ONE = jax.devices()[:1]
RNG = np.random.default_rng(0)
restored_before_each_test = restored(RNG)
# A reading is one number; class 1 if it is above a half.
THRESHOLD = ja.Model(lambda w, x: (x.reshape(-1, 1) - 0.5) @ w, jnp.array([[-1.0, 1.0]]))
READINGS = np.array([0.2, 0.3, 0.35, 0.4, 0.45], np.float32)
WINDOW = READINGS.reshape(1, 5, 1, 1)
TWO = ja.Model(lambda w, x: x.reshape(len(x), -1)[:, :2], ())


def broken(defence: str, k: int, trim: int = 1) -> bool:
    """Whether an attack that may write anything into the last k of five readings gets through."""
    model = ja.windowed(THRESHOLD, 5, defence, trim)
    mask = (np.arange(5) >= 5 - k).reshape(5, 1, 1)
    attack = ja.Masked(ja.PGD(loss="margin", steps=20), mask)
    found = ja.run(
        attack, model, WINDOW, ja.Untargeted(np.zeros(1, int)), 1.0, key=KEY, devices=ONE, lanes=1
    )
    assert (found.images[:, : 5 - k] == WINDOW[:, : 5 - k]).all()
    return bool(found.success[0])


@pytest.mark.parametrize("defence", ["median", "median input", "majority"])
def test_median_and_majority_break_down_at_one_half(defence: str) -> None:
    assert [broken(defence, k) for k in (1, 2, 3)] == [False, False, True]


@pytest.mark.parametrize("defence", ["trimmed", "trimmed input"])
@pytest.mark.parametrize("trim", [0, 1])
def test_a_trimmed_mean_breaks_exactly_where_its_worst_value_crosses(
    defence: str, trim: int
) -> None:
    """The worst an attacker of k of w can do is w - k honest readings and k ones: the k - trim
    ones that are not thrown out, and the honest but for the least `trim`."""
    for k in (1, 2, 3):
        honest = np.sort(READINGS[: 5 - k])
        window = np.r_[honest, np.ones(k)]
        worst = np.sort(window)[trim : 5 - trim].mean()
        found = float(trimmed_mean(jnp.asarray(window, jnp.float32), trim))
        assert found == pytest.approx(worst, abs=1e-6)
        if k <= trim:
            assert worst <= honest.max()  # the bound: never beyond the honest
        assert broken(defence, k, trim) == (worst > 0.5)


@pytest.mark.slow
def test_the_mean_is_broken_by_one_reading_that_is_far_off() -> None:
    window = np.full((1, 5, 1, 1), 0.45, np.float32)
    mask = (np.arange(5) < 1).reshape(5, 1, 1)
    goal = ja.Untargeted(np.zeros(1, int))
    for defence, expected in (("mean", True), ("outliers", False)):
        model = ja.windowed(THRESHOLD, 5, defence)
        found = ja.run(
            ja.Masked(ja.PGD(loss="margin"), mask),
            model,
            window,
            goal,
            1.0,
            key=KEY,
            devices=ONE,
            lanes=1,
        )
        assert bool(found.success[0]) == expected


@pytest.mark.slow
def test_the_defences_by_hand() -> None:
    """Three frames of two pixels, three classes; numpy does it again."""
    weights = RNG.normal(size=(2, 3)).astype(np.float32)
    model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.asarray(weights))
    frames = RNG.random((40, 5, 2)).astype(np.float32)
    frames[:, 4] += 3 * (np.arange(40) % 2)[:, None]  # every second window has an outlier
    logits = frames @ weights
    votes = (logits.argmax(-1)[..., None] == np.arange(3)).sum(1)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    far = np.square(frames - np.median(frames, 1, keepdims=True)).sum(-1)
    kept = far <= 9 * np.median(far, 1, keepdims=True)
    expected = {
        "mean": logits.mean(1),
        "median": np.median(logits, 1),
        "trimmed": np.sort(logits, 1)[:, 1:4].mean(1),
        "median input": np.median(frames, 1) @ weights,
        "trimmed input": np.sort(frames, 1)[:, 1:4].mean(1) @ weights,
        "majority": votes + shares.mean(1) / 2,
        "outliers": (logits * kept[..., None]).sum(1) / kept.sum(1, keepdims=True),
    }
    assert set(expected) == set(DEFENCES)
    assert (~kept[1::2, 4]).all() and kept[::2, 4].any()
    windows = frames.reshape(40, 10, 1, 1)
    for defence, answer in expected.items():
        made = ja.windowed(model, 5, defence)
        np.testing.assert_allclose(made(windows), answer, atol=1e-5)
        assert made.samples == (1 if "input" in defence else 5)
        slope = jax.jacrev(lambda x, m=made: m(x).sum(0))(windows).reshape(3, 40, 5, 2)
        assert (np.abs(slope).sum((0, 3)) > 0).all()  # every frame has a gradient
    even = ja.windowed(model, 4, "median")(windows[:, :8])
    np.testing.assert_allclose(even, np.median(logits[:, :4], 1), atol=1e-5)


@pytest.mark.slow
def test_the_study_says_what_was_measured() -> None:
    """Images so bright that the threshold holds by 0.2; an epsilon of 0.35 flips any reading."""
    images = np.repeat(np.where(np.arange(12) % 2, 0.7, 0.3), 4).reshape(12, 2, 2, 1)
    labels = np.arange(12) % 2
    mean = ja.Model(lambda w, x: (x.mean((1, 2, 3))[:, None] - 0.5) @ w, jnp.array([[-9.0, 9.0]]))
    found = ja.streams(
        mean,
        images.astype(np.float32),
        labels,
        0.35,
        frames=3,
        controlled=[1, 2],
        shift=0,
        defences=["mean", "majority"],
        sigma=0.02,
        attack=ja.PGD(loss="margin", steps=30),
        lanes=8,
    )
    assert found.single == 1 and found.clean.tolist() == [1, 1]
    # The mean moves by k / 3 of 0.35, 0.12 or 0.23; a vote needs two of three.
    expected = np.array([[1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_array_equal(found.accuracy[1], expected)
    np.testing.assert_array_equal(found.accuracy[3], expected)
    assert (found.accuracy[[1, 3]] <= found.accuracy[[0, 2]]).all()
    honest = found.windows[:, :, 2]
    np.testing.assert_array_equal(honest, np.broadcast_to(found.readings[:, 2], honest.shape))
    assert np.abs(found.windows - found.readings).max() <= 0.35
    change = found.windows[3] - found.readings
    np.testing.assert_allclose(change[:, 0], change[:, 1], atol=1e-6)
    findings = streams_findings(found)
    tables = [part for part in findings.parts if type(part).__name__ == "Table"]
    assert [table.title.split(": ")[1] for table in tables] == list(ATTACKS)
    np.testing.assert_array_equal(tables[1].values[:, 1:], 100 * expected)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ja.windowed(THRESHOLD, 0), "frames=0"),
        (lambda: ja.windowed(THRESHOLD, 5, "vote"), "defence='vote'"),
        (lambda: ja.windowed(THRESHOLD, 4, "trimmed", trim=2), "trim=2"),
        (lambda: ja.windowed(THRESHOLD, 3)(jnp.zeros((1, 5, 1, 1))), "multiple"),
        (lambda: ja.streams(TWO, WINDOW, [0], controlled=[6]), "controlled"),
        (lambda: ja.streams(TWO, WINDOW, [0], defences=[]), "defences is empty"),
        (lambda: ja.streams(TWO, WINDOW, [0], attack=ja.DDN()), "in l2"),
    ],
)
def test_what_cannot_be_meant_is_said(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
