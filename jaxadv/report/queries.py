"""Success against queries as plain data, as tables on the console, and as one HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxadv.core.confidence import wilson
from jaxadv.core.result import Status
from jaxadv.data.form import turn_in_class
from jaxadv.report import table
from jaxadv.report.elements import COLOURS, INK, picture, plain_axes, svg, template, versions
from jaxadv.report.table import NORMS

if TYPE_CHECKING:
    from rich.console import Console

    from jaxadv.protocols.query_curves import QueryComparison

BUDGETS = (100, 1000, 5000)


def queries_data(asked: "QueryComparison", total: int | None = None) -> dict[str, Any]:
    """Return all that is printed about a comparison of query attacks, for `json.dumps`.

    Success is the fraction of the attacked images that were fooled within a number of queries, with
    Wilson's 95 % interval. Mean and median of the queries are over the images fooled (null where
    none was).

    Args:
        asked: The comparison.
        total: Number of images of the data set (None: those attacked).

    Returns:
        The data.
    """
    from jaxadv.protocols.query_curves import queries_needed

    budgets = sorted({b for b in BUDGETS if b < asked.budget} | {asked.budget})
    found = []
    for name, result in asked.results.items():
        needed = queries_needed(result)
        fooled = needed[needed <= asked.budget]
        curve = asked.curve(name, budgets)
        found.append(
            {
                "name": name,
                "settings": table.settings_of(asked.attacks[name]),
                "attacked": curve.attacked,
                "fooled": len(fooled),
                "success": dict(zip(map(str, budgets), curve.success.tolist(), strict=True)),
                "interval": dict(
                    zip(map(str, budgets), zip(curve.lower, curve.upper, strict=True), strict=True)
                ),
                "mean": float(fooled.mean()) if len(fooled) else None,
                "median": float(np.median(fooled)) if len(fooled) else None,
                "spent": float(np.minimum(needed, asked.budget).mean()) if len(needed) else None,
                "seconds": result.cost.seconds,
                "images": [
                    {
                        "id": int(result.ids[i]),
                        "label": int(asked.labels[i]),
                        "status": Status(result.status[i]).name,
                        "success": bool(result.success[i]),
                        "queries": int(result.queries[i]),
                        "distance": float(result.distance[i]) if result.success[i] else None,
                    }
                    for i in range(len(asked.ids))
                ],
            }
        )
    return {
        "norm": asked.norm,
        "epsilon": asked.epsilon,
        "budget": asked.budget,
        "budgets": budgets,
        "examples": len(asked.ids),
        "total": len(asked.ids) if total is None else int(total),
        "complete": asked.complete,
        "attacks": found,
    }


def print_queries(data: Mapping[str, Any], console: "Console | None" = None) -> None:
    """Print a `queries_data` as one table."""
    from rich.console import Console

    console = console or Console()
    shown = table.grid(
        f"Success in % within so many queries ({_where(data)}), and the queries of those fooled",
        "",
        [*(f"{b:,}" for b in data["budgets"]), "median", "mean", "s"],
    )
    for one in data["attacks"]:
        shown.add_row(
            one["name"],
            *(table.percent(share) for share in one["success"].values()),
            table.number_text(one["median"]),
            table.number_text(one["mean"]),
            f"{one['seconds']:.1f}",
        )
    console.print(shown)
    if not data["complete"]:
        console.print("[bold yellow]incomplete: the work was interrupted[/]")


def write_queries(
    asked: "QueryComparison",
    path: str | Path,
    class_names: Sequence[str] | None = None,
    title: str = "How many questions until a mistake?",
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    settings: Mapping[str, Any] | None = None,
    total: int | None = None,
    gallery: int = 6,
) -> Path:
    """Write success against queries as one HTML page (atomically, everything embedded).

    The page shows the curves with their 95 % intervals, a table, and for `gallery` images the
    result of each attack.

    Args:
        asked: The comparison.
        path: Path of the page.
        class_names: Names of the classes (None: their numbers).
        title: Title of the page.
        bounds: Range of the images.
        settings: Further facts about the run to show on the page.
        total: Number of images of the data set (None: those attacked).
        gallery: Number of images to show.

    Returns:
        The path.

    Raises:
        ImportError: jinja2 or matplotlib is missing; the message says how to install it.

    >>> import jax.numpy as jnp, jaxadv as ja, tempfile
    >>> from jaxadv.report import write_queries
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
    >>> images, labels = jnp.eye(4).reshape(4, 2, 2, 1), jnp.arange(4)
    >>> asked = ja.compare_queries(model, images, labels, {"Square": ja.Square()}, 0.6, budget=50)
    >>> write_queries(asked, tempfile.mkdtemp() + "/report.html").name
    'report.html'
    """
    from jaxadv.core.files import write_atomically

    data = queries_data(asked, total)
    names = class_names if class_names is not None else list(map(str, range(10**4)))
    page = template("queries.html.j2").render(
        title=title,
        data=data,
        where=_where(data),
        curves=svg(query_figure(asked)),
        rows=_rows(asked, names, bounds, gallery),
        settings={
            "norm": NORMS[asked.norm],
            "epsilon": "none" if asked.epsilon is None else table.epsilon_text(asked.epsilon),
            "budget": f"{asked.budget:,} queries an image",
            "images": f"{data['examples']:,} of {data['total']:,}",
            "image range": f"{bounds[0]:g} to {bounds[1]:g}",
            **(settings or {}),
            **versions(),
        },
    )
    return write_atomically(path, page)


def _where(data: Mapping[str, Any]) -> str:
    at = "" if data["epsilon"] is None else f", ε = {table.epsilon_text(data['epsilon'])}"
    return f"{NORMS[data['norm']]}{at}"


def query_figure(asked: "QueryComparison") -> Any:
    """Return a matplotlib figure of success rate against queries, with an interval per attack."""
    from jaxadv.protocols.query_curves import queries_needed

    figure, axes = plain_axes(7.2, 4.3)
    for number, (name, result) in enumerate(asked.results.items()):
        colour = COLOURS[number % len(COLOURS)]
        needed = queries_needed(result)
        steps = np.unique(needed[needed <= asked.budget])
        at = np.concatenate([[1], steps, [asked.budget]])
        fooled = [int((needed <= queries).sum()) for queries in at]
        share = np.array(fooled) / max(len(needed), 1)
        lower, upper = np.array([wilson(float(n), len(needed)) for n in fooled]).T
        axes.step(at, 100 * share, where="post", color=colour, linewidth=2.2, label=name)
        axes.fill_between(
            at, 100 * lower, 100 * upper, step="post", color=colour, alpha=0.12, linewidth=0
        )
    axes.set_xscale("log")
    first = min([axes.lines[0].get_xdata()[-1], *(line.get_xdata()[1] for line in axes.lines)])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set(xlim=(max(1, first / 2), asked.budget), ylim=(0, 103))
    axes.set_xlabel("queries", fontsize=12, color=INK)
    axes.set_ylabel("images fooled in %", fontsize=12, color=INK)
    axes.legend(frameon=False, fontsize=10.5, loc="best", labelcolor=INK)
    return figure


def _rows(
    asked: "QueryComparison", names: Sequence[str], bounds: tuple[float, float], count: int
) -> list[dict[str, Any]]:
    """Return some images, one of each class before the second of any, with each attack's result."""
    if asked.originals.ndim != 4:
        return []
    results = asked.results.values()
    rows = np.flatnonzero(np.any([one.status == Status.SUCCESS for one in results], 0))
    labels = asked.labels[rows]
    rows = rows[np.lexsort((labels, turn_in_class(labels)))][:count]

    return [
        {
            "id": int(asked.ids[i]),
            "label": names[int(asked.labels[i])],
            "original": picture(asked.originals[i], bounds),
            "found": [
                {"picture": picture(one.images[i], bounds), "queries": f"{one.queries[i]:,}"}
                if one.status[i] == Status.SUCCESS
                else None
                for one in results
            ],
        }
        for i in rows
    ]
