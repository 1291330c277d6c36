"""Randomised smoothing, held against the linear classifier, whose radius is known, and SciPy."""

import dataclasses
import json
import os
import re
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxadv as ja
from jaxadv.certification.smoothing import binomial_p_value, lower_bound, noise
from jaxadv.engine.result_store import Store
from jaxadv.models import get_definition, save_weights
from jaxadv.models.train import train
from jaxadv.report import (
    CertifiedRun,
    Page,
    as_data,
    certified_data,
    print_certified,
    write_certified,
    write_html,
)
from jaxadv.report.certify import round_radii
from tests.commands import run_command

KEY = jax.random.key(0)
WEIGHTS = np.random.default_rng(0).normal(size=16).astype("float32")


def _linear(weights, images):
    margin = images.reshape(len(images), -1) @ weights - 1.0
    return jnp.stack([margin, jnp.zeros_like(margin)], 1)


LINEAR = ja.Model(_linear, jnp.asarray(WEIGHTS), bounds=(-4.0, 4.0))


def at_distance(distances) -> np.ndarray:
    """Images [N, 4, 4, 1] at these signed distances from the linear classifier's plane."""
    length = np.linalg.norm(WEIGHTS.astype("float64"))
    along = (np.asarray(distances)[:, None] + 1.0 / length) * WEIGHTS / length
    return along.reshape(-1, 4, 4, 1).astype("float32")


@pytest.fixture(scope="module")
def digits() -> ja.data.Dataset:
    return ja.load_data("digits", count=40)


@pytest.fixture(scope="module")
def network():
    """A small network, trained under noise; its definition and its variables."""
    module = get_definition("FC")(widths=(32,))
    data = ja.load_data("digits", "train")
    return module, train(module, data, epochs=15, noise=0.5, key=KEY)


def test_linear_radius_is_the_margin():
    exact = np.linspace(-1.2, 1.2, 25)
    images, labels = at_distance(exact), (exact < 0).astype(int)
    gaps = []
    for samples in (1000, 100_000):
        found = ja.certify(LINEAR, images, labels, sigma=0.5, samples=samples, key=KEY)
        sure = found.prediction >= 0
        assert (found.prediction == np.where(sure, labels, -1)).all()
        assert (found.radius <= np.abs(exact) + 1e-6).all()
        inner = np.abs(exact) <= 1.0  # two sigma: beyond, the samples are soon all alike
        gaps.append((np.abs(exact) - found.radius)[inner].max())
    assert gaps[1] < 0.03
    assert gaps[1] < gaps[0] / 4
    assert found.accuracy(0.5) == (np.abs(exact)[sure] >= 0.5 + gaps[1]).sum() / 25


def test_bound_fails_no_more_often_than_alpha():
    count, alpha = 600, 0.1
    found = ja.certify(
        LINEAR,
        np.repeat(at_distance([0.3]), count, 0),
        sigma=0.5,
        samples=300,
        alpha=alpha,
        key=KEY,
    )
    wrong = int((found.radius > 0.3).sum())
    # Each image has noise of its own, so failures are independent; that there are any, and not
    # many fewer than alpha, says that the bound is as tight as it can be.
    assert stats.binom.cdf(wrong, count, alpha) > 0.001
    assert stats.binom.sf(wrong, count, alpha) > 0.001


def test_lower_bound_is_clopper_and_pearsons():
    for count, samples, alpha in [
        (0, 10, 0.05),
        (1, 10, 0.001),
        (7, 10, 0.05),
        (10, 10, 0.001),
        (9_990, 10_000, 0.001),
        (99_999, 100_000, 0.001),
    ]:
        interval = stats.binomtest(count, samples).proportion_ci(1 - 2 * alpha, "exact")
        assert lower_bound(count, samples, alpha) == pytest.approx(interval.low, abs=1e-12)
    assert lower_bound(np.array([100_000]), 100_000, 0.001) == pytest.approx(0.001**1e-5)


def test_p_value_is_scipys():
    pairs = [(0, 0), (1, 0), (5, 5), (8, 2), (501, 499), (600, 400), (99_000, 1000)]
    first, second = np.array(pairs).T
    expected = [stats.binomtest(a, a + b).pvalue if a + b else 1.0 for a, b in pairs]
    np.testing.assert_allclose(binomial_p_value(first, second), expected, rtol=1e-9, atol=1e-300)


