"""Checks of the gradients: are they non-zero and finite, and do they match the outputs?"""

import numpy as np

from jaxadv.engine import clean_answers
from jaxadv.engine.diagnose.finding import Finding, verdict

ERROR = 0.5  # sound networks: up to 0.25; k-winners-take-all and half of a layer detached: over 0.6


def some_gradient(clean: dict[str, np.ndarray], inside: dict[str, np.ndarray]) -> Finding:
    """Check whether losses have finite, non-zero gradients at the images and inside the ball."""
    messages = clean_answers.gradient_messages(clean)
    for message in clean_answers.gradient_messages(inside):
        messages.append(f"at random points of the ball {message}")
    return verdict("gradients", "; ".join(messages))


def true_gradient(
    gradient: np.ndarray, pairs: np.ndarray, margins: np.ndarray, floor: float, cuts: list[str]
) -> Finding:
    """Check whether the margin changes between pairs of points as its gradient predicts.

    Args:
        gradient: Gradient [N, ...] of the margin at the images.
        pairs: Points [2, D, N, ...] on both sides of the images, a twentieth of epsilon away.
        margins: Margins [2, D, N] of the points.
        floor: Change of the margin that rounding errors may account for.
        cuts: Operations without a derivative between image and logits, named as suspects.

    Returns:
        The finding, which fails if the relative error exceeds `ERROR`.
    """
    apart = (pairs[0].astype(np.float64) - pairs[1]) * gradient
    predicted = apart.reshape(*apart.shape[:2], -1).sum(2)
    measured = margins[0].astype(np.float64) - margins[1]
    left = np.median(np.abs(measured - predicted))
    error = left / max(float(np.median(np.abs(measured))), floor, 1e-30)
    suspects = f" (suspects: {', '.join(cuts)})" if cuts else ""
    return verdict(
        "true gradients",
        f"the gradient misses {100 * error:.0f} % of how the margin changes over epsilon / 20: it "
        f"is cut, replaced or shattered on the way{suspects}; average it over random points, or "
        "pass attacks without gradients"
        if not error <= ERROR
        else "",
    )
