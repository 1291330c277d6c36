"""Drawings of inputs that are no images: bars for the features of a row, lines for a series."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxadv.core.bounds import Bounds, hull
from jaxadv.report.elements import difference, picture, template

FEATURES, CHANNELS = 16, 6  # most of them in one drawing: those that change most
POINTS = 300  # of a line: longer ones are drawn by the least and largest value of each piece
LEFT, WIDTH, HALF = 112, 130, 40  # of the bars: start and length; half the length of a change
LINE, CHANGE = 84, 34  # heights of a series and of its change


def drawing(
    before: np.ndarray,
    after: np.ndarray | None,
    bounds: Bounds = (0.0, 1.0),
    names: Sequence[str] | None = None,
) -> str | None:
    """Return a drawing of an input that is no image, and of what an attack made of it, as SVG.

    A row [D] has a bar for each feature: the original, the adversarial value, and the difference.
    Where all ranges are finite, bars are shares of them. A series [T, C] has a line for each
    channel, and one for its difference. Of many features or channels, those with the largest
    change come first, and it says how many are left out.

    Args:
        before: The original.
        after: The adversarial input of the same shape, or None for the original alone.
        bounds: The bounds of the model.
        names: Names of the D features or C channels (None: their numbers).

    Returns:
        An `svg` element; None for inputs of other shapes.

    Raises:
        ImportError: jinja2 is missing; the message says how to install it.
        ValueError: If there are not as many names as features.

    Example:
        >>> import numpy as np
        >>> from jaxadv.report.drawings import drawing
        >>> svg = drawing(np.array([0.5, 0.2]), np.array([0.4, 0.2]), names=["age", "income"])
        >>> svg.count('class="clean"'), "age" in svg, "0.5 → 0.4" in svg
        (2, True, True)
    """
    if before.ndim not in (1, 2):
        return None
    size = before.shape[-1]
    if names is not None and len(names) != size:
        raise ValueError(f"{len(names)} names of features for {size}: pass one for each")
    kind = "feature" if before.ndim == 1 else "channel"
    labels = [f"{kind} {i}" for i in range(size)] if names is None else list(map(str, names))
    before = before.astype(np.float64)
    moved = None if after is None else after.astype(np.float64)
    if before.ndim == 1:
        return _bars(before, moved, bounds, labels)
    return _lines(before, moved, labels)


def pictures(
    before: np.ndarray,
    after: np.ndarray | None,
    bounds: Bounds,
    names: Sequence[str] | None = None,
    times: float | None = None,
) -> dict[str, str | None]:
    """Return what a page shows of an input and of what an attack made of it.

    Args:
        before: The original, an image [H, W, C], a row [D] or a series [T, C].
        after: The adversarial input, or None.
        bounds: The bounds of the model.
        names: As for `drawing`.
        times: As for `elements.difference`.

    Returns:
        original, adversarial, difference: pictures of an image, as data URIs; drawing: the SVG of
        an input that is no image. What there is not is None.
    """
    if before.ndim != 3:
        kinds = dict.fromkeys(("original", "adversarial", "difference"))
        return {**kinds, "drawing": drawing(before, after, bounds, names)}
    whole = hull(bounds)
    return {
        "original": picture(before, whole),
        "adversarial": None if after is None else picture(after, whole),
        "difference": None if after is None else difference(before, after, whole, times),
        "drawing": None,
    }


def _largest(changes: np.ndarray, most: int) -> np.ndarray:
    """Return the places of the largest changes [D], the largest first; all in order if they fit."""
    if len(changes) <= most:
        return np.arange(len(changes))
    return np.argsort(-changes, kind="stable")[:most]


def _bars(
    before: np.ndarray, after: np.ndarray | None, bounds: Bounds, names: Sequence[str]
) -> str:
    moved = before if after is None else after
    low, high = (np.broadcast_to(np.asarray(end, float), before.shape) for end in bounds)
    whole = bool(np.isfinite(low).all() and np.isfinite(high).all())
    if not whole:  # one axis for all, in the units of the inputs
        least = min(0.0, before.min(initial=0), moved.min(initial=0))
        largest = max(0.0, before.max(initial=0), moved.max(initial=0))
        low, high = np.full_like(before, least), np.full_like(before, max(largest, least + 1e-12))
    clean, adversarial = ((values - low) / (high - low) for values in (before, moved))
    zero = np.zeros_like(low) if whole else -low / (high - low)  # where bars begin
    change = adversarial - clean
    places = _largest(np.abs(change), FEATURES)
    scale = max(float(np.abs(change).max(initial=0)), 1e-12)

    def bar(start: float, end: float) -> tuple[float, float]:
        """Left end and length, in pixels, of a bar between two shares of the axis."""
        left, right = sorted((min(max(start, 0.0), 1.0), min(max(end, 0.0), 1.0)))
        return LEFT + WIDTH * left, max(WIDTH * (right - left), 0.5)

    rows = [
        {
            "name": names[i],
            "clean": bar(float(zero[i]), float(clean[i])),
            "adversarial": bar(float(zero[i]), float(adversarial[i])),
            "change": HALF * change[i] / scale,
            "numbers": f"{before[i]:.4g}" + ("" if after is None else f" → {moved[i]:.4g}"),
        }
        for i in places
    ]
    return _rendered(
        "features.svg.j2",
        rows=rows,
        pair=after is not None,
        left_out=len(before) - len(rows),
        axis="shares of their ranges" if whole else "values",
        largest=f"{100 * scale:.3g} %" if whole else f"{scale * (high - low).max():.3g}",
        left=LEFT,
        width=WIDTH,
        half=HALF,
    )


def _lines(before: np.ndarray, after: np.ndarray | None, names: Sequence[str]) -> str:
    moved = before if after is None else after
    change = np.abs(moved - before).max(0, initial=0)
    panels = []
    for i in _largest(change, CHANNELS):
        both = np.stack([before[:, i], moved[:, i]])
        low, high = both.min(), both.max()
        panels.append(
            {
                "name": names[i],
                "low": f"{low:.4g}",
                "high": f"{high:.4g}",
                "clean": _points(both[0], low, high, LINE),
                "adversarial": _points(both[1], low, high, LINE),
                "change": _points(both[1] - both[0], -change[i], change[i], CHANGE),
                "largest": f"{change[i]:.3g}",
            }
        )
    return _rendered(
        "series.svg.j2",
        panels=panels,
        pair=after is not None,
        left_out=before.shape[1] - len(panels),
        line=LINE,
        change=CHANGE,
    )


def _points(values: np.ndarray, low: float, high: float, height: float) -> str:
    """Return a line [T] as the points of an SVG polyline, from x = 60 to 430."""
    time = np.arange(len(values))
    if len(values) > POINTS:  # the least and the largest of each piece, so that no peak is lost
        pieces = np.array_split(time, POINTS // 2)
        ends = [sorted((p[values[p].argmin()], p[values[p].argmax()])) for p in pieces]
        time = np.concatenate(ends)
    x = 60 + 370 * time / max(len(values) - 1, 1)
    y = height * (1 - (values[time] - low) / (high - low)) if high > low else 0 * x + height / 2
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _rendered(name: str, **values: Any) -> str:
    """Return a template's SVG, which pages need not escape."""
    from markupsafe import Markup

    return Markup(template(name).render(**values))
