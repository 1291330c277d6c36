"""Cascades: named lists of attacks, each for the images that survived those before.

"standard", "plus" and "rand" are the three versions of AutoAttack (Croce and Hein 2020, arXiv
2003.01690; in L1: 2021, arXiv 2103.01208) with its settings. What it runs one after the other, the
targets and restarts of an image, are entries of one queue here, and an image leaves it at once when
it falls; the verdict is that of a sequential run, and so are the passes counted. "fast" and
"strong" are our own.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jaxadv.attacks import APGD, FAB, FGM, FGSM, PGD, Diverse, Square, UniformNoise
from jaxadv.core.attack import Attack
from jaxadv.engine.stage import Refine


class Margins(NamedTuple):
    """The margins of M images, each [M]: of the clean ones, and the least so far; closest
    [M, H, W, C]: the images with these least margins (None: they are not kept)."""

    clean: np.ndarray
    least: np.ndarray
    closest: np.ndarray | None = None

    def of(self, rows: np.ndarray) -> "Margins":
        """The margins of some of the images."""
        return Margins(self.clean[rows], self.least[rows])

    def starts(self, rows: np.ndarray) -> np.ndarray:
        """The images of least margin of some, for a `Refine`."""
        assert self.closest is not None, "they are kept where a stage refines"
        return self.closest[rows]

    def lowered(self, rows: np.ndarray, margin: np.ndarray, images: np.ndarray) -> "Margins":
        """After an attack that brought some of the images to these margins, and what it made."""
        nearer = margin < self.least[rows]
        rows, least, closest = rows[nearer], self.least.copy(), self.closest
        least[rows] = margin[nearer]
        if closest is not None:
            closest = closest.copy()
            closest[rows] = images[nearer]
        return Margins(self.clean, least, closest)


class Hardest(NamedTuple):
    """In a cascade: an attack for those survivors alone that came closest to being broken.

    share: of all images, those whose margin under the attacks before was least, but `least` images
    or more. Who is among them depends on the other images; what happens to them does not.
    """

    attack: Attack | Refine
    share: float
    least: int = 128

    def choose(self, survivors: Margins, images: int) -> np.ndarray:
        """The places, in order, of those with the least margins among the survivors."""
        count = max(math.ceil(self.share * images), self.least)
        return np.sort(np.argsort(survivors.least, kind="stable")[:count])


class Nearly(NamedTuple):
    """In a cascade: an attack for those survivors alone that were nearly broken.

    left: at most this share of the clean image's margin was left to them by the attacks before.
    Whether an image is among them does not depend on the others.
    """

    attack: Attack | Refine
    left: float

    def choose(self, survivors: Margins, images: int) -> np.ndarray:
        """The places of the survivors with so little of the margin of the clean image."""
        return np.flatnonzero(survivors.least <= self.left * survivors.clean)


Chosen = Hardest | Nearly
Cascade = dict[str, Attack | Refine | Chosen]


def quick(norm: str) -> Cascade:
    """A noise control, one step, and PGD with two losses: a first look, no verdict."""
    one_step = FGSM() if norm == "linf" else FGM(norm=norm)
    return {
        "noise": UniformNoise(norm=norm, draws=10),
        one_step.name: one_step,
        "PGD cross-entropy": PGD(norm=norm, steps=40, step_size=0.1),
        "PGD margin": PGD(norm=norm, steps=40, step_size=0.1, loss="margin", restarts=3),
    }


def standard(norm: str) -> Cascade:
    """AutoAttack's four: what robust accuracy is reported with."""
    few = norm == "l1"
    return {
        "APGD cross-entropy": APGD(norm=norm, restarts=5 if few else 1),
        "APGD targeted": APGD(norm=norm, loss="dlr", targets=5 if few else 9),
        "FAB targeted": FAB(norm=norm, targets=9, search=0, bounded=True),
        "Square": Square(norm=norm),
    }


