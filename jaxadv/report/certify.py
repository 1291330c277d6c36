"""Certificates as plain data, as tables on the console, and as one self-contained HTML page."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxadv.report import table
from jaxadv.report.elements import (
    CONTROL,
    INK,
    PROVED,
    Page,
    picture,
    plain_axes,
    svg,
    template,
    versions,
)

if TYPE_CHECKING:
    from rich.console import Console

    from jaxadv.certification.smoothadv import AttackedSmoothed
    from jaxadv.certification.smoothing import Certificates
    from jaxadv.core.typing import Key
    from jaxadv.protocols.minimal_distance import MinimalDistances

COLOURS = (PROVED, "#1d4ed8", "#7e22ce", "#ca8a04", "#0e7490", "#be185d")


@dataclasses.dataclass(frozen=True)
class CertifiedRun:
    """Certificates of the same images, and the attacks that they are compared with.

    Attributes:
        certificates: One `Certificates` with labels for each sigma.
        radii: L2 radii at which certified accuracy is stated.
        attacked: `minimal_distance` of the network itself in L2 on the same images, or None.
        smoothed: Empty, or an attack on the smoothed classifier for each of the certificates, or
            for the first of them.
    """

    certificates: "Sequence[Certificates]"
    radii: Sequence[float]
    attacked: "MinimalDistances | None" = None
    smoothed: "Sequence[AttackedSmoothed]" = ()


def certified_data(run: CertifiedRun, total: int | None = None) -> dict[str, Any]:
    """Return all that is printed about certificates of the same images, for `json.dumps`.

    Accuracies are fractions of the images reached (under attack, of all images), intervals are
    Wilson's, 95 %. The median radius counts a wrong or missing prediction as 0: half of the images
    keep their label up to there. A prediction of null abstains, or was not reached.

    Args:
        run: The certificates, with the attacks.
        total: Number of images of the data set (None: those certified).

    Returns:
        The data.

    Raises:
        ValueError: The certificates have no labels.
    """
    certificates, radii = run.certificates, run.radii
    attacked, smoothed = run.attacked, run.smoothed
    labels = certificates[0].labels
    if labels is None:
        raise ValueError("labels=None: pass labels to certify")
    count = len(labels)

    attacks_on = [*smoothed, *[None] * (len(certificates) - len(smoothed))]

    def about(one: "Certificates", attack: "AttackedSmoothed | None") -> dict[str, Any]:
        reached = one.forward > 0
        number = int(reached.sum())
        accuracy = one.accuracy(radii)
        radius = np.nan_to_num(one.certified[reached])
        return {
            "sigma": one.sigma,
            "reached": number,
            "accuracy": float(one.accuracy()),
            "interval": table.wilson(float(one.accuracy()) * number, number),
            "abstained": float((one.prediction[reached] < 0).mean()) if number else 0.0,
            "certified_accuracy": accuracy.tolist(),
            "certified_interval": [table.wilson(s * number, number) for s in accuracy],
            "median_radius": float(np.median(radius)) if number else 0.0,
            "forward": one.samples0 + one.samples,
            "seconds": one.seconds,
            "attacked": None if attack is None else about_attack(one, attack),
        }

    def about_attack(one: "Certificates", attack: "AttackedSmoothed") -> dict[str, Any]:
        right = attack.distance > 0
        accuracy = attack.accuracy(radii)
        return {
            "attacked": int(right.sum()),
            "broken": int((right & np.isfinite(attack.distance)).sum()),
            "accuracy": accuracy.tolist(),
            "interval": [table.wilson(s * count, count) for s in accuracy],
            "below_proved": int((right & (attack.distance < one.radius)).sum()),
            "abstained": int(attack.abstained.sum()),
            "rounds": attack.rounds,
            "forward": float(attack.forward[right].mean()) if right.any() else 0.0,
            "backward": float(attack.backward[right].mean()) if right.any() else 0.0,
            "seconds": attack.seconds,
        }

    def image(i: int) -> dict[str, Any]:
        answers = [
            {
                "prediction": int(one.prediction[i]) if one.prediction[i] >= 0 else None,
                "radius": float(one.radius[i]),
                "top_count": int(one.top_count[i]),
                "lower": float(one.lower[i]),
                "distance": None
                if attack is None or not np.isfinite(attack.distance[i])
                else float(attack.distance[i]),
            }
            for one, attack in zip(certificates, attacks_on, strict=True)
        ]
        return {"id": int(certificates[0].ids[i]), "label": int(labels[i]), "answers": answers}

    return {
        "norm": "l2",
        "examples": count,
        "total": count if total is None else int(total),
        "complete": all(one.complete for one in (*certificates, *smoothed))
        and (attacked is None or attacked.complete),
        "samples0": certificates[0].samples0,
        "samples": certificates[0].samples,
        "alpha": certificates[0].alpha,
        "radii": list(map(float, radii)),
        "sigmas": [
            about(one, attack) for one, attack in zip(certificates, attacks_on, strict=True)
        ],
        "attacked": None
        if attacked is None
        else {
            "clean_accuracy": float(attacked.robust_accuracy(0)),
            "accuracy": attacked.robust_accuracy(radii).tolist(),
            "distances": [float(d) if np.isfinite(d) else None for d in attacked.distance],
        },
        "images": [image(i) for i in range(count)],
    }


def round_radii(sigma: float, samples: int, alpha: float) -> list[float]:
    """Return at most nine radii from 0 to the largest that `samples` samples can certify.

    The step is a quarter, or a quarter times a power of two.

    Args:
        sigma: Standard deviation of the noise.
        samples: Number of samples of the certificate.
        alpha: Probability of a wrong certificate.

    Returns:
        The radii.

    Example:
        >>> from jaxadv.report.certify import round_radii
        >>> round_radii(1.0, 100_000, 0.001)
        [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5]
    """
    largest = _largest_radius(sigma, samples, alpha)
    if largest <= 0:
        return [0.0]
    step = 0.25 * 2.0 ** math.ceil(math.log2(largest / 0.25 / 8))
    return [i * step for i in range(int(largest / step) + 1)]


def _largest_radius(sigma: float, samples: int, alpha: float) -> float:
    """Return the radius that is certified where all samples agree."""
    from scipy.special import ndtri

    return sigma * float(ndtri(alpha ** (1 / samples)))


def print_certified(data: Mapping[str, Any], console: "Console | None" = None) -> None:
    """Print a `certified_data` as tables: certified accuracy by sigma and radius, and cost."""
    from rich.console import Console

    console = console or Console()
    attacks = any(row["attacked"] is not None for row in data["sigmas"])
    radii = table.grid(
        f"Certified accuracy in % of the smoothed classifier on {data['examples']:,} images (L2)"
        + (", and what an attack on it leaves" if attacks else ""),
        "noise",
        [f"r = {radius:g}" for radius in data["radii"]],
    )
    cost = table.grid(
        "What it took (passes of each image)",
        "noise",
        ["images", "accuracy", "abstained", "median radius", "forward", "s"],
    )
    for row in data["sigmas"]:
        name = f"σ = {row['sigma']:g}"
        radii.add_row(name, *map(table.percent, row["certified_accuracy"]))
        if row["attacked"] is not None:
            radii.add_row(f"{name}, attacked", *map(table.percent, row["attacked"]["accuracy"]))
        cost.add_row(
            name,
            f"{row['reached']:,}",
            f"[bold]{table.percent(row['accuracy'])}[/]",
            table.percent(row["abstained"]),
            table.number_text(row["median_radius"]),
            f"{row['forward']:,}",
            f"{row['seconds']:.1f}",
        )
    if data["attacked"] is not None:
        rates = map(table.percent, data["attacked"]["accuracy"])
        radii.add_row("the network itself, attacked", *rates, style="dim")
    console.print(radii)
    console.print(cost)
    for row in data["sigmas"]:
        if row["attacked"] is not None and row["attacked"]["below_proved"]:
            console.print(
                f"[bold yellow]σ = {row['sigma']:g}: {row['attacked']['below_proved']} images were "
                f"broken below their certified radius: each certificate fails with probability "
                f"{data['alpha']:g}[/]"
            )
    if not data["complete"]:
        console.print("[bold yellow]incomplete: the work was interrupted[/]")


def write_certified(
    run: CertifiedRun,
    images: np.ndarray,
    path: str | Path,
    page: Page | None = None,
    *,
    key: "Key",
    bounds: tuple[float, float] = (0.0, 1.0),
    shown: int = 12,
) -> Path:
    """Write certificates as one HTML page (atomically, everything embedded) and return its path.

    Args:
        run: The certificates, with the attacks.
        images: Certified images [N, H, W, C] within `bounds`.
        path: Path of the page.
        page: Title, names of the classes, settings and size of the data set.
        key: Key that was passed to `certify`; the noisy images shown are its first samples.
        bounds: Range of the images.
        shown: Number of images in the page's table, from the smallest radius to the largest.

    Returns:
        The path.

    Raises:
        ImportError: jinja2 or matplotlib is missing; the message says how to install it.

    Example:
        >>> import jax, jax.numpy as jnp, jaxadv as ja, tempfile
        >>> from jaxadv.report import CertifiedRun, write_certified
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
        >>> images, key = jnp.eye(4).reshape(4, 2, 2, 1), jax.random.key(0)
        >>> found = ja.certify(model, images, jnp.arange(4), sigma=0.25, samples=100, key=key)
        >>> path = tempfile.mkdtemp() + "/report.html"
        >>> write_certified(CertifiedRun([found], [0, 0.25]), images, path, key=key).name
        'report.html'
    """
    from jaxadv.core.files import write_atomically

    page = page or Page()
    data = certified_data(run, page.total)
    images = np.asarray(images, np.float32)
    text = template("certify.html.j2").render(
        title=page.title or "What can be proved about this classifier?",
        data=data,
        headline=_headline(data),
        curve=_figure(run),
        largest=max(_largest_radius(one.sigma, one.samples, one.alpha) for one in run.certificates),
        rows=_rows(data, run.certificates, images, page.names, key, bounds, shown),
        settings={
            "images": f"{data['examples']:,} of {data['total']:,}",
            "samples that choose, and that certify": f"{data['samples0']:,}, {data['samples']:,}",
            "probability of a wrong certificate": f"{data['alpha']:g} for each image",
            "image range": f"{bounds[0]:g} to {bounds[1]:g}",
            **page.settings,
            **versions(),
        },
    )
    return write_atomically(path, text)


def _headline(data: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the key figures at the top, of the sigma with the largest median radius."""
    best = max(data["sigmas"], key=lambda row: (row["median_radius"], row["accuracy"]))
    at = min(range(len(data["radii"])), key=lambda i: abs(data["radii"][i] - best["median_radius"]))
    sample = data["examples"] < data["total"]
    rates = [("accuracy of the smoothed classifier", best["accuracy"], best["interval"])]
    if data["radii"][at] > 0:
        name = f"certified accuracy at radius {data['radii'][at]:g}"
        rates.append((name, best["certified_accuracy"][at], best["certified_interval"][at]))
    cards = [
        {
            "value": table.percent(rate),
            "unit": "%",
            "name": name,
            "note": f"95 % interval {table.interval_text(interval)}" if sample else "",
        }
        for name, rate, interval in rates
    ]
    return [
        *cards,
        {
            "value": table.number_text(best["median_radius"]),
            "unit": "",
            "name": "median certified radius, L2",
            "note": f"at σ = {best['sigma']:g}",
        },
        {
            "value": table.percent(best["abstained"]),
            "unit": "%",
            "name": "abstentions",
            "note": "no class has most of the votes for certain",
        },
    ]


