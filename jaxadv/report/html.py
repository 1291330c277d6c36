"""One self-contained HTML page about a `Report`: no network, no scripts, everything embedded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

from jaxadv.core.model import Model
from jaxadv.core.typing import ArrayLike
from jaxadv.data.form import turn_in_class
from jaxadv.report import table
from jaxadv.report.drawings import pictures
from jaxadv.report.elements import (
    ACCENT,
    CONTROL,
    INK,
    PROVED,
    Page,
    plain_axes,
    svg,
    template,
    versions,
)
from jaxadv.report.table import NORMS

if TYPE_CHECKING:
    from jaxadv.protocols.evaluation import Report


def write_html(
    report: "Report",
    path: str | Path,
    page: Page | None = None,
    *,
    model: Model | None = None,
    adversarial_logits: ArrayLike | None = None,
    gallery: int = 6,
    gallery_epsilon: float | None = None,
    pages: str | None = None,
) -> Path:
    """Write a report as one HTML file (atomically) and return its path.

    Args:
        report: The report.
        path: Path of the file.
        page: Title, names of the classes, settings and size of the data set.
        model: Model for the predictions and confidences of the adversarial images in the gallery.
        adversarial_logits: Logits [E, N, K] of the adversarial images, in place of `model`.
        gallery: Number of images to show.
        gallery_epsilon: Which of the report's epsilons the gallery shows; of one for each image,
            the mean (None: the smallest at which `gallery` images are broken).
        pages: Link to the result of `write_pages`.

    Returns:
        The path.

    Raises:
        ImportError: jinja2 or matplotlib is missing; the message says how to install it.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja, tempfile
        >>> from jaxadv.report import write_html
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, 2 * jnp.eye(4))
        >>> images, labels = jnp.eye(4).reshape(4, 2, 2, 1), jnp.arange(4)
        >>> attacks = {"FGSM": ja.FGSM()}
        >>> report = ja.evaluate(model, images, labels, attacks=attacks, distances=False)
        >>> write_html(report, tempfile.mkdtemp() + "/report.html", model=model).name
        'report.html'
    """
    from jaxadv.core.files import write_atomically

    page = page or Page()
    data = table.as_data(report, page.total)
    shown = _gallery_rows(report, gallery, gallery_epsilon)
    passes = [a["rows"] * (a["forward"] + a["backward"]) for a in data["attacks"]]
    text = template("report.html.j2").render(
        title=page.title or "How robust is this classifier?",
        data=data,
        norm=NORMS[report.norm],
        pages=pages,
        headline=_headline(data),
        refusals=table.refusals(data),
        measures=table.shown_measures(data),
        explained=table.measures_text(data),
        passes=passes,
        most=max([1.0, *passes]),
        curve=_accuracy_figure(report, data),
        distances=_distance_figure(report),
        level=None if shown is None else report.epsilons[shown[0]],
        gallery=_gallery(report, shown, page, model, adversarial_logits) if shown else [],
        pictured=report.images.ndim == 4,
        settings={**_settings(data), **page.settings, **versions()},
    )
    return write_atomically(path, text)


def _headline(data: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the key figures at the top: value, unit and name."""
    sample = data["examples"] < data["total"]

    def rate(value: float, interval: Sequence[float], name: str, kind: str = "") -> dict[str, str]:
        note = f"95 % interval {table.interval_text(interval)}" if sample else ""
        return {
            "value": table.percent(value),
            "unit": "%",
            "name": name,
            "note": note,
            "kind": kind,
        }

    cards = [rate(data["clean_accuracy"], data["clean_interval"], "clean accuracy")]
    if data["false_rejections"] is not None:
        refused = table.wilson(data["false_rejections"] * data["examples"], data["examples"])
        cards.append(rate(data["false_rejections"], refused, "clean images refused"))
    falls = [data["attacked"] - r for r in data["robust_accuracy"]]
    half = [i for i, fall in enumerate(falls) if fall >= data["attacked"] / 2]
    for i in sorted({half[0] if half else len(falls) - 1, len(falls) - 1}):
        what = "not turned into their target" if data["targeted"] else "robust accuracy"
        name = f"{what} at ε = {table.epsilon_text(data['epsilons'][i])}"
        card = rate(data["robust_accuracy"][i], data["robust_interval"][i], name, "bad")
        if data["robust_bounds"] is not None:  # the truth is between what is proved and attacked
            card["value"] = table.interval_text(data["robust_bounds"][i])
        cards.append(card)
    cards.append(
        {
            "value": table.number_text(data["median_distance"]),
            "unit": "",
            "kind": "",
            "name": f"median smallest distance, {NORMS[data['norm']]}",
            "note": f"over images {table.attacked_text(data)}",
        }
    )
    return cards


def _settings(data: Mapping[str, Any]) -> dict[str, Any]:
    low, high = data["bounds"]
    return {
        "norm": NORMS[data["norm"]],
        "epsilons": ", ".join(map(table.epsilon_text, data["epsilons"])),
        "images": f"{data['examples']:,} of {data['total']:,}",
        "image range": f"{low:g} to {high:g}",
    }


