"""The study of adversarial images under transforms: `jaxadv.protocols.survival` on digits."""

import dataclasses

import numpy as np

from jaxadv.core.bounds import hull
from jaxadv.protocols.survival import USUAL, Survival, survival
from jaxadv.studies.blind_spots import examples_of
from jaxadv.studies.findings import Curves, Findings, Gallery, Part, Table, Text
from jaxadv.studies.fit import how_trained
from jaxadv.studies.networks import names_of, network_of
from jaxadv.studies.setting import Setting
from jaxadv.studies.wording import side, with_interval

SHOWN = ("rounding, levels", "JPEG, quality", "blur, pixels", "noise")  # kinds shown in pictures


def survival_findings(
    rates: Survival, images: np.ndarray, epsilon: float | None, bounds: tuple[float, float]
) -> Findings:
    """Return the tables, curves and pictures of `survival`.

    Args:
        rates: The result of `survival`.
        images: The clean images [N, H, W, C].
        epsilon: Radius of the attacks that need one.
        bounds: The least and the largest value of a pixel.

    Returns:
        The findings.
    """
    rows = tuple(f"{kind} {s:g}" for kind, s in zip(rates.kinds, rates.strengths, strict=True))
    at = "" if epsilon is None else f" (ε = {epsilon:.3g} where one is needed)"
    parts: list[Part] = [
        Text(
            f"{rates.count} images, {100 * rates.plain:.1f} % of them classified right "
            f"without a transform{at}. {survival_in_words(rates)}"
        )
    ]
    for a, name in enumerate(rates.attacks):
        values = np.stack(
            [
                100 * rates.clean,
                100 * rates.survived[a],
                100 * rates.ordinary[a],
                100 * rates.adaptive[a],
                rates.reach[a],
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
                f"({100 * rates.success[a]:.1f} % of those that are right, median distance "
                f"{rates.distance[a]:.3g}), those that still fool through it. Adaptive: the same "
                "attack, through the transform; its median distance.",
            )
        )
    for kind in dict.fromkeys(rates.kinds):
        columns = [t for t, other in enumerate(rates.kinds) if other == kind]
        if len(columns) < 3:
            continue
        x = np.array(rates.strengths)[columns]
        lines = {"clean": np.stack([x, 100 * rates.clean[columns]])}
        for a, name in enumerate(rates.attacks):
            lines[f"{name}, ordinary"] = np.stack([x, 100 * rates.ordinary[a, columns]])
            lines[f"{name}, adaptive"] = np.stack([x, 100 * rates.adaptive[a, columns]])
        dashed = ("clean", *(f"{name}, ordinary" for name in rates.attacks))
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
        parts.append(_pictures(rates, images, bounds))
    return Findings("survival", "Do adversarial images survive what happens to images?", parts)


def survival_in_words(rates: Survival) -> str:
    """Return where a transform that an attack does not take into account looks like a defence.

    Args:
        rates: The result of `survival`.

    Returns:
        The sentences.
    """
    rows = tuple(f"{kind} {s:g}" for kind, s in zip(rates.kinds, rates.strengths, strict=True))
    gaps = np.asarray(rates.ordinary - rates.adaptive)
    best = np.unravel_index(np.argmax(gaps), gaps.shape)  # where the transform helps most
    ordinary, adaptive = 100 * rates.ordinary, 100 * rates.adaptive
    apart = [
        side(a, b, rates.count) > 0 for a, b in zip(ordinary.ravel(), adaptive.ravel(), strict=True)
    ]
    looks = "can look like a defence" if any(apart) else "is not shown to look like a defence"
    return (
        f"In {sum(apart)} of {len(apart)} cells (attack and transform) the accuracy is higher, "
        "beyond 95 % intervals, under the attack that does not take the transform into account "
        f"than under the one through it: such a transform {looks} here. The widest gap: "
        f"{rates.attacks[best[0]]}, {rows[best[1]]}, accuracy {ordinary[best]:.1f} % without and "
        f"{with_interval(float(adaptive[best]), rates.count)} through it."
    )


def _pictures(rates: Survival, images: np.ndarray, bounds: tuple[float, float]) -> Gallery:
    """Return pictures of one image and of its adversarial images, by the first attack."""
    lower, upper = bounds
    both = np.concatenate([rates.found[:1], rates.through[0]])
    at = int((both != images).any((2, 3, 4)).sum(0).argmax())  # the first that most of them changed
    rows, shown = [], []
    for kind in dict.fromkeys(rates.kinds):
        if kind in SHOWN or len(set(rates.kinds)) <= len(SHOWN):
            t = max(t for t, other in enumerate(rates.kinds) if other == kind)
            change = rates.through[0, t, at] - images[at]
            change = 0.5 + change / (2 * max(np.abs(change).max(), 1e-12))
            pictures = (images[at], rates.found[0, at], rates.through[0, t, at])
            shown.append([*((x - lower) / (upper - lower) for x in pictures), change])
            rows.append(f"{kind} {rates.strengths[t]:g}")
    return Gallery(
        f"One image, and what {rates.attacks[0]} made of it",
        np.clip(shown, 0, 1),
        tuple(rows),
        ("image", "ordinary", "adaptive", "adaptive change"),
        note="before the transform; the change is scaled to its largest entry, grey is none",
    )


def images_of_digits(setting: Setting) -> Findings:
    """Survival of adversarial images under JPEG, blur, noise and the like, and adaptive attacks.

    PGD on the margin in Linf with epsilon 0.1 (colour images: 10/255), and DDN (minimum-norm, L2),
    on FC100-100-10 or the network that the setting gives.
    """
    data, epsilon = examples_of(setting.test, min(setting.examples, 200)), setting.radius(0.1)
    name = names_of(setting, ("FC100-100-10",))[0]
    model = network_of(setting, name).model
    transforms = USUAL
    if data.images.shape[-1] not in (1, 3):
        transforms = {kind: grid for kind, grid in USUAL.items() if "JPEG" not in kind}
    if setting.quick:  # the mildest and the strongest of each kind
        transforms = {
            kind: {s: grid[s] for s in (min(grid), max(grid))} for kind, grid in transforms.items()
        }
    rates = survival(
        model,
        data.images,
        data.labels,
        epsilon=epsilon,
        transforms=transforms,
        ids=data.ids,
        store=setting.store,
        progress=setting.report,
    )
    fit = how_trained(setting, (name,))
    findings = survival_findings(rates, data.images, epsilon, hull(model.bounds))
    return dataclasses.replace(findings, parts=[*findings.parts, *fit])
