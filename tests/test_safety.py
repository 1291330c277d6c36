"""Distances between classes against linear programs, local accuracy against an area."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import jaxadv as ja
from jaxadv.data import Dataset
from jaxadv.protocols.class_pairs import class_pairs
from jaxadv.protocols.local_accuracy import local_accuracy
from jaxadv.studies.safety import safety

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(4, 3)).astype(np.float32)
MODEL = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.asarray(WEIGHTS))
IMAGES = RNG.random((40, 2, 2, 1)).astype(np.float32)
LABELS = np.asarray(MODEL(IMAGES)).argmax(1)
EFFORT = {
    "FMN": ja.FMN(norm="linf", steps=300),
    "FAB": ja.Refine(ja.FAB(norm="linf", steps=40)),
}


def by_program(image: np.ndarray, target: int) -> float:
    """The least Linf distance at which the target's score is the largest."""
    x = image.ravel().astype(float)
    gaps = (WEIGHTS - WEIGHTS[:, [target]]).T.astype(float)  # others less the target, <= 0
    one, slack = np.eye(4), np.ones((4, 1))
    found = linprog(
        [0, 0, 0, 0, 1],
        A_ub=np.block([[gaps, np.zeros((3, 1))], [one, -slack], [-one, -slack]]),
        b_ub=np.r_[gaps @ np.full(4, 0.5), x, -x],
        bounds=[(0, 1)] * 4 + [(0, None)],
    )
    return found.fun if found.status == 0 else np.inf


@pytest.mark.slow
def test_pairs_of_classes_against_linear_programs() -> None:
    found = class_pairs(MODEL, IMAGES, LABELS, "linf", each=4, effort=EFFORT)
    assert (np.bincount(found.labels, minlength=3) == np.minimum(np.bincount(LABELS), 4)).all()
    ratios = []
    for row, (image, own) in enumerate(zip(found.images, found.labels, strict=True)):
        np.testing.assert_array_equal(image, IMAGES[found.ids[row]])
        for target in {0, 1, 2} - {int(own)}:
            expected = by_program(image, target)
            ratios.append(found.distance[row, target] / expected)
            scores = np.asarray(MODEL(found.nearest[row, target][None]))[0]
            assert scores[target] > scores.max() - 1e-6  # on the boundary, but for rounding
        assert found.distance[row, own] == 0
    assert min(ratios) > 1 - 1e-5 and np.median(ratios) < 1.002  # attacks: upper bounds
    assert (found.untargeted() == np.sort(found.distance, 1)[:, 1]).all()
    rows = found.distance[found.labels == found.labels[0]]
    median = np.sort(rows, 0)[(len(rows) - 1) // 2]
    others = np.arange(3) != found.labels[0]
    assert (found.matrix()[found.labels[0]][others] == median[others]).all()


def test_local_accuracy_is_an_area() -> None:
    """The first pixel is to be above a half; of the ball about 0.6 of radius 0.2 that is 3/4."""
    model = ja.from_function(lambda x: jnp.stack([x[:, 0, 0, 0], 0 * x[:, 0, 0, 0] + 0.5], 1))
    images = np.full((200, 2, 2, 1), 0.6, np.float32)
    shares = local_accuracy(model, images, np.zeros(200, int), "linf", [0.05, 0.2, 0.4])
    assert shares[0].mean() == 1
    assert shares.mean(1)[1:] == pytest.approx([0.75, 0.625], abs=0.02)


def test_the_findings_say_what_was_measured() -> None:
    data = Dataset(IMAGES, LABELS, np.arange(40), "three", ("a", "b", "c"))
    pairs = class_pairs(MODEL, IMAGES, LABELS, "linf", each=2, effort=EFFORT)
    findings = safety(MODEL, data, "linf", pairs=pairs)
    text, median, _, gallery, curves, around, classes = findings.parts
    i, j = np.unravel_index(np.nanargmin(pairs.matrix()), (3, 3))
    assert f"{'abc'[i]} to {'abc'[j]} ({np.nanmin(pairs.matrix()):.3g})" in text.text
    np.testing.assert_array_equal(median.values, pairs.matrix())
    assert gallery.rows[0] == f"{'abc'[i]} → {'abc'[j]}"
    worst = curves.lines["the worst point found"]
    assert (worst[1] <= curves.lines["random points of the ball"][1] + 1e-9).all()
    assert "no mistake was found for" in around.text
    assert (classes.values[-1, 0], classes.values.shape) == (100, (4, 7))


def test_nothing_to_attack_is_said() -> None:
    with pytest.raises(ValueError, match="none is classified right"):
        class_pairs(MODEL, IMAGES, (LABELS + 1) % 3, "linf", effort=EFFORT)
    with pytest.raises(ValueError, match="each=0"):
        class_pairs(MODEL, IMAGES, LABELS, "linf", each=0, effort=EFFORT)
