"""Cascades: named lists of attacks, each for the images that survived those before.

"standard", "plus" and "rand" are the three versions of AutoAttack (Croce and Hein 2020, arXiv
2003.01690; in L1: 2021, arXiv 2103.01208) with its settings. What it runs one after the other, the
targets and restarts of an image, are entries of one queue here, and an image leaves it at once when
it falls; the verdict is that of a sequential run, and so are the passes counted. "fast" and
"strong" are our own.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jaxadv.attacks import APGD, FAB, FGM, FGSM, PGD, Diverse, Square, UniformNoise
from jaxadv.core.attack import Attack
from jaxadv.core.result import Result, Status
from jaxadv.engine.session import Rows, Session
from jaxadv.engine.verify import margins, predict
from jaxadv.protocols.cached_run import Refine, attack_of, describe, refines, run_stage


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


class CascadeStage(NamedTuple):
    """What one attack of a cascade did.

    number, name, attack: which one; rows: whom it attacked, of all; result: theirs; broken: which
    of all rows fell now, the nearest last, and `by` which image of the result; distance [N]: the
    least adversarial distance of every image so far.
    """

    number: int
    name: str
    attack: Attack
    rows: np.ndarray
    result: Result
    broken: np.ndarray
    by: np.ndarray
    distance: np.ndarray


def run_cascade(
    session: Session, cascade: Cascade, rows: Rows, distance: np.ndarray, *, nested: bool
) -> Iterator[CascadeStage]:
    """Attack after attack, each for the rows that survived those before; yields what each did.

    nested: the rows are all images [N] at one epsilon after the other, ascending; a success counts
    at every larger epsilon too, and a `Chosen` attack chooses among the rows of each epsilon. Else
    every row stands alone, so an attack meant for the hardest is given all survivors. distance [N]:
    0 for images that are not to be attacked, else infinite. Ends early where rows are left NOT_RUN,
    or the session is interrupted.
    """
    stated = np.asarray(rows.epsilon)
    levels = np.unique(stated) if nested else stated[:1]
    groups = np.arange(len(rows.source)).reshape(len(levels), -1)
    attacked, distance = distance > 0, distance.copy()
    standing, least = attacked[rows.source], _clean_margins(session, cascade, rows)
    for number, (name, entry) in enumerate(cascade.items()):
        attack = attack_of(entry)
        if attack.needs_epsilon:
            places = _choose(entry, standing, groups, least, nested)
            own = rows.of(places)
        else:  # at the largest epsilon; an earlier attack's answer is where to go on from
            places = groups[-1][attacked]
            own = rows.of(places)._replace(epsilon=distance[attacked])
        if refines(entry):
            own = own._replace(start=least.starts(places))
        width = session.width(attack.queries, len(rows.source))
        result = run_stage(
            session._replace(lanes=width), name, attack, own, file=f"{number:02d}-{name}",
            depends=(attack.norm, describe(attack), own.epsilon, own.source, width, own.start),
        )  # fmt: skip
        reached = result.distance
        if attack.needs_epsilon:
            reached, least = stated[places], least.lowered(places, result.margin, result.images)
        np.minimum.at(distance, own.source[result.success], result.distance[result.success])
        broken, by = places[result.success], np.flatnonzero(result.success)
        if nested:
            broken, by = _broken(result, own.source, reached, levels, standing)
        standing = standing.copy()
        standing[broken] = False
        yield CascadeStage(number, name, attack, places, result, broken, by, distance)
        if (result.status == Status.NOT_RUN).any() or session.stopped():
            return


def _clean_margins(session: Session, cascade: Cascade, rows: Rows) -> Margins:
    """The margins of the rows' clean images; zeros where no attack depends on them."""
    refining = any(map(refines, cascade.values()))
    clean, logits = np.zeros(len(rows.source), np.float32), session.clean_logits
    if refining or any(isinstance(entry, Chosen) for entry in cascade.values()):
        if logits is None:
            judge = session.judge or session.model
            logits = predict(judge, session.images, session.devices)
        clean = margins(session.goal, logits)[rows.source]
    return Margins(clean, clean, session.images[rows.source] if refining else None)


def _choose(
    entry: Attack | Refine | Chosen, standing: np.ndarray, groups: np.ndarray, least: Margins,
    nested: bool,
) -> np.ndarray:  # fmt: skip
    """The rows that an attack is given, of the groups [E, N] that choose by themselves."""
    survivors = [group[standing[group]] for group in groups]
    if isinstance(entry, Nearly) or (nested and isinstance(entry, Hardest)):
        survivors = [own[entry.choose(least.of(own), groups.shape[1])] for own in survivors]
    return np.concatenate(survivors)


def _broken(
    result: Result, source: np.ndarray, reached: np.ndarray, levels: np.ndarray,
    standing: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The rows that fell, of all images at all levels, and by which image of the result."""
    count = len(standing) // len(levels)
    broken, by = [], []
    for number, radius in enumerate(levels):  # a success counts at every larger epsilon too
        hits = np.flatnonzero(result.success & (reached <= radius))
        hits = hits[np.argsort(result.distance[hits], kind="stable")][::-1]  # nearest last
        hits = hits[standing[number * count + source[hits]]]
        broken.append(number * count + source[hits])
        by.append(hits)
    return np.concatenate(broken), np.concatenate(by)
