"""Experiments on an extra class and a detector for tampered or unnatural images.

Each table shows what they reject of attacks that are unaware of them beside what evades them
adaptively.
"""

from collections.abc import Sequence

import jax
import numpy as np

from jaxadv.attacks import DDN, PGD
from jaxadv.core.confidence import wilson
from jaxadv.core.model import Model
from jaxadv.data import Dataset
from jaxadv.engine.result_store import Store, fingerprint
from jaxadv.engine.verify import predict
from jaxadv.studies.blind_spots import examples_of
from jaxadv.studies.findings import Curves, Findings, Gallery, Part, Table, Text
from jaxadv.studies.setting import Setting
from jaxadv.studies.tampered.defences import Defence, detector_defence, extra_class, trained
from jaxadv.studies.tampered.families import Family, Fooling, Made, Noise, Perturbed, Universal
from jaxadv.studies.tampered.outcome import Confrontation, Outcome, confront

LINF = 0.3  # of digits
PUBLISHED = (
    "Published: each of ten detectors was evaded once the attack knew of it (Carlini and Wagner "
    "2017); networks on digits with a class for fooling images were fooled again in every round "
    "(Nguyen et al. 2014)."
)
ALL = "all of these"
KINDS = {"class": "class", "detector": "detector"}


def radii(setting: Setting) -> tuple[float, float]:
    """Return the radii in Linf and in L2: 0.3 and 3 for digits of 28 x 28 pixels."""
    epsilon, size = setting.radius(LINF), setting.train.images[0].size
    return epsilon, epsilon * size**0.5 * 3 / (0.3 * 28)


def families(setting: Setting, training: bool = False) -> tuple[Family, ...]:
    """Return the families of attacks, those that start at natural images last.

    Args:
        setting: The setting; `quick` leaves out one family.
        training: Whether the images are for the training of a defence, which takes more of them
            than its evaluation.

    Returns:
        The families.
    """
    quick, (linf, l2) = setting.quick, radii(setting)
    runs = (3 if quick else 20) if training else (1 if quick else 5)
    generations = 20 if quick else 200

    pgd = PGD(loss="margin", steps=40 if quick else 100, restarts=1 if quick else 3)
    every: tuple[Family, ...] = (
        Noise(draws=10 if quick else 50),
        Fooling("CPPN", "cppn", generations, runs),
        Fooling("direct encoding", "direct", generations, runs),
        Fooling("gradient ascent", "gradient", 200, runs),
        Universal(
            f"universal, Linf {linf:.3g}",
            linf,
            epochs=5 if quick else 10,
            count=3 if training else 1,
        ),
        Perturbed(f"PGD, Linf {linf:.3g}", pgd, linf, setting.runs),
        Perturbed(f"minimal (DDN), L2 {l2:.3g}", DDN(steps=60 if quick else 300), l2, setting.runs),
    )
    return tuple(one for one in every if not quick or one.name != "direct encoding")


def given_and_data(setting: Setting) -> tuple[Dataset, Dataset]:
    """Return the training images that attacks may learn from, and the test images to attack."""
    return (
        examples_of(setting.train, setting.examples),  # equal sizes share one program
        examples_of(setting.test, setting.examples),
    )


def _negatives(setting: Setting, plain: Model) -> dict[str, np.ndarray]:
    """Return training images [M, H, W, C] that each family made for the plain network."""
    given, _ = given_and_data(setting)
    store, negatives = Store(setting.folder / "tampered"), {}
    for number, family in enumerate(every := families(setting, training=True)):
        setting.progress("negatives", number, len(every))
        digest = fingerprint(repr(family), plain.params, given.images)
        arrays = store.load_arrays(f"negatives-{number}", digest)
        if arrays is None:
            made = family.make(plain, given, given, None, jax.random.key(1000 + number))
            arrays = {"images": made.images}
            store.save_arrays(f"negatives-{number}", digest, **arrays)
        negatives[family.name] = arrays["images"]
    return negatives


def _both_kinds(setting: Setting, name: str, plain: Model, negatives: np.ndarray) -> list[Defence]:
    return [
        extra_class(setting, name, negatives),
        detector_defence(setting, name, plain, negatives),
    ]