def _figure(run: CertifiedRun) -> str:
    certificates, attacked, smoothed = run.certificates, run.attacked, run.smoothed
    figure, axes = plain_axes(7.2, 4.3)
    reach = max(one.radius.max() for one in certificates)
    for one in (*([] if attacked is None else [attacked]), *smoothed):
        finite = one.distance[np.isfinite(one.distance)]
        reach = max(reach, np.quantile(finite, 0.95) if len(finite) else 0.0)
    grid = np.linspace(0, 1.08 * reach or 1.0, 600)
    if attacked is not None:
        axes.plot(
            grid,
            100 * attacked.robust_accuracy(grid),
            "--",
            color=CONTROL,
            linewidth=1.8,
            label="the network itself, under attack",
        )
    for number, one in enumerate(certificates):
        axes.plot(
            grid,
            100 * one.accuracy(grid),
            color=COLOURS[number % len(COLOURS)],
            linewidth=2.2,
            label=f"smoothed, certified, σ = {one.sigma:g}",
        )
        if number < len(smoothed):
            axes.plot(
                grid,
                100 * smoothed[number].accuracy(grid),
                ":",
                linewidth=2.2,
                color=COLOURS[number % len(COLOURS)],
                label=f"smoothed, under attack, σ = {one.sigma:g}",
            )
    axes.set(xlim=(0, grid[-1]), ylim=(0, 103))
    axes.set_xlabel("radius (L2)", fontsize=12, color=INK)
    axes.set_ylabel("accuracy in %", fontsize=12, color=INK)
    axes.legend(frameon=False, fontsize=10.5, loc="best", labelcolor=INK)
    return svg(figure)


