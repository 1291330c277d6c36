"""Checks of the gradients: are there any, are they finite, and do they say what the model does?"""

import numpy as np

from jaxadv.engine import checks
from jaxadv.engine.diagnose.finding import Finding, verdict

ERROR = 0.5  # sound networks: up to 0.25; k-winners-take-all and half of a layer detached: over 0.6


def some_gradient(clean: dict[str, np.ndarray], inside: dict[str, np.ndarray]) -> Finding:
    """Whether losses have finite gradients that are not zero, at the images and inside the ball."""
    messages = checks.gradient_messages(clean)
    for message in checks.gradient_messages(inside):
        messages.append(f"at random points of the ball {message}")
    return verdict("gradients", "; ".join(messages))


def true_gradient(
    gradient: np.ndarray, pairs: np.ndarray, margins: np.ndarray, floor: float, cuts: list[str]
) -> Finding:
    """Whether margins [2, D, N] differ between pairs [2, D, N, ...] as the gradient [N, ...] says.

    The pairs lie on both sides of the images, a twentieth of epsilon away; floor: what rounding
    errors may account for; cuts: operations without a derivative on the way, as suspects.
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
        "pass attacks that only ask"
        if not error <= ERROR
        else "",
    )
