"""Proofs at one or several epsilons as plain data, as tables on the console, and as one page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxadv.core.bounds import Bounds, hull
from jaxadv.report import table
from jaxadv.report.drawings import pictures
from jaxadv.report.elements import (
    Page,
    template,
    versions,
)
from jaxadv.report.proof_figures import band, margins
from jaxadv.report.table import NORMS

if TYPE_CHECKING:
    from rich.console import Console

    from jaxadv.protocols.verdicts import Proofs

REASONS = {  # of verdicts, as a reader understands them
    "NOT_RUN": "not reached",
    "PROVED": "proved",
    "BROKEN": "broken",
    "MISCLASSIFIED": "misclassified",
    "LOOSE": "unknown: bounds too loose",
    "BUDGET": "unknown: budget spent",
    "STUCK": "unknown: nothing left to split",
    "UNCONFIRMED": "unknown: not confirmed in float64",
    "NONFINITE": "unknown: bounds are not finite",
}


def proofs_data(found: "Sequence[Proofs]", total: int | None = None) -> dict[str, Any]:
    """Return all that is printed about proofs of the same images, for `json.dumps`.

    Args:
        found: The proofs at each epsilon, ascending.
        total: Number of images of the data set (None: those that were to be proved).

    Returns:
        The data: for each epsilon the fractions of images proved and not broken, between which
            robust accuracy lies, and what is known of every image; null is an infinite margin.
    """
    first = found[0]
    return {
        "norm": first.norm,
        "arithmetic": first.arithmetic,
        "examples": len(first.ids),
        "total": len(first.ids) if total is None else int(total),
        "complete": all(one.complete for one in found),
        "found": [_at_one(one) for one in found],
    }


def _at_one(proof: "Proofs") -> dict[str, Any]:
    """Return what is known at one epsilon."""
    from jaxadv.protocols.verdicts import Verdict

    proved, not_broken = proof.accuracy
    count = len(proof.ids)
    return {
        "epsilon": float(proof.epsilon.max()),
        "proved": proved,
        "not_broken": not_broken,
        "proved_interval": table.wilson(proof.proved.sum(), count),
        "not_broken_interval": table.wilson(count - proof.broken.sum(), count),
        "complete": proof.complete,
        "seconds": proof.cost.seconds,
        "images_by_verdict": {
            verdict.name: int((proof.status == verdict).sum())
            for verdict in Verdict
            if (proof.status == verdict).any()
        },
        "images": [
            {
                "id": int(proof.ids[i]),
                "label": int(proof.labels[i]),
                "verdict": Verdict(proof.status[i]).name,
                "lower": _finite(proof.lower[i]),
                "upper": _finite(proof.upper[i]),
                "subproblems": int(proof.subproblems[i]),
                "forward": int(proof.forward[i]),
                "backward": int(proof.backward[i]),
            }
            for i in range(count)
        ],
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def print_proofs(data: Mapping[str, Any], console: "Console | None" = None) -> None:
    """Print a `proofs_data` as a table: images by verdict, and robust accuracy from both sides."""
    from rich.console import Console

    console = console or Console()
    columns = [f"ε = {table.epsilon_text(one['epsilon'])}" for one in data["found"]]
    count = data["examples"]
    verdicts = table.grid(f"{count:,} images by what is known ({data['norm']})", "", columns)
    for name, reason in REASONS.items():
        numbers = [one["images_by_verdict"].get(name, 0) for one in data["found"]]
        if any(numbers):
            verdicts.add_row(reason, *map(str, numbers))
    verdicts.add_section()
    for title, key in (("proved, %", "proved"), ("not broken, %", "not_broken")):
        verdicts.add_row(f"[bold]{title}[/]", *[table.percent(one[key]) for one in data["found"]])
        if count < data["total"]:
            intervals = [table.interval_text(one[f"{key}_interval"]) for one in data["found"]]
            verdicts.add_row("95 % interval", *intervals, style="dim")
    verdicts.add_row("seconds", *[f"{one['seconds']:.1f}" for one in data["found"]])
    console.print(verdicts)
    console.print("robust accuracy lies between proved and not broken", highlight=False)
    if not data["complete"]:
        console.print("[bold yellow]incomplete: the work was interrupted[/]")


def write_proofs(
    found: "Sequence[Proofs]",
    path: str | Path,
    page: Page | None = None,
    *,
    bounds: Bounds = (0.0, 1.0),
    shown: int = 200,
) -> Path:
    """Write proofs as one HTML page (atomically, everything embedded).

    The page shows robust accuracy between what is proved and what is not broken, the bounds of each
    image's margin from both sides, and a table of the images.

    Args:
        found: The proofs of the same images at each epsilon, ascending.
        path: Path of the page.
        page: Title, names of the classes, settings and size of the data set.
        bounds: The bounds of the model.
        shown: The most images in the table.

    Returns:
        The path.

    Raises:
        ImportError: jinja2 or matplotlib is missing; the message says how to install it.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja, tempfile
        >>> from jaxadv.report import write_proofs
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
        >>> images, labels = jnp.eye(4).reshape(4, 2, 2, 1), jnp.arange(4)
        >>> found = [ja.prove(model, images, labels, e, attacks={}) for e in (0.2, 0.6)]
        >>> write_proofs(found, tempfile.mkdtemp() + "/report.html").name
        'report.html'
    """
    from jaxadv.core.files import write_atomically

    page = page or Page()
    data = proofs_data(found, page.total)
    text = template("proofs.html.j2").render(
        title=page.title or "How robust is this classifier, with certainty?",
        data=data,
        reasons=REASONS,
        curve=band(found) if len(found) > 1 else None,
        margins=[
            {"epsilon": float(one.epsilon.max()), "picture": margins(one)}
            for one in found
            if np.isfinite(one.lower).any()
        ],
        rows=_rows(found, data, page, bounds)[:shown],
        settings={
            "norm": NORMS[data["norm"]],
            "holds for": f"{data['arithmetic']} arithmetic",
            "images": f"{data['examples']:,} of {data['total']:,}",
            "image range": "{:g} to {:g}".format(*hull(bounds)),
            **page.settings,
            **versions(),
        },
    )
    return write_atomically(path, text)


def _rows(
    found: "Sequence[Proofs]",
    data: Mapping[str, Any],
    page: Page,
    bounds: Bounds,
) -> list[dict[str, Any]]:
    """Return for each image its picture, what is known at each epsilon, and what breaks it."""
    first = found[0]

    def pictured(i: int) -> dict[str, str | None]:
        moved = (
            one.images[i]
            for one in found
            if one.broken[i] and (one.images[i] != first.originals[i]).any()
        )
        after = next(moved, None)
        return pictures(first.originals[i], after, bounds, page.feature_names)

    return [
        {
            "id": int(first.ids[i]),
            "label": page.names[int(first.labels[i])],
            **pictured(i),
            "found": [one["images"][i] for one in data["found"]],
        }
        for i in range(len(first.ids))
    ]
