"""Descents of the margin from where branch and bound's lower bounds were attained.

A subproblem fixes the signs of some ReLUs, so the image at which its bound is attained may be
beyond kinks that no gradient points across from the clean image. Margins there are mostly above 0,
but little, and a short descent, also along softened derivatives, often ends below.
"""

from typing import TYPE_CHECKING

import numpy as np

from jaxadv.attacks import Diverse
from jaxadv.core.model import Model
from jaxadv.core.result import Result, Status
from jaxadv.core.softened import softened
from jaxadv.engine.run import run_rows
from jaxadv.engine.session import Rows
from jaxadv.proofs.tree import Tree
from jaxadv.protocols.verdicts import Verdict

if TYPE_CHECKING:
    from jaxadv.protocols.proof_search import Search

WIDTHS = (0.0, 0.5, 0.1, 1.0)  # of softened derivatives, one after the other; 0: the true ones


def descent(norm: str) -> Diverse:
    """Return the attack that begins at a corner."""
    return Diverse(norm=norm, steps=60, restarts=1, spread=0, first=0.3, final=0.005)


def descend_from_corners(search: "Search", rows: np.ndarray, trees: list[Tree]) -> None:
    """Descend from the corners of the images that are open.

    Args:
        search: The search, whose ledger is written into.
        rows: The images of the chunk.
        trees: The trees, with their corners.
    """
    attack = descent(search.norm)
    for width in WIDTHS:
        left = [tree for tree in trees if search.ledger.status[rows[tree.image]] == Verdict.BUDGET]
        if not left or search.late():
            return
        search.report("descents")
        own = np.repeat([rows[tree.image] for tree in left], [len(tree.corners) for tree in left])
        start = np.stack([corner for tree in left for _, _, corner in tree.corners])
        model = search.session.model
        if width:
            start = _descend(search, softened(model, width), attack, own, start).images
        _enter(search, own, _descend(search, model, attack, own, start))
        for tree in left:
            tree.broken = search.ledger.status[rows[tree.image]] == Verdict.BROKEN


def _descend(
    search: "Search", model: Model, attack: Diverse, own: np.ndarray, start: np.ndarray
) -> Result:
    """Return the images of least margin of one descent for each start, and count the passes."""
    session = search.session._replace(model=model)
    rows = Rows(own, search.radii[own], np.clip(start, *model.bounds))
    result = run_rows(session, attack, rows, keep="loss")
    for counts, more in (
        (search.ledger.forward, result.forward),
        (search.ledger.backward, result.backward),
    ):
        np.add.at(counts, own, more)
    return result


def _enter(search: "Search", own: np.ndarray, result: Result) -> None:
    """Note which images are broken, each by the image of least margin."""
    ledger = search.ledger
    valid = (result.status != Status.NOT_RUN) & ~np.isnan(result.margin)
    inside = valid & (result.distance <= search.radii[own])
    np.minimum.at(ledger.upper, own[inside], result.margin[inside])
    hit = np.flatnonzero(result.success)
    for place in hit[np.argsort(-result.margin[hit], kind="stable")]:
        ledger.images[own[place]] = result.images[place]
        ledger.status[own[place]] = Verdict.BROKEN
