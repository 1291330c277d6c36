"""`prove_radii`: the largest radii at which images are proved, by bisection."""

from typing import Any

import numpy as np

from jaxadv.core.bounds import sides_of
from jaxadv.core.model import Model
from jaxadv.core.norms import diameter
from jaxadv.core.typing import ArrayLike, Numbers
from jaxadv.protocols.prove import prove

NEARLY = 0.999  # of a known distance: where it is exact, nothing is left to bisect
# Branch and bound often proves nearly all of a distance; other efforts mostly a small part of it.
FIRST = {"strong": (NEARLY, 0.99, 0.9)}


def prove_radii(
    model: Model,
    images: ArrayLike,
    labels: Numbers,
    upper: Numbers,
    norm: str = "linf",
    *,
    effort: str = "standard",
    rounds: int = 6,
    **options: Any,
) -> np.ndarray:
    """Find for each image the largest radius at which `prove` proves it, by bisection.

    Args:
        model: The model.
        images: Floats [N, H, W, C].
        labels: Integers [N].
        upper: Floats [N], radii at which an adversarial image is known; 0: nothing to prove,
            infinite: none is known, so the search ends at the diameter of the bounds.
        norm: "linf", "l2" or "l1".
        effort: As in `prove`.
        rounds: Number of calls; the first ones try `FIRST` of `upper`, until one is proved.
        **options: Further arguments of `prove`; no attacks are run.

    Returns:
        Floats [N], radii within which no adversarial image lies, 0 where nothing was proved.

    Raises:
        ValueError: As `prove`.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> from jaxadv.protocols.proved_radii import prove_radii
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
        >>> images, labels = jnp.eye(4).reshape(4, 2, 2, 1), jnp.arange(4)
        >>> prove_radii(model, images, labels, [0.5] * 4, rounds=2).round(4)
        array([0.4995, 0.4995, 0.4995, 0.4995])
    """
    images, labels = np.asarray(images), np.asarray(labels)
    span = sides_of(model.bounds, images.shape[1:])
    high = np.minimum(
        np.asarray(upper, np.float64), float(diameter(norm, int(np.prod(images.shape[1:])), span))
    )
    whole, low, first = high, np.zeros(len(images)), FIRST.get(effort, (NEARLY,))
    for number in range(rounds):
        rows = np.flatnonzero(low < NEARLY * high)
        if len(rows) == 0:
            break
        radii = (low + high)[rows] / 2
        if number < len(first):
            radii = np.where(low[rows] > 0, radii, first[number] * whole[rows])
        proof = prove(
            model,
            images[rows],
            labels[rows],
            radii,
            norm,
            effort=effort,
            attacks={},
            **options,
        )
        low[rows] = np.where(proof.proved, radii, low[rows])
        high[rows] = np.where(proof.proved, high[rows], radii)
        if not proof.complete:
            break
    return low
