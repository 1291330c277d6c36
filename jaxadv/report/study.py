"""Findings of studies: tables on the console, and one self-contained HTML page."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxadv.report.elements import (
    ACCENT,
    CONTROL,
    FAINT,
    INK,
    picture,
    plain_axes,
    svg,
    template,
    versions,
)
from jaxadv.studies.findings import Curves, Findings, Gallery, Table, Text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.table import Table as Grid

WHITE, HOT = (255, 255, 255), (234, 106, 52)  # INK is readable on both, and all between
COLOURS = (ACCENT, "#1d4ed8", "#15803d", "#7e22ce", "#ca8a04", "#0e7490", "#be185d", INK)
GREYS = (CONTROL, "#94a3b8", "#475569", "#b6a58f")
MARKERS = "osD^vP"


def write_study(
    findings: Sequence[Findings],
    path: str | Path,
    title: str = "What was found",
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write findings as one HTML page (atomically, everything embedded) and return its path.

    Tables show our figures, with the spread over seeds, above the published figures in grey, and
    coloured cells where they ask for a heat map; galleries are grids of pictures, pixel for pixel;
    curves are drawn as SVG, controls dashed.

    Args:
        findings: Findings of one or several studies.
        path: Path of the page.
        title: Title of the page.
        settings: Further facts about the run to show on the page, such as {"seeds": 3}.

    Returns:
        The path.

    Raises:
        ImportError: jinja2 or matplotlib is missing; the message says how to install it.

    >>> import tempfile
    >>> from jaxadv.report import write_study
    >>> from jaxadv.studies import Findings, Table
    >>> table = Table("errors", ("FC",), ("test",), [[1.7]], published=[[1.6]])
    >>> write_study([Findings("demo", "A demonstration", [table])], tempfile.mkdtemp() + "/a.html")
    PosixPath('.../a.html')
    """
    from jaxadv.core.files import write_atomically

    page = template("study.html.j2")
    show = {Table: _table, Gallery: _gallery, Curves: _curves, Text: _text}
    studies = [
        {
            "name": study.name,
            "title": study.title,
            "seconds": study.seconds,
            "parts": [show[type(part)](part) for part in study.parts],
        }
        for study in findings
    ]
    compared = any(
        isinstance(part, Table) and part.published is not None
        for study in findings
        for part in study.parts
    )
    rendered = page.render(
        title=title,
        studies=studies,
        compared=compared,
        settings={**(settings or {}), **versions()},
    )
    return write_atomically(path, rendered)


def cell(table: Table, row: int, column: int) -> tuple[str, str]:
    """Return a table's cell as texts.

    Args:
        table: The table.
        row: Index of the row.
        column: Index of the column.

    Returns:
        Our figure with its spread, and the published figure; "" for none.

    Example:
        >>> from jaxadv.report.study import cell
        >>> from jaxadv.studies import Table
        >>> table = Table("errors", ("FC",), ("test",), [[1.71]], [[0.05]], [[1.6]], ".2f")
        >>> cell(table, 0, 0)
        ('1.71 ± 0.05', '1.60')
    """

    def text(values: np.ndarray | None) -> str:
        value = math.nan if values is None else float(values[row, column])
        form = table.format_of(column)
        if math.isnan(value):
            return ""
        if math.isinf(value):
            return "∞" if value > 0 else "-∞"
        return format(round(value) if form.endswith("d") else value, form)

    ours, spread = text(table.values), text(table.spread)
    return f"{ours} ± {spread}" if ours and spread else ours, text(table.published)


