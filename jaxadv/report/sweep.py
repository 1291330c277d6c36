"""A sweep's store as plain data, as tables on the console, and as a folder of HTML pages."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxadv.core.files import write_atomically
from jaxadv.report import table
from jaxadv.sweep.leaderboard import Line, Share, Standing, levels_of, quantile, standings
from jaxadv.sweep.names import title_of
from jaxadv.sweep.read import HASHES, CellRows, read_cells
from jaxadv.sweep.store import SweepStore

if TYPE_CHECKING:
    from rich.console import Console

FIGURES = 24  # models, data sets and norms whose curves are drawn
CELLS = 2000  # shown on the page; the data has all
NAMED = 20  # failed jobs listed on the console
DETAILS = (
    "id",
    "label",
    "prediction",
    "target",
    "success",
    "status",
    "broken_by",
    "distance",
    "forward",
    "backward",
    "queries",
    "success_8bit",
)


def sweep_data(
    store: SweepStore, examples: int = 0, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Return all that is reported of a sweep's store, for `json.dumps`.

    An image is robust at epsilon if it is classified correctly and no attack of that radius or a
    smaller one, at any seed, and no minimum-norm attack at that distance or a smaller one broke it;
    it counts where any attack was run on it. Intervals are Wilson's, 95 %. The store is read once,
    cell by cell.

    Args:
        store: The sweep's store.
        examples: Number of images of each data set, the first ones, whose results are listed.
        progress: Called with (cells read, cells in all).

    Returns:
        The data. standings: each model on each data set, with clean accuracy, and for each norm the
        robust accuracy under all attacks together at each epsilon (`levels`), every attack's own
        curve and cost, and the curve of all. cells: one entry each, with the software and device
        that computed it. images: the results of every cell on the first `examples` images of each
        data set. `upper_bound`: whether rows are missing that could lower the accuracy.

    Example:
        >>> import tempfile, jaxadv as ja
        >>> from jaxadv.report import sweep_data
        >>> sweep_data(ja.SweepStore(tempfile.mkdtemp()))["rows"]
        0
    """
    failures = store.failures()
    every: dict[int, Standing] = {}
    cells, software, shown = [], {}, _Examples(examples)
    for cell, standing in standings(read_cells(store, progress)):
        every[id(standing)] = standing
        cells.append(_cell_data(cell, failures))
        software[cell.about["software_hash"]] = cell.about["software"]
        shown.add(cell)
    norms = list(dict.fromkeys(norm for standing in every.values() for norm in standing.norms))
    levels = {norm: levels_of(every.values(), norm) for norm in norms}
    rows, expected = (sum(cell[name] for cell in cells) for name in ("rows", "expected"))
    jobs = store.manifest["jobs"]
    return {
        "store": str(store.folder),
        "complete": rows == expected,
        "rows": rows,
        "expected": expected,
        "failed": {job: error for job, error in failures.items() if job in jobs},
        "software": software,
        "norms": levels,
        "standings": [_standing_data(one, levels) for one in every.values()],
        "cells": cells,
        "images": shown.images,
    }


def _share_data(share: Share) -> dict[str, Any]:
    low, high = share.interval
    return {
        "count": share.count,
        "images": share.images,
        "value": share.value,
        "interval": [low, high],
    }


