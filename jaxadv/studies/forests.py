"""A random forest's nearest mistakes in every norm, proved by mixed-integer programs."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxadv.certification.exact import tree_ensemble
from jaxadv.certification.exact.answer import length
from jaxadv.certification.exact.trees import NORMS
from jaxadv.data import Dataset
from jaxadv.studies.families import Fitted
from jaxadv.studies.findings import Table
from jaxadv.studies.nearest import QUICK_SECONDS, SECONDS, forest_distances, indices
from jaxadv.studies.setting import Setting
from jaxadv.studies.wording import tally


def forest_norms(setting: Setting, fitted: Fitted, data: Dataset) -> tuple[Table, str]:
    """Return the table of a forest's nearest mistakes in L0, L1, L2 and Linf, and its sentence.

    Args:
        setting: The setting.
        fitted: The forest.
        data: Images that it classifies correctly.

    Returns:
        The table and the paragraph.
    """
    forest, own = tree_ensemble(fitted.estimator), indices(fitted.estimator)
    some = data.take(slice(5 if setting.quick else 20))
    labels = np.searchsorted(fitted.estimator.classes_, some.labels)
    seconds = QUICK_SECONDS if setting.quick else SECONDS
    rows = []
    for norm in NORMS:
        doing = f"prove the forest in {norm}"
        answers = forest_distances(setting, doing, forest, some.images, labels, norm, seconds)
        lower, distance = np.array([bound for _, bound in answers]), np.full(len(labels), np.inf)
        for place, (witness, _) in enumerate(answers):
            if witness is None:
                continue
            if own(witness.reshape(1, -1).astype(np.float32))[0] != labels[place]:
                distance[place] = length(norm, (witness - some.images[place]).ravel())
        proved = lower >= distance * (1 - 1e-4)
        found = np.isfinite(distance)
        median = np.median(distance[found]) if found.any() else np.nan
        rows.append([100 * proved.mean(), median, np.median(lower), 100 * found.mean()])
    values = np.array(rows)
    return Table(
        "The random forest in every norm",
        tuple(norm.capitalize() for norm in NORMS),
        ("proved, %", "nearest mistake", "proved lower bound", "found, %"),
        values,
        formats=(".0f", ".3g", ".3g", ".0f"),
        note=f"{len(labels)} images, {len(forest.roots)} trees with "
        f"{int((forest.feature < 0).sum()):,} leaves; one mixed-integer program for each other "
        f"class, {seconds:g} s an image and norm. Medians; proved: the two bounds meet.",
    ), forest_in_words(NORMS, values)


def forest_in_words(norms: Sequence[str], values: Float[np.ndarray, "M 4"]) -> str:
    """Return in which norms the forest's nearest mistakes are proved, of all images or of some.

    Args:
        norms: The norms.
        values: Rows of the table.

    Returns:
        The paragraph.
    """
    titles = [norm.capitalize() for norm in norms]
    proved = values[:, 0]
    part = [f"{n} ({p:.0f} %)" for n, p in zip(titles, proved, strict=True) if 0 < p < 100]
    words = (
        "The forest's nearest mistakes are proved to be the nearest, for every image, in "
        f"{tally(titles, proved == 100, 'norms')}"
    )
    if part:
        words += f"; for some, in {', '.join(part)}"
    if (proved < 100).any():
        words += ", where the time did not suffice for the others and bounds from both sides remain"
    return words + "."
