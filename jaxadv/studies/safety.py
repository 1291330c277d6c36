"""Safety of a classifier: the closest pairs of classes, and its local accuracy.

Distances are those of targeted attacks, and therefore upper bounds. Random points of the ball
measure chance, the nearest mistake measures an adversary.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxadv.core.goals import Targeted
from jaxadv.core.model import Model
from jaxadv.core.norms import get_norm
from jaxadv.data import Dataset
from jaxadv.engine.checks import check_problem
from jaxadv.engine.verify import predict
from jaxadv.protocols.minimal_distance import MinimalDistances, minimal_distance
from jaxadv.protocols.portfolios import Portfolio
from jaxadv.studies.findings import Curves, Findings, Gallery, Part, Table, Text

SHOWN = 6  # of the closest pairs, in pictures
DRAWS = 50
SHARES = (0.05, 0.25, 0.4, 0.5, 0.6, 0.75, 0.95)  # of the images that are broken at the epsilons


class ClassPairs(NamedTuple):
    """Targeted minimal distances of some images of each class to every other class.

    Attributes:
        images: [N, H, W, C], attacked images, all classified correctly.
        labels: [N], their labels.
        ids: [N], their ids.
        distance: float64 [N, K], distance to each class (0 to its own, infinite where nothing was
            found).
        nearest: [N, K, H, W, C], the images found (the clean one where none was found).
        forward: [N, K], forward passes.
        backward: [N, K], backward passes.
        complete: False if the run was interrupted.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    distance: np.ndarray
    nearest: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    complete: bool

    def matrix(self, share: float = 0.5) -> Float[np.ndarray, "K K"]:
        """Return the quantile of the distances from each class (row) to each other class (column).

        `share` is the fraction of a class's images that the distance covers: 0.5 is the median, 0
        the minimum. The diagonal is nan.
        """
        classes = self.distance.shape[1]
        out = np.full((classes, classes), np.nan)
        for own in np.unique(self.labels):
            rows = self.distance[self.labels == own]
            out[own] = np.quantile(rows, share, axis=0, method="inverted_cdf")
        out[np.arange(classes), np.arange(classes)] = np.nan
        return out

    def untargeted(self) -> Float[np.ndarray, " N"]:
        """Return the distance of each image to its nearest other class."""
        other = np.arange(self.distance.shape[1]) != self.labels[:, None]
        return np.where(other, self.distance, np.inf).min(1)


def class_pairs(
    model: Model,
    images: Any,
    labels: Any,
    norm: str = "l2",
    *,
    each: int = 5,
    ids: Any = None,
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
        >>> from jaxadv.studies.safety import class_pairs
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4)[:, :3])
        >>> images = jnp.array([[0.6, 0.2, 0.4, 0.0]]).reshape(1, 2, 2, 1)
        >>> found = class_pairs(model, images, [0], "linf", effort={"FAB": ja.FAB(steps=9)})
        >>> found.matrix().round(3)[0].tolist()
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
    found: MinimalDistances = minimal_distance(
        model,
        images[source],
        Targeted(labels[source], targets),
        norm,
        effort=effort,
        ids=ids[source] * classes + targets,
        **search,
    )
    rows = np.repeat(np.arange(len(chosen)), classes - 1)

    def square(values: np.ndarray, own: Any) -> np.ndarray:
        out = np.empty((len(chosen), classes, *values.shape[1:]), values.dtype)
        out[np.arange(len(chosen)), labels[chosen]] = own
        out[rows, targets] = values
        return out

    return ClassPairs(
        images[chosen],
        labels[chosen],
        ids[chosen],
        square(found.distance, 0.0),
        square(found.images, images[chosen]),
        square(found.forward, 0),
        square(found.backward, 0),
        found.complete,
    )