def heat(table: Table) -> list[list[str | None]]:
    """Return the colour of each cell of a heat map.

    Args:
        table: The table.

    Returns:
        Colours [rows][columns], white for the least emphasised value; None for an empty cell.

    Example:
        >>> from jaxadv.report.study import heat
        >>> from jaxadv.studies import Table
        >>> heat(Table("errors", ("FC",), ("train", "test"), [[0.0, 1.7]]))
        [['#ffffff', '#ea6a34']]
    """
    finite = table.values[np.isfinite(table.values)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    low, high = (high, low) if table.hot == "low" else (low, high)

    def colour(value: float) -> str | None:
        if math.isnan(value):
            return None
        weight = float(np.clip((value - low) / ((high - low) or 1.0), 0, 1))
        mixed = (round(a + weight * (b - a)) for a, b in zip(WHITE, HOT, strict=True))
        return "#" + "".join(f"{part:02x}" for part in mixed)

    return [[colour(float(value)) for value in row] for row in table.values]


# ---- the parts of a page --------------------------------------------------------------------


def _table(table: Table) -> dict[str, Any]:
    rows, columns = range(len(table.rows)), range(len(table.columns))
    colours = heat(table)
    cells = [
        [
            dict(zip(("ours", "published"), cell(table, i, j), strict=True), colour=colours[i][j])
            for j in columns
        ]
        for i in rows
    ]
    return {"kind": "table", "part": table, "cells": cells}


def _gallery(gallery: Gallery) -> dict[str, Any]:
    pictures = [
        [None if np.isnan(image).all() else picture(np.nan_to_num(image)) for image in row]
        for row in np.asarray(gallery.images)
    ]
    size = min(max(np.shape(gallery.images)[3], 84), 160)  # pixels on the screen
    return {"kind": "gallery", "part": gallery, "pictures": pictures, "size": size}


def _text(text: Text) -> dict[str, Any]:
    return {"kind": "text", "paragraphs": [p for p in text.text.split("\n\n") if p.strip()]}


def draw(curves: Curves, width: float = 7.2, height: float = 4.3) -> "Figure":
    """Draw curves as a figure of matplotlib: controls grey and dashed, the others in colours.

    Args:
        curves: The curves.
        width: Width of the figure in inches; if there are more than six lines, the legend beside
            the axes takes 2.2 inches more.
        height: Height of the figure in inches.

    Returns:
        The figure.

    Example:
        >>> import numpy as np
        >>> from jaxadv.report.study import draw
        >>> from jaxadv.studies import Curves
        >>> figure = draw(Curves("Accuracy", "epsilon", "accuracy", {"PGD": np.ones((2, 3))}))
        >>> figure.axes[0].get_xlabel()
        'epsilon'
    """
    many = _has_long_legend(curves)
    figure, axes = plain_axes(width + 2.2 * many, height)
    controls = [name for name in curves.lines if name in curves.dashed]
    others = [name for name in curves.lines if name not in curves.dashed]
    for name, line in curves.lines.items():
        x, y = np.asarray(line, np.float64)
        control = name in controls
        number = (controls if control else others).index(name)
        palette = GREYS if control else COLOURS
        colour, marker = palette[number % len(palette)], MARKERS[number % len(MARKERS)]
        if name in curves.points:
            axes.plot(
                x,
                y,
                marker,
                color=colour,
                markersize=6,
                label=name,
                markerfacecolor="none" if control else colour,
            )
        else:
            axes.plot(
                x,
                y,
                "--" if control else "-",
                color=colour,
                linewidth=2.2,
                label=name,
                marker=marker if 2 < len(x) <= 12 else None,
                markersize=5,
            )
    if "x" in curves.log:
        axes.set_xscale("log", nonpositive="mask")
    if "y" in curves.log:
        axes.set_yscale("log", nonpositive="mask")
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    if "x" not in curves.log and all(_are_integers(line[0]) for line in curves.lines.values()):
        axes.xaxis.get_major_locator().set_params(integer=True)  # layers, not halves of them
    axes.set_xlabel(curves.x, fontsize=12, color=INK)
    axes.set_ylabel(curves.y, fontsize=12, color=INK)
    if len(curves.lines) > 1:
        where = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if many else {"loc": "best"}
        axes.legend(frameon=False, fontsize=10.5, labelcolor=INK, **where)
    return figure


def _has_long_legend(curves: Curves) -> bool:
    """Return whether the legend stands beside the axes."""
    return len(curves.lines) > 6


def _curves(curves: Curves) -> dict[str, Any]:
    wide = _has_long_legend(curves)
    return {"kind": "curves", "part": curves, "figure": svg(draw(curves)), "wide": wide}


def _are_integers(values: Sequence[float] | np.ndarray) -> bool:
    values = np.asarray(values, np.float64)
    return bool((values == np.round(values)).all())


# ---- the console ----------------------------------------------------------------------------


def print_study(findings: Findings | Sequence[Findings], console: "Console | None" = None) -> None:
    """Print the tables and texts of one or several studies, and the titles of pictures and curves.

    Published figures stand below ours, dim; heat maps have coloured cells where the console has
    colours.

    Args:
        findings: Findings of one or several studies.
        console: Console of rich (None: the standard output).

    Example:
        >>> from rich.console import Console
        >>> from jaxadv.report import print_study
        >>> from jaxadv.studies import Findings, Table
        >>> table = Table("errors in %", ("FC",), ("test",), [[1.7]], published=[[1.6]])
        >>> print_study(Findings("demo", "A demonstration", [table]), Console(width=40))
        demo: A demonstration
        <BLANKLINE>
        errors in % (published figures below)
        <BLANKLINE>
               test
         ───────────
          FC    1.7
                1.6
        <BLANKLINE>
    """
    from rich.console import Console

    console = console or Console()
    for study in [findings] if isinstance(findings, Findings) else findings:
        console.print(_styled(f"{study.name}: {study.title}\n", "bold underline"))
        for part in study.parts:
            if isinstance(part, Table):
                console.print(_console_table(part))
                if part.note:
                    console.print(_styled(f"{part.note}\n", "dim"))
            elif isinstance(part, Text):
                console.print(_styled(f"{part.text}\n"))
            else:
                kind = "pictures" if isinstance(part, Gallery) else "curves"
                console.print(_styled(f"{kind}, on the page: {part.title}\n", "dim"))


def _styled(text: str, style: str = "") -> Any:
    """Return text in which [brackets] are not markup."""
    from rich.text import Text as Styled

    return Styled(text, style)


def _console_table(table: Table) -> "Grid":
    from jaxadv.report.fitted import Fitted

    published = " (published figures below)" if table.published is not None else ""
    colours = heat(table)
    grid = Fitted("", *map(_styled, table.columns), title=_styled(table.title + published, "bold"))
    for i, name in enumerate(table.rows):
        shown = []
        for j in range(len(table.columns)):
            ours, theirs = cell(table, i, j)
            warm = f"{INK} on {colours[i][j]}" if table.heat and colours[i][j] else ""
            shown.append(_styled(ours, warm))
            if theirs:
                shown[-1].append(f"\n{theirs}", "" if warm else "dim")
        grid.add_row(_styled(name), *shown)
    return grid
