"""Minimal distances as plain data, as tables on the console, and as one HTML page."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxadv.core.bounds import Bounds, hull
from jaxadv.core.result import Status
from jaxadv.data.form import turn_in_class
from jaxadv.report import table
from jaxadv.report.drawings import pictures
from jaxadv.report.elements import (
    ACCENT,
    COLOURS,
    CONTROL,
    INK,
    PROVED,
    Page,
    plain_axes,
    svg,
    template,
    versions,
)
from jaxadv.report.pairs import pair_data, pair_figure
from jaxadv.report.table import NORMS

if TYPE_CHECKING:
    from rich.console import Console

    from jaxadv.protocols.minimal_distance import MinimalDistances

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
SHOWN = (0.1, 0.5, 0.9)  # of these, on the console


def distance_data(
    results: "Mapping[str, MinimalDistances]", total: int | None = None
) -> dict[str, Any]:
    """Return all that is printed about minimal distances of the same images, for `json.dumps`.

    Quantiles are over the images classified correctly; one without an adversarial image counts as
    infinite (null). Robust accuracy is stated at the nine deciles of the distances; for any other
    epsilon it follows from the distances of the images, which are listed.

    Args:
        results: Each `MinimalDistances` under a name (such as its norm, or its model and norm).
        total: Number of images of the data set (None: those attacked).

    Returns:
        The data.
    """

    def about(name: str, one: "MinimalDistances") -> dict[str, Any]:
        right = one.status != Status.MISCLASSIFIED
        distance = one.distance[right]
        finite = distance[np.isfinite(distance)]
        epsilons = np.unique(np.quantile(finite, np.arange(1, 10) / 10)) if len(finite) else []
        gone = np.concatenate([np.full((1, len(one.distance)), np.inf), one.path])
        return {
            "name": name,
            "norm": one.norm,
            "complete": one.complete,
            "clean_accuracy": float(right.mean()),
            "found": int((one.success & right).sum()),
            "attacked": int(right.sum()),
            "quantiles": {f"{q:g}": _quantile(distance, q) for q in QUANTILES},
            "epsilons": list(map(float, epsilons)),
            "robust_accuracy": one.robust_accuracy(epsilons).tolist(),
            "forward": float(one.forward[right].mean()) if right.any() else 0.0,
            "backward": float(one.backward[right].mean()) if right.any() else 0.0,
            "seconds": one.cost.seconds,
            "members": [
                {
                    "name": member,
                    "nearer": int((gone[i + 1] < gone[i])[right].sum()),
                    "best": int((one.member == i).sum()),
                    "median": _quantile(one.path[i][right], 0.5),
                }
                for i, member in enumerate(one.members)
            ],
            "images": [
                {
                    "id": int(one.ids[i]),
                    "label": int(one.labels[i]),
                    "status": Status(one.status[i]).name,
                    "distance": _finite(one.distance[i]),
                    "lower": None if one.lower is None else _finite(one.lower[i]),
                    "member": one.members[one.member[i]] if one.member[i] >= 0 else None,
                    "forward": int(one.forward[i]),
                    "backward": int(one.backward[i]),
                }
                for i in range(len(one.ids))
            ],
        }

    first = next(iter(results.values()))
    return {
        "examples": len(first.ids),
        "total": len(first.ids) if total is None else int(total),
        "complete": all(one.complete for one in results.values()),
        "found": [about(name, one) for name, one in results.items()],
        "pairs": [
            {"names": [a, b], **pair_data(results[a], results[b])} for a, b in _pairs(results)
        ],
    }


def _pairs(results: "Mapping[str, MinimalDistances]") -> list[tuple[str, str]]:
    """Return the pairs of searches of one norm on the same images."""
    return [
        (a, b)
        for a, b in combinations(results, 2)
        if results[a].norm == results[b].norm and np.array_equal(results[a].ids, results[b].ids)
    ]


def _finite(value: float | np.ndarray) -> float | None:
    return float(value) if np.isfinite(value) else None


def _quantile(values: np.ndarray, rank: float) -> float | None:
    """Return the quantile of the values without interpolation; None where it is infinite."""
    if len(values) == 0:
        return None
    return _finite(np.quantile(values, rank, method="inverted_cdf"))


def print_distances(data: Mapping[str, Any], console: "Console | None" = None) -> None:
    """Print a `distance_data` as tables: quantiles of the distances, and each member's gain."""
    from rich.console import Console

    console = console or Console()
    distances = table.grid(
        f"Smallest distance of {data['examples']:,} images to an adversarial one "
        "(quantiles over those classified right)",
        "",
        ["found", *(f"{100 * q:g} %" for q in SHOWN), "forward", "backward", "s"],
    )
    for one in data["found"]:
        distances.add_row(
            one["name"],
            f"{one['found']:,}/{one['attacked']:,}",
            *(table.number_text(one["quantiles"][f"{q:g}"]) for q in SHOWN),
            table.number_text(one["forward"]),
            table.number_text(one["backward"]),
            f"{one['seconds']:.1f}",
        )
    console.print(distances)
    for one in data["found"]:
        members = table.grid(
            f"{one['name']}: the members, one after the other",
            "member",
            ["brought nearer", "found the nearest", "median after it"],
        )
        for member in one["members"]:
            members.add_row(
                member["name"],
                f"{member['nearer']:,}",
                f"{member['best']:,}",
                table.number_text(member["median"]),
            )
        console.print(members)
    if data["pairs"]:
        pairs = table.grid(
            "Two against one another, image by image",
            "",
            ["nearer", "level", "farther", "found alone"],
        )
        for pair in data["pairs"]:
            pairs.add_row(
                " against ".join(pair["names"]),
                f"{pair['first']:,}",
                f"{pair['level']:,}",
                f"{pair['second']:,}",
                f"{pair['only_first']:,}, {pair['only_second']:,}",
            )
        console.print(pairs)
    if not data["complete"]:
        console.print("[bold yellow]incomplete: the work was interrupted[/]")


