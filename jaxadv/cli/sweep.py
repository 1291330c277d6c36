"""`jaxadv sweep`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxadv.cli.app import INTERRUPTED, app, say
from jaxadv.cli.options import Json, option
from jaxadv.cli.progress import Bars
from jaxadv.cli.run import Run, command
from jaxadv.cli.setting import join_processes, write_json

if TYPE_CHECKING:
    from jaxadv.sweep.estimate import Cost
    from jaxadv.sweep.execute import Summary


@app.command()
def sweep(
    file: Annotated[
        Path,
        typer.Argument(metavar="SWEEP.TOML", help="The grid, in TOML: see the guide on sweeps."),
    ],
    store: Annotated[
        Path | None, option("--store", help="Folder of the results (default: SWEEP-store).")
    ] = None,
    dry_run: Annotated[
        bool, option("--dry-run", help="Show the plan and what it costs; run nothing.")
    ] = False,
    only: Annotated[
        list[str] | None,
        option("--only", help="Cells whose title matches: 'lenet / * / PGD*'; repeatable."),
    ] = None,
    retry_failed: Annotated[
        bool, option("--retry-failed", help="Run jobs again that failed before.")
    ] = False,
    ray: Annotated[
        str | None,
        option("--ray", metavar="ADDRESS", help="Run on a Ray cluster: auto, HOST:PORT, or local."),
    ] = None,
    gpus_per_job: Annotated[
        float | None, option("--gpus-per-job", help="GPUs of a job on a Ray cluster (0).", min=0)
    ] = None,
    cpus_per_job: Annotated[
        int | None, option("--cpus-per-job", help="Cores of a job on a Ray cluster (1).", min=1)
    ] = None,
    distributed: Annotated[
        bool,
        option("--distributed", help="One of several processes that SLURM or a TPU pod started."),
    ] = False,
    coordinator: Annotated[
        str | None,
        option("--coordinator", metavar="HOST:PORT", help="Of several processes, where 0 is."),
    ] = None,
    processes: Annotated[
        int | None, option("--processes", help="How many processes work together.", min=1)
    ] = None,
    process: Annotated[
        int | None, option("--process", help="Which of them this is, from 0.", min=0)
    ] = None,
    json_file: Json = None,
) -> None:
    """Run a grid of models, data, attacks, norms, epsilons and seeds.

    After an interruption, the same command continues where it stopped. Several processes may fill
    one store.
    """
    folder = store or file.with_name(f"{file.stem}-store")
    joined = distributed or any(o is not None for o in (coordinator, processes, process))
    if ray is not None and joined:
        raise ValueError("--ray and --coordinator or --distributed: pass one of them")
    if ray is None and (gpus_per_job is not None or cpus_per_job is not None):
        raise ValueError("--gpus-per-job and --cpus-per-job are for --ray: pass it, too")
    with command(None if dry_run else folder, json_file, pages=False) as run:
        from jaxadv.sweep.grid import read_grid

        grid = read_grid(file)
        if joined:
            join_processes(coordinator, processes, process)
        from jaxadv.sweep import RayExecutor, SweepStore, run_sweep

        executor = (
            RayExecutor(ray, gpus_per_job or 0, cpus_per_job or 1) if ray is not None else None
        )
        patterns = tuple(only or ())
        if dry_run:
            from jaxadv.sweep.estimate import estimate
            from jaxadv.sweep.resources import Given

            costs = estimate(grid, SweepStore(folder), Given(), patterns)
            _print_plan(costs, folder, run)
            write_json(json_file, {"store": str(folder), "groups": [_plan_data(c) for c in costs]})
            return
        with Bars() as bars:
            summary = run_sweep(
                grid,
                folder,
                only=patterns,
                retry_failed=retry_failed,
                executor=executor,
                progress=_shown(bars),
            )
        _print_summary(summary, folder, run)
    write_json(json_file, {"store": str(folder), **summary._asdict()})
    if summary.failed:
        raise typer.Exit(1)
    if not summary.complete:
        raise typer.Exit(INTERRUPTED)


def _shown(bars: Bars) -> Callable[[str, int, int, int], None]:
    """Return a callback that shows the rows and the time left of a sweep, and its trainings."""

    def progress(what: str, done: int, total: int, successes: int) -> None:
        if what.startswith("train "):
            bars.show(what, done, total, "")
            return
        seconds = bars.seconds_left("sweep")
        left = f"{duration(seconds)} left, " if seconds else ""
        bars.show("sweep", done, total, left + what)

    return progress


def duration(seconds: float) -> str:
    """Return a duration as text, in seconds, minutes or hours.

    Args:
        seconds: The duration in seconds.

    Returns:
        A number and its unit.

    Example:
        >>> from jaxadv.cli.sweep import duration
        >>> duration(45), duration(600), duration(20_000)
        ('45 s', '10 min', '5.6 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _plan_data(cost: "Cost") -> dict[str, Any]:
    about = {name: cost.group.about[name] for name in ("model", "data", "attack", "norm", "goal")}
    cells = [{"epsilon": cell.epsilon, "seed": cell.seed} for cell in cost.group.cells]
    return {**about, **cost._asdict(), "group": cost.group.fingerprint, "cells": cells}


def _print_plan(costs: Sequence["Cost"], folder: Path, run: Run) -> None:
    from jaxadv.report.fitted import Fitted

    table = Fitted(
        "model / data / attack / norm", "cells", "rows", "kept", "passes a row ≤", "time ≤"
    )
    for cost in costs:
        table.add_row(
            cost.group.title(),
            f"{cost.cells:,}",
            f"{cost.rows:,}",
            f"{cost.done:,}",
            f"{cost.passes:,}",
            duration(cost.seconds),
        )
    run.console.print(table)
    cells, rows = sum(c.cells for c in costs), sum(c.rows for c in costs)
    seconds = sum(c.seconds for c in costs)
    proofs = any(c.group.entry.prover is not None for c in costs)
    run.print(
        f"{cells:,} cells, {rows:,} rows, of which {sum(c.done for c in costs):,} are in {folder}; "
        f"at most {duration(seconds)} here (no success ends an attack early), "
        f"compilation{' and proofs' if proofs else ''} apart"
    )


def _print_summary(summary: "Summary", folder: Path, run: Run) -> None:
    for job, message in summary.failed.items():
        say(f"failed: {job}: {message}")
    made = f"{summary.computed:,} made here in {duration(summary.seconds)}"
    if summary.computed == 0 and summary.complete:
        made = "nothing was left to do"
    run.print(
        f"{summary.rows:,} rows in {folder}; of {summary.jobs:,} jobs {summary.kept:,} were kept, "
        f"{made}" + (f"; {len(summary.failed)} failed (--retry-failed)" if summary.failed else "")
    )
