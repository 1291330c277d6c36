"""Minimal distances between all pairs of classes, by targeted attacks: upper bounds."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxadv.core.goals import Targeted
from jaxadv.core.model import Model
from jaxadv.core.typing import ArrayLike, Numbers
from jaxadv.engine.checks import check_problem
from jaxadv.engine.verify import predict
from jaxadv.protocols.minimal_distance import minimal_distance
from jaxadv.protocols.portfolios import Portfolio


class ClassPairs(NamedTuple):
    """Targeted minimal distances of some images of each class to every other class.

    Attributes:
        images: Attacked images [N, H, W, C], all classified correctly.
        labels: Their labels [N].
        ids: Their ids [N].
        distance: Distance to each class, float64 [N, K] (0 to its own, infinite where the attack
            failed).
        nearest: Nearest image of each class, [N, K, H, W, C] (the clean one where the attack
            failed).
        forward: Forward passes [N, K].
        backward: Backward passes [N, K].
        complete: False if the run was interrupted.
    """

    images: Float[np.ndarray, "N ..."]
    labels: Int[np.ndarray, " N"]
    ids: Int[np.ndarray, " N"]
    distance: Float[np.ndarray, "N K"]
    nearest: Float[np.ndarray, "N K ..."]
    forward: Int[np.ndarray, "N K"]
    backward: Int[np.ndarray, "N K"]
    complete: bool

    def matrix(self, share: float = 0.5) -> Float[np.ndarray, "K K"]:
        """Return the quantile of the distances from each class (row) to each other class (column).

        Args:
            share: The quantile, as a fraction of the images of a class: 0.5 is the median, 0 the
                minimum.

        Returns:
            The distances; the diagonal is nan.
        """
        classes = self.distance.shape[1]
        distances = np.full((classes, classes), np.nan)
        for label in np.unique(self.labels):
            rows = self.distance[self.labels == label]
            distances[label] = np.quantile(rows, share, axis=0, method="inverted_cdf")
        np.fill_diagonal(distances, np.nan)
        return distances

    def untargeted(self) -> Float[np.ndarray, " N"]:
        """Return the distance of each image to its nearest other class."""
        other = np.arange(self.distance.shape[1]) != self.labels[:, None]
        return np.where(other, self.distance, np.inf).min(1)


def class_pairs(
    model: Model,
    images: ArrayLike,
    labels: Numbers,
    norm: str = "l2",
    *,
    each: int = 5,
    ids: Numbers | None = None,
    effort: str | Portfolio = "fast",
    **search: Any,
) -> ClassPairs:
    """Compute minimal distances from images of each class to every other class.

    Args:
        model: The model.
        images: Images [N, H, W, C] within `model.bounds`.
        labels: Integers [N].
        norm: Norm of the distances.
        each: The first `each` correctly classified images of every class are attacked towards every
            other class, by `minimal_distance`.
        ids: Ids [N] of the images (None: their positions).
        effort: Effort of `minimal_distance` ("fast": 400 passes for a pair of image and class), or
            a portfolio.
        **search: Other arguments of `minimal_distance`: key, lanes, store, progress, ...

    Returns:
        The distances and images.

    Raises:
        ValueError: `each` is below 1, no image is classified correctly, or `minimal_distance`
            rejects an argument.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> from jaxadv.protocols.class_pairs import class_pairs
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4)[:, :3])
        >>> images = jnp.array([[0.6, 0.2, 0.4, 0.0]]).reshape(1, 2, 2, 1)
        >>> pairs = class_pairs(model, images, [0], "linf", effort={"FAB": ja.FAB(steps=9)})
        >>> pairs.matrix().round(3)[0].tolist()
        [nan, 0.2, 0.1]
    """
    if each < 1:
        raise ValueError(f"each={each}: pass 1 or more images of each class")
    images, goal, _, _ = check_problem(model, images, labels, ids)
    labels = np.asarray(goal.labels)
    logits = predict(model, images)
    classes = logits.shape[1]
    right = logits.argmax(1) == labels
    chosen = np.concatenate([np.flatnonzero(right & (labels == k))[:each] for k in range(classes)])
    if len(chosen) == 0:
        raise ValueError("images: none is classified right, so there is nothing to attack")
    source = np.repeat(chosen, classes - 1)
    targets = np.concatenate([np.delete(np.arange(classes), labels[i]) for i in chosen])
    ids = np.arange(len(images)) if ids is None else np.asarray(ids)
    nearest = minimal_distance(
        model,
        images[source],
        Targeted(labels[source], targets),
        norm,
        effort=effort,
        ids=ids[source] * classes + targets,
        **search,
    )
    rows = np.repeat(np.arange(len(chosen)), classes - 1)

    def by_class(values: np.ndarray, own: float | np.ndarray) -> np.ndarray:
        """Return values [N, K, ...] for each class: `own` for that of the image itself."""
        table = np.empty((len(chosen), classes, *values.shape[1:]), values.dtype)
        table[np.arange(len(chosen)), labels[chosen]] = own
        table[rows, targets] = values
        return table

    return ClassPairs(
        images[chosen],
        labels[chosen],
        ids[chosen],
        by_class(nearest.distance, 0.0),
        by_class(nearest.images, images[chosen]),
        by_class(nearest.forward, 0),
        by_class(nearest.backward, 0),
        nearest.complete,
    )
