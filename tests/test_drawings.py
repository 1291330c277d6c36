"""Reports about inputs that are no images."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.data import Dataset, load_data
from jaxadv.report import (
    Page,
    write_distances,
    write_html,
    write_pages,
    write_proofs,
    write_queries,
)
from jaxadv.report.drawings import drawing

NAMES = ["income", "age & <years>", "debt", "late"]
LOW, HIGH = np.array([0, 18, 0, 0]), np.array([400, 100, 2, 12])
ROWS = np.array([[60, 35, 0.4, 0], [120, 52, 0.9, 1], [25, 23, 1.2, 3]], np.float32)
LABELS = [1, 1, 0]


def repaid(params: jnp.ndarray, rows: jnp.ndarray) -> jnp.ndarray:
    return rows @ params + 0.3


MODEL = ja.Model(repaid, jnp.array([0.01, 0.02, -1.5, -0.6]), bounds=(LOW, HIGH))


def bars(svg: str, kind: str) -> np.ndarray:
    """Lengths of the bars of a kind, in pixels."""
    found = re.findall(rf'width="([\d.]+)" height="\d+" class="{kind}"', svg)
    return np.array(found, float)


def test_a_table_s_report_has_a_bar_for_each_feature(tmp_path: Path) -> None:
    report = ja.evaluate(
        MODEL, ROWS, LABELS, epsilons=[0.5], attacks={"FGSM": ja.FGSM()}, distances=False
    )
    page = Page(feature_names=NAMES)
    text = write_html(report, tmp_path / "report.html", page, model=MODEL).read_text()
    broken = int((report.broken_by[0] >= 0).sum())
    assert broken == 2
    for kind in ("clean", "adversarial", "change"):
        assert len(bars(text, kind)) == broken * len(NAMES)
    assert text.count("age &amp; &lt;years&gt;</title>") == broken  # names are escaped
    assert "60 → 59.5" in text and "0.4 → 0.9" in text
    write_pages(report, tmp_path / "pages", feature_names=NAMES)
    alone = (tmp_path / "pages" / "0.html").read_text()
    assert len(bars(alone, "clean")) == 2 * len(NAMES)  # the original, and that of epsilon 0.5
    assert "<img" not in (tmp_path / "pages" / "index.html").read_text()


def test_bars_are_shares_of_finite_ranges_and_values_else() -> None:
    before, after = np.array([100.0, 59.0]), np.array([300.0, 59.0])
    shares = drawing(before, after, (np.array([0, 18]), np.array([400, 100])))
    assert shares is not None
    np.testing.assert_allclose(bars(shares, "clean"), [130 / 4, 130 / 2])
    np.testing.assert_allclose(bars(shares, "adversarial"), [130 * 3 / 4, 130 / 2])
    np.testing.assert_allclose(bars(shares, "change"), [40, 0])
    values = drawing(np.array([-1.0, 3.0]), np.array([-0.5, 3.0]), (-np.inf, np.inf))
    assert values is not None
    np.testing.assert_allclose(bars(values, "clean"), [130 / 4, 130 * 3 / 4])


def test_of_many_features_the_largest_changes_are_shown() -> None:
    before = np.full(50, 0.5)
    svg = drawing(before, before + np.arange(50) / 200)
    assert svg is not None
    assert re.findall(r"<title>(feature \d+)</title>", svg) == [
        f"feature {i}" for i in range(49, 33, -1)
    ]
    assert "34 more" in svg and len(bars(svg, "clean")) == 16


def test_series_are_lines_that_keep_their_peaks() -> None:
    before = np.zeros((5000, 2))
    before[1234, 0] = 1.0
    after = before.copy()
    after[:, 1] += 0.25
    svg = drawing(before, after, names=["pressure", "heat"])
    assert svg is not None
    lines = re.findall(r'points="([^"]+)" class="(\w+)"', svg)
    assert [kind for _, kind in lines] == 2 * ["clean", "adversarial", "change"]
    heights = [[float(point.split(",")[1]) for point in points.split()] for points, _ in lines]
    assert min(heights[0]) == 0 and max(heights[0]) == 84  # one value in 5,000
    assert "± 0.25" in svg and "pressure" in svg and "not shown" not in svg


def test_names_must_fit_and_images_are_pictures() -> None:
    with pytest.raises(ValueError, match="2 names of features for 3"):
        drawing(np.zeros(3), None, names=["a", "b"])
    assert drawing(np.zeros((2, 2, 1)), None) is None


@pytest.mark.slow
def test_distances_proofs_and_queries_draw_rows_too(tmp_path: Path) -> None:
    page = Page(feature_names=NAMES)
    found = ja.minimal_distance(MODEL, ROWS, LABELS, effort={"FAB": ja.FAB(steps=5)})
    text = write_distances({"linf": found}, tmp_path / "a.html", page, bounds=MODEL.bounds)
    assert len(bars(text.read_text(), "change")) == int(found.success.sum()) * len(NAMES)
    proof = ja.prove(MODEL, ROWS, LABELS, 0.5, attacks={"FGSM": ja.FGSM()})
    text = write_proofs([proof], tmp_path / "b.html", page, bounds=MODEL.bounds).read_text()
    assert len(bars(text, "clean")) == len(ROWS) * len(NAMES)
    assert len(bars(text, "change")) == int(proof.broken.sum()) * len(NAMES)
    asked = ja.compare_queries(
        MODEL, ROWS, LABELS, {"SimBA": ja.SimBA(norm="linf")}, 1.2, budget=40
    )
    text = write_queries(asked, tmp_path / "c.html", page, bounds=MODEL.bounds).read_text()
    fooled = int((asked.results["SimBA"].success).sum())
    assert fooled and len(bars(text, "change")) == fooled * len(NAMES)


def test_rows_of_a_table_are_data(tmp_path: Path) -> None:
    (tmp_path / "rows.py").write_text("""
import numpy as np
class Frame:  # as pandas' DataFrame: an array with columns
    columns = ["income", "age", "debt", "late"]
    def __array__(self, dtype=None, copy=None):
        return np.array([[60, 35, 0.4, 0], [120, 52, 0.9, 1]])
def table():
    return Frame(), [1, 0]
def holes():
    return np.array([[1.0, 2.0], [np.nan, 1.0]]), [0, 1]
def fails():
    raise RuntimeError("no table here")
""")
    data = load_data(f"{tmp_path}/rows.py:table")
    assert isinstance(data, Dataset) and data.images.dtype == np.float32
    np.testing.assert_allclose(data.images[1], [120, 52, 0.9, 1])
    assert data.features == ("income", "age", "debt", "late")
    assert data.take([1]).features == data.features
    with pytest.raises(ValueError, match="row 1 has nan as feature 0"):
        load_data(f"{tmp_path}/rows.py:holes")
    with pytest.raises(ValueError, match=r"rows.py fails on line 12 \(RuntimeError: no table here"):
        load_data(f"{tmp_path}/rows.py:fails")
    np.savez(tmp_path / "t.npz", x=ROWS, y=LABELS, features=NAMES)
    assert load_data(tmp_path / "t.npz").features == tuple(NAMES)
    np.savez(tmp_path / "t.npz", x=ROWS, y=LABELS, features=NAMES[:2])
    with pytest.raises(ValueError, match="features has 2 names for 4"):
        load_data(tmp_path / "t.npz")