def _accuracy_figure(report: "Report", data: Mapping[str, Any]) -> str:
    figure, axes = plain_axes(7.2, 4.3)
    epsilons, spans = _centres(report), None
    if report.epsilons.ndim == 2:  # bars from the least to the largest radius
        low, high = report.radii.min(1), report.radii.max(1)
        spans = np.maximum([epsilons - low, high - epsilons], 0)  # a mean may be rounded beyond
    grid = np.linspace(0, 1.12 * report.epsilons.max() or 1.0, 600)
    axes.plot(
        grid,
        100 * report.accuracy_curve(grid),
        color=ACCENT,
        linewidth=2.2,
        label="from each image's smallest distance",
    )
    robust = 100 * report.robust_accuracy
    spread = np.abs(100 * np.array(data["robust_interval"]).T - robust)
    axes.errorbar(
        epsilons,
        robust,
        xerr=spans,
        yerr=spread,
        fmt="o",
        color=ACCENT,
        markersize=8,
        capsize=3,
        markeredgecolor="white",
        label="under all attacks (95 % interval)",
    )
    noise = report.noise_accuracy()
    if noise is not None:
        axes.plot(
            [0, *epsilons],
            [100 * data["attacked"], *(100 * noise)],
            "s--",
            color=CONTROL,
            markersize=5.5,
            label="under random noise (control)",
        )
    certified = report.certified_curve(grid)
    if certified is not None:
        axes.plot(grid, 100 * certified, color=PROVED, linewidth=2.2, label="certified")
    if certified is not None and report.robust_bounds is not None:
        attacked = 100 * report.accuracy_curve(grid)
        axes.fill_between(grid, 100 * certified, attacked, color=PROVED, alpha=0.1, linewidth=0)
        proved = 100 * report.robust_bounds[:, 0]
        axes.plot(epsilons, proved, "D", color=PROVED, markersize=7, markeredgecolor="white")
    axes.set(xlim=(0, grid[-1]), ylim=(0, 103))
    axes.set_xlabel(f"ε ({NORMS[report.norm]})", fontsize=12, color=INK)
    what = "images not in their target class, %" if data["targeted"] else "accuracy in %"
    axes.set_ylabel(what, fontsize=12, color=INK)
    axes.legend(frameon=False, fontsize=10.5, loc="best", labelcolor=INK)
    return svg(figure)


def _centres(report: "Report") -> np.ndarray:
    """Return where each epsilon is drawn: of one for each image, their mean."""
    return report.epsilons if report.epsilons.ndim == 1 else report.epsilons.mean(1)


def _distance_figure(report: "Report") -> str | None:
    distances = report.distance[report.attacked & np.isfinite(report.distance)]
    if len(distances) == 0:
        return None
    figure, axes = plain_axes(7.2, 3.3)
    axes.hist(
        distances,
        bins=min(40, 8 + len(distances) // 8),
        color=ACCENT,
        alpha=0.85,
        edgecolor="white",
        linewidth=0.6,
    )
    for epsilon, stated in zip(_centres(report), report.epsilons, strict=True):
        if epsilon <= axes.get_xlim()[1]:
            axes.axvline(epsilon, color=INK, linewidth=1, linestyle=":")
            axes.annotate(
                table.epsilon_text(stated),
                (epsilon, 1.02),
                ha="center",
                color=CONTROL,
                xycoords=("data", "axes fraction"),
                fontsize=10,
            )
    axes.set_xlim(left=0)
    axes.set_xlabel(f"smallest distance found ({NORMS[report.norm]})", fontsize=12, color=INK)
    axes.set_ylabel("images", fontsize=12, color=INK)
    return svg(figure)


def _gallery_rows(
    report: "Report", count: int, epsilon: float | None
) -> tuple[int, np.ndarray] | None:
    """Return the index of the epsilon, and broken images, one of each class before the second."""
    if report.images.ndim not in (2, 3, 4) or count < 1:
        return None
    broken = report.broken_by >= 0
    if epsilon is not None:
        level = int(np.abs(_centres(report) - epsilon).argmin())
    else:
        enough = np.flatnonzero(broken.sum(1) >= count)
        level = int(enough[0]) if len(enough) else len(broken) - 1
    rows = np.flatnonzero(broken[level])
    if len(rows) == 0:
        return None
    labels = report.labels[rows]
    return level, rows[np.lexsort((labels, turn_in_class(labels)))][:count]


def _gallery(
    report: "Report",
    shown: tuple[int, np.ndarray],
    page: Page,
    model: Model | None,
    adversarial_logits: ArrayLike | None,
) -> list[dict[str, Any]]:
    from jaxadv.core.norms import distance64

    level, rows = shown
    original, adversarial = report.images[rows], report.adversarial[level, rows]
    logits = None
    if adversarial_logits is not None:
        logits = np.asarray(adversarial_logits)[level, rows]
    elif model is not None:
        from jaxadv.engine.verify import predict

        logits = predict(model, adversarial)
    distances = distance64(report.norm, adversarial, original)

    def predicted(scores: np.ndarray) -> dict[str, Any]:
        best = int(scores.argmax())
        confidence = softmax(scores.astype(np.float64))[best]
        return {"name": page.names[best], "confidence": f"{100 * confidence:.0f} %"}

    return [
        {
            "id": int(report.ids[row]),
            **pictures(original[i], adversarial[i], report.bounds, page.feature_names, 10),
            "before": predicted(report.logits[row]),
            "after": None if logits is None else predicted(logits[i]),
            "distance": table.number_text(float(distances[i])),
            "visibility": table.visibility_text(report, level, row),
            "by": report.stages[report.broken_by[level, row]].name,
        }
        for i, row in enumerate(rows)
    ]
