"""Figures of proofs: robust accuracy between two curves, and each image's margin between bounds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxadv.report.elements import ACCENT, CONTROL, INK, PROVED, plain_axes, svg
from jaxadv.report.table import NORMS

if TYPE_CHECKING:
    from jaxadv.protocols.verdicts import Proofs

UNKNOWN = "#ca8a04"


def band(found: "Sequence[Proofs]") -> str:
    """Plot what is proved and what is not broken against epsilon, and the band between.

    What is proved at one epsilon is at every smaller one, what is broken at every larger one.
    """
    from jaxadv.protocols.verdicts import Verdict

    figure, axes = plain_axes(7.2, 4.3)
    clean = 1 - (found[0].status == Verdict.MISCLASSIFIED).mean()
    epsilons = np.array([0.0, *(float(one.epsilon.max()) for one in found)])
    low, high = 100 * np.array([(clean, clean), *(one.accuracy for one in found)]).T
    grid = np.linspace(0, epsilons[-1], 601)
    least = np.maximum.accumulate(low[::-1])[::-1][np.searchsorted(epsilons, grid)]
    most = np.minimum.accumulate(high)[np.searchsorted(epsilons, grid, side="right") - 1]
    axes.fill_between(grid, least, most, color=PROVED, alpha=0.12, linewidth=0)
    ends = ((high, most, ACCENT, "not broken"), (low, least, PROVED, "proved"))
    for values, curve, colour, name in ends:
        axes.plot(grid, curve, color=colour, linewidth=2)
        axes.plot(epsilons, values, "o", color=colour, markersize=6, label=name)
    axes.set(xlim=(0, 1.05 * epsilons[-1]), ylim=(0, 103))
    axes.set_xlabel(f"ε ({NORMS[found[0].norm]})", fontsize=12, color=INK)
    axes.set_ylabel("robust accuracy in %", fontsize=12, color=INK)
    axes.legend(frameon=False, fontsize=10.5, loc="best", labelcolor=INK)
    return svg(figure)


def margins(proof: "Proofs") -> str:
    """Plot the bounds of the least margin of each image, from the lowest upper bound on."""
    figure, axes = plain_axes(7.2, 3.6)
    known = np.flatnonzero(np.isfinite(proof.lower) & np.isfinite(proof.upper))
    order = known[np.lexsort((proof.lower[known], proof.upper[known]))]
    place = np.arange(len(order))
    groups = {
        "proved": (PROVED, proof.proved[order]),
        "broken": (ACCENT, proof.broken[order]),
        "unknown": (UNKNOWN, ~(proof.proved | proof.broken)[order]),
    }
    for name, (colour, own) in groups.items():
        if own.any():
            ends = proof.lower[order][own], proof.upper[order][own]
            width = max(1.0, min(6.0, 300 / len(order)))
            axes.vlines(place[own], *ends, color=colour, linewidth=width, label=name)
            axes.plot(place[own], ends[1], "_", color=colour, markersize=width + 3)
    axes.axhline(0, color=CONTROL, linewidth=1)
    axes.set_xticks([])
    axes.set_xlabel(f"{len(order)} images", fontsize=12, color=INK)
    axes.set_ylabel("least margin within ε", fontsize=12, color=INK)
    axes.legend(frameon=False, fontsize=10.5, loc="best", labelcolor=INK)
    return svg(figure)
