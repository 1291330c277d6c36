"""Cascades: named lists of attacks, each run on the images that survived those before it.

"standard", "plus" and "rand" are the three versions of AutoAttack (Croce and Hein 2020, arXiv
2003.01690; in L1: 2021, arXiv 2103.01208) with its settings. The targets and random restarts of an
image, which AutoAttack runs one after the other, are entries of one queue here, and an image leaves
the queue at its first success. Verdicts and counted passes are those of a sequential run. "fast"
and "strong" are our own.

No cascade contains another: "standard" is AutoAttack and nothing else, and "strong" on many images
costs far less than "standard" does, which attacks every survivor in full.
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
from jaxadv.engine.verify import margins
from jaxadv.protocols.branching import Branching
from jaxadv.protocols.cached_run import (
    Refine,
    Softened,
    attack_of,
    describe,
    file_of,
    layer_of,
    open_compiler,
    refines,
    run_stage,
    session_of,
)


class Margins(NamedTuple):
    """Margins of M images.

    Attributes:
        clean: Floats [M], the margins of the clean images.
        least: Floats [M], the least margins so far.
        closest: Floats [M, H, W, C], the images with these least margins (None: they are not kept).
    """

    clean: np.ndarray
    least: np.ndarray
    closest: np.ndarray | None = None

    def of(self, rows: np.ndarray) -> "Margins":
        """Return the margins of some of the images."""
        return Margins(self.clean[rows], self.least[rows])

    def starts(self, rows: np.ndarray) -> np.ndarray:
        """Return the images of least margin of these rows, for a `Refine`."""
        assert self.closest is not None, "they are kept where a stage refines"
        return self.closest[rows]

    def lowered(self, rows: np.ndarray, margin: np.ndarray, images: np.ndarray) -> "Margins":
        """Return the margins after an attack that reached `margin` with `images` on these rows."""
        nearer = margin < self.least[rows]
        rows, least, closest = rows[nearer], self.least.copy(), self.closest
        least[rows] = margin[nearer]
        if closest is not None:
            closest = closest.copy()
            closest[rows] = images[nearer]
        return Margins(self.clean, least, closest)


class Hardest(NamedTuple):
    """A cascade entry whose attack runs only on the survivors of least margin.

    Which images these are depends on the other images; the result of each does not.

    Attributes:
        attack: The attack, a `Refine`, a `Softened` or a `Branching`.
        share: The number of attacked images, those of least margin under the attacks before, as a
            fraction of all images.
        least: The smallest number of attacked images.
    """

    attack: Attack | Refine | Softened | Branching
    share: float
    least: int = 128

    def choose(self, survivors: Margins, images: int) -> np.ndarray:
        """Return the sorted places of the survivors with the least margins."""
        count = max(math.ceil(self.share * images), self.least)
        return np.sort(np.argsort(survivors.least, kind="stable")[:count])


class Nearly(NamedTuple):
    """A cascade entry whose attack runs only on survivors that were nearly broken.

    Whether an image is among them does not depend on the other images.

    Attributes:
        attack: The attack, a `Refine`, a `Softened` or a `Branching`.
        left: The largest fraction of the clean image's margin that the attacks before have left.
    """

    attack: Attack | Refine | Softened | Branching
    left: float

    def choose(self, survivors: Margins, images: int) -> np.ndarray:
        """Return the places of the survivors that keep at most `left` of their clean margin."""
        return np.flatnonzero(survivors.least <= self.left * survivors.clean)


Chosen = Hardest | Nearly
Entry = Attack | Refine | Softened | Branching | Chosen
Cascade = dict[str, Entry]


def quick(norm: str) -> Cascade:
    """Return a noise control, one step, and PGD with two losses: a first look, no verdict."""
    one_step = FGSM() if norm == "linf" else FGM(norm=norm)
    return {
        "noise": UniformNoise(norm=norm, draws=10),
        one_step.name: one_step,
        "PGD cross-entropy": PGD(norm=norm, steps=40, step_size=0.1),
        "PGD margin": PGD(norm=norm, steps=40, step_size=0.1, loss="margin", restarts=3),
    }


def standard(norm: str) -> Cascade:
    """Return the four attacks of AutoAttack, with which robust accuracy is reported."""
    few = norm == "l1"
    return {
        "APGD cross-entropy": APGD(norm=norm, restarts=5 if few else 1),
        "APGD targeted": APGD(norm=norm, loss="dlr", targets=5 if few else 9),
        "FAB targeted": FAB(norm=norm, targets=9, search=0, bounded=True),
        "Square": Square(norm=norm),
    }


def plus(norm: str) -> Cascade:
    """Return AutoAttack with five random restarts and the untargeted attacks too."""
    return {
        "APGD cross-entropy": APGD(norm=norm, restarts=5),
        "APGD DLR": APGD(norm=norm, loss="dlr", restarts=5),
        "FAB": FAB(norm=norm, restarts=5, search=0, bounded=True),
        "Square": Square(norm=norm),
        "APGD targeted": APGD(norm=norm, loss="dlr", targets=9),
        "FAB targeted": FAB(norm=norm, targets=9, search=0, bounded=True),
    }


def rand(norm: str) -> Cascade:
    """Return AutoAttack for models that draw random numbers: wrap them in `ja.EOT` first."""
    return {"APGD cross-entropy": APGD(norm=norm), "APGD DLR": APGD(norm=norm, loss="dlr")}


def fast(norm: str) -> Cascade:
    """Return our cascade with AutoAttack's verdict for a tenth of its passes if nothing breaks.

    The first run breaks the easy images, from the clean image. Four short runs from diverse starts
    and two targeted ones show which of the others are nearly broken; those get ten more runs.
    Images that are still nearly broken are refined from their best image, by gradients and by
    random squares.

    Args:
        norm: "linf", "l2" or "l1".

    Returns:
        The stages by name, in their order.
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
    """Return our strongest cascade, with the budget spent on the images of least margin.

    Images that survive many short runs from diverse starts are refined from their best image, by
    gradients and by random squares in turn: each makes progress where the other has stopped. Runs
    that follow a softened derivative before find units that are off at the image. Last, small
    networks are searched by branch and bound.
    """
    few = Diverse(norm=norm, steps=30, restarts=12, final=0.02)
    blind = Diverse(norm=norm, steps=30, restarts=20, begin="corner", first=0.5, final=0.02)
    after = Hardest(Refine(Diverse(norm=norm, steps=100, restarts=1, first=0.2, final=0.01)), 0.03)
    targeted = APGD(norm=norm, loss="dlr", targets=9)
    longer = Refine(APGD(norm=norm, loss="dlr", steps=400))
    return {
        "diverse, short": replace(few, restarts=1),
        "diverse": Hardest(few, 0.15),
        "APGD targeted": Hardest(targeted, 0.04),
        "diverse, many": Hardest(replace(few, restarts=100), 0.03),
        "softened": Hardest(Softened(blind, 0.25), 0.03),
        "softened, refining": after,
        "softened less": Hardest(Softened(blind, 0.1, 1), 0.03),
        "softened less, refining": after,
        "APGD, refining": Hardest(Refine(APGD(norm=norm, loss="dlr", steps=200)), 0.03),
        "Square, refining": Hardest(Refine(Square(norm=norm, p=0.05)), 0.02),
        "targeted, refining": Hardest(Refine(targeted), 0.02),
        "Square, finer": Hardest(Refine(Square(norm=norm, p=0.02)), 0.02),
        "APGD, longer": Hardest(longer, 0.02),
        "Square": Hardest(Square(norm=norm, steps=10_000), 0.02),
        "APGD, longer again": Hardest(longer, 0.02),
        "branch and bound": Hardest(Branching(norm), 0.02),
    }


