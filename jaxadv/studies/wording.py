"""Words for numbers: what the sentences of a study have in common.

A sentence of a page says what its table shows, of which rows, and what it does not show. Whether
one rate is above another is told by Wilson intervals, so that no difference within them is claimed.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxadv.core.confidence import wilson

FITTED = 1.0  # per cent: a network with more training errors is named


def tally(names: Sequence[str], holds: Sequence[bool] | np.ndarray, what: str = "networks") -> str:
    """Say for how many of the names something holds, and for which.

    Args:
        names: The names.
        holds: Mask over the names.
        what: What the names are, in the plural.

    Returns:
        The words.

    Example:
        >>> from jaxadv.studies.wording import tally
        >>> tally(("A", "B", "C"), [True, False, True])
        '2 of 3 networks (A, C)'
        >>> tally(("A", "B"), [True, True]), tally(("A", "B"), [False, False])
        ('all 2 networks', 'none of 2 networks')
    """
    chosen = [name for name, one in zip(names, np.asarray(holds), strict=True) if one]
    if not chosen:
        return f"none of {len(names)} {what}"
    if len(chosen) == len(names):
        return f"all {len(names)} {what}" if len(names) > 1 else chosen[0]
    return f"{len(chosen)} of {len(names)} {what} ({', '.join(chosen)})"


def interval(rate: float, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a rate, all in per cent, counted on `count` images."""
    low, high = wilson(rate * count / 100, count)
    return 100 * low, 100 * high


def side(rate: float, control: float, count: int) -> int:
    """Return 1 if a rate is above its control, -1 if below, 0 if their intervals overlap.

    Both are rates over the same images. That the intervals do not overlap is more than a test at
    5 % asks for, also where a rate is a mean over seeds.

    Args:
        rate: The rate in per cent.
        control: The rate of the control in per cent.
        count: Number of images that each was counted on.

    Returns:
        1, -1 or 0.

    Example:
        >>> from jaxadv.studies.wording import side
        >>> side(33.5, 28.0, 200), side(79.0, 28.0, 300), side(1.0, 28.0, 300)
        (0, 1, -1)
    """
    (low, high), (least, most) = interval(rate, count), interval(control, count)
    return int(low > most) - int(high < least)


def with_interval(rate: float, count: int) -> str:
    """Return a rate in per cent with its 95 % interval, in words."""
    low, high = interval(rate, count)
    return f"{rate:.1f} % ({low:.1f} to {high:.1f})"


def fit_in_words(errors: Mapping[str, float], published: Mapping[str, float] | None = None) -> str:
    """Name the networks whose training error is above 1 %, and what cannot be shown of them.

    Args:
        errors: Training error in per cent by name of the network.
        published: The published training errors, by name, where there are any. A network within one
            per cent of it is as well trained as the paper's.

    Returns:
        The sentence.

    Example:
        >>> from jaxadv.studies.wording import fit_in_words
        >>> fit_in_words({"A": 0.0, "B": 0.4})
        'The training error of all 2 networks is at most 1 %.'
        >>> fit_in_words({"A": 0.0, "B": 3.5})
        'Training error above 1 %: B (3.50 %). Of B the page shows no property of trained networks.'
    """
    above = {name: error for name, error in errors.items() if error > FITTED}
    if not above:
        return f"The training error of {tally(list(errors), [True] * len(errors))} is at most 1 %."
    known = {name: (published or {}).get(name, 0.0) for name in above}
    listed = ", ".join(
        f"{name} ({error:.2f} %{f', published {known[name]:g}' if known[name] else ''})"
        for name, error in above.items()
    )
    worse = [name for name, error in above.items() if error > known[name] + FITTED]
    words = f"Training error above 1 %: {listed}."
    if not worse:
        return f"{words} Each is within 1 % of the published one."
    return f"{words} Of {', '.join(worse)} the page shows no property of trained networks."
