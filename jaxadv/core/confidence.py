"""Confidence intervals for proportions."""

import math

import numpy as np

Count = float | int | np.integer  # without jax, which a report does not load


def wilson(successes: Count, count: Count, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson confidence interval of a proportion.

    Args:
        successes: The number of successes.
        count: The number of trials.
        z: The quantile of the normal distribution (default: a 95 % interval).

    Returns:
        The lower and the upper bound; (0, 1) without trials.

    >>> from jaxadv.core.confidence import wilson
    >>> [round(bound, 3) for bound in wilson(90, 100)]
    [0.826, 0.945]
    """
    if count == 0:
        return 0.0, 1.0
    successes, count = float(successes), float(count)
    rate, spread = successes / count, z * z / count
    centre = rate + spread / 2
    half = z * math.sqrt(rate * (1 - rate) / count + spread / (4 * count))
    return max(0.0, (centre - half) / (1 + spread)), min(1.0, (centre + half) / (1 + spread))
