"""Two attacks against one another: counts by hand, against a closed form, and the picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.core.result import empty_result
from jaxadv.report import pair_data, pair_figure, write_distances, write_pair
from jaxadv.report.distance import distance_data, print_distances


def result(distances, misclassified=()):
    """A run with these distances; infinite: nothing was found."""
    values = np.array(distances, float)
    found = empty_result(len(values), (4, 4, 1), values, np.arange(len(values)))
    found.distance[:], found.success[:] = values, np.isfinite(values)
    found.status[:] = np.where(found.success, ja.Status.SUCCESS, ja.Status.FAILED)
    found.status[list(misclassified)] = ja.Status.MISCLASSIFIED
    return found


FIRST = result([1.0, 2.0, 3.0, np.inf, 0.5, np.inf, 0.0, 1.0], [6])
SECOND = result([2.0, 1.0, 3.0 + 1e-4, 4.0, np.inf, np.inf, 0.0, 0.25], [6])


def test_counts_by_hand():
    assert pair_data(FIRST, SECOND) == {
        "compared": 7,
        "first": 2,
        "second": 3,
        "level": 1,
        "only_first": 1,
        "only_second": 1,
        "neither": 1,
    }
    other = pair_data(SECOND, FIRST)
    assert (other["first"], other["second"], other["only_first"]) == (3, 2, 1)
    with pytest.raises(ValueError, match="second is of 3 images, first of 8"):
        pair_data(FIRST, result([1.0, 2.0, 3.0]))


def test_the_picture_shows_every_image_that_was_found(tmp_path):
    figure = pair_figure(FIRST, SECOND, ("one", "two"))
    (axes,) = figure.axes
    dots, crosses = (np.asarray(c.get_offsets()) for c in axes.collections)
    np.testing.assert_allclose(dots, [[1, 2], [2, 1], [3, 3.0001], [1, 0.25]])
    line = 4.0 * 1.25
    assert crosses.shape == (2, 2) and (crosses.max(1) > line).all()
    assert (crosses.max(1) < axes.get_xlim()[1]).all()
    np.testing.assert_allclose(crosses.min(1), [4.0, 0.5])
    assert "one nearer: 2, two nearer: 3, level: 1" in axes.get_title(loc="left")
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert write_pair(FIRST, SECOND, tmp_path / "a" / "pair.png").stat().st_size > 10_000
    pair_figure(result([np.inf]), result([np.inf]), ("a", "b"))  # nothing at all


def test_two_searches_of_a_linear_model(tmp_path, capsys):
    """What takes the closed form's step exactly is never farther than what creeps towards it."""
    weights = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.asarray(weights))
    images = np.random.default_rng(1).uniform(0.3, 0.7, (12, 4, 4, 1)).astype(np.float32)
    labels = np.asarray(model(images)).argmax(1)
    settings = {"key": jax.random.key(0), "lanes": 8, "devices": jax.devices()[:1]}
    found = {
        name: ja.minimal_distance(model, images, labels, "l2", effort={name: attack}, **settings)
        for name, attack in {
            "DeepFool": ja.DeepFool(overshoot=1e-4),
            "noise": ja.MinimalEpsilon(ja.UniformNoise(norm="l2", draws=5), rounds=5),
        }.items()
    }
    data = distance_data(found)
    (pair,) = data["pairs"]
    assert pair["names"] == ["DeepFool", "noise"] and pair["second"] == 0
    assert pair["first"] == 12
    print_distances(data)
    assert "DeepFool against noise" in capsys.readouterr().out
    page = write_distances(found, tmp_path / "report.html").read_text()
    assert "One against another" in page and 'alt="DeepFool against noise"' in page