def plus(norm: str) -> Cascade:
    """AutoAttack with five restarts, and the untargeted forms too."""
    return {
        "APGD cross-entropy": APGD(norm=norm, restarts=5),
        "APGD DLR": APGD(norm=norm, loss="dlr", restarts=5),
        "FAB": FAB(norm=norm, restarts=5, search=0, bounded=True),
        "Square": Square(norm=norm),
        "APGD targeted": APGD(norm=norm, loss="dlr", targets=9),
        "FAB targeted": FAB(norm=norm, targets=9, search=0, bounded=True),
    }


def rand(norm: str) -> Cascade:
    """AutoAttack for models that draw at random: wrap them in `ja.EOT` first."""
    return {"APGD cross-entropy": APGD(norm=norm), "APGD DLR": APGD(norm=norm, loss="dlr")}


def fast(norm: str) -> Cascade:
    """Ours: AutoAttack's verdict for a tenth of its passes where nothing falls.

    Easy images fall in the first run, from the image itself. Four short ones, from diverse starts,
    and two towards targets show which of the others are near to falling: those get ten more. What
    is near then is refined from its best image, by gradients and by random squares.
    """
    few = Diverse(norm=norm, steps=30, restarts=4, final=0.02)
    longer = Refine(APGD(norm=norm, loss="dlr"))
    return {
        "diverse": few,
        "APGD targeted": APGD(norm=norm, loss="margin", targets=2, steps=20),
        "diverse, near": Nearly(replace(few, restarts=10, begin="corner"), 0.4),
        "APGD, refining": Nearly(longer, 0.4),
        "Square, refining": Nearly(Refine(Square(norm=norm, steps=1000, p=0.05)), 0.2),
        "APGD, refining again": Nearly(longer, 0.1),
    }


def strong(norm: str) -> Cascade:
    """Ours: as low as we get, with the budget spent on the images of least margin.

    What many short runs from diverse starts leave is refined from its best image, by gradients and
    by random squares in turn: each finds a way on where the other has come to rest.
    """
    few = Diverse(norm=norm, steps=30, restarts=12, final=0.02)
    targeted = APGD(norm=norm, loss="dlr", targets=9)
    longer = Refine(APGD(norm=norm, loss="dlr", steps=400))
    return {
        "diverse, short": replace(few, restarts=1),
        "diverse": Hardest(few, 0.15),
        "APGD targeted": Hardest(targeted, 0.04),
        "diverse, many": Hardest(replace(few, restarts=200), 0.03),
        "APGD, refining": Hardest(Refine(APGD(norm=norm, loss="dlr", steps=200)), 0.03),
        "Square, refining": Hardest(Refine(Square(norm=norm, p=0.05)), 0.02),
        "targeted, refining": Hardest(Refine(targeted), 0.02),
        "Square, finer": Hardest(Refine(Square(norm=norm, p=0.02)), 0.02),
        "APGD, longer": Hardest(longer, 0.02),
        "Square": Hardest(Square(norm=norm, steps=10_000), 0.02),
        "APGD, longer again": Hardest(longer, 0.02),
    }


CASCADES: dict[str, Callable[[str], Cascade]] = {
    "quick": quick, "fast": fast, "standard": standard, "plus": plus, "rand": rand,
    "strong": strong,
}  # fmt: skip


def get_cascade(attacks: str | Cascade, norm: str) -> Cascade:
    """The cascade of that name for a norm; named attacks are returned as they are. ValueError."""
    if isinstance(attacks, dict):
        return dict(attacks)
    if not isinstance(attacks, str) or attacks not in CASCADES:
        raise ValueError(
            f"attacks={attacks!r} is not known: pass one of {list(CASCADES)} or a dict of attacks"
        )
    if norm == "l0" and attacks != "quick":
        raise ValueError(
            f"attacks={attacks!r} knows linf, l2 and l1, but norm='l0': pass 'quick' or attacks"
        )
    return CASCADES[attacks](norm)
