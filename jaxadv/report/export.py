"""An evaluation or a sweep in formats of other programs: RobustBench's JSON, and CSV."""

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxadv.report.table import as_data, epsilon_text, percent

if TYPE_CHECKING:
    from jaxadv.protocols.evaluation import Report
    from jaxadv.sweep.store import SweepStore

COLUMNS = (
    "id",
    "label",
    "prediction",
    "epsilon",
    "broken",
    "broken_by",
    "proved",
    "distance",
    "forward",
    "backward",
)
NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1", "l0": "L0"}


def write_csv(report: "Report", path: str | Path) -> Path:
    """Write one row for each image and epsilon, atomically.

    Columns: id, label, prediction; epsilon, the image's own; broken (1 or 0, misclassified images
    are broken); broken_by: the attack, or "misclassified", or empty; proved (1 or 0; empty: not
    asked for); distance: the smallest adversarial distance found by any attack (empty: none);
    forward, backward: the image's passes in all attacks together, at all epsilons.

    Args:
        report: The report.
        path: Path of the file.

    Returns:
        The path.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja, tempfile
        >>> from jaxadv.report import write_csv
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, 2 * jnp.eye(4))
        >>> images, labels = jnp.eye(4).reshape(4, 2, 2, 1), jnp.arange(4)
        >>> how = {"attacks": {"FGSM": ja.FGSM()}, "epsilons": [0.1, 0.6], "distances": False}
        >>> report = ja.evaluate(model, images, labels, **how)
        >>> rows = write_csv(report, tempfile.mkdtemp() + "/report.csv").read_text().splitlines()
        >>> [row.rsplit(",", 4)[0] for row in rows[:3]]
        ['id,label,prediction,epsilon,broken,broken_by', '0,0,0,0.1,0,', '0,0,0,0.6,1,FGSM']
    """
    from jaxadv.core.files import write_atomically

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, image in enumerate(as_data(report)["images"]):
        proved = image["proved"] or [""] * len(report.epsilons)
        radii = report.radii[:, number]
        for epsilon, by, sure in zip(radii, image["broken_by"], proved, strict=True):
            distance = image["distance"]
            writer.writerow(
                [
                    image["id"],
                    image["label"],
                    image["prediction"],
                    f"{epsilon:.9g}",
                    int(by is not None),
                    by or "",
                    sure if sure == "" else int(sure),
                    "" if distance is None else f"{distance:.9g}",
                    image["forward"],
                    image["backward"],
                ]
            )
    return write_atomically(path, out.getvalue())


def as_robustbench(
    report: "Report", epsilon: float, *, name: str, dataset: str, architecture: str = ""
) -> dict[str, Any]:
    """Return the entry of a model in RobustBench's leaderboard, for one of the report's epsilons.

    Accuracies are texts in per cent, as in RobustBench. `autoattack_acc` is left out: the accuracy
    under the attacks that ran is given as `external`, with their names in `footnote`.

    Args:
        report: The report.
        epsilon: One of the report's epsilons.
        name: Name of the model.
        dataset: Name of the data set.
        architecture: Name of the architecture (empty: the model's name).

    Returns:
        The entry.

    Raises:
        ValueError: The report does not have this epsilon for all images, or its attacks had
            targets.

    >>> import jax.numpy as jnp, jaxadv as ja
    >>> from jaxadv.report import as_robustbench
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, 2 * jnp.eye(4))
    >>> images, labels = jnp.eye(4).reshape(4, 2, 2, 1), jnp.arange(4)
    >>> report = ja.evaluate(model, images, labels, attacks={"FGSM": ja.FGSM()}, distances=False)
    >>> entry = as_robustbench(report, 0.1, name="Eye", dataset="corners")
    >>> entry["clean_acc"], entry["external"], entry["eps"]
    ('100.0', '100.0', '0.1')
    """
    if report.targets is not None:
        raise ValueError("report is of a targeted goal: RobustBench has untargeted ones alone")
    near = np.flatnonzero((np.abs(report.radii - epsilon) <= 1e-9).all(1))
    if not len(near):
        known = report.epsilons.tolist()
        if report.epsilons.ndim == 2:
            known = f"{', '.join(map(epsilon_text, known))}; RobustBench has one for all images"
        raise ValueError(f"epsilon={epsilon}: the report has {known}")
    stages = ", ".join(stage.name for stage in report.stages)
    return _entry(
        name,
        dataset,
        architecture or name,
        report.norm,
        epsilon,
        report.clean_accuracy,
        float(report.robust_accuracy[near[0]]),
        f"attacked by {stages} on {len(report.labels)} images",
    )


def _entry(
    name: str,
    dataset: str,
    architecture: str,
    norm: str,
    epsilon: float,
    clean: float,
    robust: float,
    footnote: str,
) -> dict[str, Any]:
    return {
        "name": name,
        "dataset": dataset,
        "architecture": architecture,
        "threat_model": NORMS[norm],
        "eps": f"{epsilon:.9g}",
        "clean_acc": percent(clean),
        "external": percent(robust),
        "additional_data": None,
        "number_forward_passes": "1",
        "link": "",
        "footnote": footnote,
    }


def write_robustbench(report: "Report", path: str | Path, **about: Any) -> Path:
    """Write `as_robustbench` for every epsilon as one JSON file, atomically.

    ValueError if the report has a radius for each image: RobustBench has one for all.
    """
    from jaxadv.core.files import write_atomically

    entries = [as_robustbench(report, float(own[0]), **about) for own in report.radii]
    return write_atomically(path, json.dumps(entries, indent=1) + "\n")


def sweep_as_robustbench(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return RobustBench entries for each model, data set, norm and epsilon of a `sweep_data`.

    The form is that of `as_robustbench`. Entries are left out where not all images were attacked,
    or where rows are missing that could lower the accuracy.
    """
    return [
        _entry(
            one["model"],
            one["data"],
            one["model"],
            norm,
            level["epsilon"],
            one["clean"]["value"],
            level["value"],
            f"attacked by {', '.join(a['title'] for a in part['attacks'])} on "
            f"{level['images']} images",
        )
        for one in data["standings"]
        for norm, part in one["norms"].items()
        for level in part["levels"]
        if level["images"] == one["clean"]["images"] > 0 and not level["upper_bound"]
    ]


def write_sweep_csv(
    store: "SweepStore", path: str | Path, progress: Callable[[int, int], None] | None = None
) -> int:
    """Write all verified rows of a sweep's store as CSV, atomically.

    Columns are those of `ja.sweep.SCHEMA`; empty values there are empty here. One job is in memory
    at a time.

    Args:
        store: The sweep's store.
        path: Path of the file.
        progress: Called with (jobs written, jobs in all).

    Returns:
        The number of rows.

    Example:
        >>> import tempfile, jaxadv as ja
        >>> from jaxadv.report import write_sweep_csv
        >>> write_sweep_csv(ja.SweepStore(tempfile.mkdtemp()), tempfile.mkdtemp() + "/rows.csv")
        0
    """
    import pyarrow.csv

    from jaxadv.core.files import whole_file
    from jaxadv.sweep.store import SCHEMA

    jobs, count = list(store.manifest["jobs"]), 0
    with whole_file(path) as file, pyarrow.csv.CSVWriter(file, SCHEMA) as writer:
        for number, job in enumerate(jobs, 1):
            if (table := store.load(job)) is not None:
                writer.write_table(table)
                count += table.num_rows
            if progress is not None:
                progress(number, len(jobs))
    return count