def defences(setting: Setting) -> Findings:
    """An extra class and a detector against seven families of attacks, unaware and adaptive.

    The defences are trained on negatives of one family or of all families.
    """
    plain = trained(setting, setting.train)
    given, data = given_and_data(setting)
    negatives = _negatives(setting, plain)
    names = list(negatives)
    learned = [names[0], names[-2]] if setting.quick else names
    least = min(map(len, negatives.values()))
    sets = {name: negatives[name] for name in learned}
    sets[ALL] = np.concatenate([images[:least] for images in negatives.values()])
    made: list[Defence] = []
    for number, (name, images) in enumerate(sets.items()):
        setting.progress("defences", number, len(sets))
        made += _both_kinds(setting, name, plain, images)
    confrontations = []
    for number, family in enumerate(every := families(setting)):
        confrontations.append(
            confront(
                family,
                plain,
                made,
                given,
                data,
                key=jax.random.key(number),
                progress=lambda done, number=number: setting.progress(
                    "attacks", number * len(made) + done, len(every) * len(made)
                ),
            )
        )
    parts: list[Part] = [
        _natural(setting, plain, made, sets),
        *(_table(confrontation.outcomes) for confrontation in confrontations),
        _gallery(confrontations, made, data),
        _over_distance(radii(setting)[1], confrontations[-1], plain, made),
        Text(
            verdict(
                [outcome for confrontation in confrontations for outcome in confrontation.outcomes]
            )
            + " "
            + PUBLISHED
        ),
    ]
    title = "A class for tampered or non-natural input, and who knows of it"
    return Findings("tampered.defences", title, parts)


def _natural(
    setting: Setting, plain: Model, made: Sequence[Defence], sets: dict[str, np.ndarray]
) -> Table:
    """Return the accuracy and false rejections of the defences on natural images."""
    right = predict(plain, setting.test.images).argmax(1)
    rows: list[list[float]] = []
    for name, images in sets.items():
        both = [one.on_natural(setting.test) for one in made if one.name == name]
        rows.append([len(images), *(100 * fraction for pair in both for fraction in pair)])
    plainly = 100 * float((right == setting.test.labels).mean())
    return Table(
        "On natural test images",
        tuple(sets),
        (
            "negatives",
            "class: right, %",
            "class: rejected, %",
            "detector: right, %",
            "detector: rejected, %",
        ),
        np.array(rows),
        formats=(".0f", ".1f", ".1f", ".1f", ".1f"),
        note=f"rows: what the defence was trained on. The plain network is right about "
        f"{plainly:.1f} % of {len(right):,} images, and rejects none.",
    )


def _table(outcomes: Sequence[Outcome]) -> Table:
    """Return one family's outcomes against all defences, unaware and adaptive."""
    names = list(dict.fromkeys(outcome.defence for outcome in outcomes))
    first, far = outcomes[0], bool(np.isfinite(outcomes[0].plain_distance))
    columns = [
        f"{label}: {what}"
        for label in KINDS.values()
        for what in ("rejects, %", "misses, %", "evaded, %", *["median distance"] * far)
    ]
    rows = []
    for name in names:
        row: list[float] = []
        for kind in KINDS:
            (one,) = (o for o in outcomes if (o.defence, o.kind) == (name, kind))
            row += [100 * one.rejected, 100 * one.missed, 100 * one.adaptive]
            row += [one.adaptive_distance] * far
        rows.append(row)
    at = f", at a median distance of {first.plain_distance:.2f}" if far else ""
    return Table(
        f"Attack: {first.family}",
        tuple(names),
        tuple(columns),
        np.array(rows),
        formats=((".0f", ".0f", ".0f", *[".2f"] * far) * 2),
        note=f"{first.count} images: {100 * first.plain:.0f} % fool the plain network{at}. "
        "Rejected and missed: of these, made without knowledge of the defence. Evaded: by the same "
        "attack, told to fool the network and not to be rejected. Rows: what the defence was "
        "trained on.",
    )


