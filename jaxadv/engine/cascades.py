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


class Margins(NamedTuple):
    """What is left of the margins of images, each [M]: of the clean ones, before the last attack,
    and now."""

    clean: np.ndarray
    before: np.ndarray
    least: np.ndarray

    def of(self, rows: np.ndarray) -> "Margins":
        """Those of some of the images."""
        return Margins(*(margins[rows] for margins in self))

    def lowered(self, rows: np.ndarray, margin: np.ndarray) -> "Margins":
        """After an attack that brought some of the images to these margins."""
        least = self.least.copy()
        np.fmin.at(least, rows, margin)
        return Margins(self.clean, self.least, least)


class Hardest(NamedTuple):
    """In a cascade: an attack for those survivors alone that came closest to being broken.

    share: of all images, those whose margin under the attacks before was least, but `least` images
    or more. Who is among them depends on the other images; what happens to them does not.
    """

    attack: Attack
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

    attack: Attack
    left: float

    def choose(self, survivors: Margins, images: int) -> np.ndarray:
        """The places of the survivors with so little of the margin of the clean image."""
        return np.flatnonzero(survivors.least <= self.left * survivors.clean)


class Moving(NamedTuple):
    """In a cascade: an attack for those survivors alone that the attack before brought nearer.

    by: it took at least this share of the margin that those before it had left. More of the same
    breaks such images, while others stay where they are whatever the budget. Whether an image is
    among them does not depend on the others.
    """

    attack: Attack
    by: float

    def choose(self, survivors: Margins, images: int) -> np.ndarray:
        """The places of the survivors that the last attack brought so much nearer."""
        return np.flatnonzero(survivors.least <= (1 - self.by) * survivors.before)


Cascade = dict[str, Attack | Hardest | Nearly | Moving]


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
    and two towards targets show which of the others are near to falling: those get twenty more.
    Where these still gained, a hundred more may succeed; what is all but broken gets the 5,000
    questions of Square.
    """
    few = Diverse(norm=norm, steps=30, restarts=4, final=0.02)
    return {
        "diverse": few,
        "APGD targeted": APGD(norm=norm, loss="margin", targets=2, steps=20),
        "diverse, near": Nearly(replace(few, restarts=20, begin="corner"), 0.4),
        "diverse, moving": Moving(replace(few, restarts=100), 0.1),
        "Square": Nearly(Square(norm=norm), 0.05),
    }


def strong(norm: str) -> Cascade:
    """Ours: as low as we get, with the budget spent on the images of least margin."""
    few = Diverse(norm=norm, steps=30, restarts=12, final=0.02)
    return {
        "diverse, short": replace(few, restarts=1),
        "diverse": Hardest(few, 0.15),
        "APGD targeted": Hardest(APGD(norm=norm, loss="dlr", targets=9), 0.04),
        "diverse, many": Hardest(replace(few, restarts=200), 0.03),
        "FAB targeted": Hardest(FAB(norm=norm, targets=9, search=0, bounded=True), 0.01),
        "Square": Hardest(Square(norm=norm, steps=20_000), 0.01),
        "diverse, corners": Hardest(replace(few, steps=100, restarts=100, begin="corner"), 0.01),
    }


CASCADES: dict[str, Callable[[str], Cascade]] = {
    "quick": quick, "fast": fast, "standard": standard, "plus": plus, "rand": rand,
    "strong": strong,
}  # fmt: skip


def get_cascade(attacks: str | Cascade, norm: str) -> Cascade:
    """The cascade of that name for a norm; named attacks are returned as they are. ValueError."""
    if isinstance(attacks, dict):
        return dict(attacks)
    if attacks not in CASCADES:
        raise ValueError(
            f"attacks={attacks!r} is not known: pass one of {list(CASCADES)} or a dict of attacks"
        )
    if norm == "l0" and attacks != "quick":
        raise ValueError(
            f"attacks={attacks!r} knows linf, l2 and l1, but norm='l0': pass 'quick' or attacks"
        )
    return CASCADES[attacks](norm)
