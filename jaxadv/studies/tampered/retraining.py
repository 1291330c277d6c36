"""Rounds of retraining on images that evaded the defence of the round before."""

from collections.abc import Sequence

import jax
import numpy as np

from jaxadv.core.model import Model
from jaxadv.engine.verify import predict
from jaxadv.studies.findings import Curves, Findings, Table, Text
from jaxadv.studies.setting import Setting
from jaxadv.studies.tampered.defences import Defence, detector_defence, extra_class, trained
from jaxadv.studies.tampered.outcome import Outcome, confront
from jaxadv.studies.tampered.study import KINDS, PUBLISHED, families, given_and_data
from jaxadv.studies.wording import side


def retraining(setting: Setting) -> Findings:
    """Retraining on images that evaded the previous round: does it help?"""
    plain = trained(setting, setting.train)
    given, data = given_and_data(setting)
    every = families(setting)[-2:]
    first = np.concatenate(
        [one.make(plain, given, given, None, jax.random.key(0)).images for one in every]
    )
    rounds, parts, sentences = (3 if setting.quick else 6), [], []
    lines: dict[str, np.ndarray] = {}
    for turn, (kind, label) in enumerate(KINDS.items()):
        pool, rows = first, []
        outcomes: list[Outcome] = []
        for number in range(rounds):
            setting.progress("rounds of retraining", turn * rounds + number, 2 * rounds)
            defence = _retrained(setting, kind, plain, pool, number)
            predicted = predict(defence.model, pool).argmax(1)
            outcomes = [
                confront(one, plain, [defence], given, data, key=jax.random.key(1)).outcomes[0]
                for one in every
            ]
            rows.append(
                [
                    len(pool),
                    *(100 * fraction for fraction in defence.on_natural(setting.test)),
                    100 * float((predicted == defence.rejected).mean()),
                    *(
                        100 * fraction
                        for one in outcomes
                        for fraction in (one.rejected, one.adaptive)
                    ),
                    outcomes[-1].adaptive_distance,
                ]
            )
            key = jax.random.key(2 + number)
            made = [one.make(defence.model, given, given, defence.rejected, key) for one in every]
            pool = np.concatenate([pool, *(one.images for one in made)])
        parts.append(_rounds(label, rows, outcomes))
        lines[label] = np.stack([np.arange(1, rounds + 1), np.array(rows)[:, -1]])
        sentences.append(helped_in_words(label, np.array(rows), outcomes))
        lines["plain network"] = np.stack(
            [np.arange(1, rounds + 1), np.full(rounds, outcomes[-1].plain_distance)]
        )
    parts.append(
        Curves(
            "How far an image must go to evade",
            "round",
            "median L2 distance",
            lines,
            dashed=("plain network",),
            note="medians over the images that evade within the largest distance counted",
        )
    )
    parts.append(Text(" ".join(sentences) + " " + PUBLISHED))
    title = "Does it help to retrain on what evaded?"
    return Findings("tampered.retraining", title, parts)


def _retrained(setting: Setting, kind: str, plain: Model, pool: np.ndarray, number: int) -> Defence:
    """Return the defence of one round: a new network each time."""
    name = f"round {number + 1}"
    if kind == "class":
        return extra_class(setting, name, pool, number)
    return detector_defence(setting, name, plain, pool, number)


def _rounds(label: str, rows: Sequence[Sequence[float]], outcomes: Sequence[Outcome]) -> Table:
    far = outcomes[-1].plain_distance
    families = [f"{what} {one.family}, %" for one in outcomes for what in ("rejects", "evaded by")]
    return Table(
        f"Rounds with a {label}",
        tuple(f"round {number + 1}" for number in range(len(rows))),
        (
            "negatives",
            "natural right, %",
            "natural rejected, %",
            "rejects its negatives, %",
            *families,
            "at a median of",
        ),
        np.array(rows),
        formats=(".0f", ".1f", ".1f", ".0f", *[".0f"] * len(families), ".2f"),
        note="Negatives: images made for the plain network, then also those that were made to "
        "evade each round before. Rejects: of images made for the plain network. Evaded by: the "
        f"same attacks, made to evade this round; the median is of L2 ({far:.2f} for the plain "
        "network).",
    )


def helped_in_words(label: str, rows: np.ndarray, outcomes: Sequence[Outcome]) -> str:
    """Return what the rounds changed.

    Args:
        label: What rejects: "class" or "detector".
        rows: Rows of the table of the rounds, in per cent.
        outcomes: Outcomes of the last round, one for each family.

    Returns:
        The sentences.
    """
    first, last = rows[0], rows[-1]
    best, before = last[[5, 7]].max(), first[[5, 7]].max()
    plain, count = outcomes[-1].plain_distance, outcomes[-1].count
    change = side(best, before, count)
    verdict = {
        1: "more than after the first: what it learned of those before did not keep out the next",
        0: "not told apart from the first by their 95 % intervals: no help is shown",
        -1: "less than after the first: the rounds kept out part of what these attacks can do",
    }[change]
    return (
        f"The {label} rejects {last[3]:.0f} % of {last[0]:.0f} negatives after {len(rows)} rounds, "
        f"and {best:.0f} % evade it on purpose by the better of the two attacks (after the first "
        f"{before:.0f} %), at a median distance of {last[-1]:.2f} (after the first "
        f"{first[-1]:.2f}; the plain network: {plain:.2f}); it rejects {last[2]:.1f} % of natural "
        f"images. What evades it is {verdict}."
    )
