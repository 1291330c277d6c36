"""Evaluations with proofs, against closed forms, samples, and evaluations without them."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.protocols.proof_search import Search
from jaxadv.protocols.prover import CHUNKS
from jaxadv.report import as_data, write_csv, write_html, write_pages
from tests.common import dense

WEAK = {"weak": ja.UniformNoise(draws=1)}


def network(seed=4, sizes=(6, 12, 12, 3)):
    return dense(sizes, seed)


def data(model, count=12):
    images = np.random.default_rng(1).uniform(0.3, 0.7, size=(count, 2, 3, 1)).astype(np.float32)
    labels = np.array(model(images).argmax(1))
    labels[0] = (labels[0] + 1) % 3  # one is misclassified
    return images, labels


@pytest.fixture(scope="module")
def found():
    model = network()
    images, labels = data(model)
    how = {"epsilons": [0.05, 0.1, 0.2], "attacks": WEAK, "distances": False}
    return model, how, ja.evaluate(model, images, labels, prove="strong", **how)


def test_a_linear_model_is_decided_by_its_closed_form():
    weight = np.random.default_rng(0).normal(size=(6, 3))
    model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.asarray(weight, jnp.float32))
    images, labels = data(model)
    epsilons = [0.02, 0.05, 0.1]
    report = ja.evaluate(
        model, images, labels, epsilons=epsilons, attacks=WEAK, distances=False, prove="fast"
    )
    logits = images.reshape(12, -1).astype(float) @ weight
    slope = weight[:, labels].T[:, :, None] - weight[None]
    gap = logits[np.arange(12), labels][:, None] - logits
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.nanmin(gap / np.abs(slope).sum(1), 1)
    robust = distance[None] > np.array(epsilons)[:, None]
    np.testing.assert_array_equal(report.proved, robust)
    np.testing.assert_array_equal(report.broken_by == -1, robust)
    np.testing.assert_allclose(report.robust_bounds, np.stack([robust.mean(1)] * 2, 1))
    assert 0 < robust.mean() < 1 and not report.proved[:, 0].any()


def test_what_is_proved_and_what_breaks(found):
    model, how, report = found
    images, labels = report.images, report.labels
    without = ja.evaluate(model, images, labels, **how)
    np.testing.assert_array_equal(  # the attacks are the same, so the proofs only add
        np.where(report.broken_by == 1, -1, report.broken_by), without.broken_by
    )
    proof = report.broken_by == 1
    assert report.stages[1].name == "proof" and proof.any() and without.proved is None
    assert (report.robust_accuracy < without.robust_accuracy).any()
    assert (report.proved[1:] <= report.proved[:-1]).all() and report.proved.any()
    assert not (report.proved & (report.broken_by != -1)).any()
    low, high = report.robust_bounds.T
    assert (low <= high).all() and (high == report.robust_accuracy).all()
    for level, image in zip(*np.nonzero(proof), strict=True):
        bad = report.adversarial[level, image]
        assert np.abs(bad - images[image]).max() <= report.epsilons[level] + 1e-9
        assert np.asarray(model(bad[None]))[0].argmax() != labels[image]
    rng = np.random.default_rng(2)
    for level, image in zip(*np.nonzero(report.proved), strict=True):
        noise = rng.choice([-1, 1], (2000, *images.shape[1:])) * report.epsilons[level]
        near = np.clip(images[image] + noise, 0, 1).astype(np.float32)
        assert (np.asarray(model(near)).argmax(1) == labels[image]).all()


def test_the_reports_show_both_sides(found, tmp_path):
    *_, report = found
    shown = as_data(report)
    assert json.loads(json.dumps(shown))["robust_bounds"] == report.robust_bounds.tolist()
    assert [image["proved"] for image in shown["images"]] == report.proved.T.tolist()
    assert shown["certified_accuracy"] == report.proved.mean(1).tolist()
    assert shown["attacks"][1]["settings"]["effort"] == "strong"
    page = write_html(report, tmp_path / "report.html").read_text()
    assert "proved" in page and "the truth is in the band" in page
    rows = write_csv(report, tmp_path / "report.csv").read_text().splitlines()
    assert sum(row.split(",")[6] == "1" for row in rows[1:]) == report.proved.sum()
    write_pages(report, tmp_path / "images")
    index = (tmp_path / "images" / "index.html").read_text()
    assert index.count("<td>proved</td>") == report.proved.sum()


class Killed(BaseException):
    pass


def test_a_killed_evaluation_goes_on_with_equal_proofs(found, tmp_path, monkeypatch):
    model, how, _ = found
    monkeypatch.setitem(CHUNKS, "strong", 4)
    images, labels = data(model)
    whole = ja.evaluate(model, images, labels, prove="strong", **how)
    bound, begun = Search.bound, []

    def counted(self, rows):
        begun.append(rows)
        if len(begun) == 3:
            raise Killed
        bound(self, rows)

    monkeypatch.setattr(Search, "bound", counted)
    with pytest.raises(Killed):
        ja.evaluate(model, images, labels, prove="strong", store=tmp_path, **how)
    again = ja.evaluate(model, images, labels, prove="strong", store=tmp_path, **how)
    count = len(begun)
    last = ja.evaluate(model, images, labels, prove="strong", store=tmp_path, **how)
    assert len(begun) == count
    for report in (again, last):
        for name in ("broken_by", "adversarial", "distance", "proved", "passes"):
            np.testing.assert_array_equal(getattr(report, name), getattr(whole, name))
        assert report.complete


def test_what_cannot_be_proved_is_refused_before_any_attack():
    images, labels = data(network())
    sine = ja.Model(lambda w, x: jnp.sin(x.reshape(len(x), -1)) @ w, jnp.eye(6)[:, :3])
    begun = []

    def evaluate(model=sine, **more):
        attacks = {"noise": ja.UniformNoise(norm=more.get("norm", "linf"))}
        how = {"attacks": attacks, "distances": False, "prove": "fast"}
        goal = more.pop("labels", labels)
        tell = lambda *now: begun.append(now)  # noqa: E731
        ja.evaluate(model, images, goal, progress=tell, **{**how, **more})

    with pytest.raises(ValueError, match=r"'sin' at .*test_two_sided.py:\d+"):
        evaluate()
    with pytest.raises(ValueError, match="norm='l0'"):
        evaluate(network(), norm="l0")
    with pytest.raises(ValueError, match="effort='most'"):
        evaluate(network(), prove="most")
    with pytest.raises(ValueError, match="Evading"):
        evaluate(network(), labels=ja.Evading(labels % 2, 2))
    assert not begun
