"""The radii of an evaluation: a number for all images, or one for each image."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxadv.attacks import PGD
from jaxadv.core.bounds import Bounds
from jaxadv.core.typing import ArrayLike, Numbers
from jaxadv.engine.checks import check_epsilon


def check_epsilons(
    epsilons: Sequence[Numbers] | ArrayLike,
    count: int,
    norm: str,
    shape: Sequence[int],
    bounds: Bounds,
) -> np.ndarray:
    """Return the distinct epsilons, ascending; with an array among them, by their means.

    Args:
        epsilons: Numbers, and arrays [N] of one radius for each image.
        count: The number N of images.
        norm: Name of the norm.
        shape: [H, W, C].
        bounds: The bounds of the model.

    Returns:
        Floats [E]; with an array among them, [E, N].

    Raises:
        ValueError: If there is none, an array has not one radius for each image, or a radius is
            negative or too large.

    Example:
        >>> import numpy as np
        >>> from jaxadv.protocols.epsilons import check_epsilons
        >>> check_epsilons([0.2, 0.1, 0.2], 3, "linf", (2, 2, 1), (0.0, 1.0))
        array([0.1, 0.2])
        >>> check_epsilons([0.3, np.array([0.1, 0.4])], 2, "linf", (2, 2, 1), (0.0, 1.0))
        array([[0.1, 0.4],
               [0.3, 0.3]])
    """
    attack = PGD(norm=norm)
    try:
        per_image = any(map(_is_array, epsilons))
    except TypeError:  # one number
        per_image = False
    if not per_image:
        numbers: Any = epsilons
        if np.size(numbers) == 0:
            raise ValueError(f"epsilons={epsilons!r}: pass at least one number")
        return np.unique(check_epsilon(attack, numbers, np.size(numbers), shape, bounds))
    rows = []
    for number, one in enumerate(epsilons):
        try:
            rows.append(check_epsilon(attack, one, count, shape, bounds))
        except ValueError as error:
            raise ValueError(f"epsilons[{number}]: {error}") from None
    radii = np.unique(rows, axis=0)
    return radii[np.argsort(radii.mean(1), kind="stable")]


def _is_array(one: Any) -> bool:
    return isinstance(one, list | tuple) or getattr(one, "ndim", 0) > 0
