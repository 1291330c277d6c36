"""Confidence intervals for proportions."""

import math
from typing import Any


def wilson(successes: Any, count: Any, z: float = 1.959964) -> tuple[Any, Any]:
    """Return the Wilson interval (95 % for the default z) of the proportion `successes` / `count`.

    >>> from jaxadv.core.shares import wilson
    >>> [round(bound, 3) for bound in wilson(90, 100)]
    [0.826, 0.945]
    """
    if count == 0:
        return 0.0, 1.0
    share, spread = successes / count, z * z / count
    centre = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, (centre - half) / (1 + spread)), min(1.0, (centre + half) / (1 + spread))
