"""Pattern search: against every pattern of small networks by brute force, and proved distances."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.data import load_data
from jaxadv.models import from_torch_arrays
from jaxadv.models.definitions import get_definition
from jaxadv.proofs.polytopes import nearest
from jaxadv.protocols import portfolios
from tests.common import KEY
from tests.patterns import ORDER, exhaustive, logits, network, shortest


@pytest.mark.parametrize("norm", list(ORDER))
@pytest.mark.parametrize(("widths", "seed"), [((4, 5, 3), 3), ((4, 3, 3, 2), 3)])
def test_all_patterns_of_small_networks(norm, widths, seed):
    """From the farthest of some random mistakes to the nearest of all."""
    params = network(seed, widths)
    model = ja.Model(logits, params)
    images = np.random.default_rng(0).uniform(size=(400, 2, 2, 1)).astype(np.float32)
    x, scores = images[0], np.asarray(logits(params, images))
    label = int(scores[0].argmax())
    wrong = images[scores.argmax(1) != label]
    away = np.linalg.norm((wrong - x).reshape(len(wrong), -1), ORDER[norm], axis=1)
    start = wrong[away.argmax()]
    (found,) = ja.pattern_search(model, x[None], [label], start[None], norm)
    truth = exhaustive(params, x.ravel().astype(float), label, norm)
    assert found.distance == pytest.approx(truth, rel=1e-3, abs=1e-4)
    assert np.asarray(logits(params, found.image[None])).argmax() != label
    assert found.image.min() >= 0 and found.image.max() <= 1


@pytest.mark.parametrize("norm", list(ORDER))
def test_nearest_points_of_polytopes(norm):
    rng = np.random.default_rng(1)
    x, rows = rng.uniform(size=8), rng.normal(size=(5, 8))
    needs = rows @ (rng.uniform(size=8) - x) - 0.05
    d = nearest(norm, rows, needs, (-x, 1 - x), 10.0)
    truth = shortest(norm, rows, needs, x)
    assert np.linalg.norm(d, ORDER[norm]) == pytest.approx(truth, rel=1e-4)
    assert (rows @ d > needs - 1e-6).all() and (x + d > -1e-9).all() and (x + d < 1 + 1e-9).all()
    assert nearest(norm, rows, needs, (-x, 1 - x), 0.9 * truth) is None


def test_proved_distances(shared):
    """FMN is up to a half above the proved minimum here; the pieces next to it reach it."""
    folder = shared / "data/exact/mlp40_linf0.1"
    with np.load(folder / "linf.npz") as file:
        index, distance = file["index"][:3], file["distance"][:3]
    data = load_data("mnist", data_dir=shared / "data/mnist")
    network = get_definition("FC")(widths=(40,))
    model = from_torch_arrays(network, folder / "weights.npz", image_shape=(28, 28, 1))
    images, labels = data.images[index], data.labels[index]
    starts = ja.run(ja.FMN(steps=40), model, images, ja.Untargeted(labels), key=KEY)
    found = ja.pattern_search(model, images, labels, starts.images)
    before = starts.distance / distance
    after = np.array([one.distance for one in found]) / distance
    assert after.min() > 1 - 1e-4 and after.max() < 1.005 < before.max()


SMALL = {"FMN": ja.FMN(steps=20)}


def test_last_member_of_a_strong_search(monkeypatch, tmp_path):
    """It is a member like others: its images verified, its passes counted, its results kept."""
    monkeypatch.setattr(portfolios, "EFFORTS", {"strong": 40_000})  # without the weaker ones
    monkeypatch.setattr(portfolios, "strong", lambda norm, targeted: SMALL)
    model = ja.Model(logits, network(3, (4, 5, 3)))
    images = np.random.default_rng(0).uniform(size=(6, 2, 2, 1)).astype(np.float32)
    labels = np.asarray(model(images)).argmax(1)
    how = {"effort": "strong", "key": KEY, "store": tmp_path}
    found = ja.minimal_distance(model, images, labels, **how)
    first = ja.minimal_distance(model, images, labels, **{**how, "effort": SMALL, "store": None})
    assert found.members == ["FMN", "pattern search"] and found.programs.sum() > 0
    assert (found.distance <= first.distance).all() and (found.path[1] == found.distance).all()
    assert (found.forward > first.forward)[found.programs > 0].all()
    again = ja.minimal_distance(model, images, labels, **how)
    assert (again.images == found.images).all() and again.cost.seconds == found.cost.seconds
    part = ja.minimal_distance(
        model, images[2:4], labels[2:4], ids=[2, 3], **{**how, "store": None}
    )
    assert (part.images == found.images[2:4]).all()


def test_skipped_where_there_are_no_pieces(monkeypatch):
    monkeypatch.setattr(portfolios, "EFFORTS", {"strong": 40_000})  # without the weaker ones
    monkeypatch.setattr(portfolios, "strong", lambda norm, targeted: SMALL)
    model = ja.Model(lambda w, x: jnp.tanh(x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(4))
    images, labels = np.eye(4, dtype=np.float32).reshape(4, 2, 2, 1), np.arange(4)
    found = ja.minimal_distance(model, images, labels, effort="strong", key=KEY)
    assert found.members == ["FMN"] and (found.programs == 0).all()
    with pytest.raises(ValueError, match="'tanh' is not piecewise linear"):
        ja.pattern_search(model, images, labels, images)
    with pytest.raises(ValueError, match="norm='l0'"):
        ja.pattern_search(model, images, labels, images, "l0")
