"""The page and the tables of studies show what was found, and what was published, and no more."""

import io
import re
import sys
import xml.etree.ElementTree as ET
from base64 import b64decode
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from jaxadv.report import print_study, write_study
from jaxadv.studies import Curves, Findings, Gallery, Table, Text

NAN = float("nan")
SVG = "{http://www.w3.org/2000/svg}"


def errors(heat: bool = False) -> Table:
    return Table(
        "Errors",
        ("FC[a]", "<noise>"),
        ("test, %", "distance"),
        [[1.625, 0.0581], [NAN, np.inf]],
        [[0.25, NAN], [NAN, NAN]],
        [[1.64, NAN], [NAN, 0.0625]],
        (".2f", ".3f"),
        heat,
        note="three seeds",
    )


def gallery(channels: int = 1) -> Gallery:
    images = np.random.default_rng(0).uniform(size=(2, 3, 5, 4, channels))
    images[1, 2] = NAN
    captions = (("a", "b", "c"), ("d", "e", ""))
    return Gallery("Pictures", images, ("one", "two"), ("x", "y", "z"), captions)


def curves(**how) -> Curves:
    x = np.geomspace(1, 1000, 20)
    lines = {"found": np.stack([x, x**2]), "noise": np.stack([x, 0 * x]), "few": np.ones((2, 1))}
    return Curves("Growth", "steps", "size", lines, dashed=("noise",), points=("few",), **how)


def write(tmp_path, *parts, **how) -> str:
    study = Findings("paper.one", "The <first>", parts, 12.0)
    return write_study([study], tmp_path / "page.html", "A & B", **how).read_text()


