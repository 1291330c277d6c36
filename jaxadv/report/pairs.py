"""Comparison of two attacks, image by image, by the distances that they found."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxadv.core.result import Status
from jaxadv.report.elements import ACCENT, CONTROL, FAINT, INK, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxadv.core.result import Result
    from jaxadv.protocols.minimal_distance import MinimalDistances

LEVEL = 1e-3  # distances that differ by a smaller fraction are level


def pair_data(
    first: "Result | MinimalDistances", second: "Result | MinimalDistances"
) -> dict[str, int]:
    """Count which of two attacks found the nearer adversarial image, for `json.dumps`.

    Images are compared that neither run found misclassified and that both attacked.

    Args:
        first: A run: a `Result` of `ja.run` with a minimum-norm attack, or a `MinimalDistances`.
        second: Another run on the same images.

    Returns:
        Counts of images. compared: all that are compared; first, second: where that run is nearer
        by more than 0.1 %, or alone in finding an adversarial image; level: the others that both
        found; only_first, only_second, neither: by which run found an adversarial image.

    Raises:
        ValueError: The runs are on different images.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> from jaxadv.report import pair_data
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
    >>> problem = (model, 0.3 + 0.4 * jnp.eye(4).reshape(4, 2, 2, 1), ja.Untargeted(jnp.arange(4)))
    >>> one, two = (ja.run(ja.FMN(steps=n), *problem, key=jax.random.key(0)) for n in (3, 30))
    >>> pair_data(one, two)["second"]
    4
    """
    x, y = _distances(first, second)
    nearer, farther = np.minimum(x, y), np.maximum(x, y)
    level = np.isfinite(farther) & (nearer >= (1 - LEVEL) * farther)
    return {
        "compared": len(x),
        "first": int(((x < y) & ~level).sum()),
        "second": int(((y < x) & ~level).sum()),
        "level": int(level.sum()),
        "only_first": int((np.isfinite(x) & ~np.isfinite(y)).sum()),
        "only_second": int((np.isfinite(y) & ~np.isfinite(x)).sum()),
        "neither": int((~np.isfinite(x) & ~np.isfinite(y)).sum()),
    }


def _distances(
    first: "Result | MinimalDistances", second: "Result | MinimalDistances"
) -> list[np.ndarray]:
    """Return both runs' distances in the images compared, infinite where nothing was found."""
    if not np.array_equal(first.ids, second.ids):
        raise ValueError(
            f"second is of {len(second.ids)} images, first of {len(first.ids)}, or their ids "
            "differ: pass two runs on the same images"
        )
    left_out = [Status.MISCLASSIFIED, Status.NOT_RUN]
    rows = ~np.isin(first.status, left_out) & ~np.isin(second.status, left_out)
    return [np.where(one.success, one.distance, np.inf)[rows] for one in (first, second)]


def pair_figure(
    first: "Result | MinimalDistances", second: "Result | MinimalDistances", names: Sequence[str]
) -> "Figure":
    """Return a matplotlib figure of two attacks: a point for each image, on logarithmic axes.

    Below the diagonal the second is nearer. An image that one of the attacks did not find lies at
    that attack's margin, beyond the dotted line; one that neither found is only counted.

    Args:
        first: A run, as in `pair_data`.
        second: Another run on the same images.
        names: Names of the two.

    Returns:
        The figure.
    """
    x, y = _distances(first, second)
    counts = pair_data(first, second)
    figure, axes = plain_axes(4.6, 4.6)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    values = np.concatenate([x, y])
    values = values[np.isfinite(values) & (values > 0)]
    low, high = (values.min(), values.max()) if len(values) else (0.1, 1.0)
    low, high = low / 1.25, high * 1.25
    edge, margin = high * 1.12, high * 1.06  # end of the axes; place of what was not found
    beyond = ~np.isfinite(x) | ~np.isfinite(y)
    shown = beyond & (np.isfinite(x) | np.isfinite(y))
    axes.plot([low, high], [low, high], color=CONTROL, linewidth=1)
    for draw in (axes.axhline, axes.axvline):
        draw(high, color=CONTROL, linewidth=1, linestyle=":")
    place = [np.clip(np.where(np.isfinite(v), v, margin), low, margin) for v in (x, y)]
    axes.scatter(place[0][~beyond], place[1][~beyond], s=14, color=ACCENT, alpha=0.7, linewidths=0)
    axes.scatter(place[0][shown], place[1][shown], s=22, color=INK, marker="x", linewidths=1)
    axes.set(xscale="log", yscale="log", xlim=(low, edge), ylim=(low, edge), aspect="equal")
    axes.set_xlabel(f"distance, {names[0]}", fontsize=11, color=INK)
    axes.set_ylabel(f"distance, {names[1]}", fontsize=11, color=INK)
    title = f"{names[0]} nearer: {counts['first']}, {names[1]} nearer: {counts['second']}, "
    title += f"level: {counts['level']}\n"
    title += f"found by one alone: {counts['only_first']} and {counts['only_second']}, "
    title += f"by neither: {counts['neither']}"
    axes.set_title(title, fontsize=9.5, color=INK, loc="left")
    return figure


def write_pair(
    first: "Result | MinimalDistances",
    second: "Result | MinimalDistances",
    path: str | Path,
    names: Sequence[str] = ("first", "second"),
) -> Path:
    """Write `pair_figure` to a file (.png, .svg or .pdf, by its suffix) and return its path.

    Needs matplotlib; raises ValueError for runs on different images.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pair_figure(first, second, names).savefig(path, dpi=150)
    return path
