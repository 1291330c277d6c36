"""Survival of adversarial images under transforms such as JPEG, blur, noise and scaling.

Accuracy through a transform is measured under ordinary attacks and under adaptive attacks, which go
through the transform.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxadv.attacks import DDN, PGD
from jaxadv.core.attack import Attack
from jaxadv.core.confidence import wilson
from jaxadv.core.model import EOT, Model
from jaxadv.core.result import Status
from jaxadv.core.transforms import (
    JPEG,
    Brightness,
    Contrast,
    Cropping,
    GaussianBlur,
    Noise,
    Rescaling,
    Rounding,
    Shifting,
    Transform,
    transformed,
)
from jaxadv.engine.checks import check_attacks, check_named, check_problem
from jaxadv.engine.result_store import Store
from jaxadv.engine.session import StageProgress
from jaxadv.engine.verify import predict
from jaxadv.protocols.runs import Runs
from jaxadv.studies.blind_spots import examples_of
from jaxadv.studies.findings import Curves, Findings, Gallery, Part, Table, Text
from jaxadv.studies.networks import trained
from jaxadv.studies.setting import Setting

USUAL: dict[str, dict[float, Transform]] = {  # transforms by kind and strength; the mildest first
    "rounding, levels": {n: Rounding(n) for n in (256, 16, 4)},
    "JPEG, quality": {q: JPEG(q) for q in (95, 75, 50, 25)},
    "blur, pixels": {s: GaussianBlur(s) for s in (0.5, 1.0, 1.5)},
    "noise": {s: Noise(s) for s in (0.02, 0.05, 0.1)},
    "brightness": {f: Brightness(f) for f in (0.8, 0.5)},
    "contrast": {f: Contrast(f) for f in (0.8, 0.5)},
    "rescaling": {f: Rescaling(f) for f in (0.75, 0.5)},
    "cropping, pixels": {m: Cropping(m) for m in (1, 2)},
    "shifting, pixels": {m: Shifting(m) for m in (1, 2)},
}
DRAWS = 10  # of a random transform, for every evaluated image
SHOWN = ("rounding, levels", "JPEG, quality", "blur, pixels", "noise")  # kinds shown in pictures


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
    success: np.ndarray
    distance: np.ndarray
    clean: np.ndarray
    survived: np.ndarray
    ordinary: np.ndarray
    adaptive: np.ndarray
    reach: np.ndarray
    found: np.ndarray
    through: np.ndarray


def right(model: Model, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the fraction [N] of predictions that are correct for each image.

    A random model predicts `DRAWS` times, with draws that no attack has seen; any other model once.

    Args:
        model: The model.
        images: Images [N, H, W, C].
        labels: Classes [N].

    Returns:
        The fractions, float64.
    """
    shares = np.zeros(len(images))
    draws = DRAWS if model.random else 1
    for _ in range(draws):
        model = model.fresh()
        shares += predict(model, images).argmax(1) == labels
    return shares / draws