CASCADES: dict[str, Callable[[str], Cascade]] = {
    "quick": quick,
    "fast": fast,
    "standard": standard,
    "plus": plus,
    "rand": rand,
    "strong": strong,
}


def get_cascade(attacks: str | Cascade, norm: str) -> Cascade:
    """Return the cascade of that name for a norm, or the dict; ValueError if unknown."""
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
    """Result of one attack of a cascade on N images.

    Attributes:
        number: Number of the attack in the cascade.
        name: Name of the attack in the cascade.
        attack: The attack with its settings.
        rows: Integers, which of all rows it attacked.
        result: The result of these rows.
        broken: Integers, which of all rows it broke, the nearest last.
        by: Integers, which image of the result broke each of them.
        distance: Floats [N], the least adversarial distance of every image so far.
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
    """Run the attacks in order, each on the rows that survived those before it.

    It ends early if rows are left NOT_RUN or the session is interrupted.

    Args:
        session: What all attacks on the images have in common.
        cascade: The attacks.
        rows: The rows. If nested, these are all N images at one epsilon after the other.
        distance: Floats [N], 0 for images that are not to be attacked, else infinite.
        nested: Whether a success counts at every larger epsilon of its image too, and `Hardest`
            and `Nearly` choose among the rows of each epsilon. Else every row is independent, so a
            `Hardest` attack is given all survivors.

    Yields:
        One `CascadeStage` after each attack.
    """
    stated = np.asarray(rows.epsilon)
    levels = len(stated) // len(distance) if nested else 1
    groups = np.arange(len(rows.source)).reshape(levels, -1)
    attacked, distance = distance > 0, distance.copy()
    standing, least = attacked[rows.source], _clean_margins(session, cascade, rows)
    unbounded = rows.of(groups[-1])._replace(epsilon=np.full(len(distance), np.inf))
    given = {
        name: rows if attack_of(entry).needs_epsilon else unbounded
        for name, entry in cascade.items()
        if not layer_of(entry, Branching)
    }
    session, compiler = open_compiler(session, cascade, given)
    for number, (name, entry) in enumerate(cascade.items()):
        attack, branching = attack_of(entry), layer_of(entry, Branching)
        network = None
        if attack.needs_epsilon:
            places = _choose(entry, standing, groups, least, nested)
            if branching is not None and len(places):
                network = branching.network(session)
                places = places if network is not None else places[:0]
            own = rows.of(places)
        else:  # at the last epsilon, bounded by the best distance so far
            places = groups[-1][attacked]
            own = rows.of(places)._replace(epsilon=distance[attacked])
        if refines(entry):
            own = own._replace(start=least.starts(places))
        width = session.width(attack.queries, len(rows.source))
        if number == 0 and len(own.source):
            compiler.begin(name)
            for certain, other in cascade.items():
                if not attack_of(other).needs_epsilon:  # no attack before it makes it superfluous
                    compiler.begin(certain)
        if len(own.source):
            compiler.wait(name)
        depends = (attack.norm, describe(attack), own.epsilon, own.source, width, own.start)
        if (soft := layer_of(entry, Softened)) is not None:
            depends = (*depends, {"softened": soft[1:]})
        file = file_of(number, name)
        if branching is None or network is None:
            own_session = session_of(entry, session)._replace(lanes=width)
            result = run_stage(own_session, name, attack, own, file=file, depends=depends)
        else:
            result = branching.run(session, network, own, file)
        reached = result.distance
        if attack.needs_epsilon:
            reached, least = stated[places], least.lowered(places, result.margin, result.images)
        np.minimum.at(distance, own.source[result.success], result.distance[result.success])
        broken, by = places[result.success], np.flatnonzero(result.success)
        if nested:
            radii = stated.reshape(levels, -1)
            broken, by = broken_rows(result, own.source, reached, radii, standing)
        standing = standing.copy()
        standing[broken] = False
        yield CascadeStage(number, name, attack, places, result, broken, by, distance)
        if (result.status == Status.NOT_RUN).any() or session.stopped():
            break
    compiler.cancel()


def _clean_margins(session: Session, cascade: Cascade, rows: Rows) -> Margins:
    """Return the margins of the rows' clean images; zeros where no attack depends on them."""
    refining = any(map(refines, cascade.values()))
    clean = np.zeros(len(rows.source), np.float32)
    if refining or any(isinstance(entry, Chosen) for entry in cascade.values()):
        clean = margins(session.goal, session.logits())[rows.source]
    return Margins(clean, clean, session.images[rows.source] if refining else None)