def write_distances(
    results: "Mapping[str, MinimalDistances]",
    path: str | Path,
    page: Page | None = None,
    *,
    bounds: Bounds = (0.0, 1.0),
    gallery: int = 6,
) -> Path:
    """Write minimal distances as one HTML page (atomically, everything embedded).

    The page shows security curves, pairwise comparisons of the searches of one norm, what the
    members after the first gained image by image, and for `gallery` images the changes in each
    norm.

    Args:
        results: Each `MinimalDistances` of the same images under a name; those of one norm share a
            figure.
        path: Path of the page.
        page: Title, names of the classes, settings and size of the data set.
        bounds: The bounds of the model.
        gallery: Number of images to show.

    Returns:
        The path.

    Raises:
        ImportError: jinja2 or matplotlib is missing; the message says how to install it.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja, tempfile
        >>> from jaxadv.report import write_distances
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
        >>> images, labels = jnp.eye(4).reshape(4, 2, 2, 1), jnp.arange(4)
        >>> found = ja.minimal_distance(model, images, labels, effort={"FAB": ja.FAB(steps=5)})
        >>> write_distances({"linf": found}, tempfile.mkdtemp() + "/report.html").name
        'report.html'
    """
    from jaxadv.core.files import write_atomically

    page = page or Page()
    data = distance_data(results, page.total)
    norms = list(dict.fromkeys(one.norm for one in results.values()))
    text = template("distance.html.j2").render(
        title=page.title or "How far is the nearest mistake?",
        data=data,
        norms=NORMS,
        curves=[
            {
                "norm": NORMS[norm],
                "picture": _curves({n: one for n, one in results.items() if one.norm == norm}),
            }
            for norm in norms
        ],
        gains=[
            {"name": name, "picture": gain}
            for name, one in results.items()
            if (gain := _gain(one)) is not None
        ],
        pairs=[
            {"names": [a, b], "picture": svg(pair_figure(results[a], results[b], (a, b)))}
            for a, b in _pairs(results)
        ],
        rows=_rows(results, page, bounds, gallery),
        settings={
            "images": f"{data['examples']:,} of {data['total']:,}",
            "image range": "{:g} to {:g}".format(*hull(bounds)),
            **page.settings,
            **versions(),
        },
    )
    return write_atomically(path, text)


