"""`jaxadv report` and `jaxadv export`: the results of a sweep as pages, and as files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxadv.cli.app import app
from jaxadv.cli.options import Json, option
from jaxadv.cli.progress import Bars
from jaxadv.cli.run import command
from jaxadv.cli.setting import write_json

if TYPE_CHECKING:
    from jaxadv.sweep.store import SweepStore

StoreFolder = Annotated[
    Path, typer.Argument(metavar="STORE", help="The folder that `jaxadv sweep` filled.")
]


def open_store(folder: Path) -> "SweepStore":
    """Open the store of a sweep; ValueError if the folder holds none."""
    from jaxadv.sweep import SweepStore

    if not (folder / "manifest.json").is_file():
        raise ValueError(
            f"{folder} is no store of a sweep: pass a folder that `jaxadv sweep` filled"
        )
    return SweepStore(folder)


@app.command()
def report(
    store: StoreFolder,
    output: Annotated[
        Path | None, option("--output", help="Folder of the pages (default: STORE/report).")
    ] = None,
    examples: Annotated[
        int, option("--examples", help="Images of each data set with a page of their own.", min=0)
    ] = 20,
    figures: Annotated[
        int, option("--figures", help="Models, data sets and norms whose curves are drawn.", min=0)
    ] = 24,
    json_file: Json = None,
) -> None:
    """Write the results of a sweep as HTML pages: leaderboard, curves, cells, images.

    Nothing is attacked or trained. The store may be incomplete.
    """
    folder = output or store / "report"
    with command(folder, json_file, jax=False) as run:
        from jaxadv.report.sweep import print_sweep, sweep_data, write_sweep

        results = open_store(store)
        with Bars() as bars:
            data = sweep_data(
                results, examples, lambda done, cells: bars.show("cells", done, cells, "")
            )
        print_sweep(data, run.console)
        page = write_sweep(data, results, folder, figures)
        run.write(data)
        run.print(f"report: {page}\ndata:   {folder / 'report.json'}")


@app.command()
def export(
    store: StoreFolder,
    csv: Annotated[
        Path | None, option("--csv", help="Write all rows as CSV: a row for each image and cell.")
    ] = None,
    robustbench: Annotated[
        Path | None,
        option("--robustbench", help="Write the leaderboard as entries of RobustBench (JSON)."),
    ] = None,
    json_file: Json = None,
) -> None:
    """Export the rows and the leaderboard of a sweep for other programs."""
    if csv is None and robustbench is None:
        raise ValueError("nothing to write: pass --csv FILE or --robustbench FILE")
    with command(None, json_file, csv, robustbench, pages=False, jax=False) as run:
        import json

        from jaxadv.core.files import write_atomically
        from jaxadv.report.export import sweep_as_robustbench, write_sweep_csv
        from jaxadv.report.sweep import sweep_data

        results, counts = open_store(store), {}
        with Bars() as bars:
            if csv is not None:
                counts["rows"] = write_sweep_csv(
                    results, csv, lambda done, jobs: bars.show("jobs", done, jobs, "")
                )
            if robustbench is not None:
                data = sweep_data(
                    results, progress=lambda done, cells: bars.show("cells", done, cells, "")
                )
                entries = sweep_as_robustbench(data)
                write_atomically(robustbench, json.dumps(entries, indent=1) + "\n")
                counts["entries"] = len(entries)
        files = {"rows": csv, "entries": robustbench}
        for name, count in counts.items():
            run.print(f"{count:,} {name} in {files[name]}")
    write_json(json_file, {"store": str(store), **counts})
