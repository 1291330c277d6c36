"""Survival of adversarial images under transforms such as JPEG, blur, noise and scaling.

Accuracy through a transform is measured under ordinary attacks and under adaptive attacks, which go
through the transform.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from jaxadv.attacks import DDN, PGD
from jaxadv.core.attack import Attack
from jaxadv.core.model import EOT, Model
from jaxadv.core.result import Status
from jaxadv.core.transforms import (
    JPEG,
    Brightness,
    Contrast,
    Cropping,
    Foveation,
    GaussianBlur,
    Noise,
    Rescaling,
    Rounding,
    Shifting,
    Transform,
    transformed,
)
from jaxadv.core.typing import ArrayLike, Key, Numbers
from jaxadv.engine.checks import check_attacks, check_named, check_problem, key_or_first
from jaxadv.engine.result_store import Store
from jaxadv.engine.session import StageProgress
from jaxadv.engine.verify import predict
from jaxadv.protocols.runs import Runs

USUAL: dict[str, dict[float, Transform]] = {  # transforms by kind and strength; the mildest first
    "rounding, levels": {n: Rounding(n) for n in (256, 16, 4)},
    "JPEG, quality": {q: JPEG(q) for q in (95, 75, 50, 25)},
    "blur, pixels": {s: GaussianBlur(s) for s in (0.5, 1.0, 1.5)},
    "foveated, slope": {s: Foveation(s) for s in (0.05, 0.1, 0.2)},
    "noise": {s: Noise(s) for s in (0.02, 0.05, 0.1)},
    "brightness": {f: Brightness(f) for f in (0.8, 0.5)},
    "contrast": {f: Contrast(f) for f in (0.8, 0.5)},
    "rescaling": {f: Rescaling(f) for f in (0.75, 0.5)},
    "cropping, pixels": {m: Cropping(m) for m in (1, 2)},
    "shifting, pixels": {m: Shifting(m) for m in (1, 2)},
}
DRAWS = 10  # of a random transform, for every evaluated image


class Survival(NamedTuple):
    """The effect of T transforms on A attacks; all rates are fractions.

    Attributes:
        kinds: Kinds of the transforms, [T].
        strengths: Strengths of the transforms, [T].
        attacks: Names of the attacks, [A].
        count: Number N of images.
        plain: Accuracy on clean images without a transform.
        success: Fraction of the correctly classified images that the attack fools, [A].
        distance: Median distance of these, in the attack's norm, [A].
        clean: Accuracy on clean images through the transform, [T].
        survived: Fraction of the successes that still fool through the transform, [A, T].
        ordinary: Accuracy through the transform on images of the attack without it, [A, T].
        adaptive: Accuracy through the transform on images of the attack through it, [A, T].
        reach: Median distance of the adaptive attack's successes (nan if none), [A, T].
        found: Images of the ordinary attack, float32 [A, N, H, W, C].
        through: Images of the adaptive attack, float32 [A, T, N, H, W, C].
    """

    kinds: tuple[str, ...]
    strengths: tuple[float, ...]
    attacks: tuple[str, ...]
    count: int
    plain: float
    success: Float[np.ndarray, " A"]
    distance: Float[np.ndarray, " A"]
    clean: Float[np.ndarray, " T"]
    survived: Float[np.ndarray, "A T"]
    ordinary: Float[np.ndarray, "A T"]
    adaptive: Float[np.ndarray, "A T"]
    reach: Float[np.ndarray, "A T"]
    found: Float32[np.ndarray, "A N ..."]
    through: Float32[np.ndarray, "A T N ..."]


def fraction_correct(
    model: Model, images: np.ndarray, labels: np.ndarray
) -> Float[np.ndarray, " N"]:
    """Return the fraction of correct predictions for each image.

    A random model predicts `DRAWS` times, with draws that no attack has seen; any other model once.

    Args:
        model: The model.
        images: Images [N, H, W, C].
        labels: Classes [N].

    Returns:
        The fractions [N], float64.
    """
    correct = np.zeros(len(images))
    draws = DRAWS if model.random else 1
    for _ in range(draws):
        model = model.fresh()
        correct += predict(model, images).argmax(1) == labels
    return correct / draws


def survival(
    model: Model,
    images: ArrayLike,
    labels: Numbers,
    attacks: Mapping[str, Attack] | None = None,
    epsilon: float | None = None,
    *,
    transforms: Mapping[str, Mapping[float, Transform]] | None = None,
    samples: int = 10,
    key: Key | None = None,
    ids: Numbers | None = None,
    lanes: int | None = None,
    store: str | Path | None = None,
    progress: StageProgress | None = None,
) -> Survival:
    """Measure accuracy through transforms, under ordinary and under adaptive attacks.

    Every attack runs once on the model and once through each transform (`ja.transformed`); through
    a random transform, on the mean of `samples` draws (`ja.EOT`). If the adaptive attack fails, the
    ordinary image is used. Random transforms are evaluated with ten fresh draws for each image.

    Args:
        model: The model.
        images: Images [N, H, W, C] within `model.bounds`.
        labels: Classes, integers [N].
        attacks: Attacks by name (default: PGD on the margin and DDN).
        epsilon: Radius of the attacks that need one.
        transforms: Transforms by kind and strength (default: `USUAL`).
        samples: Draws of a random transform over which the adaptive attack averages.
        key: Random key (default: key 0).
        ids: Example ids [N] (default: 0 to N - 1).
        lanes: Lanes per device (default: chosen by the engine).
        store: Folder in which the result of every attack is kept (None: none).
        progress: Called with (attack, images done, images in all, successes).

    Returns:
        The rates and the images of both attacks.

    Raises:
        ValueError: `attacks` or `transforms` is empty; `images` or `labels` do not fit the model;
            or an attack does not fit the model or `epsilon`.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
        >>> images = jnp.eye(4).reshape(4, 2, 2, 1) * 0.9
        >>> rates = ja.survival(model, images, jnp.arange(4), {"PGD": ja.PGD(steps=20)}, 0.46,
        ...                     transforms={"brightness": {0.5: ja.Brightness(0.5)}})
        >>> rates.success, rates.survived, rates.adaptive
        (array([1.]), array([[1.]]), array([[0.]]))
    """
    attacks = {"PGD": PGD(loss="margin"), "DDN": DDN()} if attacks is None else dict(attacks)
    chosen = [
        (kind, float(strength), transform)
        for kind, strengths in (USUAL if transforms is None else transforms).items()
        for strength, transform in strengths.items()
    ]
    for name, items in (("attacks", attacks), ("transforms", chosen)):
        if not items:
            raise ValueError(f"{name} is empty: pass one or more")
    check_named(attacks, "attacks")
    images, goal, _, classes = check_problem(model, images, labels, ids)
    check_attacks(attacks.values(), model, goal, classes, epsilon, images.shape[1:])
    key = key_or_first(key)
    settings = {"key": key, "ids": ids, "lanes": lanes}
    shape, runs = (len(attacks), len(chosen)), Runs(Store.or_none(store), progress)
    survived, ordinary, adaptive, reach = np.full((4, *shape), np.nan)
    success, distance = np.full((2, len(attacks)), np.nan)
    defended = [transformed(model, transform) for _, _, transform in chosen]
    clean = np.array([fraction_correct(one, images, goal.labels).mean() for one in defended])
    attacked, through = [], np.empty((*shape, *images.shape), np.float32)
    before = fraction_correct(model, images, goal.labels)
    for a, (name, attack) in enumerate(attacks.items()):
        radius = epsilon if attack.needs_epsilon else None
        plain = runs.run(name, attack, model, images, goal, radius, **settings)
        attacked.append(np.where(_rows(plain.success, images), plain.images, images))
        fooled = plain.status == Status.SUCCESS
        success[a] = fooled.sum() / max(before.sum(), 1)
        distance[a] = _median(plain.distance[fooled])
        for t, (kind, strength, transform) in enumerate(chosen):
            title = f"{name} through {kind} {strength:g}"
            correct = fraction_correct(defended[t], attacked[a], goal.labels)
            ordinary[a, t] = correct.mean()
            survived[a, t] = 1 - correct[fooled].mean() if fooled.any() else np.nan
            target = EOT(defended[t], samples) if transform.random else defended[t]
            result = runs.run(title, attack, target, images, goal, radius, **settings)
            through[a, t] = np.where(_rows(result.success, images), result.images, attacked[a])
            adaptive[a, t] = fraction_correct(defended[t], through[a, t], goal.labels).mean()
            reach[a, t] = _median(result.distance[result.status == Status.SUCCESS])
    return Survival(
        tuple(kind for kind, _, _ in chosen),
        tuple(strength for _, strength, _ in chosen),
        tuple(attacks),
        len(images),
        float(before.mean()),
        success,
        distance,
        clean,
        survived,
        ordinary,
        adaptive,
        reach,
        np.stack(attacked),
        through,
    )


def _rows(mask: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return a mask [N] with axes of length 1 appended, to broadcast with the images."""
    return mask.reshape(-1, *(1,) * (images.ndim - 1))


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else np.nan