@pytest.mark.slow
def test_constant_models_never_abstain_and_coins_do():
    images = np.full((3, 4, 4, 1), 0.5, "float32")
    constant = ja.from_function(lambda x: jnp.tile(jnp.array([0.0, 1.0, 0.5]), (len(x), 1)))
    found = ja.certify(constant, images, sigma=0.25, samples=1000, key=KEY)
    assert (found.prediction == 1).all() and (found.top_count == 1000).all()
    np.testing.assert_allclose(found.radius, 0.25 * stats.norm.ppf(0.001**0.001))
    assert (ja.smoothed_predict(constant, images, sigma=0.25, key=KEY).prediction == 1).all()
    coin = at_distance([0.0, 0.0, 0.0])
    found = ja.certify(LINEAR, coin, [0, 0, 0], sigma=0.25, samples=1000, key=KEY)
    assert (found.prediction == -1).all() and (found.radius == 0).all()
    assert found.accuracy() == 0 and np.isnan(found.certified).all()
    said = ja.smoothed_predict(LINEAR, coin, sigma=0.25, key=KEY)
    assert (said.prediction == -1).all()
    assert (said.p_value > 0.001).all() and (said.votes.sum(1) == 1000).all()


def test_answers_that_are_not_numbers_vote_for_nothing():
    mostly = ja.from_function(
        lambda x: jnp.where(x.reshape(len(x), -1)[:, :1] > 0.0, jnp.nan, jnp.array([1.0, 0.0]))
    )
    images = np.full((2, 4, 4, 1), 0.25, "float32")  # one sigma: 84 % are NaN
    found = ja.certify(mostly, images, sigma=0.25, samples=500, key=KEY)
    assert (found.prediction == -1).all() and (found.votes.sum(1) < 150).all()
    assert (ja.smoothed_predict(mostly, images, sigma=0.25, key=KEY).prediction == -1).all()


@pytest.mark.slow
def test_votes_depend_on_key_id_and_sample_alone(network, digits):
    model = ja.from_linen(*network)
    images = digits.images[:11]
    how = {"sigma": 0.8, "samples": 250, "samples0": 30, "key": KEY}
    whole = ja.certify(model, images, **how)
    assert len(np.unique(whole.votes.max(1))) > 5  # it is no easy case
    alone = ja.certify(model, images, devices=jax.devices()[:1], **how)
    some = np.array([7, 2, 9])
    company = ja.certify(model, images[some], ids=some, devices=jax.devices()[:3], **how)
    for name in ("votes", "selected", "radius"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(whole, name))
        np.testing.assert_array_equal(getattr(company, name), getattr(whole, name)[some])
    other = ja.certify(model, images, **{**how, "key": jax.random.key(1)})
    assert (other.votes != whole.votes).any(1).sum() > 5
    assert (whole.forward == 280).all() and (whole.votes.sum(1) == 250).all()

    drawn = noise(KEY, 7, jnp.arange(200), (8, 8, 1))
    np.testing.assert_array_equal(
        noise(KEY, 7, jnp.array([150, 3]), (8, 8, 1)), np.asarray(drawn)[[150, 3]]
    )
    assert stats.kstest(np.ravel(drawn), "norm").pvalue > 0.001


def test_a_linear_classifiers_smoothed_one_is_itself_and_is_known_from_both_sides():
    """The exact distance is |w.x + b| / |w|: the certificate stays below it, the attack above."""
    exact = np.array([-1.1, -0.7, -0.4, -0.1, 0.002, 0.2, 0.3, 0.6, 0.9])
    images, labels = at_distance(exact), (exact < 0).astype(int)
    labels[1] = 0  # answered wrong: nothing to attack
    found = ja.certify(LINEAR, images, labels, sigma=0.5, samples=5000, key=KEY)
    attacked = ja.attack_smoothed(LINEAR, images, found, key=KEY, lanes=16)
    right = found.prediction == labels
    assert right.sum() == 7 and (found.prediction[4], right[1]) == (-1, False)
    assert (attacked.distance[~right] == 0).all() and attacked.complete
    distance, truth = attacked.distance[right], np.abs(exact[right])
    assert (found.radius[right] <= truth).all() and (truth <= distance).all()
    # 1,000 votes decide from where 55 % are for it, 0.13 sigma beyond the plane; then the steps.
    assert (distance - truth).max() < 0.3 * 0.5, distance - truth
    np.testing.assert_allclose(
        distance, np.linalg.norm((attacked.images - images).reshape(9, -1), axis=1)[right], 1e-5
    )
    side = attacked.images.reshape(9, -1) @ WEIGHTS - 1.0
    assert ((side[right] < 0) == (labels[right] == 0)).all()
    assert attacked.accuracy() == found.accuracy() == 7 / 9
    radii = np.linspace(0, 2, 50)
    assert (attacked.accuracy(radii) >= found.accuracy(radii)).all()
    one = ja.attack_smoothed(LINEAR, images[3:4], found_rows(found, [3]), key=KEY, lanes=16)
    np.testing.assert_array_equal(one.images[0], attacked.images[3])  # whatever its company


