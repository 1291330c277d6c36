"""The study of votes over readings under attack: `jaxadv.protocols.streams` on digits."""

import dataclasses

import numpy as np

from jaxadv.core.window import DEFENCES
from jaxadv.protocols.sliding import sliding
from jaxadv.protocols.streams import ATTACKS, FRAMES, Streams, streams
from jaxadv.studies.blind_spots import examples_of
from jaxadv.studies.findings import Curves, Findings, Gallery, Part, Table, Text
from jaxadv.studies.fit import how_trained
from jaxadv.studies.networks import names_of, network_of
from jaxadv.studies.setting import Setting
from jaxadv.studies.sliding import sliding_parts
from jaxadv.studies.wording import side, tally


def streams_findings(rates: Streams, trim: int = 1) -> Findings:
    """Return the tables, curves and pictures of `streams`.

    Args:
        rates: The result of `streams`.
        trim: Trimming of the mean in that run.

    Returns:
        The findings.
    """
    w, count = rates.frames, rates.count
    columns = tuple(f"{k} of {w}" for k in rates.controlled)
    parts: list[Part] = [
        Text(
            f"{count} scenes, {w} readings of each with sensor noise and small shifts; the "
            f"attacker changes k of the {w} by at most {rates.epsilon:g} (Linf). The accuracy on "
            f"one reading alone is {100 * rates.single:.1f} %."
        ),
        Text(streams_in_words(rates, trim)),
    ]
    for kind, title in enumerate(ATTACKS):
        values = 100 * np.column_stack([rates.clean, rates.accuracy[kind]])
        parts.append(
            Table(
                f"Accuracy in per cent, k readings attacked: {title}",
                rates.defences,
                ("no attack", *columns),
                values,
                formats=".1f",
                heat=True,
                hot="low",
                note={
                    0: "every reading attacked alone, on the undefended network",
                    1: "the attack goes through the defence, on the controlled readings only",
                    2: "the perturbation made for the first reading, added to all controlled ones",
                    3: "one perturbation for all controlled readings, through the defence",
                }[kind],
            )
        )
    x = np.array([0, *rates.controlled], float)
    for kind in (0, 2):
        lines, dashed = {}, []
        for d, defence in enumerate(rates.defences):
            for shift, name in ((0, "ordinary"), (1, "adaptive")):
                y = 100 * np.r_[rates.clean[d], rates.accuracy[kind + shift, d]]
                lines[f"{defence}, {name}"] = np.stack([x, y])
            dashed.append(f"{defence}, ordinary")
        also = ", one perturbation for all" if kind else ""
        parts.append(
            Curves(
                f"Accuracy against the readings that the attacker controls{also}",
                f"k, of {w} readings",
                "right in %",
                lines,
                dashed=tuple(dashed),
            )
        )
    if rates.readings.ndim == 5:
        parts.append(
            Gallery(
                f"A window of {w} readings, {rates.controlled[-1]} of them attacked "
                f"({rates.defences[-1]})",
                np.stack([rates.readings[0], *rates.windows[:, 0]]),
                ("sensor", *ATTACKS),
                tuple(f"reading {i + 1}" for i in range(w)),
            )
        )
    return Findings("streams", "Does a vote of several readings keep an attacker out?", parts)


def streams_in_words(rates: Streams, trim: int = 1) -> str:
    """Return which defences keep the attacker out, against the accuracy without an attack.

    Args:
        rates: The result of `streams`.
        trim: Trimming of the mean in that run.

    Returns:
        The paragraph.
    """
    w, count = rates.frames, rates.count
    words = []
    for k in rates.controlled:
        at = rates.controlled.index(k)
        clean, attacked = 100 * np.asarray(rates.clean), 100 * rates.accuracy[:2, :, at]
        kept = [
            [side(rate, before, count) >= 0 for rate, before in zip(row, clean, strict=True)]
            for row in attacked
        ]
        least, most = attacked[1].min(), attacked[1].max()
        words.append(
            f"With {k} of {w} readings attacked the accuracy is not shown to fall, by 95 % "
            f"intervals, in {tally(rates.defences, kept[0], 'defences')} where each reading is "
            f"attacked alone, and in {tally(rates.defences, kept[1], 'defences')} where the attack "
            f"goes through the defence ({least:.1f} to {most:.1f} % right)."
        )
    fewer = [k for k in rates.controlled if 2 * k < w]
    words.append(
        f"The breakdown point of median and majority is half of the readings, of a mean trimmed by "
        f"{trim} it is {trim}: it bounds how far the result can be moved, not what that does to a "
        f"class{'' if fewer else '; no k here is below half'}."
    )
    return " ".join(words)


def windows_of_digits(setting: Setting) -> Findings:
    """Windows of noisy readings under attack, and sliding over a stream with faults and attacks.

    Median, trimmed mean, majority and outliers, against ordinary attacks on each reading and
    adaptive attacks through the defence, in Linf with epsilon 0.1 (colour images: 10/255), on
    FC100-100-10 or the network that the setting gives.
    """
    data = examples_of(setting.test, min(setting.examples, 50 if setting.quick else 200))
    name = names_of(setting, ("FC100-100-10",))[0]
    model = network_of(setting, name).model
    few = ("mean", "median input", "majority", "outliers")
    settings = {
        "ids": data.ids,
        "epsilon": setting.radius(0.1),
        "frames": 3 if setting.quick else FRAMES,
        "defences": few if setting.quick else DEFENCES,
        "store": setting.store,
        "progress": setting.report,
    }
    rates = streams(model, data.images, data.labels, **settings)
    lengths = (1,) if setting.quick else (1, 2)
    film = sliding(model, data.images, data.labels, lengths=lengths, **settings)
    fit = how_trained(setting, (name,))
    findings = streams_findings(rates)
    return dataclasses.replace(findings, parts=[*findings.parts, *sliding_parts(film), *fit])