class Cells(HTMLParser):
    """The rows of all tables, each a list of texts; parts of a cell are separated by bars."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True
        elif tag == "span" and self.inside:
            self.rows[-1][-1] += "|"

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data.strip()


def drawn(page: str) -> ET.Element:
    """The only SVG of a page."""
    (source,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', page)
    return ET.fromstring(b64decode(source))


def test_ours_stand_beside_what_was_published(tmp_path):
    page = write(tmp_path, errors())
    assert Cells(page).rows == [
        ["", "test, %", "distance"],
        ["FC[a]", "1.62 ± 0.25|1.64", "0.058"],
        ["<noise>", "", "∞|0.062"],
    ]
    assert "three seeds" in page
    assert "what was published" in page
    alone = write(tmp_path, Table("T", ("r",), ("c",), [[3.0]], formats="d"))
    assert Cells(alone).rows == [["", "c"], ["r", "3"]]
    assert "published</span>" not in alone


def test_the_page_is_self_contained_and_says_everything(tmp_path):
    parts = [errors(), Text("One.\n\nTwo <b>."), gallery(), curves()]
    studies = [Findings(f"paper.{i}", f"Study <{i}>", parts, 1.5) for i in range(2)]
    path = write_study(studies, tmp_path / "deep" / "p.html", "A & B", {"seeds": 7})
    page = path.read_text()
    assert [p.name for p in path.parent.iterdir()] == ["p.html"]
    for forbidden in ("http:", "https:", "<script", "<link", "@import", "url(", "<noise>", "<b>."):
        assert forbidden not in page
    for wanted in ("A &amp; B", '<p class="said">Two &lt;b&gt;.</p>', "<dd>7</dd>", "1.5 s"):
        assert wanted in page
    links = re.findall(r'href="#([^"]*)"', page)
    assert links == [study.name for study in studies]
    assert re.findall(r'<section[^>]* id="([^"]*)"', page) == links
    assert all(
        re.match(r"#|data:image/(png|svg\+xml);base64,", source)
        for source in re.findall(r'(?:src|href)="([^"]*)"', page)
    )
    again = write_study(studies, tmp_path / "again.html", "A & B", {"seeds": 7})
    assert again.read_text() == page


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_kept_pixel_for_pixel(channels, tmp_path):
    from PIL import Image

    part = gallery(channels)
    page = write(tmp_path, part)
    found = [
        np.asarray(Image.open(io.BytesIO(b64decode(source))).convert("RGB"))
        for source in re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    ]
    wanted = np.round(255 * part.images.reshape(6, 5, 4, channels)[:5])
    np.testing.assert_array_equal(found, np.broadcast_to(wanted, (5, 5, 4, 3)))
    assert Cells(page).rows == [
        ["", "x", "y", "z"],
        ["one", "|a", "|b", "|c"],
        ["two", "|d", "|e", ""],
    ]
    assert "pixelated" in page


def test_pictures_need_no_names(tmp_path):
    page = write(tmp_path, Gallery("G", np.zeros((1, 2, 3, 3, 1))))
    assert Cells(page).rows == [["", ""]]


@pytest.mark.parametrize("log", ["", "x", "y", "xy"])
def test_curves_are_straight_where_their_axes_say_so(log, tmp_path):
    """A square is a straight line on two logarithmic axes and on no others."""
    figure = drawn(write(tmp_path, curves(log=log)))
    lines = [
        path
        for path in figure.iter(f"{SVG}path")
        if "#c2410c" in path.get("style", "") and path.get("d", "").count("L") > 5
    ]
    (line,) = lines
    points = np.array(re.findall(r"[ML] (\S+) (\S+)", line.get("d")), float)
    slopes = np.diff(points[:, 1]) / np.diff(points[:, 0])
    assert (np.ptp(slopes) < 1e-3 * abs(slopes.mean())) == (log == "xy")


def test_controls_are_dashed_and_points_are_not_joined(tmp_path):
    figure = drawn(write(tmp_path, curves()))
    styles = [path.get("style", "") for path in figure.iter(f"{SVG}path")]
    dashed = [style for style in styles if "stroke-dasharray" in style]
    assert dashed and all("#64748b" in style for style in dashed)
    assert not any("stroke-dasharray" in s for s in styles if "#c2410c" in s)
    # The second that is no control is drawn in the second colour: marks, no line.
    assert not any("#1d4ed8" in s and "fill: none" in s for s in styles)


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_heat_maps_are_ordered_and_readable(tmp_path):
    values = np.r_[np.linspace(0, 100, 11), NAN].reshape(3, 4)
    page = write(tmp_path, Table("H", ("a", "b", "c"), tuple("wxyz"), values, heat=True))
    colours = re.findall(r"background:(#[0-9a-f]{6})", page)
    light = [luminance(colour) for colour in colours]
    assert len(light) == 11
    assert light == sorted(light, reverse=True) and len(set(light)) == 11
    assert (min(light) + 0.05) / (luminance("#1d2733") + 0.05) >= 4.5  # WCAG AA
    assert 'style="background' not in write(tmp_path, errors())


def printed(study, **how) -> str:
    out = io.StringIO()
    print_study(study, Console(file=out, width=60, **how))
    return out.getvalue()


def test_the_console_shows_the_same_numbers():
    study = Findings("paper.one", "The first", [errors(), Text("In [0, 1]."), gallery(), curves()])
    text = printed(study)
    lines = [line.split() for line in text.splitlines()]
    assert ["FC[a]", "1.62", "±", "0.25", "0.058"] in lines
    assert ["1.64"] in lines
    assert ["<noise>", "∞"] in lines
    for words in ("paper.one: The first", "In [0, 1].", "three seeds", "Pictures", "Growth"):
        assert words in text
    assert printed([study, study]) == 2 * text


@pytest.mark.parametrize("columns", [1, 4, 12])
def test_numbers_stay_whole_on_a_narrow_console(columns):
    values = 1000 + np.arange(2.0 * columns).reshape(2, columns)
    rows = ("layer 1 of the network: random directions of pixels", "a")
    names = tuple(f"feature similarity {i}" for i in range(columns))
    table = Table("Long", rows, names, values, published=values / 2, formats=".2f")
    text = printed(Findings("a", "b", [table]))
    words = text.split()
    assert {f"{v:.2f}" for v in [*values.flat, *(values / 2).flat]} <= set(words)
    assert set(" ".join(rows).split()) <= set(words)
    assert words.count("Long") == 1
    assert max(map(len, text.splitlines())) <= 60


def test_the_console_has_heat_maps_where_it_has_colours():
    study = Findings("a", "b", [Table("H", ("r",), ("x", "y"), [[0.0, 1.0]], heat=True)])
    coloured = printed(study, force_terminal=True, color_system="truecolor")
    assert "48;2;255;255;255m" in coloured
    assert "48;2;234;106;52m" in coloured
    assert "\x1b" not in printed(study)


@pytest.mark.parametrize("package", ["jinja2", "matplotlib.figure"])
def test_missing_packages_are_named(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "jaxadv\[demo\]"'):
        write(tmp_path, errors())
    assert not list(tmp_path.iterdir())


def test_parts_that_do_not_fit_are_refused_where_they_are_made():
    with pytest.raises(ValueError, match=r"images have shape \(2, 3\)"):
        Gallery("G", np.zeros((2, 3)))
    with pytest.raises(ValueError, match="columns have length 1, but the images need 2"):
        Gallery("G", np.zeros((1, 2, 3, 3, 1)), columns=("a",))
    with pytest.raises(ValueError, match="captions"):
        Gallery("G", np.zeros((1, 2, 3, 3, 1)), captions=(("a",),))
    with pytest.raises(ValueError, match=r"line 'a' has shape \(3, 5\)"):
        Curves("C", "x", "y", {"a": np.zeros((3, 5))})