def _curves(results: "Mapping[str, MinimalDistances]") -> str:
    """Plot robust accuracy against epsilon for one norm."""
    figure, axes = plain_axes(5.4, 3.6)
    finite = [one.distance[np.isfinite(one.distance)] for one in results.values()]
    reach = max([np.quantile(d, 0.98) for d in finite if len(d)], default=1.0)
    grid = np.linspace(0, 1.05 * reach or 1.0, 600)
    for number, (name, one) in enumerate(results.items()):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(grid, 100 * one.robust_accuracy(grid), color=colour, linewidth=2.2, label=name)
        proved = one.certified_accuracy(grid)
        if proved is not None:
            axes.plot(
                grid, 100 * proved, "--", color=PROVED, linewidth=1.8, label=f"{name}, proved"
            )
    axes.set(xlim=(0, grid[-1]), ylim=(0, 103))
    axes.set_xlabel(f"ε ({NORMS[next(iter(results.values())).norm]})", fontsize=12, color=INK)
    axes.set_ylabel("robust accuracy in %", fontsize=12, color=INK)
    if len(axes.lines) > 1:
        axes.legend(frameon=False, fontsize=10.5, loc="best", labelcolor=INK)
    return svg(figure)


def _gain(one: "MinimalDistances") -> str | None:
    """Plot the distance after the first member against the last one's, a point for each image."""
    if len(one.members) < 2:
        return None
    first, last = one.path[0], one.path[-1]
    both = np.isfinite(first) & np.isfinite(last) & (last > 0)
    if not both.any():
        return None
    figure, axes = plain_axes(4.2, 4.2)
    axes.grid(axis="x", color="#d8dee6", linewidth=0.8)
    reach = 1.05 * first[both].max()
    axes.plot([0, reach], [0, reach], color=CONTROL, linewidth=1)
    axes.scatter(first[both], last[both], s=14, color=ACCENT, alpha=0.7, linewidths=0)
    axes.set(xlim=(0, reach), ylim=(0, reach), aspect="equal")
    axes.set_xlabel(f"after {one.members[0]} alone", fontsize=11, color=INK)
    axes.set_ylabel("after all members", fontsize=11, color=INK)
    return svg(figure)


def _rows(
    results: "Mapping[str, MinimalDistances]",
    page: Page,
    bounds: Bounds,
    count: int,
) -> list[dict[str, Any]]:
    """Return some images, one of each class before the second of any, with each search's result."""
    runs = list(results.values())
    first = runs[0]
    same = all(np.array_equal(one.ids, first.ids) for one in runs)
    if first.originals.ndim not in (2, 3, 4) or not same:
        return []
    rows = np.flatnonzero(np.all([one.success & (one.distance > 0) for one in runs], 0))
    labels = first.labels[rows]
    rows = rows[np.lexsort((labels, turn_in_class(labels)))][:count]

    def shown(name: str, one: "MinimalDistances", i: int) -> dict[str, Any]:
        return {
            "name": name,
            **pictures(one.originals[i], one.images[i], bounds, page.feature_names),
            "distance": table.number_text(float(one.distance[i])),
            "by": one.members[one.member[i]],
        }

    return [
        {
            "id": int(first.ids[i]),
            "label": page.names[int(first.labels[i])],
            **pictures(first.originals[i], None, bounds, page.feature_names),
            "found": [shown(name, one, i) for name, one in results.items()],
        }
        for i in rows
    ]
