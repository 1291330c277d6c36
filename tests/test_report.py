"""Reports say what the evaluation found: the same numbers in data, tables and the page."""

import csv
import dataclasses
import io
import json
import math
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import jaxadv as ja
from jaxadv.protocols.visibility import report_visibility
from jaxadv.report import (
    Page,
    as_data,
    as_robustbench,
    print_report,
    write_csv,
    write_html,
    write_pages,
    write_robustbench,
)
from jaxadv.report.table import epsilon_text, percent, wilson
from tests.common import slow

CHANNELS = {"grey": 1, "colour": 3, "two": 2}


def make_report(channels: int = 1, distances: bool = True) -> tuple[ja.Report, ja.Model]:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(16 * channels, 4)).astype("float32")
    model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.asarray(weights))
    images = rng.uniform(size=(24, 4, 4, channels)).astype("float32")
    labels = np.asarray(model(images)).argmax(1)
    labels[0] = (labels[0] + 1) % 4  # one is misclassified from the start
    attacks = {"noise": ja.UniformNoise(draws=3), "PGD": ja.PGD(steps=5, step_size=0.3)}
    report = ja.evaluate(
        model,
        images,
        labels,
        "linf",
        [0.02, 8 / 255, 0.3],
        attacks,
        ids=np.arange(24) * 5,
        devices=jax.devices()[:1],
        distances=distances,
    )
    return report, model


@pytest.fixture(scope="module")
def grey() -> tuple[ja.Report, ja.Model]:
    return make_report()


def test_data_survive_json_and_add_up(grey):
    report, _ = grey
    data = as_data(report, total=100)
    assert json.loads(json.dumps(data, allow_nan=False)) == json.loads(json.dumps(data))
    images = data["images"]
    assert [image["id"] for image in images] == list(range(0, 120, 5))
    for e, share in enumerate(data["robust_accuracy"]):
        assert share == sum(image["broken_by"][e] is None for image in images) / len(images)
        for attack in data["attacks"]:
            by = sum(image["broken_by"][e] == attack["name"] for image in images) / len(images)
            assert attack["broken"][e] == pytest.approx(by)
    clean = sum(image["prediction"] == image["label"] for image in images) / len(images)
    assert data["clean_accuracy"] == clean == 23 / 24
    assert images[0]["broken_by"] == ["misclassified"] * 3
    assert images[0]["distance"] == 0
    for kind in ("forward", "backward"):
        paid = sum(attack[kind] * attack["rows"] for attack in data["attacks"])
        assert sum(image[kind] for image in images) == pytest.approx(paid)
    assert data["attacks"][-1]["accuracy_left"] == data["robust_accuracy"]
    assert data["attacks"][0]["control"]
    assert not data["attacks"][1]["control"]
    assert data["attacks"][2]["settings"]["attack"]["steps"] == 20
    assert data["attacks"][1]["settings"]["step_size"] == 0.3


def test_the_page_says_how_visible_the_changes_are(tmp_path, grey):
    report, model = grey
    seen = report_visibility(report, model)
    report = dataclasses.replace(report, visibility=seen)
    data = json.loads(json.dumps(as_data(report), allow_nan=False))
    broken = report.broken_by[-1] >= 0
    change = (report.adversarial[-1] - report.images)[broken].astype(np.float64)
    expected = np.median(np.sqrt(np.square(change).mean((1, 2, 3))))
    last = data["visibility"][-1]
    assert last["images"] == broken.sum()
    assert last["distortion"] == pytest.approx(expected)
    assert last["ciede2000"] is None  # of grey images
    page = write_html(report, tmp_path / "report.html").read_text()
    out = io.StringIO()
    print_report(report, Console(file=out, width=100))
    for text in (page, out.getvalue()):
        assert f"{last['ssim']:.3g}" in text
        assert "SSIM" in text and "CIEDE2000" not in text and "not the published LPIPS" in text
    write_pages(report, tmp_path / "images")
    pages = [path.read_text() for path in (tmp_path / "images").glob("[0-9]*.html")]
    assert sum("SSIM" in text for text in pages) == broken.sum()


@pytest.mark.slow
def test_what_was_never_found_is_null():
    model = ja.Model(lambda w, x: jnp.zeros((len(x), 2)).at[:, 0].set(w), jnp.float32(2))
    images, labels = np.full((3, 2, 2, 1), 0.5, "float32"), np.zeros(3, int)
    report = ja.evaluate(
        model,
        images,
        labels,
        epsilons=[0.1],
        attacks={"FGSM": ja.FGSM()},
        devices=jax.devices()[:1],
    )
    data = json.loads(json.dumps(as_data(report), allow_nan=False))
    assert data["median_distance"] is None
    assert data["images"][0]["distance"] is None
    assert data["robust_accuracy"] == [1.0]
    assert any("zero" in message for message in data["messages"])


def test_tables_show_the_numbers(grey):
    report, _ = grey
    data = as_data(report, total=100)
    out = io.StringIO()
    print_report(report, Console(file=out, width=100), total=100)
    text = out.getvalue()
    shares = [data["clean_accuracy"], *data["robust_accuracy"]]
    shares += [share for attack in data["attacks"] for share in attack["accuracy_left"]]
    for share in shares:
        assert percent(share) in text
    for word in ("noise (control)", "8/255", "95 % interval", "robust accuracy", "sample of 100"):
        assert word in text
    again = io.StringIO()
    print_report(data, Console(file=again, width=100))
    assert again.getvalue() == text
    whole = io.StringIO()
    print_report(report, Console(file=whole, width=100))
    assert "interval" not in whole.getvalue()


