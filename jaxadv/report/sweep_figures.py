"""Figures of a sweep's page: comparison of models, security curves, cost and strength."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxadv.report import table
from jaxadv.report.elements import COLOURS, CONTROL, FAINT, INK, plain_axes, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = 10  # in a figure
MARKERS = "osD^vPX<>*"
Part = tuple[Mapping[str, Any], str]  # a standing of a `sweep_data`, and one of its norms


def sections(data: Mapping[str, Any], parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Return the figures by norm: the models of each data set in one, then each model's own."""
    return [
        {
            "norm": norm,
            "models": [
                {"data": name, "figure": _models(own), "left": max(0, len(own) - LINES)}
                for name in dict.fromkeys(one["data"] for one, n in parts if n == norm)
                if len(own := [p for p in parts if p[1] == norm and p[0]["data"] == name]) > 1
            ],
            "standings": [_own(one, norm) for one, n in parts if n == norm],
        }
        for norm in data["norms"]
        if any(n == norm for _, n in parts)
    ]


def _own(one: Mapping[str, Any], norm: str) -> dict[str, Any]:
    attacks = one["norms"][norm]["attacks"]
    drawn = _drawn(attacks)
    styles = {a["title"]: (COLOURS[i % len(COLOURS)], MARKERS[i]) for i, a in enumerate(drawn)}
    radius = _telling_radius(drawn)
    by_radius = [(a, cost) for a in drawn for cost in a["cost"] if cost["epsilon"] == radius]
    by_norm = [a for a in drawn if a["minimal"]]
    costs = []
    if radius is not None and (points := _priced(by_radius, lambda _, cost: cost["value"])):
        costs.append(_cost(points, styles, f"broken at ε = {table.epsilon_text(radius)} in %"))
    unbounded = [(a, a["cost"][0]) for a in by_norm]
    if points := _priced(unbounded, lambda attack, _: attack["median_distance"], 1.0):
        costs.append(_cost(points, styles, f"median distance ({table.NORMS[norm]})"))
    return {
        "model": one["model"],
        "data": one["data"],
        "curves": _curves(one, norm, drawn, styles),
        "costs": costs,
        "left": len(attacks) - len(drawn),
    }


