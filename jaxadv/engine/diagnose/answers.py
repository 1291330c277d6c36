"""Checks of the model's outputs: are they repeatable, smooth, and consistent with the labels?"""

import math

import numpy as np

from jaxadv.core.bounds import Bounds, sides_of
from jaxadv.core.norms import diameter
from jaxadv.engine.diagnose.finding import Finding, verdict

ENOUGH = 20  # least number of images for judging a systematic shift of the labels


def largest_change(logits: np.ndarray, others: np.ndarray) -> float:
    """Return the largest difference between logits [N, K], as a fraction of the largest logit."""
    return float(np.abs(others - logits).max()) / max(float(np.abs(logits).max()), 1e-12)


def same_answers(logits: np.ndarray, others: list[np.ndarray]) -> Finding:
    """Check whether logits change by more than 1e-4 between identical calls (randomness)."""
    change = max(largest_change(logits, other) for other in others)
    changed = max(int((other.argmax(1) != logits.argmax(1)).sum()) for other in others)
    return verdict(
        "same answers",
        f"logits change by {100 * change:.2g} % between identical calls ({changed} of "
        f"{len(logits)} predictions differ): the model draws at random; average over its draws, "
        "else one lucky draw counts as a success"
        if change > 1e-4
        else "",
    )


def batch_size(logits: np.ndarray, others: np.ndarray) -> Finding:
    """Check whether an image's logits depend on the other images of its batch."""
    change = largest_change(logits, others)
    flipped = int((logits.argmax(1) != others.argmax(1)).sum())
    return verdict(
        "batch size",
        f"logits change by {100 * change:.2g} % when images come in batches of 7 "
        f"({flipped} predictions flip): an image's answer depends on its neighbours; put "
        "batch normalisation into evaluation mode"
        if change > 1e-3
        else "",
    )


def meant_labels(logits: np.ndarray, labels: np.ndarray) -> Finding:
    """Check whether the labels are those that the model was trained for."""
    count, classes = logits.shape
    predictions = logits.argmax(1)
    right = int((predictions == labels).sum())
    shifts = np.bincount((predictions - labels) % classes, minlength=classes)
    shift, agreed = int(shifts.argmax()), int(shifts.max())
    message = ""
    if count >= ENOUGH and shift and agreed > count / 2:
        by = f"plus {shift}" if shift <= classes / 2 else f"minus {classes - shift}"
        message = f"the model's answer is the label {by} for {agreed} of {count} images: number "
        message += "the classes as the model does (from 0)"
    elif right <= 1.25 * count / classes:
        message = f"{right} of {count} images are classified as labelled, chance would give "
        message += f"{count / classes:.0f}: pass the true labels, a model that is trained, and the "
        message += "images as in its training"
    return verdict("labels", message)


def meant_radius(epsilon: float, norm: str, shape: tuple[int, ...], bounds: Bounds) -> Finding:
    """Check whether epsilon is so large that every ball contains the mid-grey image."""
    half = diameter(norm, math.prod(shape), sides_of(bounds, shape)) / 2
    return verdict(
        "epsilon",
        f"every image is within epsilon={epsilon:g} of the grey one ({norm} {half:g}): no model "
        "can be robust there; pass a smaller epsilon, in the scale of the images"
        if norm != "l0" and epsilon >= half
        else "",
    )


def smooth(margin: np.ndarray, near: np.ndarray, epsilon: float) -> Finding:
    """Check whether the margin [N] barely changes at random points [D, N] within epsilon / 100.

    The measure is the mean relative change of Pintor et al. 2022, over all images at once.
    """
    change = float(np.abs(near - margin).mean() / max(np.abs(margin).mean(), 1e-12))
    return verdict(
        "smooth loss",
        f"random noise of epsilon / 100 = {epsilon / 100:.2g} changes the margin by "
        f"{100 * change:.0f} %: the loss is noisy (many small jumps) and its gradients tell "
        "little; average gradients over random points, or pass attacks without gradients"
        if change > 0.1
        else "",
    )