def found_rows(found, rows):
    """Certificates of some of the images only."""
    return type(found)(*(v[rows] if isinstance(v, np.ndarray) else v for v in found))


def test_the_soft_smoothed_classifier_by_its_formula(network):
    model = ja.from_linen(*network)
    images = np.random.default_rng(2).random((3, 8, 8, 1)).astype(np.float32)
    soft = ja.soft_smoothed(model, 0.5, 7, KEY, (8, 8, 1))
    drawn = np.asarray(noise(KEY, 0, jnp.arange(7), (8, 8, 1)))
    logits = np.stack([np.asarray(model(images + np.float32(0.5) * one)) for one in drawn])
    chances = np.exp(logits.astype(np.float64))
    chances = (chances / chances.sum(2, keepdims=True)).mean(0)
    np.testing.assert_allclose(soft(images), np.log(chances), atol=1e-5)
    assert soft.samples == 7
    with pytest.raises(ValueError, match="draws=0"):
        ja.soft_smoothed(model, 0.5, 0, KEY, (8, 8, 1))


@pytest.mark.slow
def test_no_attack_gets_within_the_radius(network, digits, tmp_path):
    model = ja.from_linen(*network)
    how = {"sigma": 0.5, "samples": 2000, "key": KEY}
    found = ja.certify(model, digits.images, digits.labels, **how)
    assert found.accuracy() > 0.7
    with pytest.raises(ValueError, match="certificates for 3 images"):
        ja.attack_smoothed(model, digits.images[:3], found, key=KEY)
    seen = []
    again = {"key": KEY, "steps": 15, "rounds": 4, "store": tmp_path}
    attacked = ja.attack_smoothed(
        model, digits.images, found, **again, progress=lambda *now: seen.append(now)
    )
    right = attacked.distance > 0
    assert (right == (found.prediction == digits.labels)).all()
    assert (attacked.distance[right] > found.radius[right]).all()
    broken = right & np.isfinite(attacked.distance)
    assert broken.sum() > 0.8 * right.sum()  # the attack is one that works, where it may
    ratio = attacked.distance[broken] / np.maximum(found.radius[broken], 0.25)
    print(f"attacked over certified: median {np.median(ratio):.2f}")
    assert np.median(ratio) < 4
    said = ja.smoothed_predict(
        model, attacked.images[broken], sigma=0.5, samples=4000, key=jax.random.key(9)
    )
    other = (said.prediction != found.prediction[broken]) & (said.prediction >= 0)
    assert other.mean() > 0.8  # by other votes: what is at the boundary may abstain
    assert not (said.prediction == found.prediction[broken]).any()
    passes = 4 * (16 * 17 + 1000)
    assert (attacked.forward[right] == passes).all() and (attacked.forward[~right] == 0).all()
    assert (attacked.backward[right] == 4 * 16 * 15).all()
    assert seen[-1][0] == seen[-1][1] == 4 * right.sum() and seen[-1][2] == broken.sum()
    kept = ja.attack_smoothed(model, digits.images, found, **again)
    assert kept.seconds == attacked.seconds  # from the store
    np.testing.assert_array_equal(kept.distance, attacked.distance)


