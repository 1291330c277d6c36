"""Witnesses moved beyond the decision boundary, in the arithmetic of the classifier's own library.

The nearest point of a linear classifier or a network is a tie, on which rounding decides. The least
step along the ray from the image through it makes it a mistake.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxadv.core.typing import Numbers

HALVINGS = 12  # of the step, once one suffices
COPIES = 17  # of an input in one batch: a matrix product sums each row of a block in another order


class Crossing(NamedTuple):
    """The result of `step_over`.

    Attributes:
        images: The moved witnesses, of the images' shape and type.
        flips: Whether the classifier answers another class than the label there, [N].
        stretch: By what fraction of its distance each witness was moved, [N].
    """

    images: Float[np.ndarray, "N ..."]
    flips: Bool[np.ndarray, " N"]
    stretch: Float[np.ndarray, " N"]


def step_over(
    predict: Callable[[np.ndarray], np.ndarray],
    images: Numbers,
    witnesses: Numbers,
    labels: Numbers,
    bounds: tuple[float, float] = (0.0, 1.0),
    longest: float = 1e-3,
) -> Crossing:
    """Move witnesses by the least amount at which a classifier answers another class.

    A witness w of the image x becomes x + (1 + s) (w - x), clipped to the box and rounded to the
    type of the images. The least s >= 0 is found by doubling from the spacing of that type, and by
    halving on a logarithmic scale. Near the boundary the answer may depend on the order of
    summation, hence on an input's place in its batch: it must flip alone, at 17 places of a batch,
    and among all results in their order.

    Args:
        predict: A function of rows [N, D] to labels [N], such as an estimator's own `predict`.
        images: Images [N, ...], whose floating-point type the rows keep.
        witnesses: For each image an adversarial image or a point on the boundary.
        labels: The labels [N] of the images, as `predict` returns them.
        bounds: The least and the largest value of a pixel.
        longest: Fraction of its distance that a witness is moved at most. Witnesses of a model that
            only approximates the classifier need more than rounding.

    Returns:
        The moved witnesses, which of them flip, and how far they were moved. One that does not
        flip is returned as it was.

    Raises:
        ValueError: `witnesses` have another shape than `images`, or `labels` another length.

    Example:
        >>> import numpy as np, jaxadv as ja
        >>> larger = ja.LinearClassifier(np.eye(2), np.zeros(2))
        >>> image = np.array([0.8, 0.2])
        >>> tie = ja.exact_distance(larger, image, 0, "l2").witness
        >>> moved = ja.step_over(lambda x: larger.scores(x).argmax(1), [image], [tie], [0])
        >>> bool(moved.flips[0]), bool(np.abs(moved.images[0] - tie).max() < 1e-15)
        (True, True)
    """
    x = np.asarray(images)
    x = x if np.issubdtype(x.dtype, np.floating) else x.astype(np.float64)
    labels, shape = np.asarray(labels), x.shape
    if np.shape(witnesses) != shape or labels.shape != shape[:1]:
        raise ValueError(
            f"witnesses of shape {np.shape(witnesses)} and {len(labels)} labels: pass one of each "
            f"for images of shape {shape}"
        )
    exact = x.reshape(len(x), -1).astype(np.float64)
    delta = np.asarray(witnesses, np.float64).reshape(exact.shape) - exact

    def at(step: np.ndarray, rows: np.ndarray) -> np.ndarray:
        moved = exact[rows] + (1 + step[rows, None]) * delta[rows]
        return np.clip(moved, *bounds).astype(x.dtype)

    def flips(step: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return which of the rows flip, at every place of a batch and alone."""
        moved = at(step, rows)
        answers = np.asarray(predict(np.repeat(moved, COPIES, 0))).reshape(-1, COPIES)
        wrong = (answers != labels[rows, None]).all(1)
        for row in np.flatnonzero(wrong):
            wrong[row] = np.asarray(predict(moved[row : row + 1]))[0] != labels[rows[row]]
        return wrong

    step, low = np.zeros(len(x)), np.zeros(len(x))
    if not len(x):
        return Crossing(x, np.zeros(0, bool), step)
    moved = todo = np.flatnonzero(~flips(step, np.arange(len(x))))
    size = least = float(np.finfo(x.dtype).eps) / 8
    while len(todo) and size < longest:
        step[todo], low[todo] = size, size / 2
        todo = todo[~flips(step, todo)]
        size *= 2
    step[todo] = 0.0
    moved = np.setdiff1d(moved, todo)
    for _ in range(HALVINGS if len(moved) else 0):
        middle = step.copy()
        middle[moved] = np.sqrt(low[moved] * step[moved])
        wrong = flips(middle, moved)
        step[moved[wrong]] = middle[moved[wrong]]
        low[moved[~wrong]] = middle[moved[~wrong]]
    success, every = np.ones(len(x), bool), np.arange(len(x))
    success[todo] = False
    while (again := success & (np.asarray(predict(at(step, every))) == labels)).any():
        step[again] = np.maximum(2 * step[again], least)
        success &= step < longest
    step[~success] = 0.0
    return Crossing(at(step, every).reshape(shape), success, step)
