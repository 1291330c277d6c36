"""Evaluations with a radius for each image, against closed forms and evaluations with numbers."""

import csv
import json

import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.report import (
    as_data,
    as_robustbench,
    print_report,
    write_csv,
    write_html,
    write_pages,
    write_robustbench,
)
from tests import linear
from tests.common import dense

FGSM = {"FGSM": ja.FGSM()}
FIELDS = ("broken_by", "adversarial", "distance", "radii")


@pytest.fixture(scope="module")
def problem():
    """A linear model of two classes, images, labels, and the exact distance of each in Linf."""
    weights, bias, images, labels = linear.problem(box=False)
    distance = []
    for image, label in zip(images, labels, strict=True):
        w, b = linear.line(weights, bias, label)
        distance.append(linear.free_distance("linf", w, w @ image.astype(np.float64) + b))
    model = ja.Model(linear.logits, (jnp.asarray(weights), jnp.asarray(bias)))
    return model, images.reshape(-1, *linear.SHAPE), labels, np.array(distance)


def evaluate(problem, epsilons, **how):
    model, images, labels, _ = problem
    return ja.evaluate(
        model, images, labels, epsilons=epsilons, **{"attacks": FGSM, "distances": False, **how}
    )


@pytest.mark.parametrize("distances", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_none_is_broken_below_its_distance_and_every_one_above(problem, distances):
    distance = problem[-1]
    assert np.ptp(distance) > 0.01  # no number would do
    report = evaluate(problem, [1.01 * distance, 0.99 * distance], distances=distances)
    np.testing.assert_array_equal(report.epsilons, [0.99 * distance, 1.01 * distance])
    assert report.robust_accuracy.tolist() == [1, 0]
    moved = np.abs(report.adversarial.astype(float) - report.images).reshape(
        *report.radii.shape, -1
    )
    assert (moved.max(2) <= report.radii).all()
    if distances:
        np.testing.assert_allclose(report.distance, distance, rtol=1e-2)


def test_a_success_counts_at_every_larger_radius_of_its_image(problem):
    """Columns that cross: which of two radii is the larger differs from image to image."""
    distance = problem[-1]
    factors = np.tile([[0.5], [0.9], [1.1], [1.5]], len(distance))
    factors = np.random.default_rng(0).permuted(factors, axis=0)
    report = evaluate(problem, list(factors * distance), prove="fast")
    robust = report.radii < distance
    np.testing.assert_array_equal(report.broken_by == -1, robust)
    np.testing.assert_array_equal(report.proved, robust)
    assert (robust.mean(1) > 0).all() and (robust.mean(1) < 1).all()
    assert (np.diff(report.radii.mean(1)) > 0).all()
    # An attack that needs no epsilon says it of all radii at once.
    fixed = evaluate(
        problem, list(factors * distance), attacks={"FMN": ja.FMN(norm="linf", steps=50)}
    )
    np.testing.assert_array_equal(fixed.broken_by == 0, fixed.distance <= fixed.radii)
    assert (fixed.robust_accuracy > 0).all() and (fixed.robust_accuracy < 1).all()


def test_an_array_of_equal_numbers_is_the_number(problem, tmp_path):
    middle, count = float(np.median(problem[-1])), len(problem[-1])
    entries = {**FGSM, "near": ja.Nearly(ja.Refine(ja.PGD(steps=3)), 0.9)}
    how = {"attacks": entries, "prove": "fast"}
    one = evaluate(problem, [middle, 0.9 * middle], store=tmp_path, **how)
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    equal = [np.full(count, middle), 0.9 * middle]
    for other in (evaluate(problem, equal, **how), evaluate(problem, equal, store=tmp_path, **how)):
        for field in (*FIELDS, "proved"):
            np.testing.assert_array_equal(getattr(other, field), getattr(one, field), field)
        for ours, theirs in zip(one.stages, other.stages, strict=True):
            np.testing.assert_array_equal(ours.result.forward, theirs.result.forward)
    assert kept == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}  # all from there
    assert one.epsilons.shape == (2,) and other.epsilons.shape == (2, count)
    assert 0 < one.robust_accuracy[1] < 1
    np.testing.assert_array_equal(one.certified_curve(one.epsilons), one.proved.mean(1))
    np.testing.assert_array_equal(other.certified_curve(other.epsilons), one.proved.mean(1))