def _choose(
    entry: Entry,
    standing: np.ndarray,
    groups: np.ndarray,
    least: Margins,
    nested: bool,
) -> np.ndarray:
    """Return the rows that an attack is given; each of the groups [E, N] chooses separately."""
    survivors = [group[standing[group]] for group in groups]
    if isinstance(entry, Nearly) or (nested and isinstance(entry, Hardest)):
        survivors = [own[entry.choose(least.of(own), groups.shape[1])] for own in survivors]
    return np.concatenate(survivors)


def broken_rows(
    result: Result,
    source: np.ndarray,
    reached: np.ndarray,
    radii: np.ndarray,
    standing: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the broken rows of all images at all levels, and which result image broke each.

    Args:
        result: The result of M rows.
        source: Integers [M], the image that each row attacked.
        reached: Floats [M], the least epsilon at which a success counts.
        radii: Floats [E, N], the radius of each image at each epsilon.
        standing: Booleans [E N], the rows that were not broken before: all images at one epsilon
            after the other.

    Returns:
        Integers, the rows, the nearest last, and the result image of each.
    """
    count = radii.shape[1]
    broken, by = [], []
    for number, radius in enumerate(radii):  # a success counts at every larger epsilon too
        hits = np.flatnonzero(result.success & (reached <= radius[source]))
        hits = hits[np.argsort(result.distance[hits], kind="stable")][::-1]  # nearest last
        hits = hits[standing[number * count + source[hits]]]
        broken.append(number * count + source[hits])
        by.append(hits)
    return np.concatenate(broken), np.concatenate(by)