def test_stopped_it_goes_on_from_the_store(network, digits, tmp_path):
    model = ja.from_linen(*network)
    how = {"sigma": 0.5, "samples": 3000, "key": KEY, "devices": jax.devices()[:2]}
    whole = ja.certify(model, digits.images, digits.labels, **how)

    def stop(done, total):
        if 0 < done < total:
            os.kill(os.getpid(), signal.SIGINT)

    seen = []
    part = ja.certify(model, digits.images, digits.labels, store=tmp_path, progress=stop, **how)
    if part.complete:  # so fast a machine does it all in its first pieces
        pytest.skip("nothing was left to interrupt")
    reached = part.forward > 0
    assert (part.prediction[~reached] == -1).all() and (part.radius[~reached] == 0).all()
    rest = ja.certify(
        model,
        digits.images,
        digits.labels,
        store=tmp_path,
        progress=lambda *now: seen.append(now),
        **how,
    )
    assert rest.complete and seen[0] == (3100 * reached.sum(), 3100 * 40)
    assert seen[-1] == (3100 * 40, 3100 * 40)
    np.testing.assert_array_equal(rest.votes, whole.votes)
    again = ja.certify(model, digits.images, store=tmp_path, alpha=0.01, **how)
    assert again.seconds == rest.seconds  # another alpha asks the network nothing
    assert (again.radius >= rest.radius).all()
    assert Store(tmp_path).load("smoothed-0.5-100-3000", "another mark") is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"sigma": 0.0},
        {"sigma": float("nan")},
        {"sigma": [0.1, 0.2]},
        {"samples": 0},
        {"samples0": 0},
        {"samples": 1e4},
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"labels": [0, 1, 2]},
        {"labels": [7, 0]},
        {"ids": [0]},
        {"devices": []},
        {"images": np.full((2, 4, 4, 1), 9.0)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_bad_arguments_raise(wrong):
    given = {"images": at_distance([1.0, 2.0]), "labels": None, "sigma": 0.5, "key": KEY, **wrong}
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        ja.certify(LINEAR, **given)


def test_certified_needs_labels():
    found = ja.certify(LINEAR, at_distance([1.0]), sigma=0.5, samples=100, key=KEY)
    with pytest.raises(ValueError, match="labels"):
        found.accuracy()


@pytest.mark.slow
def test_noise_in_training_is_what_smoothing_needs(network, digits):
    module, noisy = network
    data = ja.load_data("digits", "train")
    plain = train(module, data, epochs=15, noise=0.0, key=KEY)  # of the same compiled program
    share = [
        ja.certify(
            ja.from_linen(module, variables),
            digits.images,
            digits.labels,
            sigma=0.5,
            samples=500,
            key=KEY,
        ).accuracy(0.5)
        for variables in (plain, noisy)
    ]
    assert share[1] > share[0]
    one, two = (
        train(module, data, epochs=1, noise=0.5, key=KEY, devices=jax.devices()[:n]) for n in (1, 2)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), one, two)
    with pytest.raises(ValueError, match="noise"):
        train(module, data, epochs=1, noise=0.5, attack=ja.PGD(), epsilon=0.1, key=KEY)
    with pytest.raises(ValueError, match="noise"):
        train(module, data, epochs=1, noise=-1.0, key=KEY)


@pytest.mark.slow
def test_reports_say_what_was_certified(network, digits, tmp_path):
    model = ja.from_linen(*network)
    images, labels = digits.images[:10], digits.labels[:10]
    found = [ja.certify(model, images, labels, sigma=s, samples=300, key=KEY) for s in (0.2, 0.4)]
    report = ja.evaluate(model, images, labels, "l2", [0.25, 0.5], attacks={}, distances=False)
    radii = [0.0, 0.25]
    pushed = [ja.attack_smoothed(model, images, found[0], rounds=2, steps=5, samples=300, key=KEY)]
    nearest = ja.minimal_distance(model, images, labels, "l2", effort={"DDN": ja.DDN(steps=20)})
    run = CertifiedRun(found, radii, nearest, pushed)
    data = certified_data(run, 360)
    assert data["attacked"]["clean_accuracy"] == report.clean_accuracy
    assert data["sigmas"][0]["attacked"]["accuracy"] == pushed[0].accuracy(radii).tolist()
    assert data["sigmas"][0]["attacked"]["below_proved"] == 0
    assert data["sigmas"][1]["attacked"] is None
    assert json.loads(json.dumps(data, allow_nan=False)) == json.loads(json.dumps(data))
    for number, row in enumerate(data["sigmas"]):
        said = [(image["answers"][number], image["label"]) for image in data["images"]]
        right = [answer["radius"] for answer, label in said if answer["prediction"] == label]
        assert row["certified_accuracy"] == [sum(r >= at for r in right) / 10 for at in radii]
        assert row["forward"] == 400
    print_certified(data)
    page = write_certified(run, images, tmp_path / "a.html", Page(total=360), key=KEY).read_text()
    assert page.count("<img") == 1 + 3 * 10
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")

    both = dataclasses.replace(report, certified=found[1].certified)
    assert (both.certified_curve(report.epsilons) <= both.accuracy_curve(np.zeros(1))).all()
    data = as_data(both)
    assert data["certified_accuracy"] == found[1].accuracy([0.25, 0.5]).tolist()
    assert as_data(report)["certified_accuracy"] is None
    before = write_html(report, tmp_path / "b.html", gallery=0).read_text()
    assert write_html(both, tmp_path / "c.html", gallery=0).read_text() != before