def test_refusals_messages_and_interruption_are_printed(grey):
    data = as_data(grey[0])
    data["attacks"][1]["rejected"] = {"REJECTED_BOX": 3}
    data |= {"messages": ["a zero gradient"], "complete": False}
    out = io.StringIO()
    print_report(data, Console(file=out, width=100))
    for words in ("PGD: 3 REJECTED_BOX", "a zero gradient", "incomplete"):
        assert words in out.getvalue()


@pytest.mark.parametrize("channels", [1, slow(3), slow(2)], ids=CHANNELS)
def test_page_is_self_contained_and_complete(channels, grey, tmp_path):
    report, model = grey if channels == 1 else make_report(channels, distances=False)
    names = ["cat", "dog", "<bird>", "fish"]
    path = write_html(
        report,
        tmp_path / "deep" / "report.html",
        Page("A & B", names, {"seed": 7}, 100),
        model=model,
    )
    page = path.read_text()
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]  # nothing half written
    assert "A &amp; B" in page
    assert "&lt;bird&gt;" in page
    assert "<bird>" not in page
    for forbidden in ("http:", "https:", "<script", "<link", "@import", "url("):
        assert forbidden not in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(re.match(r"data:image/(png|svg\+xml);base64,", source) for source in sources)
    broken = min(6, (report.broken_by >= 0).sum(1).max())
    assert len(sources) == 2 + 3 * broken
    data = as_data(report, total=100)
    shares = [data["clean_accuracy"], *data["robust_accuracy"]]
    shares += [share for attack in data["attacks"] for share in attack["accuracy_left"]]
    for share in shares:
        assert percent(share) in page
    for attack in data["attacks"]:
        assert attack["name"] in page
    for word in ("8/255", "seed", "jax", "flax", ja.__version__, "L∞"):
        assert word in page
    again = write_html(
        report,
        tmp_path / "again.html",
        Page("A & B", names, {"seed": 7}, 100),
        model=model,
    )
    assert again.read_text() == page


def test_page_takes_logits_in_place_of_a_model(grey, tmp_path):
    report, model = grey
    shape = report.adversarial.shape
    logits = np.asarray(model(report.adversarial.reshape(-1, *shape[2:]))).reshape(*shape[:2], -1)
    page = Page(settings={"seed": 0})
    one = write_html(report, tmp_path / "1.html", page, model=model).read_text()
    two = write_html(report, tmp_path / "2.html", page, adversarial_logits=logits).read_text()
    assert one == two
    neither = write_html(report, tmp_path / "3.html", gallery=0).read_text()
    assert "data:image/png" not in neither


@pytest.mark.parametrize("package", ["jinja2", "matplotlib.figure"])
def test_missing_packages_are_named(package, grey, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "jaxadv\[demo\]"'):
        write_html(grey[0], tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_wilson_solves_its_equation():
    for successes, count in ((0, 10), (1, 7), (50, 100), (300, 300)):
        share = successes / count
        for bound in wilson(successes, count):
            if 0 < bound < 1:
                error = 1.959964 * math.sqrt(bound * (1 - bound) / count)
                assert abs(share - bound) == pytest.approx(error, rel=1e-9)
    assert wilson(0, 10)[0] == 0
    assert wilson(300, 300)[1] == 1


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [
        (0.3, "0.3"),
        (8 / 255, "8/255"),
        (0.5 / 255, "0.001961"),
        (0.0, "0"),
        (1.5, "1.5"),
        (1.0, "1"),
        (20.0, "20"),
    ],
)
def test_epsilons_are_written_as_people_do(epsilon, text):
    assert epsilon_text(epsilon) == text


def test_csv_and_robustbench_give_the_accuracies_of_the_report(grey, tmp_path):
    report, _ = grey
    rows = list(csv.DictReader(write_csv(report, tmp_path / "report.csv").open()))
    assert len(rows) == 24 * 3
    for epsilon, share in zip(report.epsilons, report.robust_accuracy, strict=True):
        mine = [row for row in rows if float(row["epsilon"]) == pytest.approx(epsilon)]
        assert sum(row["broken"] == "0" for row in mine) / len(mine) == pytest.approx(share)
        assert all((row["broken_by"] == "") == (row["broken"] == "0") for row in mine)
    path = write_robustbench(report, tmp_path / "r.json", name="Linear", dataset="noise")
    entries = json.loads(path.read_text())
    assert [entry["external"] for entry in entries] == [percent(s) for s in report.robust_accuracy]
    assert entries[0]["threat_model"] == "Linf"
    assert "autoattack_acc" not in entries[0]  # it was not AutoAttack
    with pytest.raises(ValueError, match=r"epsilon=0\.5"):
        as_robustbench(report, 0.5, name="Linear", dataset="noise")


def test_every_image_has_a_page_with_all_its_runs(grey, tmp_path):
    report, _ = grey
    folder = write_pages(report, tmp_path, ["ant", "bee", "cat", "dog"])
    index = (folder / "index.html").read_text()
    for i, name in enumerate(report.ids):
        page = (folder / f"{name}.html").read_text()
        assert f'href="{name}.html"' in index
        runs = sum(int((stage.source == i).sum()) for stage in report.stages)
        assert page.count("<tr><td>") == runs
        assert page.count('difference times ten"') == int((report.broken_by[:, i] >= 0).sum())
        assert "http" not in page


def test_every_page_follows_the_readers_scheme_and_its_tables_scroll_by_themselves():
    templates = {
        path.name: path.read_text() for path in Path(ja.report.__file__).parent.glob("*.j2")
    }
    assert "(prefers-color-scheme: dark)" in templates["style.css.j2"]
    for name, text in templates.items():
        assert text.count("<table") == text.count('<div class="scroll"><table'), name
