"""Parts without anything to split: against SciPy, and every pattern of small networks."""

import numpy as np
import pytest
from scipy.optimize import minimize

import jaxadv as ja
from jaxadv.models.published import load_published
from jaxadv.proofs.polytopes import lowest
from jaxadv.protocols.verdicts import Verdict
from tests.common import dense
from tests.patterns import ORDER, exhaustive, logits, network

DUAL = {"linf": 1, "l2": 2, "l1": np.inf}


def polytope(norm):
    """A cost, inequalities, a box and a radius, of which all matter."""
    rng = np.random.default_rng(2)
    cost, rows = rng.normal(size=6), rng.normal(size=(4, 6))
    radius = 0.5 if norm == "linf" else 0.9
    box = np.full(6, -0.4), np.full(6, 0.5)
    return cost, rows, np.full(4, 0.1), box, radius


@pytest.mark.parametrize("norm", list(ORDER))
def test_the_least_cost_is_that_of_scipy(norm):
    cost, rows, needs, box, radius = polytope(norm)
    found = lowest(norm, cost, rows, needs, box, radius)
    inside = [{"type": "ineq", "fun": lambda d: rows @ d - needs}]
    if norm != "linf":  # smooth enough for SLSQP where no entry is 0
        length = lambda d: radius - np.linalg.norm(d, ORDER[norm])  # noqa: E731
        inside.append({"type": "ineq", "fun": length})
    starts = np.random.default_rng(0).uniform(-0.4, 0.5, size=(20, 6))
    runs = [
        minimize(lambda d: cost @ d, d, constraints=inside, bounds=list(zip(*box, strict=True)))
        for d in starts
    ]
    truth = min(run.fun for run in runs if run.success)
    assert found.value == pytest.approx(truth, abs=1e-3)
    assert found.value <= truth + 1e-6
    assert (found.multipliers >= 0).all() and found.multipliers.any()


@pytest.mark.parametrize("norm", list(ORDER))
def test_multipliers_show_that_nothing_is_feasible(norm):
    """Weak duality, at many points of the box and the ball."""
    cost, rows, needs, box, radius = polytope(norm)
    found = lowest(norm, cost, rows, needs + 2, box, radius, enough=3.0)
    d = np.random.default_rng(1).uniform(*box, size=(100_000, 6))
    d *= np.minimum(1, radius / np.linalg.norm(d, ORDER[norm], axis=1))[:, None]
    least = (d @ cost - (d @ rows.T - needs - 2) @ found.multipliers).min()
    assert 3 < found.value <= least + 1e-6


DEEP = pytest.param((4, 3, 3, 2), 3, marks=pytest.mark.slow)


@pytest.mark.parametrize("norm", list(ORDER))
@pytest.mark.parametrize(("widths", "seed"), [((4, 5, 3), 3), DEEP])
def test_proofs_are_complete(norm, widths, seed):
    """Just below the distance of the nearest mistake all is proved; just above, it is found."""
    params = network(seed, widths)
    images = np.random.default_rng(0).uniform(size=(4, 2, 2, 1)).astype(np.float32)
    labels = np.asarray(logits(params, images)).argmax(1)
    truth = np.array(
        [
            exhaustive(params, x.ravel().astype(float), label, norm)
            for x, label in zip(images, labels, strict=True)
        ]
    )
    model = ja.Model(logits, params)
    for share, expected in ((0.999, "proved"), (1.001, "broken")):
        radii = np.where(np.isfinite(truth), share * truth, 0.1)
        proof = ja.prove(
            model, images, labels, radii, norm, effort="strong", attacks={}, arithmetic="real"
        )
        wanted = np.isfinite(truth) if expected == "broken" else np.ones(len(truth), bool)
        assert (getattr(proof, expected) == wanted).all(), proof.status
        assert (proof.replay(model)[proof.proved] == proof.lower[proof.proved]).all()


def test_without_linear_programs_such_parts_stay_open(monkeypatch):
    """The test above would fail without them."""
    monkeypatch.setattr("jaxadv.protocols.proof_search.Search.pieces", None)
    params = network(3, (4, 5, 3))
    images = np.random.default_rng(0).uniform(size=(4, 2, 2, 1)).astype(np.float32)
    labels = np.asarray(logits(params, images)).argmax(1)
    truth = [
        exhaustive(params, x.ravel().astype(float), y, "l1")
        for x, y in zip(images, labels, strict=True)
    ]
    radii = 1.001 * np.minimum(truth, 1.0)
    model = ja.Model(logits, params)
    proof = ja.prove(
        model, images, labels, radii, "l1", effort="strong", attacks={}, arithmetic="real"
    )
    assert (proof.status == Verdict.STUCK).any()


@pytest.mark.slow
def test_descents_from_corners_find_what_gradients_do_not(shared):
    """Images that a mixed-integer solver broke, and the verifiers' attacks did not."""
    name = "mnist_cnn_a_adv"
    folder = shared / "data" / "models" / name
    index = np.loadtxt(folder / "hard_mip_unsafe_test_index.txt", dtype=int)[:8]
    data = ja.load_data("mnist", data_dir=shared / "data" / "mnist")
    images, labels, model = data.images[index], data.labels[index], load_published(folder)
    attacked = ja.evaluate(model, images, labels, epsilons=[0.3], attacks="fast", distances=False)
    survived = np.ravel(attacked.broken_by) == -1
    proof = ja.prove(model, images, labels, 0.3, effort="strong", budget=500, attacks={})
    assert (proof.broken & survived).sum() >= 2 and not proof.proved.any()
    moved = np.abs(proof.images.astype(float) - images)[proof.broken]
    assert moved.max() <= 0.3 and (proof.upper[proof.broken] < 0).all()
    assert (np.asarray(model(proof.images[proof.broken])).argmax(1) != labels[proof.broken]).all()


def test_descents_spend_what_they_say(monkeypatch):
    """Their passes are counted, and what they break is broken."""
    model = dense((6, 40, 40, 3), seed=2)
    images = np.random.default_rng(1).uniform(size=(12, 2, 3, 1)).astype(np.float32)
    labels = np.asarray(model(images).argmax(1))
    settings = {"effort": "strong", "budget": 1, "attacks": {}}
    found = ja.prove(model, images, labels, 0.15, **settings)
    monkeypatch.setattr("jaxadv.protocols.proof_branching.descend_from_corners", lambda *_: None)
    bare = ja.prove(model, images, labels, 0.15, **settings)
    whole = ja.prove(model, images, labels, 0.15, **settings | {"budget": 1000})
    spent = found.backward - bare.backward
    assert (bare.status == Verdict.BUDGET).any()
    assert (spent[bare.status == Verdict.BUDGET] > 0).all()
    assert (spent[bare.status != Verdict.BUDGET] == 0).all()
    assert (found.broken >= bare.broken).all() and not (found.broken & whole.proved).any()
    assert (np.asarray(model(found.images)).argmax(1) != labels)[found.broken].all()
