"""`jaxadv compare`."""

from collections.abc import Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxadv.cli.app import app
from jaxadv.cli.options import Json, option
from jaxadv.cli.progress import Bars
from jaxadv.cli.report import open_store
from jaxadv.cli.setting import check_outputs, console, plain_messages, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from jaxadv.sweep.compare import Changes

NAMES = 20  # most images named, for one kind and cell
CELLS = 30  # up to this many cells, equal ones are shown too
TITLES = 20  # most cells named that only one store has


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A store of a sweep.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another, or the same.")],
    where: Annotated[
        list[str] | None, option("--where", help="Cells of both: attack=PGD*; repeatable.")
    ] = None,
    left: Annotated[
        list[str] | None, option("--left", help="Cells of A: software_hash=3f*; repeatable.")
    ] = None,
    right: Annotated[
        list[str] | None, option("--right", help="Cells of B, which may differ there; repeatable.")
    ] = None,
    tolerance: Annotated[
        float, option("--tolerance", help="By which share distances may differ.", min=0.0)
    ] = 0.0,
    images: Annotated[bool, option("--images", help="Name the images that differ.")] = False,
    json_file: Json = None,
) -> None:
    """Compare two sweeps image by image: exit 0 if equal, 1 if they differ, 2 on an error.

    Cells correspond if model, data, attack, norm, goal, epsilon and seed have the same names.
    Within one store: compare STORE STORE --left 'attack=PGD(steps=10)' --right
    'attack=PGD(steps=40)'.
    """
    check_outputs(json_file)
    with plain_messages():
        from jaxadv.sweep.compare import check_columns, compare_stores

        common = _patterns(where, "--where")
        ours, theirs = _patterns(left, "--left"), _patterns(right, "--right")
        if again := sorted(set(common) & {*ours, *theirs}):
            raise ValueError(f"--where {again[0]}: stands in --left or --right too; give it once")
        check_columns(common, ours, theirs)
        stores = open_store(a), open_store(b)
        with Bars() as bars:
            changes = compare_stores(
                *stores,
                where=common,
                left=ours,
                right=theirs,
                tolerance=tolerance,
                progress=lambda done, cells: bars.show("cells", done, cells, ""),
            )
    out = console()
    _print(changes, out, images)
    write_json(json_file, _data(changes, a, b))
    if not changes.equal:
        raise typer.Exit(1)


def _patterns(texts: Sequence[str] | None, name: str) -> dict[str, str]:
    found = {}
    for text in texts or ():
        column, equals, pattern = text.partition("=")
        if not equals or not pattern:
            raise ValueError(f"{name} {text!r}: pass COLUMN=PATTERN, such as attack=PGD*")
        found[column.strip()] = pattern.strip()
    return found


def _data(changes: "Changes", a: Path, b: Path) -> dict[str, Any]:
    return {
        "a": str(a),
        "b": str(b),
        "equal": changes.equal,
        "cells": [
            {
                "title": cell.title,
                "a": _kept(cell.about),
                "b": _kept(cell.other),
                "hashes": list(cell.hashes),
                "both": cell.both,
                "equal": cell.equal,
                "median_ratio": cell.ratio,
                "median_passes": list(cell.passes),
                **cell.images,
            }
            for cell in changes.cells
        ],
        "only_a": [_kept(about) for about in changes.only_a],
        "only_b": [_kept(about) for about in changes.only_b],
    }


def _kept(about: Any) -> dict[str, Any]:
    return {name: value for name, value in about.items() if name != "bounds"}


def _print(changes: "Changes", out: "Console", images: bool) -> None:
    from jaxadv.report.fitted import Fitted
    from jaxadv.report.table import number_text
    from jaxadv.sweep.names import title_of

    few = len(changes.cells) <= CELLS
    shown = [cell for cell in changes.cells if few or not cell.equal]
    table = Fitted(
        "cell",
        "both",
        "gained,\nlost",
        "nearer,\nfarther",
        "ratio",
        "passes",
        "only A,\nonly B",
        "differ",
    )

    def pair(*ids: Sized) -> str:
        return ", ".join(f"{len(one):,}" for one in ids) if any(map(len, ids)) else "·"

    for cell in shown:
        before, after = map(number_text, cell.passes)
        hashes = [name.removesuffix("_hash") for name in cell.hashes]
        table.add_row(
            cell.title,
            f"{cell.both:,}",
            pair(cell.gained, cell.lost),
            pair(cell.nearer, cell.farther),
            "-" if cell.ratio is None else f"{cell.ratio:.4g}",
            before if before == after else f"{before} to {after}",
            pair(cell.only_a, cell.only_b),
            ", ".join(hashes) or "·",
            style=None if cell.equal else "bold",
        )
    if shown:
        out.print(table)
    if len(shown) < len(changes.cells):
        out.print(f"{len(changes.cells) - len(shown):,} cells are equal", highlight=False)
    for name, cells in (("A", changes.only_a), ("B", changes.only_b)):
        for about in cells[:TITLES]:
            out.print(f"only in {name}: {title_of(about)}", highlight=False, soft_wrap=True)
        if len(cells) > TITLES:
            out.print(f"only in {name}: {len(cells) - TITLES:,} more", highlight=False)
    for kind in ("model", "data"):
        unlike = [cell for cell in changes.cells if f"{kind}_hash" in cell.hashes]
        if unlike:
            out.print(
                f"[bold yellow]warning:[/] the {kind} of {len(unlike):,} cells is called the same "
                f"and is another ({unlike[0].title})",
                highlight=False,
                soft_wrap=True,
            )
    moved = sum(len(cell.relabelled) for cell in changes.cells)
    if moved:
        out.print(
            f"[bold yellow]warning:[/] {moved:,} rows have another label, target or clean "
            "prediction",
            highlight=False,
            soft_wrap=True,
        )
    for cell in changes.cells if images else ():
        for name, ids in cell.images.items():
            if ids:
                more = f" and {len(ids) - NAMES:,} more" if len(ids) > NAMES else ""
                out.print(
                    f"{cell.title}: {name.replace('_', ' ')}: {', '.join(map(str, ids[:NAMES]))}"
                    f"{more}",
                    highlight=False,
                    soft_wrap=True,
                    markup=False,
                )
    rows = sum(cell.both for cell in changes.cells)
    differing = sum(not cell.equal for cell in changes.cells)
    out.print(
        f"{len(changes.cells):,} cells and {rows:,} rows in both; "
        + (
            "no image differs"
            if changes.equal
            else f"{differing:,} cells differ"
            + ("" if images or not differing else " (--images names them)")
        ),
        highlight=False,
        soft_wrap=True,
    )
