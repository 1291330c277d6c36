"""What a proof of a minimal distance returns, and the checks that all kinds of classifier share."""

import math
from typing import Any, NamedTuple

import numpy as np


class ExactDistance(NamedTuple):
    """The answer of `exact_distance`.

    distance: float, of `witness` from the image, recomputed in float64 (infinite: none found);
    witness: float64, in the image's shape, or None; proved: whether nothing nearer exists, but for
    the gap; lower: float, proved: no adversarial image is nearer than that; seconds: wall time.
    """

    distance: float
    witness: np.ndarray | None
    proved: bool
    lower: float
    seconds: float


class Question(NamedTuple):
    """What is to be proved of one input.

    x: float64 [D]; low, high: the box; limit: how far to look; whole: how far the box reaches;
    seconds: for the answer; gap: the relative gap of each program.
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
        """The nearest that was found, and that nothing else is nearer than `lower`."""
        exhausted = best == math.inf and lower >= self.whole  # nothing in the box
        lower = math.inf if exhausted else min(lower, best)
        proved = exhausted or (best < math.inf and lower >= best * (1 - 2 * self.gap))
        return ExactDistance(best, witness, proved, lower, 0.0)


def length(norm: str, delta: np.ndarray) -> float:
    """The norm of a perturbation, in float64."""
    size = np.abs(delta)
    if norm == "l0":
        return float((size > 0).sum())
    if norm == "l2":
        return float(np.linalg.norm(size))
    return float(size.max(initial=0.0) if norm == "linf" else size.sum())


def checked_image(
    image: Any, inputs: int, label: int, classes: int, bounds: tuple[float, float]
) -> np.ndarray:
    """The image as a float64 vector [inputs]; ValueError for one that does not fit."""
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
    """ValueError for settings that cannot be meant."""
    for name, value in (("upper", upper), ("seconds", seconds), ("gap", gap)):
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value}: pass a number above 0")