def test_an_interrupted_evaluation_goes_on(problem, tmp_path):
    class Stop(Exception):
        pass

    def stop(stage, *_):
        if stage == "second":
            raise Stop

    epsilons = [0.02, 1.01 * problem[-1]]
    attacks = {"noise": ja.UniformNoise(draws=3), "second": ja.FGSM()}
    whole = evaluate(problem, epsilons, attacks=attacks)
    with pytest.raises(Stop):
        evaluate(problem, epsilons, attacks=attacks, store=tmp_path, progress=stop)
    assert len(list(tmp_path.glob("*noise*"))) == 1 and not list(tmp_path.glob("*second*"))
    resumed = evaluate(problem, epsilons, attacks=attacks, store=tmp_path)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(resumed, field), getattr(whole, field), field)
    other = [0.02, 0.99 * problem[-1]]  # other radii are not taken from the store
    assert evaluate(problem, other, attacks=attacks, store=tmp_path).robust_accuracy.max() == 1


def test_proofs_go_from_each_image_s_largest_radius_to_its_smallest():
    model = dense((6, 12, 12, 3), 4)
    rng = np.random.default_rng(1)
    images = rng.uniform(0.3, 0.7, size=(12, 2, 3, 1)).astype(np.float32)
    labels, numbers = np.array(model(images).argmax(1)), [0.05, 0.1, 0.2]
    how = {"attacks": {"weak": ja.UniformNoise(draws=1)}, "distances": False, "prove": "fast"}
    levels = ja.evaluate(model, images, labels, epsilons=numbers, **how)
    turn = rng.permuted(np.tile(np.arange(3)[:, None], 12), axis=0)  # of each image another order
    crossed = ja.evaluate(model, images, labels, epsilons=np.array(numbers)[turn], **how)
    place = np.searchsorted(numbers, crossed.radii)
    for field in ("proved", "broken_by"):
        expected = np.take_along_axis(getattr(levels, field), place, 0)
        np.testing.assert_array_equal(getattr(crossed, field), expected, field)
    assert levels.proved is not None and 0 < levels.proved.mean() < 1
    assert crossed.stages[1].result.forward.sum() == levels.stages[1].result.forward.sum()


def test_a_curve_is_drawn_where_the_mean_of_equal_radii_is_rounded(problem, tmp_path):
    model, images, labels, _ = problem
    assert np.full(3, 0.7).mean() < 0.7
    few = model, images[:3], labels[:3], None
    report = evaluate(few, [0.7, np.array([0.1, 0.2, 0.3])])
    assert "data:image/svg+xml" in write_html(report, tmp_path / "report.html").read_text()


def test_reports_name_the_range_and_give_each_image_its_own(problem, tmp_path, capsys):
    distance = problem[-1]
    report = evaluate(problem, [0.01, np.where(distance < np.median(distance), 0.25, 0.05)])
    data = as_data(report)
    assert json.loads(json.dumps(data))["epsilons"] == report.radii.tolist()
    print_report(data)
    said = capsys.readouterr().out
    assert "ε = 0.01 " in said and "ε = 0.05 to 0.25" in said
    rows = list(csv.DictReader(write_csv(report, tmp_path / "report.csv").open()))
    assert [float(row["epsilon"]) for row in rows] == report.radii.T.ravel().tolist()
    assert [row["broken"] == "1" for row in rows] == (report.broken_by != -1).T.ravel().tolist()
    page = write_html(report, tmp_path / "report.html", model=problem[0], gallery_epsilon=0.2)
    assert "<th>ε = 0.05 to 0.25</th>" in page.read_text()
    assert "fool it at ε = 0.05 to 0.25<" in page.read_text()
    folder = write_pages(report, tmp_path)
    assert "ε = 0.05 to 0.25" in (folder / "index.html").read_text()
    nearest = int(distance.argmin())
    assert "<b>ε = 0.25</b>" in (folder / f"{nearest}.html").read_text()
    assert as_robustbench(report, 0.01, name="a", dataset="b")["external"] == "100.0"
    with pytest.raises(ValueError, match="0.05 to 0.25; RobustBench has one for all images"):
        write_robustbench(report, tmp_path / "robustbench.json", name="a", dataset="b")


@pytest.mark.parametrize(
    ("epsilons", "said"),
    [
        ([], "at least one number"),
        (np.zeros((0, 16)), "at least one number"),
        ([0.1, np.full(3, 0.1)], r"epsilons\[1\]: .* shape \(3,\).* each of 16 images"),
        ([np.full((16, 1), 0.1)], r"epsilons\[0\]: .* shape \(16, 1\)"),
        ([np.linspace(-0.1, 0.1, 16)], r"epsilons\[0\]: .* not negative"),
        ([np.linspace(0, 8, 16)], r"epsilons\[0\]: epsilon=8 exceeds 1.* did you mean 8/255"),
        ([["a"] * 16], r"epsilons\[0\]: .* a number, or one for each image"),
    ],
)
def test_what_is_no_radius_is_refused(problem, epsilons, said):
    with pytest.raises(ValueError, match=said):
        evaluate(problem, epsilons)
