"""The pictures of docs/papers.md: run the experiments and draw one picture of each.

    python tools/pictures.py [EXPERIMENT ...]

EXPERIMENT: names such as szegedy.transfer (default: all that have a picture). Each runs as
`jaxadv reproduce EXPERIMENT --quick` does, on the embedded digits; what that command has left in
jaxadv-results is not run again. Writes docs/assets/papers/EXPERIMENT.svg, or .png where images are
shown. Needs the extras demo and sklearn.
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

import jaxadv as ja
from jaxadv.cli.reproduce import QUICK_EXAMPLES, QUICK_SEEDS, mixed
from jaxadv.core.files import write_atomically
from jaxadv.report.elements import COLOURS, FAINT, INK, svg_bytes
from jaxadv.report.study import HOT, WHITE, draw
from jaxadv.studies import Curves, Findings, Gallery, Setting, Table, conduct

FOLDER = Path(__file__).parents[1] / "docs" / "assets" / "papers"
RESULTS = Path("jaxadv-results/state/mnist5k-quick")  # where `jaxadv reproduce --quick` keeps them
WIDTH = 6.4  # inches
P = TypeVar("P", Table, Gallery, Curves)


def part(findings: Findings, kind: type[P], title: str = "") -> P:
    """Return the first part of a kind whose title begins so."""
    return next(p for p in findings.parts if isinstance(p, kind) and p.title.startswith(title))


class HeatMap(NamedTuple):
    """The first columns of the table whose title begins so; what its rows and columns are."""

    title: str
    columns: int
    of_rows: str
    of_columns: str

    def __call__(self, findings: Findings) -> Figure:
        table = part(findings, Table, self.title)
        values = table.values[:, : self.columns]
        figure = Figure(figsize=(WIDTH, 1.1 + 0.36 * len(values)), layout="constrained")
        axes = figure.add_subplot()
        colours = [tuple(c / 255 for c in colour) for colour in (WHITE, HOT)]
        axes.pcolormesh(
            values, cmap=LinearSegmentedColormap.from_list("", colours), vmin=0, vmax=100
        )
        axes.invert_yaxis()
        for (row, column), value in np.ndenumerate(values):
            text = "" if np.isnan(value) else f"{value:.0f}"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=INK)
        names, slanted = table.columns[: self.columns], {"rotation": 30, "rotation_mode": "anchor"}
        axes.set_xticks(np.arange(self.columns) + 0.5, names, fontsize=10, ha="left", **slanted)
        axes.set_yticks(np.arange(len(values)) + 0.5, table.rows, fontsize=10)
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        axes.tick_params(length=0, colors=INK)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(self.of_columns, fontsize=11, color=INK)
        axes.set_ylabel(self.of_rows, fontsize=11, color=INK)
        return figure


class Lines(NamedTuple):
    """The curves whose title begins with `title`."""

    title: str

    def __call__(self, findings: Findings) -> Figure:
        return draw(part(findings, Curves, self.title), WIDTH, 3.8)


class Points(NamedTuple):
    """Columns of the table whose title begins so, a point each on a row's line; the axis's name.

    The rows are sorted by the first of the columns.
    """

    title: str
    columns: dict[str, str]  # the column's name in the table, and in the legend
    axis: str

    def __call__(self, findings: Findings) -> Figure:
        table = part(findings, Table, self.title)
        values = table.values[:, [table.columns.index(name) for name in self.columns]]
        values, rows = values[np.argsort(values[:, 0])], np.argsort(values[:, 0])
        figure = Figure(figsize=(WIDTH, 1.1 + 0.36 * len(values)), layout="constrained")
        axes, heights = figure.add_subplot(), np.arange(len(values))
        axes.hlines(heights, values.min(1), values.max(1), color=FAINT, linewidth=3, zorder=1)
        for name, column, colour in zip(self.columns.values(), values.T, COLOURS, strict=False):
            axes.scatter(column, heights, s=50, color=colour, label=name, zorder=2)
        axes.set_yticks(heights, [table.rows[row] for row in rows], fontsize=10)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.tick_params(which="both", length=0, colors=INK)
        axes.grid(axis="x", color=FAINT)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(self.axis, fontsize=11, color=INK)
        legend = {"loc": "lower center", "bbox_to_anchor": (0.4, 1), "ncols": len(self.columns)}
        axes.legend(frameon=False, fontsize=10, labelcolor=INK, **legend)
        return figure


class Pictures(NamedTuple):
    """The first rows and columns of the gallery."""

    rows: int
    columns: int

    def __call__(self, findings: Findings) -> Figure:
        gallery = part(findings, Gallery)
        shape, size = (self.rows, self.columns), 9.5
        figure = Figure(figsize=(WIDTH, 1.25 * WIDTH * self.rows / self.columns))
        every = figure.subplots(*shape, squeeze=False)
        for (i, j), axes in np.ndenumerate(every):
            axes.imshow(gallery.images[i, j], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_xlabel(gallery.captions[i][j], fontsize=size, labelpad=2, color=INK)
        for axes, name in zip(every[0], gallery.columns, strict=False):
            axes.set_title(name, fontsize=size, color=INK)
        for axes, name in zip(every[:, 0], gallery.rows, strict=False):
            axes.set_ylabel(name, fontsize=size, color=INK)
        return figure


PICTURES: dict[str, Callable[[Findings], Figure]] = {
    "szegedy.transfer": HeatMap("Table 2", 6, "made for", "fed to"),
    "universal.controls": Lines("Fooling rate against the length"),
    "fooling.images": Pictures(3, 6),
    "tampered.defences": Lines("Minimal perturbations"),
    "classifiers.distance": Points(
        "The nearest mistake",
        {"median distance": "nearest mistake found", "noise": "nearest misclassified noise"},
        "median L2 distance from the image",
    ),
    "transfer.spam": Lines("Spam that passes"),
    "streams": Lines("Accuracy against"),
}


def save(name: str, figure: Figure) -> Path:
    """Write a figure: as PNG if it shows images, otherwise as SVG."""
    if any(axes.images for axes in figure.axes):
        drawn, grey = io.BytesIO(), io.BytesIO()
        figure.savefig(drawn, format="png", dpi=150, bbox_inches="tight")
        Image.open(drawn).convert("L").quantize(16).save(grey, "png", optimize=True)
        return write_atomically(FOLDER / f"{name}.png", grey.getvalue())
    return write_atomically(FOLDER / f"{name}.svg", svg_bytes(figure, transparent=False))


def main(names: list[str]) -> None:
    """Run the experiments and write their pictures."""
    unknown = sorted(set(names) - set(PICTURES))
    if unknown:
        sys.exit(f"no picture is drawn of {', '.join(unknown)}: pass some of {', '.join(PICTURES)}")
    ja.use_cpu_cores()
    train, test = (mixed(ja.load_data("mnist5k", split)) for split in ("train", "test"))
    setting = Setting(train, test, RESULTS, QUICK_SEEDS, QUICK_EXAMPLES, quick=True)
    for name in names or PICTURES:
        path = save(name, PICTURES[name](conduct(name, setting)))
        print(f"{path.relative_to(FOLDER.parents[2])}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
