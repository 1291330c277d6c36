"""The effect of a family of attacks on a defence, both unaware of the defence and adaptive.

An attack that is unaware of a defence says little: Carlini and Wagner (2017, arXiv 1705.07263)
broke ten detectors with adaptive attacks. One function therefore computes and returns both numbers.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool

from jaxadv.core.model import Model
from jaxadv.core.typing import Key
from jaxadv.data import Dataset
from jaxadv.engine.verify import predict
from jaxadv.studies.tampered.defences import Defence
from jaxadv.studies.tampered.families import Family, Made, fools


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One family against one defence, as fractions of the images.

    Attributes:
        family: Name of the family.
        defence: Name of the defence.
        kind: "class" or "detector".
        plain: Fraction that is made for the plain network and succeeds there.
        rejected: Of these, the fraction that the defence rejects (nan: none succeeds).
        missed: Of these, the fraction that the defence assigns to a wrong natural class although
            the images were not made for it (nan: none succeeds). The rest is classified correctly.
        adaptive: Fraction that succeeds against the defence and is not rejected, by the adaptive
            attack or by the image made for the plain network.
        plain_distance: Median distance of the successes on the plain network (nan: none, or no
            distance).
        adaptive_distance: Median distance of the adaptive successes (nan: none, or no distance).
        count: Number of images.

    Raises:
        ValueError: `plain` or `adaptive` is outside [0, 1]: no outcome exists without `adaptive`.
    """

    family: str
    defence: str
    kind: str
    plain: float
    rejected: float
    missed: float
    adaptive: float
    plain_distance: float
    adaptive_distance: float
    count: int

    def __post_init__(self) -> None:
        for name in ("plain", "adaptive"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(
                    f"{name}={value}: an outcome holds the fraction that succeeded against the "
                    "plain network and that of the adaptive attack on the defence; run `confront`"
                )


@dataclasses.dataclass(frozen=True)
class Confrontation:
    """A family against several defences.

    Attributes:
        outcomes: One outcome for each defence.
        right: Mask [N] of the natural images that the plain network classifies correctly.
        ordinary: Images made for the plain network.
        adaptive: Images made for each defence.
    """

    outcomes: tuple[Outcome, ...]
    right: Bool[np.ndarray, " N"]
    ordinary: Made
    adaptive: tuple[Made, ...]


def confront(
    family: Family,
    plain: Model,
    defences: Sequence[Defence],
    given: Dataset,
    data: Dataset,
    *,
    key: Key,
    progress: Callable[[int], None] = lambda _: None,
) -> Confrontation:
    """Attack the plain network with a family, then each defence adaptively.

    Costs the family's passes once for the plain network and once for each defence.

    Args:
        family: The family of attacks.
        plain: The network without a defence.
        defences: The defences.
        given: Natural images that an attack may learn from.
        data: Natural images to be changed; only those that the plain network classifies correctly
            count.
        key: JAX random key.
        progress: Called with the number of defences done.

    Returns:
        The outcomes and all images.

    Raises:
        ValueError: The plain network classifies no image of `data` correctly.

    >>> import jax, jax.numpy as jnp, numpy as np, jaxadv as ja
    >>> from jaxadv.data import Dataset
    >>> from jaxadv.studies.tampered import Defence, Perturbed, confront
    >>> images, labels = np.eye(4, dtype="float32")[:2].reshape(2, 2, 2, 1), np.arange(2)
    >>> data = Dataset(images, labels, labels, "corners", tuple("ab"))
    >>> plain = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4)[:, :2])
    >>> dark = ja.Model(lambda w, x: (w - x.max((1, 2, 3)))[:, None] * jnp.array([0, 1]), 0.7)
    >>> defence = Defence("not too dark", "detector", ja.with_detector(plain, dark), rejected=2)
    >>> family = Perturbed("PGD", ja.PGD(loss="margin"), 0.6)
    >>> outcome = confront(family, plain, [defence], data, data, key=jax.random.key(0)).outcomes[0]
    >>> outcome.plain, outcome.rejected, outcome.adaptive
    (1.0, 1.0, 0.0)
    """
    right = predict(plain, data.images).argmax(1) == data.labels
    if not right.any():
        raise ValueError("data has no image that the plain network gets right: pass others")

    def counted(fooled: np.ndarray) -> np.ndarray:
        return fooled[right] if family.natural else fooled

    ordinary = family.make(plain, given, data, None, key)
    plainly, near = counted(fools(family, plain, ordinary, None)), counted(ordinary.distance)
    outcomes, adaptive = [], []
    for number, defence in enumerate(defences):
        progress(number)
        made = family.make(defence.model, given, data, defence.rejected, key)
        missed = counted(fools(family, defence.model, ordinary, defence.rejected))
        evaded = counted(fools(family, defence.model, made, defence.rejected))
        distance = np.where(evaded, counted(made.distance), np.inf)
        distance = np.minimum(distance, np.where(missed, near, np.inf))
        predicted = predict(defence.model, ordinary.images).argmax(1)
        refused = counted(predicted == defence.rejected)
        outcomes.append(
            Outcome(
                family.name,
                defence.name,
                defence.kind,
                float(plainly.mean()),
                _mean(refused[plainly]),
                _mean(missed[plainly]),
                float((evaded | missed).mean()),
                _median(family, near[plainly]),
                _median(family, distance[evaded | missed]),
                len(plainly),
            )
        )
        adaptive.append(made)
    return Confrontation(tuple(outcomes), right, ordinary, tuple(adaptive))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _median(family: Family, distance: np.ndarray) -> float:
    return float(np.median(distance)) if family.natural and len(distance) else float("nan")
