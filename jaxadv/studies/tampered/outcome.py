"""What a family of attacks does to a defence, once without knowing of it and once knowing.

An attack that does not know of a defence says little: Carlini and Wagner (2017, arXiv 1705.07263)
broke ten detectors by telling the attack of them. So the two numbers exist together only: there is
one function that computes them, and it returns both.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Array

from jaxadv.core.model import Model
from jaxadv.data import Dataset
from jaxadv.engine.verify import predict
from jaxadv.studies.tampered.defences import Defence
from jaxadv.studies.tampered.families import Family, Made, fools


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One family against one defence, in shares of the images.

    plain: made for the plain network and successful there; rejected, missed: of these, what the
    defence refuses, and what it takes for a wrong natural class (missed) although it was not made
    for it (what is left it classifies right; nan where there are none); adaptive: successful
    against the defence, by an attack that must also not be refused (or by the image made for the
    plain network, where that does). plain_distance, adaptive_distance: the medians over successes
    (nan: none, or no distance). count: images.

    No outcome is made without `adaptive`: ValueError where one of the shares is none.
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
                    f"{name}={value}: an outcome holds the share that succeeded against the plain "
                    "network and that of the adaptive attack on the defence; run `confront`"
                )


@dataclasses.dataclass(frozen=True)
class Confrontation:
    """A family against several defences: an outcome for each, the images made for the plain network
    and those made for each defence. right: bool [N], the natural images that the plain network gets
    right."""

    outcomes: tuple[Outcome, ...]
    right: np.ndarray
    ordinary: Made
    adaptive: tuple[Made, ...]


def confront(
    family: Family,
    plain: Model,
    defences: Sequence[Defence],
    given: Dataset,
    data: Dataset,
    *,
    key: Array,
    progress: Callable[[int], None] = lambda _: None,
) -> Confrontation:
    """The family's images made for the plain network, then for each defence so as to evade it.

    given: natural images that an attack may learn from; data: those that are changed, of which only
    those count that the plain network gets right. progress: called with the number of defences
    done. Costs the family's passes once for the plain network and once for each defence.

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
        answers = predict(defence.model, ordinary.images).argmax(1)
        refused = counted(answers == defence.rejected)
        outcomes.append(Outcome(
            family.name, defence.name, defence.kind, float(plainly.mean()),
            _mean(refused[plainly]), _mean(missed[plainly]), float((evaded | missed).mean()),
            _median(family, near[plainly]), _median(family, distance[evaded | missed]),
            len(plainly),
        ))  # fmt: skip
        adaptive.append(made)
    return Confrontation(tuple(outcomes), right, ordinary, tuple(adaptive))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _median(family: Family, distance: np.ndarray) -> float:
    return float(np.median(distance)) if family.natural and len(distance) else float("nan")
