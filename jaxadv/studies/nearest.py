"""The nearest mistakes of one classifier of scikit-learn, as it answers itself."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxadv.attacks import FMN, HopSkipJump
from jaxadv.certification.exact import (
    TreeEnsemble,
    exact_distance,
    linear_classifier,
    step_over,
    tree_ensemble,
)
from jaxadv.core.files import slug
from jaxadv.core.goals import Untargeted
from jaxadv.core.norms import distance64
from jaxadv.engine.result_store import fingerprint
from jaxadv.models.scikit_learn import from_sklearn
from jaxadv.protocols.minimal_distance import minimal_distance
from jaxadv.protocols.portfolios import Portfolio
from jaxadv.studies.families import EXACT, FOREST, GRADIENTS, Fitted
from jaxadv.studies.setting import Setting

QUERIES = 3000
QUICKLY: Portfolio = {"FMN": FMN(norm="l2", steps=200)}  # as many passes as the fast portfolio
SECONDS, QUICK_SECONDS = 20.0, 4.0  # for one image of a forest, in one norm


class Mistakes(NamedTuple):
    """The nearest mistakes of a classifier in L2.

    Attributes:
        distance: Distances [N] of `images`, infinite where none was found.
        images: The misclassified images [N, H, W, C].
        lower: Proved lower bounds [N], 0 where there is none.
        flips: Whether scikit-learn itself answers another class there, [N].
    """

    distance: Float[np.ndarray, " N"]
    images: Float[np.ndarray, "N H W C"]
    lower: Float[np.ndarray, " N"]
    flips: Bool[np.ndarray, " N"]

    @property
    def proved(self) -> Bool[np.ndarray, " N"]:
        """Whether each distance is proved to be the least, up to a ten-thousandth."""
        return self.lower >= self.distance * (1 - 1e-4)


def indices(estimator: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return scikit-learn's own `predict`, as a function of rows to indices of the classes."""
    return lambda rows: np.searchsorted(estimator.classes_, estimator.predict(rows))


def nearest_mistakes(
    setting: Setting, name: str, fitted: Fitted, how: str, images: np.ndarray, labels: np.ndarray
) -> Mistakes:
    """Compute the nearest mistakes of one classifier in L2.

    The distances are proved for linear classifiers and a single tree, and for forests as far as
    the time allows. Others are upper bounds: by `minimal_distance` (fast; quick settings: FMN
    alone), or, for classifiers with piecewise constant outputs, by HopSkipJump with 3,000 queries.
    All are moved by the least amount at which scikit-learn's `predict` answers another class; of
    images for which there is none, `predict` itself is attacked by HopSkipJump.

    Args:
        setting: The setting, whose folder stores the results.
        name: Name of the classifier; another for each number of training images.
        fitted: The classifier.
        how: `EXACT`, `FOREST`, `GRADIENTS` or `QUERY_BASED`.
        images: Images [N, H, W, C].
        labels: Their labels [N], as indices of the classifier's classes.

    Returns:
        The mistakes.
    """
    lower = np.zeros(len(images))
    if how in (EXACT, FOREST):
        linear = hasattr(fitted.estimator, "coef_")
        classifier = (linear_classifier if linear else tree_ensemble)(fitted.estimator)
        seconds = QUICK_SECONDS if setting.quick else SECONDS
        if isinstance(classifier, TreeEnsemble) and how == FOREST:
            rows = forest_distances(
                setting, f"prove {name}", classifier, images, labels, "l2", seconds
            )
        else:
            answers = [
                exact_distance(classifier, image, int(label), "l2")
                for image, label in zip(images, labels, strict=True)
            ]
            rows = [(answer.witness, answer.lower) for answer in answers]
        pairs = zip(images, rows, strict=True)
        witness = np.stack([image if found is None else found for image, (found, _) in pairs])
        lower = np.array([bound for _, bound in rows])
    elif how == GRADIENTS:
        witness = minimal_distance(
            fitted.model,
            images,
            labels,
            "l2",
            effort=QUICKLY if setting.quick else "fast",
            store=setting.folder / "classifiers" / slug(name),
        ).images
    else:
        attack, goal = HopSkipJump(budget=QUERIES), Untargeted(labels)
        witness = setting.run(f"queries-{slug(name)}", attack, fitted.model, images, goal).images
    own = indices(fitted.estimator)
    over = step_over(own, images, witness, labels, longest=0.5)
    lost = np.flatnonzero(~over.flips)
    if len(lost):  # scikit-learn answers otherwise than its version in JAX, as where votes are tied
        host, goal = from_sklearn(fitted.estimator, on_host=True), Untargeted(labels[lost])
        attack = HopSkipJump(budget=QUERIES)
        found = setting.run(f"queries-{slug(name)}", attack, host, images[lost], goal)
        again = step_over(own, images[lost], found.images, labels[lost], longest=0.5)
        over.images[lost], over.flips[lost] = again.images, again.flips
    distance = distance64("l2", over.images, images)
    return Mistakes(np.where(over.flips, distance, np.inf), over.images, lower, over.flips)


def forest_distances(
    setting: Setting,
    doing: str,
    forest: TreeEnsemble,
    images: Float[np.ndarray, "N ..."],
    labels: np.ndarray,
    norm: str,
    seconds: float,
) -> list[tuple[np.ndarray | None, float]]:
    """Return the nearest inputs found that a forest misclassifies, and proved lower bounds.

    The programs of as many images as there are cores are solved at the same time.

    Args:
        setting: The setting, whose folder stores the results.
        doing: What is done, for progress.
        forest: The forest.
        images: Images [N, ...].
        labels: Their classes [N].
        norm: "linf", "l2", "l1" or "l0".
        seconds: Time limit of the programs of one image.

    Returns:
        Of each image the input, None if none was found in time, and the bound.
    """

    def solve(image: np.ndarray, label: int) -> tuple[np.ndarray | None, float]:
        def compute() -> dict[str, Any]:
            answer = exact_distance(forest, image, int(label), norm, seconds=seconds)
            witness = np.full(image.shape, np.nan) if answer.witness is None else answer.witness
            return {"witness": witness, "lower": answer.lower}

        same = tuple(forest), image, int(label), norm, seconds
        kept = setting.keep(f"forests/{fingerprint(same)[:16]}", same, compute)
        witness = None if np.isnan(kept["witness"]).any() else kept["witness"]
        return witness, float(kept["lower"])

    threads, found = ThreadPoolExecutor(os.cpu_count() or 1), []
    try:
        for one in threads.map(solve, images, labels):
            found.append(one)
            setting.progress(doing, len(found), len(images))
    finally:
        threads.shutdown(cancel_futures=True)  # after Ctrl-C, what has not begun is left
    return found
