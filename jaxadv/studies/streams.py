"""The study of votes over readings under attack: `jaxadv.protocols.streams` on digits."""

import numpy as np

from jaxadv.core.confidence import wilson
from jaxadv.core.window import DEFENCES
from jaxadv.protocols.streams import ATTACKS, FRAMES, Streams, streams
from jaxadv.studies.blind_spots import examples_of
from jaxadv.studies.findings import Curves, Findings, Gallery, Part, Table, Text
from jaxadv.studies.networks import trained
from jaxadv.studies.setting import Setting


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
    robust = [d for d in rates.defences if d != "mean"]
    least = [k for k in rates.controlled if 2 * k < w]
    parts: list[Part] = [
        Text(
            f"{count} scenes, {w} readings of each with sensor noise and small shifts; the "
            f"attacker changes k of the {w} by at most {rates.epsilon:g} (Linf). The accuracy on "
            f"one reading alone is {100 * rates.single:.1f} %. With k below half the readings, the "
            "effect on median and majority is bounded, however large the change; with more than "
            f"half it is not. A mean trimmed by {trim} holds up to k = {trim}."
        )
    ]
    if robust and least:
        d = int(np.argmax([rates.accuracy[0, rates.defences.index(r), 0] for r in robust]))
        row = rates.defences.index(robust[d])
        c = rates.controlled.index(least[-1])
        values = [100 * rates.accuracy[kind, row, c] for kind in (0, 1)]
        low, high = (100 * bound for bound in wilson(values[1] * count / 100, count))
        parts.append(
            Text(
                f"{robust[d]}, k = {least[-1]}: accuracy {values[0]:.1f} % where each reading is "
                f"attacked alone, {values[1]:.1f} % (95 % interval {low:.1f} to {high:.1f}) where "
                "the attack goes through the defence. A breakdown point bounds how far the fusion "
                "can be moved; honest readings near the boundary need little."
            )
        )
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


def windows_of_digits(setting: Setting) -> Findings:
    """Windows of noisy readings under attack: median, trimmed mean, majority and outliers.

    Ordinary attacks on each reading, and adaptive attacks through the defence, on FC100-100-10 in
    Linf with epsilon 0.1.
    """
    data = examples_of(setting.test, min(setting.examples, 50 if setting.quick else 200))
    rates = streams(
        trained(setting, "FC100-100-10").model,
        data.images,
        data.labels,
        ids=data.ids,
        frames=3 if setting.quick else FRAMES,
        defences=("mean", "median input", "majority") if setting.quick else DEFENCES,
        store=setting.store,
        progress=setting.report,
    )
    return streams_findings(rates)