def _drawn(attacks: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the attacks with the lowest mean accuracy over their curves, in their own order."""
    asked = [a for a in attacks if a["curve"]["accuracy"]]
    least = sorted(range(len(asked)), key=lambda i: float(np.mean(asked[i]["curve"]["accuracy"])))
    return [asked[i] for i in sorted(least[:LINES])]


def _telling_radius(attacks: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the radius at which the success rates of the attacks differ most."""
    values: dict[float, list[float]] = {}
    for attack in attacks:
        for cost in attack["cost"]:
            if cost["epsilon"] is not None and cost["value"] is not None:
                values.setdefault(cost["epsilon"], []).append(cost["value"])
    if not values:
        return None
    return max(values, key=lambda e: (len(values[e]), max(values[e]) - min(values[e])))


def _reach(curves: Sequence[Mapping[str, Any]]) -> float:
    """Return the largest epsilon to draw, where the accuracies have about reached their minimum."""
    ends = [0.0]
    for curve in curves:
        points = list(zip(curve["epsilon"], curve["accuracy"], strict=True))
        low = min((accuracy for _, accuracy in points), default=0.0)
        ends.append(min((e for e, accuracy in points if accuracy <= low + 0.01), default=0.0))
    return 1.08 * max(ends) or 1.0


def _draw(axes: "Axes", curve: Mapping[str, Any], colour: str, label: str, **how: Any) -> None:
    """Draw a curve and its band: steps where it has a point at every distance, else lines."""
    steps = how.pop("steps")
    x, y, low, high = (np.array(curve[n]) for n in ("epsilon", "accuracy", "lower", "upper"))
    style = {"drawstyle": "steps-post"} if steps else {}
    axes.plot(x, 100 * y, color=colour, label=label, **{"linewidth": 1.8, **style, **how})
    axes.fill_between(
        x,
        100 * low,
        100 * high,
        step="post" if steps else None,
        color=colour,
        alpha=0.1,
        linewidth=0,
    )


def _finish(axes: "Axes", norm: str, reach: float) -> None:
    axes.set(xlim=(0, reach), ylim=(0, 103))
    axes.set_xlabel(f"ε ({table.NORMS[norm]})", fontsize=12, color=INK)
    axes.set_ylabel("accuracy in %", fontsize=12, color=INK)
    axes.legend(frameon=False, fontsize=10, labelcolor=INK, loc="upper left", bbox_to_anchor=(1, 1))


def _curves(
    one: Mapping[str, Any],
    norm: str,
    drawn: Sequence[Mapping[str, Any]],
    styles: Mapping[str, tuple[str, str]],
) -> str:
    """Plot the security curves of one model: a line for each attack, and one for all."""
    figure, axes = plain_axes(9.4, 4.3)
    for attack in drawn:
        colour, marker = styles[attack["title"]]
        steps = attack["minimal"]
        _draw(
            axes,
            attack["curve"],
            colour,
            attack["title"],
            steps=steps,
            zorder=2.5,
            marker=None if steps else marker,
            markersize=5,
        )
    worst = one["norms"][norm]["worst"]
    steps = any(attack["minimal"] for attack in one["norms"][norm]["attacks"])
    _draw(
        axes,
        worst,
        INK,
        "all together",
        steps=steps,
        linewidth=2.6,
        zorder=3,
        linestyle=(0, (5, 1.5)),
    )
    _finish(axes, norm, _reach([worst, *(attack["curve"] for attack in drawn)]))
    return svg(figure)


def _models(parts: Sequence[Part]) -> str:
    """Plot the worst case of the first models of one data set, which are the most robust."""
    figure, axes = plain_axes(9.4, 4.3)
    norm, shown = parts[0][1], parts[:LINES]
    for number, (one, _) in enumerate(shown):
        attacks = one["norms"][norm]["attacks"]
        steps = any(attack["minimal"] for attack in attacks)
        _draw(
            axes,
            one["norms"][norm]["worst"],
            COLOURS[number % len(COLOURS)],
            one["model"],
            steps=steps,
            marker=None if steps else MARKERS[number],
            markersize=5,
        )
    _finish(axes, norm, _reach([one["norms"][norm]["worst"] for one, _ in shown]))
    return svg(figure)


def _priced(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    value: Callable[[Mapping[str, Any], Mapping[str, Any]], float | None],
    scale: float = 100.0,
) -> list[tuple[str, float, float]]:
    """Return (attack, passes, value) where both are known, for two or more attacks."""
    priced = [(a["title"], cost["median_passes"], value(a, cost)) for a, cost in pairs]
    known = [(t, passes, scale * v) for t, passes, v in priced if passes and v is not None]
    return known if len(known) > 1 else []  # one point compares nothing


def _cost(
    points: Sequence[tuple[str, float, float]], styles: Mapping[str, tuple[str, str]], what: str
) -> str:
    """Plot the median passes of an image against what an attack achieves, a point for each."""
    figure, axes = plain_axes(9.4, 3.4)
    for title, passes, value in points:
        colour, marker = styles[title]
        axes.plot(
            [passes],
            [value],
            marker,
            color=colour,
            markersize=9,
            label=title,
            markeredgecolor="white",
            linestyle="none",
            clip_on=False,
        )
    axes.set_xscale("log")
    low, high = min(p[1] for p in points), max(p[1] for p in points)
    axes.set_xlim(low / 1.6, high * 1.6)
    axes.xaxis.set_major_locator(_round_numbers())
    axes.xaxis.set_major_formatter(lambda number, _: f"{number:,g}")
    axes.xaxis.set_minor_formatter(lambda *_: "")
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    reach = 1.15 * max(value for *_, value in points)
    axes.set_ylim(0, 103 if what.startswith("broken") else reach or 1.0)
    axes.set_xlabel("forward and backward passes of an image (median)", fontsize=12, color=INK)
    axes.set_ylabel(what, fontsize=12, color=INK)
    axes.spines["bottom"].set_color(CONTROL)
    axes.legend(frameon=False, fontsize=10, labelcolor=INK, loc="upper left", bbox_to_anchor=(1, 1))
    return svg(figure)


def _round_numbers() -> Any:
    from matplotlib.ticker import LogLocator

    return LogLocator(base=10, subs=(1.0, 2.0, 5.0))
