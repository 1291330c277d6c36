"""Success against queries as plain data, as tables on the console, and as one HTML page."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxadv.core.bounds import Bounds, hull
from jaxadv.core.confidence import wilson
from jaxadv.core.result import Status
from jaxadv.data.form import turn_in_class
from jaxadv.report import table
from jaxadv.report.drawings import pictures
from jaxadv.report.elements import COLOURS, INK, Page, plain_axes, svg, template, versions
from jaxadv.report.table import NORMS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

    from jaxadv.protocols.query_curves import QueryComparison

BUDGETS = (100, 1000, 5000)


def queries_data(comparison: "QueryComparison", total: int | None = None) -> dict[str, Any]:
    """Return all that is printed about a comparison of query attacks, for `json.dumps`.

    Success is the fraction of the attacked images that were fooled within a number of queries, with
    Wilson's 95 % interval. Mean and median of the queries are over the images fooled (null where
    none was).

    Args:
        comparison: The comparison.
        total: Number of images of the data set (None: those attacked).

    Returns:
        The data.
    """
    from jaxadv.protocols.query_curves import queries_needed

    budgets = sorted({b for b in BUDGETS if b < comparison.budget} | {comparison.budget})
    attacks = []
    for name, result in comparison.results.items():
        needed = queries_needed(result)
        fooled = needed[needed <= comparison.budget]
        curve = comparison.curve(name, budgets)
        attacks.append(
            {
                "name": name,
                "settings": table.settings_of(comparison.attacks[name]),
                "attacked": curve.attacked,
                "fooled": len(fooled),
                "success": dict(zip(map(str, budgets), curve.success.tolist(), strict=True)),
                "interval": dict(
                    zip(map(str, budgets), zip(curve.lower, curve.upper, strict=True), strict=True)
                ),
                "mean": float(fooled.mean()) if len(fooled) else None,
                "median": float(np.median(fooled)) if len(fooled) else None,
                "spent": float(np.minimum(needed, comparison.budget).mean())
                if len(needed)
                else None,
                "seconds": result.cost.seconds,
                "images": [
                    {
                        "id": int(result.ids[i]),
                        "label": int(comparison.labels[i]),
                        "status": Status(result.status[i]).name,
                        "success": bool(result.success[i]),
                        "queries": int(result.queries[i]),
                        "distance": float(result.distance[i]) if result.success[i] else None,
                    }
                    for i in range(len(comparison.ids))
                ],
            }
        )
    return {
        "norm": comparison.norm,
        "epsilon": comparison.epsilon,
        "budget": comparison.budget,
        "budgets": budgets,
        "examples": len(comparison.ids),
        "total": len(comparison.ids) if total is None else int(total),
        "complete": comparison.complete,
        "attacks": attacks,
    }


def print_queries(data: Mapping[str, Any], console: "Console | None" = None) -> None:
    """Print a `queries_data` as one table."""
    from rich.console import Console

    console = console or Console()
    shown = table.grid(
        f"Success in % within a number of queries ({_where(data)}), "
        "and the queries of those fooled",
        "",
        [*(f"{b:,}" for b in data["budgets"]), "median", "mean", "s"],
    )
    for one in data["attacks"]:
        shown.add_row(
            one["name"],
            *(table.percent(rate) for rate in one["success"].values()),
            table.number_text(one["median"]),
            table.number_text(one["mean"]),
            f"{one['seconds']:.1f}",
        )
    console.print(shown)
    if not data["complete"]:
        console.print("[bold yellow]incomplete: the work was interrupted[/]")


def write_queries(
    comparison: "QueryComparison",
    path: str | Path,
    page: Page | None = None,
    *,
    bounds: Bounds = (0.0, 1.0),
    gallery: int = 6,
) -> Path:
    """Write success against queries as one HTML page (atomically, everything embedded).

    The page shows the curves with their 95 % intervals, a table, and for `gallery` images the
    result of each attack.

    Args:
        comparison: The comparison.
        path: Path of the page.
        page: Title, names of the classes, settings and size of the data set.
        bounds: The bounds of the model.
        gallery: Number of images to show.

    Returns:
        The path.

    Raises:
        ImportError: jinja2 or matplotlib is missing; the message says how to install it.

    >>> import jax.numpy as jnp, jaxadv as ja, tempfile
    >>> from jaxadv.report import write_queries
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
    >>> images, labels = jnp.eye(4).reshape(4, 2, 2, 1), jnp.arange(4)
    >>> found = ja.compare_queries(model, images, labels, {"Square": ja.Square()}, 0.6)
    >>> write_queries(found, tempfile.mkdtemp() + "/report.html").name
    'report.html'
    """
    from jaxadv.core.files import write_atomically

    page = page or Page()
    data = queries_data(comparison, page.total)
    text = template("queries.html.j2").render(
        title=page.title or "How many questions until a mistake?",
        data=data,
        where=_where(data),
        curves=svg(query_figure(comparison)),
        rows=_rows(comparison, page, bounds, gallery),
        settings={
            "norm": NORMS[comparison.norm],
            "epsilon": "none"
            if comparison.epsilon is None
            else table.epsilon_text(comparison.epsilon),
            "budget": f"{comparison.budget:,} queries an image",
            "images": f"{data['examples']:,} of {data['total']:,}",
            "image range": "{:g} to {:g}".format(*hull(bounds)),
            **page.settings,
            **versions(),
        },
    )
    return write_atomically(path, text)


def _where(data: Mapping[str, Any]) -> str:
    at = "" if data["epsilon"] is None else f", ε = {table.epsilon_text(data['epsilon'])}"
    return f"{NORMS[data['norm']]}{at}"


def query_figure(comparison: "QueryComparison") -> "Figure":
    """Return a matplotlib figure of success rate against queries, with an interval per attack."""
    from jaxadv.protocols.query_curves import queries_needed

    figure, axes = plain_axes(7.2, 4.3)
    for number, (name, result) in enumerate(comparison.results.items()):
        colour = COLOURS[number % len(COLOURS)]
        needed = queries_needed(result)
        steps = np.unique(needed[needed <= comparison.budget])
        at = np.concatenate([[1], steps, [comparison.budget]])
        fooled = [int((needed <= queries).sum()) for queries in at]
        success = np.array(fooled) / max(len(needed), 1)
        lower, upper = np.array([wilson(float(n), len(needed)) for n in fooled]).T
        axes.step(at, 100 * success, where="post", color=colour, linewidth=2.2, label=name)
        axes.fill_between(
            at, 100 * lower, 100 * upper, step="post", color=colour, alpha=0.12, linewidth=0
        )
    axes.set_xscale("log")
    first = min([axes.lines[0].get_xdata()[-1], *(line.get_xdata()[1] for line in axes.lines)])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set(xlim=(max(1, first / 2), comparison.budget), ylim=(0, 103))
    axes.set_xlabel("queries", fontsize=12, color=INK)
    axes.set_ylabel("images fooled in %", fontsize=12, color=INK)
    axes.legend(frameon=False, fontsize=10.5, loc="best", labelcolor=INK)
    return figure


def _rows(
    comparison: "QueryComparison", page: Page, bounds: Bounds, count: int
) -> list[dict[str, Any]]:
    """Return some images, one of each class before the second of any, with each attack's result."""
    if comparison.originals.ndim not in (2, 3, 4):
        return []
    results = comparison.results.values()
    rows = np.flatnonzero(np.any([one.status == Status.SUCCESS for one in results], 0))
    labels = comparison.labels[rows]
    rows = rows[np.lexsort((labels, turn_in_class(labels)))][:count]

    return [
        {
            "id": int(comparison.ids[i]),
            "label": page.names[int(comparison.labels[i])],
            **pictures(comparison.originals[i], None, bounds, page.feature_names),
            "found": [
                {
                    **pictures(comparison.originals[i], one.images[i], bounds, page.feature_names),
                    "queries": f"{one.queries[i]:,}",
                }
                if one.status[i] == Status.SUCCESS
                else None
                for one in results
            ],
        }
        for i in rows
    ]
