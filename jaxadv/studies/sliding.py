"""The part of the study of streams in which the window slides: tables, curves and the verdict."""

import numpy as np

from jaxadv.protocols.sliding import EVENTS, FAULTS, Sliding
from jaxadv.studies.findings import Curves, Gallery, Part, Table, Text
from jaxadv.studies.wording import side, tally


def sliding_parts(film: Sliding) -> list[Part]:
    """Return the tables, curves, pictures and sentences of `sliding`.

    Args:
        film: The result of `sliding`.

    Returns:
        The parts of the page.
    """
    w, calm, events = film.frames, *during(film)
    longest = film.lengths[-1]
    columns = tuple(f"{event}, {k}" for k in film.lengths for event in EVENTS)
    table = np.column_stack([calm[:, -1], *events.swapaxes(0, 1).reshape(len(columns), -1)])
    lag = np.array([_lag(row) for row in film.lag])
    thrown = 100 * film.thrown.swapaxes(0, 1).reshape(-1, 2)
    parts: list[Part] = [
        Table(
            "The window slides over an event: accuracy in per cent",
            film.defences,
            ("no event", *columns),
            table,
            formats=".1f",
            heat=True,
            hot="low",
            note=f"{film.count} scenes that move, with sensor noise. Of the stream, k frames in a "
            "row (the number in each column) are occluded by a black square of half the side, "
            f"blank, of random pixels, or changed by at most {film.epsilon:g} (Linf), by attacks "
            "on each frame alone or through the defence. Means over the windows of "
            f"{w} frames that hold at least one of them.",
        ),
        Table(
            "What the recipe throws out, per cent",
            columns,
            ("of the event's frames", "of the other frames"),
            thrown,
            formats=".1f",
            note="Readings farther from the median reading than three times the median distance; "
            "of attacked frames those through the last defence of the table above.",
        ),
        Table(
            "Lag after a change of the scene",
            film.defences,
            ("mean lag, windows", "at once, %", "never, %"),
            lag,
            formats=(".2f", ".1f", ".1f"),
            note="Windows that pass until the first that is answered with the new scene's class; "
            f"the first window with one new frame of {w} counts as 0. Never: in none of {2 * w}.",
        ),
    ]
    x = np.arange(film.calm.shape[1]) - 1.0
    for event in (FAULTS[-1], EVENTS[-1]):
        lines = {
            name: np.stack([x, 100 * film.accuracy[EVENTS.index(event), -1, d]])
            for d, name in enumerate(film.defences)
        }
        parts.append(
            Curves(
                f"The window slides over {frames_of(longest)}: {event}",
                "windows since the first with a frame of the event",
                "right in %",
                lines,
            )
        )
    if film.clips.ndim == 5:
        parts.append(
            Gallery(
                f"A stream with an event of {frames_of(longest)}, from frame {w + 1} on",
                film.clips,
                ("no event", *EVENTS),
                tuple(f"frame {i + 1}" for i in range(film.clips.shape[1])),
            )
        )
    return [Text(sliding_in_words(film)), *parts]


def frames_of(count: int) -> str:
    """Return "1 frame", "2 frames", and so on."""
    return f"{count} frame{'s' * (count > 1)}"


def during(film: Sliding) -> tuple[np.ndarray, np.ndarray]:
    """Return mean accuracies in per cent over the windows that an event touches.

    Args:
        film: The result of `sliding`.

    Returns:
        Without an event [D, C], and with each [E, C, D].
    """
    touched = [film.touched(k) for k in film.lengths]
    calm = np.stack([100 * film.calm[:, part].mean(1) for part in touched], 1)
    events = np.stack(
        [100 * film.accuracy[:, c, :, part].mean(-1) for c, part in enumerate(touched)], 1
    )
    return calm, events


def _lag(lags: np.ndarray) -> list[float]:
    """Return the mean lag of those that come, and in per cent those at once and those never."""
    comes = np.isfinite(lags)
    mean = float(lags[comes].mean()) if comes.any() else np.nan
    return [mean, 100 * float((lags == 0).mean()), 100 * float((~comes).mean())]


def sliding_in_words(film: Sliding) -> str:
    """Return which defences carry the window over each event, what is thrown out, and the lag.

    Args:
        film: The result of `sliding`.

    Returns:
        The paragraph.
    """
    calm, events = during(film)
    words = []
    for c, k in enumerate(film.lengths):
        kept = []
        for e, event in enumerate(EVENTS):
            holds = [
                side(rate, before, film.count) >= 0
                for rate, before in zip(events[e, c], calm[:, c], strict=True)
            ]
            kept.append(f"in {tally(film.defences, holds, 'defences')} if {event}")
        words.append(
            f"While a window of {film.frames} slides over {frames_of(k)} of an event, "
            f"the accuracy is not shown to fall, by 95 % intervals, {', '.join(kept)}."
        )
    shares = 100 * film.thrown[:, 0]
    works = [own > 50 and own > other for own, other in shares]
    figures = ", ".join(
        f"{own:.0f} % of {event}" for event, (own, _) in zip(EVENTS, shares, strict=True)
    )
    most = np.nanmax(shares[:, 1])
    words.append(
        f"With {frames_of(film.lengths[0])} of an event the recipe that throws "
        f"out what is far from the median reading throws out {figures}, and at most {most:.0f} % "
        f"of the others: it finds the event's frames in {tally(EVENTS, works, 'events')}."
    )
    lags = {name: _lag(row)[0] for name, row in zip(film.defences, film.lag, strict=True)}
    fast, slow = (pick(lags, key=lambda name: lags[name]) for pick in (min, max))
    words.append(
        f"When the scene changes the first right answer lags by {lags[fast]:.2f} windows ({fast}) "
        f"to {lags[slow]:.2f} ({slow}) in the mean."
    )
    return " ".join(words)