def test_round_radii():
    assert round_radii(0.25, 10_000, 0.001) == [i / 8 for i in range(7)]
    assert round_radii(1.0, 1, 0.6) == [i / 16 for i in range(5)]
    assert round_radii(1.0, 1, 0.001) == [0.0]


@pytest.fixture
def call(tmp_path_factory, tmp_path, monkeypatch):
    """Run the command line in this process, which keeps its own devices and configuration."""
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "unused")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    return run_command


@pytest.mark.slow
def test_command_writes_everything_and_then_only_reads(call, network, tmp_path):
    weights = tmp_path / "fc.safetensors"
    save_weights(weights, "FC", {"widths": [32]}, network[1], image_shape=(8, 8, 1))
    args = (
        "certify --model",
        weights,
        "--data digits --examples 10 --sigma 0.25,0.5 --samples 200 --radius 0,0.25 --rounds 2",
        "--draws 4 --json out.json",
    )
    first = call(*args)
    assert first.exit_code == 0, first.output
    assert (
        "σ = 0.5, attacked" in first.stdout
        and "r = 0.25" in first.stdout
        and "nothing was left" not in first.stdout
    )
    data = json.loads((tmp_path / "out.json").read_text())
    folder = tmp_path / "jaxadv-results" / "certify"
    assert data == json.loads((folder / "report.json").read_text())
    assert (folder / "report.html").stat().st_size > 10_000
    assert [row["sigma"] for row in data["sigmas"]] == [0.25, 0.5]
    assert data["radii"] == [0, 0.25] and data["complete"]
    for row in data["sigmas"]:
        assert row["attacked"]["rounds"] == 2
        assert row["attacked"]["accuracy"][0] == row["certified_accuracy"][0]
        assert row["attacked"]["accuracy"][1] >= row["certified_accuracy"][1]
    model = ja.from_linen(*network)
    test = ja.load_data("digits", count=10)
    found = ja.certify(
        model, test.images, test.labels, sigma=0.5, samples=200, key=KEY, ids=test.ids
    )
    assert data["sigmas"][1]["certified_accuracy"] == found.accuracy([0, 0.25]).tolist()
    second = call(*args)
    assert "nothing was left to do" in second.stdout
    assert json.loads((tmp_path / "out.json").read_text()) == data


@pytest.mark.slow
def test_command_trains_under_noise(call, tmp_path):
    args = (
        "certify --model fc --data digits --epochs 1 --examples 4 --samples 50 --no-attack",
        "--json out.json",
    )
    result = call(*args)
    assert result.exit_code == 0, result.output
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["noise in training"] == 0.25 and data["attacked"] is None
    result = call("train --model fc --data digits --epochs 1 --noise 1/2 --json fc.json")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "fc.json").read_text())["noise"] == 0.5


@pytest.mark.parametrize(
    "line",
    [
        "--sigma x",
        "--sigma 0",
        "--alpha 1",
        "--samples 0",
        "--radius -1",
        "--noise 0.1 --model a",
        "--json .",
    ],
    ids=str,
)
def test_mistakes_are_one_line_and_exit_2(call, line):
    result = call("certify", line)
    assert result.exit_code == 2
    assert re.fullmatch(r"error: [^\n]+\n", result.stderr)
    noisy = call("train --noise 0.1 --epsilon 0.1")
    assert "--noise" in noisy.stderr
