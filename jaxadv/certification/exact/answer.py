"""The result of an exact distance, and the checks that all kinds of classifiers share."""

import math
from typing import NamedTuple

import numpy as np

from jaxadv.core.typing import Numbers


class ExactDistance(NamedTuple):
    """The result of `exact_distance`.

    Attributes:
        distance: Distance of `witness` from the image, recomputed in float64; infinite if no
            adversarial image was found.
        witness: The adversarial image, float64 in the image's shape, or None.
        proved: Whether no adversarial image is nearer, up to the gap.
        lower: Proved lower bound: no adversarial image is nearer than this.
        seconds: Wall time.
    """

    distance: float
    witness: np.ndarray | None
    proved: bool
    lower: float
    seconds: float


class Question(NamedTuple):
    """The problem to solve for one input.

    Attributes:
        x: The input, float64 [D].
        label: The class of the input.
        norm: "linf", "l2", "l1" or "l0".
        low: The least value of an entry.
        high: The largest value of an entry.
        limit: Distance up to which to search.
        whole: Distance that covers the whole box.
        seconds: Time limit.
        gap: The relative gap of each program.
    """

    x: np.ndarray
    label: int
    norm: str
    low: float
    high: float
    limit: float
    whole: float
    seconds: float
    gap: float

    def answer(self, best: float, witness: np.ndarray | None, lower: float) -> ExactDistance:
        """Return the result, from the nearest input found and a proved lower bound."""
        exhausted = best == math.inf and lower >= self.whole  # nothing in the box
        lower = math.inf if exhausted else min(lower, best)
        proved = exhausted or (best < math.inf and lower >= best * (1 - 2 * self.gap))
        return ExactDistance(best, witness, proved, lower, 0.0)


def length(norm: str, delta: np.ndarray) -> float:
    """Return the norm of a perturbation, in float64."""
    size = np.abs(delta)
    if norm == "l0":
        return float((size > 0).sum())
    if norm == "l2":
        return float(np.linalg.norm(size))
    return float(size.max(initial=0.0) if norm == "linf" else size.sum())


def checked_image(
    image: Numbers, inputs: int, label: int, classes: int, bounds: tuple[float, float]
) -> np.ndarray:
    """Return the image as a float64 vector [inputs].

    Args:
        image: The image, in any shape.
        inputs: Number of inputs of the classifier.
        label: The class of the image.
        classes: Number of classes.
        bounds: The least and the largest value of a pixel.

    Returns:
        The entries of the image in row order.

    Raises:
        ValueError: `image` has another number of entries, is not finite or leaves `bounds`, or
            `label` is not a class.
    """
    x = np.asarray(image, np.float64).ravel()
    if x.size != inputs:
        raise ValueError(f"image has {x.size} entries, but the classifier takes {inputs}")
    if not np.isfinite(x).all():
        raise ValueError("image holds values that are not finite")
    low, high = bounds
    if not low < high or x.min() < low or x.max() > high:
        raise ValueError(f"bounds={bounds}: image has values from {x.min()} to {x.max()}")
    if not 0 <= label < classes:
        raise ValueError(f"label={label}: pass a class from 0 to {classes - 1}")
    return x


def check_settings(upper: float | None, seconds: float, gap: float) -> None:
    """Raise ValueError unless `upper` (if given), `seconds` and `gap` are above 0."""
    for name, value in (("upper", upper), ("seconds", seconds), ("gap", gap)):
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value}: pass a number above 0")
