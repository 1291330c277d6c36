"""The report on the safety of a classifier: its closest pairs of classes, its local accuracy.

Distances are those of targeted attacks, and therefore upper bounds. Random points of the ball
measure chance, the nearest mistake measures an adversary.
"""

from collections.abc import Callable

import numpy as np

from jaxadv.core.model import Model
from jaxadv.data import Dataset
from jaxadv.engine.verify import predict
from jaxadv.protocols.class_pairs import ClassPairs
from jaxadv.protocols.local_accuracy import DRAWS, local_accuracy
from jaxadv.studies.findings import Curves, Findings, Gallery, Part, Table, Text
from jaxadv.studies.wording import side, tally

SHOWN = 6  # of the closest pairs, in pictures
BROKEN = (0.05, 0.25, 0.4, 0.5, 0.6, 0.75, 0.95)  # fractions of images, which give the epsilons


def safety(
    model: Model,
    data: Dataset,
    norm: str = "l2",
    *,
    pairs: ClassPairs,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Findings:
    """Return the findings about one model: its closest pairs of classes, and its local accuracy.

    Args:
        model: The model.
        data: Test images and labels, for the global accuracy.
        norm: Norm of the distances.
        pairs: The distances between classes, by `class_pairs`.
        progress: Called with (stage, steps done, steps in all).

    Returns:
        The findings.
    """
    names = list(data.classes)
    median, least = pairs.matrix(), pairs.matrix(0.0)
    order = [
        (int(i), int(j))
        for i, j in zip(*np.unravel_index(np.argsort(median, None), median.shape), strict=True)
        if np.isfinite(median[i, j])
    ]
    closest = ", ".join(f"{names[i]} to {names[j]} ({median[i, j]:.3g})" for i, j in order[:5])
    parts: list[Part] = [
        Text(
            f"Half of the images attacked are taken for the other class within these {norm} "
            f"distances: {closest}. They are upper bounds: a nearer image may exist. "
            f"{len(pairs.labels)} images, all classified right, each aimed at every other class."
        ),
        Table(
            f"From the class of the row to that of the column: median {norm} distance",
            tuple(names),
            tuple(names),
            median,
            formats=".3g",
            heat=True,
            hot="low",
        ),
        Table(
            "The nearest image of each class",
            tuple(names),
            tuple(names),
            least,
            formats=".3g",
            heat=True,
            hot="low",
        ),
    ]
    if pairs.images.ndim == 4 and order:
        parts.append(_closest(pairs, order[:SHOWN], names, data, norm))
    logits = predict(model, data.images)
    right = logits.argmax(1) == data.labels
    untargeted = pairs.untargeted()
    finite = untargeted[np.isfinite(untargeted)]
    epsilons = np.quantile(finite, BROKEN) if len(finite) else np.array([])
    progress("points of the ball", 0, 1)
    local = local_accuracy(model, pairs.images, pairs.labels, norm, list(epsilons))
    progress("points of the ball", 1, 1)
    robust = (untargeted > epsilons[:, None]).mean(1)
    shown = np.arange(len(epsilons))[1::2]  # a quarter, half and three quarters
    within = [f"{kind}, ε = {epsilons[e]:.3g}" for e in shown for kind in ("random", "worst")]
    columns = ("global accuracy", *within)
    table = np.full((len(names) + 1, len(columns)), np.nan)
    for row, own in enumerate([*range(len(names)), None]):
        tested = np.ones(len(data.labels), bool) if own is None else data.labels == own
        attacked = np.ones(len(pairs.labels), bool) if own is None else pairs.labels == own
        if tested.any():
            table[row, 0] = 100 * right[tested].mean()
        if attacked.any():
            table[row, 1::2] = 100 * local[shown][:, attacked].mean(1)
            table[row, 2::2] = 100 * (untargeted[attacked] > epsilons[shown, None]).mean(1)
    parts += [
        Curves(
            "Local against global accuracy",
            f"ε ({norm})",
            "right in %",
            {
                "random points of the ball": np.stack([epsilons, 100 * local.mean(1)]),
                "the worst point found": np.stack([epsilons, 100 * robust]),
            },
            dashed=("random points of the ball",),
            note="Of images that are classified right.",
        ),
        Text(local_in_words(norm, epsilons, local.mean(1), robust, len(pairs.labels))),
        Table(
            "By class: accuracy on the test images, and around those that are right",
            (*names, "all"),
            columns,
            table,
            formats=".1f",
            note=f"in per cent; random: {DRAWS} uniform draws from the ball of each image",
        ),
    ]
    return Findings("safety", "Which class is taken for which, and by how little?", parts)


def local_in_words(
    norm: str, epsilons: np.ndarray, local: np.ndarray, robust: np.ndarray, count: int
) -> str:
    """Return whether chance finds the mistakes around an image that an adversary finds.

    Args:
        norm: Norm of the distances.
        epsilons: Radii of the balls, [E].
        local: Fraction of random points of the balls that are classified right, [E].
        robust: Fraction of images without an adversarial image found in the ball, [E].
        count: Number of images.

    Returns:
        The paragraph.
    """
    if not len(epsilons):
        return "No mistake was found around any image, by chance or by an adversary."
    middle = len(epsilons) // 2
    names = [f"ε = {epsilon:.3g}" for epsilon in epsilons]
    more = [side(100 * a, 100 * b, count) > 0 for a, b in zip(local, robust, strict=True)]
    return (
        f"Within {norm} {epsilons[middle]:.3g} of an image that is classified right "
        f"{100 * local[middle]:.1f} % of random points are right too, and no mistake was found for "
        f"{100 * robust[middle]:.1f} % of the images. Chance hides what an adversary finds, beyond "
        f"95 % intervals, at {tally(names, more, 'radii')}."
    )


def _closest(
    pairs: ClassPairs, order: list[tuple[int, int]], names: list[str], data: Dataset, norm: str
) -> Gallery:
    """Return for each pair the image of median distance, its adversarial image, and the change."""
    rows, captions = [], []
    for own, other in order:
        members = np.flatnonzero(pairs.labels == own)
        members = members[np.argsort(pairs.distance[members, other], kind="stable")]
        at = members[(len(members) - 1) // 2]
        image, adversarial = pairs.images[at], pairs.nearest[at, other]
        change = adversarial - image
        shown = 0.5 + change / (2 * max(np.abs(change).max(), 1e-12))
        rows.append([image, adversarial, shown])
        captions.append((f"image {pairs.ids[at]}", f"{pairs.distance[at, other]:.3g}", ""))
    return Gallery(
        "The closest pairs",
        np.array(rows),
        tuple(f"{names[i]} → {names[j]}" for i, j in order),
        ("image", "taken for the other", "change"),
        tuple(captions),
        note=f"of each pair the image of median {norm} distance; the change is scaled to its "
        "largest entry, grey is none",
    )
