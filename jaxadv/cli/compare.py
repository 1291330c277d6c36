"""`jaxadv compare`."""

from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxadv.cli.app import app
from jaxadv.cli.options import Json, option
from jaxadv.cli.progress import Bars
from jaxadv.cli.report import open_store
from jaxadv.cli.run import Run, command
from jaxadv.cli.setting import write_json

if TYPE_CHECKING:
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
        float,
        option(
            "--tolerance", help="Relative difference of distances that counts as equal.", min=0.0
        ),
    ] = 0.0,
    images: Annotated[bool, option("--images", help="Name the images that differ.")] = False,
    json_file: Json = None,
) -> None:
    """Compare two sweeps image by image: exit 0 if equal, 1 if they differ, 2 on an error.

    Cells correspond if model, data, attack, norm, goal, epsilon and seed have the same names.
    Within one store: compare STORE STORE --left 'attack=PGD(steps=10)' --right
    'attack=PGD(steps=40)'.
    """
    with command(None, json_file, pages=False, jax=False) as run:
        from jaxadv.sweep.compare import check_columns, compare_stores

        common = _patterns(where, "--where")
        of_a, of_b = _patterns(left, "--left"), _patterns(right, "--right")
        if again := sorted(set(common) & {*of_a, *of_b}):
            raise ValueError(f"--where {again[0]}: stands in --left or --right too; give it once")
        check_columns(common, of_a, of_b)
        stores = open_store(a), open_store(b)
        with Bars() as bars:
            changes = compare_stores(
                *stores,
                where=common,
                left=of_a,
                right=of_b,
                tolerance=tolerance,
                progress=lambda done, cells: bars.show("cells", done, cells, ""),
            )
        _print(changes, run, images)
    write_json(json_file, _data(changes, a, b))
    if not changes.equal:
        raise typer.Exit(1)


def _patterns(texts: Sequence[str] | None, name: str) -> dict[str, str]:
    patterns = {}
    for text in texts or ():
        column, equals, pattern = text.partition("=")
        if not equals or not pattern:
            raise ValueError(f"{name} {text!r}: pass COLUMN=PATTERN, such as attack=PGD*")
        patterns[column.strip()] = pattern.strip()
    return patterns


def _data(changes: "Changes", a: Path, b: Path) -> dict[str, Any]:
    return {
        "a": str(a),
        "b": str(b),
        "equal": changes.equal,
        "cells": [
            {
                "title": cell.title,
                "a": _without_bounds(cell.about),
                "b": _without_bounds(cell.other),
                "hashes": list(cell.hashes),
                "both": cell.both,
                "equal": cell.equal,
                "median_ratio": cell.ratio,
                "median_passes": list(cell.passes),
                **cell.images,
            }
            for cell in changes.cells
        ],
        "only_a": [_without_bounds(about) for about in changes.only_a],
        "only_b": [_without_bounds(about) for about in changes.only_b],
    }


def _without_bounds(about: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in about.items() if name != "bounds"}


def _print(changes: "Changes", run: Run, images: bool) -> None:
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
        run.console.print(table)
    if len(shown) < len(changes.cells):
        run.print(f"{len(changes.cells) - len(shown):,} cells are equal")
    for name, cells in (("A", changes.only_a), ("B", changes.only_b)):
        for about in cells[:TITLES]:
            run.print(f"only in {name}: {title_of(about)}")
        if len(cells) > TITLES:
            run.print(f"only in {name}: {len(cells) - TITLES:,} more")
    for kind in ("model", "data"):
        unlike = [cell for cell in changes.cells if f"{kind}_hash" in cell.hashes]
        if unlike:
            run.print(
                f"[bold yellow]warning:[/] the {kind} of {len(unlike):,} cells is called the same "
                f"and is another ({unlike[0].title})"
            )
    moved = sum(len(cell.relabelled) for cell in changes.cells)
    if moved:
        run.print(
            f"[bold yellow]warning:[/] {moved:,} rows have another label, target or clean "
            "prediction"
        )
    for cell in changes.cells if images else ():
        for name, ids in cell.images.items():
            if ids:
                more = f" and {len(ids) - NAMES:,} more" if len(ids) > NAMES else ""
                listed = f"{', '.join(map(str, ids[:NAMES]))}{more}"
                run.print(f"{cell.title}: {name.replace('_', ' ')}: {listed}", markup=False)
    rows = sum(cell.both for cell in changes.cells)
    differing = sum(not cell.equal for cell in changes.cells)
    verdict = "no image differs"
    if not changes.equal:
        hint = " (--images names them)" if differing and not images else ""
        verdict = f"{differing:,} cells differ{hint}"
    run.print(f"{len(changes.cells):,} cells and {rows:,} rows in both; {verdict}")