def _standing_data(one: Standing, levels: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    def level(norm: str, epsilon: float) -> dict[str, Any]:
        worst, proved = one.worst(norm, epsilon), one.proved(norm, epsilon)
        return {
            "epsilon": epsilon,
            **_share_data(one.robust(one.of(norm), epsilon)),
            "proved": None if proved is None else _share_data(proved),
            "upper_bound": one.lacks(norm, epsilon),
            "worst_attack": None if worst is None else worst.title,
            "worst_accuracy": None if worst is None else one.robust([worst], epsilon).value,
        }

    def curve(lines: Sequence[Line], at: Sequence[float]) -> dict[str, Any]:
        if len(lines) == 1:
            rates = [one.accuracy(lines[0], epsilon) for epsilon in at]
        else:
            rates = [one.clean if e == 0 else one.robust(lines, e) for e in at]
        known = [(e, rate) for e, rate in zip(at, rates, strict=True) if rate.images]
        return {
            "epsilon": [epsilon for epsilon, _ in known],
            "accuracy": [rate.value for _, rate in known],
            "lower": [rate.interval[0] for _, rate in known],
            "upper": [rate.interval[1] for _, rate in known],
        }

    def attack(line: Line, norm: str) -> dict[str, Any]:
        return {
            "attack": line.attack,
            "goal": line.goal,
            "title": line.title,
            "minimal": line.minimal,
            "curve": curve([line], one.points([line], levels[norm])),
            "median_distance": one.median_distance(line) if line.minimal else None,
            "cost": [
                {
                    "epsilon": epsilon,
                    **_share_data(one.success(line, epsilon)),
                    "median_passes": line.median_passes(epsilon),
                }
                for epsilon in sorted(line.attacked, key=lambda e: -1 if e is None else e)
            ],
        }

    return {
        "model": one.model,
        "data": one.data,
        "model_hash": one.model_hash,
        "data_hash": one.data_hash,
        "clean": _share_data(one.clean),
        "norms": {
            norm: {
                "levels": [level(norm, epsilon) for epsilon in levels[norm]],
                "attacks": [attack(line, norm) for line in one.of(norm)],
                "worst": curve(one.of(norm), one.points(one.of(norm), levels[norm])),
                "contradictions": one.contradictions(norm) if one.of(norm) else 0,
            }
            for norm in one.norms
        },
    }


def _cell_data(cell: CellRows, failures: Mapping[str, str]) -> dict[str, Any]:
    about = {
        name: value for name, value in cell.about.items() if name not in ("bounds", "software")
    }
    cell_columns = {
        **about,
        "title": title_of(about),
        "rows": cell.count,
        "expected": cell.expected,
        "failed": {job: failures[job] for job in cell.jobs if job in failures},
    }
    if not cell.count:
        nothing = dict.fromkeys(("success", "median_distance", "median_passes", "median_queries"))
        return {
            **cell_columns,
            **nothing,
            "right": 0,
            "seconds": 0.0,
            "lanes": [],
            "statuses": {},
            "success_8bit": None,
        }
    right = cell.column("prediction") == cell.column("label")
    won = cell.column("success").astype(bool)
    distance = np.where(won, cell.column("distance"), np.inf)[right]
    passes = (cell.column("forward") + cell.column("backward"))[right]
    rounded = [value for value in cell.column("success_8bit") if value is not None]
    statuses, counts = np.unique(cell.column("status").astype(str), return_counts=True)
    return {
        **cell_columns,
        "right": int(right.sum()),
        "success": int((won & right).sum()),
        "median_distance": quantile(distance, 0.5),
        "median_passes": _median(passes),
        "median_queries": _median(cell.column("queries")[right]),
        "seconds": float(cell.column("seconds").sum()),
        "lanes": sorted({int(lanes) for lanes in cell.column("lanes")}),
        "statuses": dict(zip(statuses.tolist(), counts.tolist(), strict=True)),
        "success_8bit": int(sum(rounded)) if rounded else None,
    }


def _median(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


class _Examples:
    """Results of every cell on the first images of each data set, in the order of the data."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.images: list[dict[str, Any]] = []
        self.places: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}

    def add(self, cell: CellRows) -> None:
        """Add one cell's rows of these images, which the first cell of a data set selects."""
        if not self.count or not cell.count:
            return
        about = cell.about
        key = (about["data"], about["data_hash"])
        chosen = self.places.get(key, {})
        for part in cell.parts:
            ids = part.rows["id"].to_numpy()
            if key not in self.places:
                for row, number in enumerate(ids[: self.count - len(chosen)].tolist()):
                    image = {
                        "data": about["data"],
                        "data_hash": about["data_hash"],
                        "id": number,
                        "label": part.rows["label"][row].as_py(),
                        "place": part.begin + row,
                        "rows": [],
                    }
                    chosen[number] = image
            for row in np.flatnonzero(np.isin(ids, list(chosen))).tolist():
                values = {name: part.rows[name][row].as_py() for name in DETAILS}
                chosen[values.pop("id")]["rows"].append(
                    {
                        **{
                            name: about[name]
                            for name in (
                                "cell",
                                "model",
                                "attack",
                                "norm",
                                "goal",
                                "epsilon",
                                "seed",
                                "bounds",
                            )
                        },
                        **values,
                        "job": part.job,
                        "row": part.first + row,
                    }
                )
        if key not in self.places:
            self.places[key] = chosen
            self.images += chosen.values()


# ---- the console ----------------------------------------------------------------------------


def accuracy_text(level: Mapping[str, Any] | None) -> str:
    """Return a robust accuracy in per cent, with the proved one before it where there are proofs.

    "≤" stands before an upper bound, a dash for no rows.
    """
    if level is None or level["value"] is None:
        return "-"
    attacked = ("≤ " if level["upper_bound"] else "") + table.percent(level["value"])
    proved = level["proved"]
    return attacked if proved is None else f"{table.percent(proved['value'])}-{attacked}"


def leaderboard(data: Mapping[str, Any], norm: str) -> list[dict[str, Any]]:
    """Return the standings that have this norm, by data set, the most robust first."""

    def order(one: Mapping[str, Any]) -> tuple[Any, ...]:
        values = [level["value"] or 0.0 for level in one["norms"][norm]["levels"]]
        return one["data"], -sum(values), -(one["clean"]["value"] or 0.0)

    return sorted((one for one in data["standings"] if norm in one["norms"]), key=order)


def _has_proofs(data: Mapping[str, Any], norm: str) -> bool:
    levels = [level for one in leaderboard(data, norm) for level in one["norms"][norm]["levels"]]
    return any(level["proved"] is not None for level in levels)


def problems(data: Mapping[str, Any]) -> list[str]:
    """Return the reasons why a sweep is incomplete, a line each."""
    lines = []
    if not data["complete"]:
        lacking = [cell for cell in data["cells"] if cell["rows"] < cell["expected"]]
        lines.append(
            f"{data['expected'] - data['rows']:,} of {data['expected']:,} rows are missing, in "
            f"{len(lacking):,} of {len(data['cells']):,} cells"
        )
    lines += [f"job {job} failed: {error}" for job, error in data["failed"].items()]
    return lines


def contradictions(data: Mapping[str, Any]) -> list[str]:
    """Return where the sweep contradicts itself, a line each."""
    return [
        f"{own['contradictions']:,} images of {one['model']} on {one['data']} are both proved and "
        f"broken ({norm}): one of the two is wrong; please report it"
        for one in data["standings"]
        for norm, own in one["norms"].items()
        if own["contradictions"]
    ]


def print_sweep(data: Mapping[str, Any], console: "Console | None" = None) -> None:
    """Print a `sweep_data`: the leaderboard of each norm, and what is missing."""
    from rich.console import Console

    console = console or Console()
    for norm, epsilons in data["norms"].items():
        board = table.grid(
            f"Robust accuracy in % under all attacks together, by ε ({norm})",
            "model",
            ["data", "images", "clean", *map(table.epsilon_text, epsilons)],
        )
        for one in leaderboard(data, norm):
            clean = one["clean"]
            board.add_row(
                one["model"],
                one["data"],
                f"{clean['images']:,}",
                "-" if clean["value"] is None else table.percent(clean["value"]),
                *map(accuracy_text, one["norms"][norm]["levels"]),
            )
        console.print(board)
        if _has_proofs(data, norm):
            console.print(
                "the true robust accuracy lies between the proved and the attacked", highlight=False
            )
    lines = problems(data)
    for line in lines[:NAMED]:
        console.print(f"[bold yellow]incomplete:[/] {line}", highlight=False, soft_wrap=True)
    if len(lines) > NAMED:
        console.print(f"[bold yellow]incomplete:[/] {len(lines) - NAMED:,} more, in the data")
    for line in contradictions(data):
        console.print(f"[bold red]contradiction:[/] {line}", highlight=False, soft_wrap=True)


# ---- the pages ------------------------------------------------------------------------------


def write_sweep(
    data: Mapping[str, Any], store: SweepStore, folder: str | Path, figures: int = FIGURES
) -> Path:
    """Write a `sweep_data` as folder/report.html, with a page for each of its `images`.

    The pages need no server and no network. Curves are drawn for the first `figures` models, data
    sets and norms, with the strongest attacks of each; numbers are given for all.

    Args:
        data: A `sweep_data`.
        store: The sweep's store.
        folder: The folder.
        figures: Number of models, data sets and norms with figures.

    Returns:
        The path of report.html.

    Raises:
        ImportError: jinja2 or matplotlib is missing; the message says how to install it.

    Example:
        >>> import tempfile, jaxadv as ja
        >>> from jaxadv.report import sweep_data, write_sweep
        >>> store = ja.SweepStore(tempfile.mkdtemp())
        >>> write_sweep(sweep_data(store), store, tempfile.mkdtemp()).name
        'report.html'
    """
    from jaxadv.report.elements import template
    from jaxadv.report.sweep_figures import sections
    from jaxadv.report.sweep_images import write_images

    folder = Path(folder)
    template("sweep.html.j2")  # raises at once where a package is missing
    pages = write_images(data, store, folder / "images") if data["images"] else None
    parts = [(one, norm) for norm in data["norms"] for one in leaderboard(data, norm)]
    page = template("sweep.html.j2").render(
        title="What the sweep found",
        data=data,
        problems=problems(data),
        contradictions=contradictions(data),
        boards=[
            {
                "norm": table.NORMS[norm],
                "epsilons": epsilons,
                "proved": _has_proofs(data, norm),
                "rows": [
                    {**one, "levels": one["norms"][norm]["levels"]}
                    for one in leaderboard(data, norm)
                ],
            }
            for norm, epsilons in data["norms"].items()
        ],
        sections=sections(data, parts[:figures]),
        undrawn=max(0, len(parts) - figures),
        cells=data["cells"][:CELLS],
        further=max(0, len(data["cells"]) - CELLS),
        accuracy=accuracy_text,
        short=_short,
        named=_named(data["cells"]),
        seconds=sum(cell["seconds"] for cell in data["cells"]),
        norms=table.NORMS,
        pages=None if pages is None else f"images/{pages.name}",
        settings=_settings(data),
    )
    return write_atomically(folder / "report.html", page)


def _short(fingerprint: str) -> str:
    """Return the beginning of a hash."""
    return fingerprint[:8]


def _named(cells: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether any cell has a goal other than untargeted, which needs a column."""
    return any(cell["goal"] != "untargeted" for cell in cells)


def _settings(data: Mapping[str, Any]) -> dict[str, Any]:
    import jaxadv

    hashes = {name: len({cell[name] for cell in data["cells"]}) for name in HASHES}
    return {
        "store": data["store"],
        "rows": f"{data['rows']:,} of {data['expected']:,}",
        "cells": f"{len(data['cells']):,}",
        "models": hashes["model_hash"],
        "data sets": hashes["data_hash"],
        "attacks": hashes["attack_hash"],
        "written by": f"jaxadv {jaxadv.__version__}",
    }
