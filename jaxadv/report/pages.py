"""A page for every image of a `Report`, and an index page."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxadv.core.bounds import hull
from jaxadv.core.result import Status
from jaxadv.report import table
from jaxadv.report.drawings import pictures
from jaxadv.report.elements import names_of, picture, template
from jaxadv.report.table import NORMS

if TYPE_CHECKING:
    from jaxadv.protocols.evaluation import Report


def write_pages(
    report: "Report",
    folder: str | Path,
    class_names: Sequence[str] | None = None,
    feature_names: Sequence[str] | None = None,
) -> Path:
    """Write index.html and ID.html for each image into a folder (each atomically).

    A page shows the image, for each epsilon at which it is broken the adversarial image and the
    difference times ten, and the status, distance and passes of every attack. Rows and series are
    drawn as bars and lines.

    Args:
        report: The report.
        folder: The folder.
        class_names: Names of the classes (None: their numbers).
        feature_names: Names of the features of inputs that are no images (None: their numbers).

    Returns:
        The folder.

    Raises:
        ImportError: jinja2 or matplotlib is missing; the message says how to install it.

    >>> import jax.numpy as jnp, jaxadv as ja, tempfile
    >>> from jaxadv.report import write_pages
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, 2 * jnp.eye(4))
    >>> images, labels = jnp.eye(4).reshape(4, 2, 2, 1), jnp.arange(4)
    >>> report = ja.evaluate(model, images, labels, attacks={"FGSM": ja.FGSM()}, distances=False)
    >>> sorted(path.name for path in write_pages(report, tempfile.mkdtemp()).iterdir())
    ['0.html', '1.html', '2.html', '3.html', 'index.html']
    """
    from jaxadv.core.files import write_atomically

    folder = Path(folder)
    page = template("image.html.j2")
    names = names_of(class_names)
    rows = table.as_data(report)["images"]
    ids = [row["id"] for row in rows]
    for i, row in enumerate(rows):
        write_atomically(
            folder / f"{row['id']}.html",
            page.render(
                image=row,
                norm=NORMS[report.norm],
                names=names,
                shown=_shown(report, i, feature_names),
                pictured=report.images.ndim == 4,
                runs=_runs(report, i),
                before=ids[i - 1] if i else None,
                after=ids[i + 1] if i + 1 < len(ids) else None,
            ),
        )
    index = template("images.html.j2").render(
        images=rows,
        names=names,
        epsilons=report.epsilons.tolist(),
        norm=NORMS[report.norm],
        pictures=[picture(image, hull(report.bounds)) for image in report.images]
        if report.images.ndim == 4
        else None,
    )
    write_atomically(folder / "index.html", index)
    return folder


def _shown(report: "Report", i: int, feature_names: Sequence[str] | None) -> list[dict[str, Any]]:
    """Return the original, and the adversarial image of each epsilon at which it is broken."""
    original, bounds = report.images[i], report.bounds
    first = pictures(original, None, bounds, feature_names)
    shown = [
        {"name": "original", "by": None, "visibility": "", **first, "picture": first["original"]}
    ]
    for level, epsilon in enumerate(report.radii[:, i]):
        number = int(report.broken_by[level, i])
        if number < 0:
            continue
        found = pictures(original, report.adversarial[level, i], bounds, feature_names, 10)
        shown.append(
            {
                "name": f"ε = {table.epsilon_text(epsilon)}",
                "by": report.stages[number].name,
                "visibility": table.visibility_text(report, level, i),
                **found,
                "picture": found["adversarial"],
            }
        )
    return shown


def _runs(report: "Report", i: int) -> list[dict[str, Any]]:
    """Return the result of every attack on the image, one entry for each run."""
    runs = []
    for stage in report.stages:
        for row in np.flatnonzero(stage.source == i):
            result = stage.result
            runs.append(
                {
                    "attack": stage.name,
                    "epsilon": None
                    if not stage.attack.needs_epsilon
                    else float(report.radii[stage.level[row], i]),
                    "status": Status(result.status[row]).name,
                    "distance": float(result.distance[row]) if result.success[row] else None,
                    "margin": float(result.margin[row]),
                    "forward": int(result.forward[row]),
                    "backward": int(result.backward[row]),
                }
            )
    return runs