def _gallery(
    confrontations: Sequence[Confrontation], made: Sequence[Defence], data: Dataset
) -> Gallery:
    """Return one image of each family: natural, unaware, and adaptive.

    The adaptive images evade the defences that were trained on all families.
    """
    shown = [place for place, one in enumerate(made) if one.name == ALL]
    rows, captions = [], []
    for number, one in enumerate(confrontations):
        begun = np.isfinite(one.outcomes[0].plain_distance)
        place = int(np.flatnonzero(one.right)[number]) if begun else number
        blank = np.full(one.ordinary.images.shape[1:], np.nan, np.float32)
        images = [data.images[place] if begun else blank, one.ordinary.images[place]]
        answers = ["", *(_answer(made[i], one.ordinary.images[place], data) for i in shown[:1])]
        for i in shown:
            images.append(one.adaptive[i].images[place])
            answers.append(_answer(made[i], images[-1], data))
        rows.append(images)
        captions.append(tuple(answers))
    return Gallery(
        "One image of each family",
        np.stack(rows).clip(0, 1),
        tuple(one.outcomes[0].family for one in confrontations),
        ("natural", "made for the plain network", "to evade the class", "to evade the detector"),
        tuple(captions),
        note="against the defences that were trained on all families; below each the defence's "
        "answer (below the second image that of the class)",
    )


def _answer(defence: Defence, image: np.ndarray, data: Dataset) -> str:
    predicted = int(predict(defence.model, image[None])[0].argmax())
    return "rejected" if predicted == defence.rejected else str(data.classes[predicted])


def _over_distance(
    most: float, last: Confrontation, plain: Model, made: Sequence[Defence]
) -> Curves:
    """Return the fraction of images with a minimal perturbation within each distance."""
    grid = np.linspace(0, most, 61)

    def line(model: Model, images: Made, rejected: int | None) -> np.ndarray:
        predicted = predict(model, images.images).argmax(1)
        evaded = predicted != images.labels
        if rejected is not None:
            evaded &= predicted != rejected
        reached = np.where(evaded, images.distance, np.inf)[last.right]
        return np.stack([grid, 100 * (reached[:, None] <= grid).mean(0)])

    lines = {"plain network": line(plain, last.ordinary, None)}
    for one, images in zip(made, last.adaptive, strict=True):
        if one.name == ALL:
            lines[f"{KINDS[one.kind]}, evaded"] = line(one.model, images, one.rejected)
    return Curves(
        "Minimal perturbations",
        "L2 distance",
        "misclassified and not rejected, %",
        lines,
        dashed=("plain network",),
        note="defences trained on all families of negatives",
    )


def verdict(outcomes: Sequence[Outcome]) -> str:
    """Return a summary in words: each fraction of rejected images beside that of evading ones.

    Of the defences it covers the last of each kind, which was trained on all families.

    Args:
        outcomes: Outcomes of all families and defences.

    Returns:
        The text.

    Example:
        >>> from jaxadv.studies.tampered.outcome import Outcome
        >>> one = Outcome("PGD", "PGD", "class", 1.0, 0.99, 0.0, 0.9, 0.3, 0.3, 100)
        >>> verdict([one]).split(". ")[0]
        'The class rejects 99 % of PGD images that do not know of it; 90 % evade it on purpose'
    """
    sentences = []
    for kind, label in KINDS.items():
        of_kind = [one for one in outcomes if one.kind == kind]
        of_kind = [one for one in of_kind if one.defence == of_kind[-1].defence]
        natural = [one for one in of_kind if np.isfinite(one.plain_distance)]
        others = [one for one in of_kind if one not in natural]
        for group, of in ((natural, "changed natural images"), (others, "meaningless images")):
            if not group:
                continue
            rejected = float(np.nanmean([one.rejected for one in group]))
            adaptive = float(np.mean([one.adaptive for one in group]))
            of = f"{group[0].family} images" if len(group) == 1 else of
            means = f" (means over {', '.join(o.family for o in group)})" if len(group) > 1 else ""
            sentences.append(
                f"The {label} rejects {100 * rejected:.0f} % of {of} that do not know of it; "
                f"{100 * adaptive:.0f} % evade it on purpose{means}."
            )
    pairs = dict.fromkeys((one.defence, one.kind) for one in outcomes)
    worst = [
        max((o for o in outcomes if (o.defence, o.kind) == pair), key=lambda o: o.adaptive)
        for pair in pairs
    ]
    best = min(worst, key=lambda one: one.adaptive)
    low, _ = wilson(round(best.adaptive * best.count), best.count)
    sentences.append(
        f"Of {len(worst)} defences none is evaded by less than {100 * best.adaptive:.0f} % of the "
        f"attacks of its worst family ({KINDS[best.kind]} trained on {best.defence}: "
        f"{best.family}, at least {100 * low:.0f} % by a Wilson interval of 95 %)."
    )
    return " ".join(sentences)