def _rows(
    data: Mapping[str, Any],
    certificates: "Sequence[Certificates]",
    images: np.ndarray,
    names: Sequence[str],
    key: "Key",
    bounds: tuple[float, float],
    shown: int,
) -> list[dict[str, Any]]:
    """Return the table of images: original, and for each sigma a noisy image and its prediction."""
    from jaxadv.certification.smoothing import noise

    if images.ndim != 4:
        return []
    radius = np.max([np.nan_to_num(one.certified) for one in certificates], 0)
    order = np.argsort(radius, kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, min(shown, len(order))).round().astype(int))

    rows = []
    for i in order[places]:
        drawn = np.asarray(noise(key, data["images"][i]["id"], np.arange(1), images.shape[1:])[0])
        answers = [
            {
                "picture": picture(images[i] + one.sigma * drawn, bounds),
                "name": None if answer["prediction"] is None else names[answer["prediction"]],
                "right": answer["prediction"] == data["images"][i]["label"],
                "radius": table.number_text(answer["radius"]),
                "share": f"{100 * answer['top_count'] / one.samples:.1f} %",
                "reached": bool(one.forward[i]),
                "distance": answer["distance"],
            }
            for one, answer in zip(certificates, data["images"][i]["answers"], strict=True)
        ]
        near = None if data["attacked"] is None else data["attacked"]["distances"][i]
        rows.append(
            {
                "id": data["images"][i]["id"],
                "label": names[data["images"][i]["label"]],
                "original": picture(images[i], bounds),
                "answers": answers,
                "distance": near,
            }
        )
    return rows
