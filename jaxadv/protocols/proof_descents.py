"""Descents of the margin from where branch and bound's lower bounds were attained.

A subproblem fixes the signs of some ReLUs, so the image at which its bound is attained may be
beyond kinks that no gradient points across from the clean image. Margins there are mostly above 0,
but little, and a short descent, also along softened derivatives, often ends below, or else where
random squares and finer steps do.
"""

from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from jaxadv.attacks import Diverse, Square
from jaxadv.core.attack import Attack
from jaxadv.core.model import Model
from jaxadv.core.result import Result, Status
from jaxadv.core.softened import softened
from jaxadv.engine.run import run_rows
from jaxadv.engine.session import Rows
from jaxadv.proofs.tree import Tree
from jaxadv.protocols.verdicts import Verdict

if TYPE_CHECKING:
    from jaxadv.protocols.proof_search import Search

REFINED = 4  # ends of descents of an image that are refined
WIDTHS = (0.0, 0.5, 0.1, 1.0)  # of softened derivatives, one after the other; 0: the true ones


def descent(norm: str) -> Diverse:
    """Return the attack that begins at a corner."""
    return Diverse(norm=norm, steps=60, restarts=1, spread=0, first=0.3, final=0.005)


def refining(norm: str) -> list[Attack]:
    """Return the attacks that go on, one after the other, where descents end.

    Random squares leave where a descent is caught between kinks, and short steps follow.
    """
    fine = Diverse(norm=norm, steps=100, restarts=1, spread=0, first=0.05, final=0.0005)
    return 2 * [Square(norm=norm, steps=2000, p=0.05), fine]


def descend_from_corners(search: "Search", rows: np.ndarray, trees: list[Tree]) -> None:
    """Descend from the corners of the images that are open, and refine where descents end.

    Args:
        search: The search, whose ledger is written into.
        rows: The images of the chunk.
        trees: The trees, with their corners.
    """
    attack = descent(search.norm)
    ends: list[Ends] = []
    for width in WIDTHS:
        left = _open(search, rows, trees)
        if not left:
            return
        search.report("descents")
        own = np.repeat([rows[tree.image] for tree in left], [len(tree.corners) for tree in left])
        start = np.stack([corner for tree in left for _, _, corner in tree.corners])
        model = search.session.model
        if width:
            start = _run(search, softened(model, width), attack, own, start).images
        ends.append(_enter(search, own, _run(search, model, attack, own, start)))
    last = Ends(*map(np.concatenate, zip(*ends, strict=True)))
    for number, attack in enumerate(refining(search.norm)):
        left = _open(search, rows, trees)
        if not left:
            return
        search.report("refining")
        last = last.least([rows[tree.image] for tree in left])
        found = _run(search, search.session.model, attack, *last[:2], number)
        last = _enter(search, last.own, found)
    _open(search, rows, trees)


class Ends(NamedTuple):
    """Where descents ended.

    Attributes:
        own: Integers [R], the image of each.
        images: Floats [R, H, W, C], the images of least margin on its way.
        margin: Floats [R], their margins.
    """

    own: np.ndarray
    images: np.ndarray
    margin: np.ndarray

    def least(self, rows: list[int]) -> "Ends":
        """Return the `REFINED` of least margin of each of these images."""
        order = np.argsort(self.margin, kind="stable")
        kept = np.concatenate([order[self.own[order] == row][:REFINED] for row in rows])
        return Ends(*(part[kept] for part in self))


def _open(search: "Search", rows: np.ndarray, trees: list[Tree]) -> list[Tree]:
    """Note which trees are broken; return those that are open, none if it is late."""
    status = search.ledger.status
    for tree in trees:
        tree.broken |= bool(status[rows[tree.image]] == Verdict.BROKEN)
    left = [tree for tree in trees if status[rows[tree.image]] == Verdict.BUDGET]
    return [] if left and search.late() else left


def _run(
    search: "Search",
    model: Model,
    attack: Attack,
    own: np.ndarray,
    start: np.ndarray,
    number: int = 0,
) -> Result:
    """Return the images of least margin of one run for each start, and count the passes.

    Runs of the same attack with different numbers draw different random numbers.
    """
    key = jax.random.fold_in(search.session.key, number) if number else search.session.key
    session = search.session._replace(model=model, key=key)
    rows = Rows(own, search.radii[own], np.clip(start, *model.bounds))
    result = run_rows(session, attack, rows, keep="loss")
    for counts, more in (
        (search.ledger.forward, result.forward),
        (search.ledger.backward, result.backward),
    ):
        np.add.at(counts, own, more)
    return result


def _enter(search: "Search", own: np.ndarray, result: Result) -> Ends:
    """Note which images are broken, each by the image of least margin; return where runs ended."""
    ledger = search.ledger
    valid = (result.status != Status.NOT_RUN) & ~np.isnan(result.margin)
    inside = valid & (result.distance <= search.radii[own])
    np.minimum.at(ledger.upper, own[inside], result.margin[inside])
    hit = np.flatnonzero(result.success)
    for place in hit[np.argsort(-result.margin[hit], kind="stable")]:
        ledger.images[own[place]] = result.images[place]
        ledger.status[own[place]] = Verdict.BROKEN
    return Ends(own, result.images, np.where(inside, result.margin, np.inf))