def local_accuracy(
    model: Model,
    images: Any,
    labels: Any,
    norm: str,
    epsilons: Sequence[float],
    draws: int = DRAWS,
    seed: int = 0,
) -> Float[np.ndarray, "E N"]:
    """Return the fraction of random points of the ball that are classified correctly.

    The points are drawn uniformly from the ball and clipped to the box. Costs `draws` forward
    passes for each image and epsilon.

    Args:
        model: The model.
        images: Images [N, H, W, C].
        labels: Integers [N].
        norm: Norm of the ball.
        epsilons: Radii [E], in the scale of the images.
        draws: Random points for each image and epsilon.
        seed: Seed of the draws.

    Returns:
        The fractions [E, N].

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> from jaxadv.studies.safety import local_accuracy
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
        >>> local_accuracy(model, jnp.eye(4).reshape(4, 2, 2, 1), jnp.arange(4), "linf", [0.4])
        array([[1., 1., 1., 1.]])
    """
    geometry, (lower, upper) = get_norm(norm), model.bounds
    images, labels = np.asarray(images, np.float32), np.asarray(labels)

    @jax.jit
    def points(images: Any, epsilon: Any, key: Any) -> Any:
        def one(image: Any, key: Any) -> Any:
            return geometry.random(key, image, epsilon, lower, upper)

        def some(draw: Any) -> Any:
            keys = jax.random.split(jax.random.fold_in(key, draw), len(images))
            return jax.vmap(one)(images, keys).clip(lower, upper)

        return jax.vmap(some)(jnp.arange(draws)).reshape(-1, *images.shape[1:])

    out = np.zeros((len(epsilons), len(images)))
    for place, epsilon in enumerate(epsilons):
        drawn = points(images, np.float32(epsilon), jax.random.key(seed))
        answers = predict(model, drawn).argmax(1)
        out[place] = (answers.reshape(draws, -1) == labels).mean(0)
    return out


def safety(
    model: Model,
    data: Dataset,
    norm: str = "l2",
    *,
    pairs: ClassPairs,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Findings:
    """Return the findings about one model: its closest pairs of classes, and its local accuracy."""
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
            f"distances: {closest}. They are upper bounds: what is nearer still, nobody has seen. "
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
    epsilons = np.quantile(finite, SHARES) if len(finite) else np.array([])
    progress("points of the ball", 0, 1)
    local = local_accuracy(model, pairs.images, pairs.labels, norm, list(epsilons))
    progress("points of the ball", 1, 1)
    robust = (untargeted > epsilons[:, None]).mean(1)
    some = np.arange(len(epsilons))[1::2]  # a quarter, half and three quarters
    within = [f"{kind}, ε = {epsilons[e]:.3g}" for e in some for kind in ("random", "worst")]
    columns = ("global accuracy", *within)
    table = np.full((len(names) + 1, len(columns)), np.nan)
    for row, own in enumerate([*range(len(names)), None]):
        seen = np.ones(len(data.labels), bool) if own is None else data.labels == own
        mine = np.ones(len(pairs.labels), bool) if own is None else pairs.labels == own
        if seen.any():
            table[row, 0] = 100 * right[seen].mean()
        if mine.any():
            table[row, 1::2] = 100 * local[some][:, mine].mean(1)
            table[row, 2::2] = 100 * (untargeted[mine] > epsilons[some, None]).mean(1)
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
            note="Of images that are classified right. A classifier that is right about an image "
            "need not be right around it: chance seldom shows that, an adversary does.",
        ),
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


def _closest(
    pairs: ClassPairs, order: list[tuple[int, int]], names: list[str], data: Dataset, norm: str
) -> Gallery:
    """Return for each pair the image of median distance, its adversarial image, and the change."""
    rows, captions = [], []
    for own, other in order:
        mine = np.flatnonzero(pairs.labels == own)
        mine = mine[np.argsort(pairs.distance[mine, other], kind="stable")]
        at = mine[(len(mine) - 1) // 2]
        image, found = pairs.images[at], pairs.nearest[at, other]
        change = found - image
        shown = 0.5 + change / (2 * max(np.abs(change).max(), 1e-12))
        rows.append([image, found, shown])
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