def survival(
    model: Model,
    images: Any,
    labels: Any,
    attacks: Mapping[str, Attack] | None = None,
    epsilon: float | None = None,
    *,
    transforms: Mapping[str, Mapping[float, Transform]] | None = None,
    samples: int = 10,
    key: Any = None,
    ids: Any = None,
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
        >>> found = ja.survival(model, images, jnp.arange(4), {"PGD": ja.PGD(steps=20)}, 0.46,
        ...                     transforms={"brightness": {0.5: ja.Brightness(0.5)}})
        >>> found.success, found.survived, found.adaptive
        (array([1.]), array([[1.]]), array([[0.]]))
    """
    attacks = {"PGD": PGD(loss="margin"), "DDN": DDN()} if attacks is None else dict(attacks)
    chosen = [
        (kind, float(strength), transform)
        for kind, each in (USUAL if transforms is None else transforms).items()
        for strength, transform in each.items()
    ]
    for name, given in (("attacks", attacks), ("transforms", chosen)):
        if not given:
            raise ValueError(f"{name} is empty: pass one or more")
    check_named(attacks, "attacks")
    images, goal, _, classes = check_problem(model, images, labels, ids)
    check_attacks(attacks.values(), model, goal, classes, epsilon, images.shape[1:])
    settings = {"key": jax.random.key(0) if key is None else key, "ids": ids, "lanes": lanes}
    shape, runs = (len(attacks), len(chosen)), Runs(Store.or_none(store), progress)
    survived, ordinary, adaptive, reach = np.full((4, *shape), np.nan)
    success, distance = np.full((2, len(attacks)), np.nan)
    defended = [transformed(model, transform) for _, _, transform in chosen]
    clean = np.array([right(one, images, goal.labels).mean() for one in defended])
    kept, through = [], np.empty((*shape, *images.shape), np.float32)
    before = right(model, images, goal.labels)
    for a, (name, attack) in enumerate(attacks.items()):
        radius = epsilon if attack.needs_epsilon else None
        plain = runs.run(name, attack, model, images, goal, radius, **settings)
        kept.append(np.where(_rows(plain.success, images), plain.images, images))
        fooled = plain.status == Status.SUCCESS
        success[a] = fooled.sum() / max(before.sum(), 1)
        distance[a] = _median(plain.distance[fooled])
        for t, (kind, strength, transform) in enumerate(chosen):
            title = f"{name} through {kind} {strength:g}"
            share = right(defended[t], kept[a], goal.labels)
            ordinary[a, t] = share.mean()
            survived[a, t] = 1 - share[fooled].mean() if fooled.any() else np.nan
            asked = EOT(defended[t], samples) if transform.random else defended[t]
            result = runs.run(title, attack, asked, images, goal, radius, **settings)
            through[a, t] = np.where(_rows(result.success, images), result.images, kept[a])
            adaptive[a, t] = right(defended[t], through[a, t], goal.labels).mean()
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
        np.stack(kept),
        through,
    )


def _rows(mask: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return a mask [N] with axes of length 1 appended, to broadcast with the images."""
    return mask.reshape(-1, *(1,) * (images.ndim - 1))


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else np.nan


def survival_findings(
    found: Survival, images: np.ndarray, epsilon: float | None, bounds: tuple[float, float]
) -> Findings:
    """Return the tables, curves and pictures of `survival`.

    Args:
        found: The result of `survival`.
        images: The clean images [N, H, W, C].
        epsilon: Radius of the attacks that need one.
        bounds: The least and the largest value of a pixel.

    Returns:
        The findings.
    """
    rows = tuple(f"{kind} {s:g}" for kind, s in zip(found.kinds, found.strengths, strict=True))
    best = np.unravel_index(
        np.argmax(found.ordinary - found.adaptive), found.ordinary.shape
    )  # where the transform seems to help most
    gap = (found.ordinary[best], found.adaptive[best])
    low, high = (100 * bound for bound in wilson(gap[1] * found.count, found.count))
    at = "" if epsilon is None else f" (ε = {epsilon:.3g} where one is needed)"
    parts: list[Part] = [
        Text(
            f"{found.count} images, {100 * found.plain:.1f} % of them classified right as they "
            f"are{at}. A transform that an attack does not know of can look like a defence; the "
            f"widest gap: {found.attacks[best[0]]}, {rows[best[1]]}, accuracy "
            f"{100 * gap[0]:.1f} % on what was made without it and {100 * gap[1]:.1f} % (95 % "
            f"interval {low:.1f} to {high:.1f}) on what was made through it."
        )
    ]
    for a, name in enumerate(found.attacks):
        values = np.stack(
            [
                100 * found.clean,
                100 * found.survived[a],
                100 * found.ordinary[a],
                100 * found.adaptive[a],
                found.reach[a],
            ],
            1,
        )
        parts.append(
            Table(
                f"{name}: survival of its images, and accuracy through the transform in per cent",
                rows,
                ("clean", "survived", "ordinary attack", "adaptive attack", "adaptive distance"),
                values,
                formats=(".1f", ".1f", ".1f", ".1f", ".3g"),
                note=f"Survived: of the images that the attack fools without the transform "
                f"({100 * found.success[a]:.1f} % of those that are right, median distance "
                f"{found.distance[a]:.3g}), those that still fool through it. Adaptive: the same "
                "attack, through the transform; its median distance.",
            )
        )
    for kind in dict.fromkeys(found.kinds):
        mine = [t for t, other in enumerate(found.kinds) if other == kind]
        if len(mine) < 3:
            continue
        x = np.array(found.strengths)[mine]
        lines = {"clean": np.stack([x, 100 * found.clean[mine]])}
        for a, name in enumerate(found.attacks):
            lines[f"{name}, ordinary"] = np.stack([x, 100 * found.ordinary[a, mine]])
            lines[f"{name}, adaptive"] = np.stack([x, 100 * found.adaptive[a, mine]])
        dashed = ("clean", *(f"{name}, ordinary" for name in found.attacks))
        parts.append(
            Curves(
                f"Accuracy through {kind}",
                kind,
                "right in %",
                lines,
                log="x" if x.max() > 8 * x.min() else "",
                dashed=dashed,
            )
        )
    if images.ndim == 4:
        parts.append(_pictures(found, images, bounds))
    return Findings("survival", "Do adversarial images survive what happens to images?", parts)


def _pictures(found: Survival, images: np.ndarray, bounds: tuple[float, float]) -> Gallery:
    """Return pictures of one image and of its adversarial images, by the first attack."""
    lower, upper = bounds
    both = np.concatenate([found.found[:1], found.through[0]])
    at = int((both != images).any((2, 3, 4)).sum(0).argmax())  # the first that most of them changed
    rows, shown = [], []
    for kind in dict.fromkeys(found.kinds):
        if kind in SHOWN or len(set(found.kinds)) <= len(SHOWN):
            t = max(t for t, other in enumerate(found.kinds) if other == kind)
            change = found.through[0, t, at] - images[at]
            change = 0.5 + change / (2 * max(np.abs(change).max(), 1e-12))
            pictures = (images[at], found.found[0, at], found.through[0, t, at])
            shown.append([*((x - lower) / (upper - lower) for x in pictures), change])
            rows.append(f"{kind} {found.strengths[t]:g}")
    return Gallery(
        f"One image, and what {found.attacks[0]} made of it",
        np.clip(shown, 0, 1),
        tuple(rows),
        ("image", "ordinary", "adaptive", "adaptive change"),
        note="before the transform; the change is scaled to its largest entry, grey is none",
    )


def images_of_digits(setting: Setting) -> Findings:
    """Survival of adversarial images under JPEG, blur, noise and the like, and adaptive attacks.

    PGD on the margin in Linf with epsilon 0.1, and DDN (minimum-norm, L2), on FC100-100-10.
    """
    data, epsilon = examples_of(setting.test, min(setting.examples, 200)), 0.1
    model = trained(setting, "FC100-100-10").model
    transforms = USUAL
    if data.images.shape[-1] not in (1, 3):
        transforms = {kind: each for kind, each in USUAL.items() if "JPEG" not in kind}
    if setting.quick:  # the mildest and the strongest of each kind
        transforms = {
            kind: {s: each[s] for s in (min(each), max(each))} for kind, each in transforms.items()
        }
    found = survival(
        model,
        data.images,
        data.labels,
        epsilon=epsilon,
        transforms=transforms,
        ids=data.ids,
        store=setting.store,
        progress=setting.report,
    )
    return survival_findings(found, data.images, epsilon, model.bounds)
