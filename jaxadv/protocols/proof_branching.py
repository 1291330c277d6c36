"""Branch and bound on images that cheaper bounds left undecided, until the replay confirms it."""

from typing import TYPE_CHECKING

import numpy as np

from jaxadv.proofs.backward import Region
from jaxadv.proofs.leaves import Ball, least_margin
from jaxadv.proofs.roots import Roots
from jaxadv.proofs.slopes import Answers, Entries
from jaxadv.proofs.subproblems import STEPS, Subproblem
from jaxadv.proofs.tree import Tree, grow
from jaxadv.protocols.proof_descents import descend_from_corners
from jaxadv.protocols.verdicts import Verdict

DESCENTS = (1_000, 10_000, 100_000)  # subproblems after which margins are descended from corners

if TYPE_CHECKING:
    from jaxadv.protocols.proof_search import Search


def branch(
    search: "Search",
    rows: np.ndarray,
    roots: Roots,
    answers: tuple[Entries, Answers],
    left: np.ndarray,
) -> None:
    """Split images until they are decided or the budget is spent.

    A proof that the replay does not confirm is split further: more is asked of the bounds, by twice
    what they lost in the replay.

    Args:
        search: The search, whose ledger is written into.
        rows: The images of the chunk.
        roots: The bounds of their nonlinearities' inputs.
        answers: The bounds of their margins.
        left: The places in the chunk that are undecided.
    """
    entries, found = answers
    trees = [
        Tree(
            int(place),
            int(search.labels[rows[place]]),
            [
                Subproblem(float(found.bound[row]), int(entries.side[row]), found.alpha[row])
                for row in np.flatnonzero(entries.image == place)
            ],
        )
        for place in left
    ]
    budget = search.prover.budget

    def stop() -> bool:
        search.report("branch and bound")
        return search.late()

    settings = search.settings(STEPS)._replace(stop=stop)

    def attack(places: np.ndarray, corners: np.ndarray) -> np.ndarray:
        return search.try_corners(rows[places], corners)

    def settle(tree: Tree) -> None:
        solve_leaves(search, int(rows[tree.image]), tree, roots)

    model, regions = search.session.model, roots.regions
    for limit in sorted({*(first for first in DESCENTS if first < budget), budget}):
        growing = [tree for tree in trees if tree.unfinished]
        while growing:
            grow(model, regions, settings, growing, limit, attack, settle)
            growing = [
                tree for tree in growing if _again(search, int(rows[tree.image]), tree, roots)
            ]
        if limit in DESCENTS or budget < DESCENTS[0]:
            descend_from_corners(search, rows, trees)
    for tree in trees:
        row, ledger = rows[tree.image], search.ledger
        ledger.subproblems[row] += tree.count
        ledger.forward[row] += tree.count * (STEPS + 1)
        ledger.backward[row] += tree.count * (STEPS + 8)
        if ledger.status[row] != Verdict.PROVED:
            ledger.lower[row] = max(ledger.lower[row], tree.lower)


def solve_leaves(search: "Search", row: int, tree: Tree, roots: Roots) -> None:
    """Decide parts in which nothing is left to split by linear programs.

    The image at which a margin is least is tried as an attack.

    Args:
        search: The search, whose ledger is written into.
        row: The image.
        tree: Its tree, whose stuck parts are moved to the proved ones, or stay.
        roots: The bounds of nonlinearities' inputs.
    """
    pieces = search.pieces
    if pieces is None:
        return
    region = Region(*(np.asarray(part)[tree.image] for part in roots.regions))
    low, high = (np.float64(end).ravel() for end in (region.low, region.high))
    ball = Ball(np.float64(region.image).ravel(), (low, high), float(region.radius), search.norm)
    known = region.lower >= 0
    forward, backward = pieces.forward, pieces.backward
    stuck, tree.stuck = tree.stuck, []
    for number, part in enumerate(stuck):
        found = least_margin(pieces, ball, tree.label, part, known, tree.needed)
        if found.part.bound > tree.needed:
            tree.put(found.part)
            continue
        if found.image is not None:
            candidate = found.image.reshape(1, *search.session.images.shape[1:])
            tree.broken = bool(search.try_corners(np.array([row]), candidate)[0])
        tree.stuck = [found.part, *stuck[number + 1 :]]
        break
    search.ledger.forward[row] += pieces.forward - forward
    search.ledger.backward[row] += pieces.backward - backward


def _again(search: "Search", row: int, tree: Tree, roots: Roots) -> bool:
    """Note what became of a tree; return whether it is to grow further."""
    status = search.ledger.status
    if tree.broken:
        return False
    if tree.stuck:
        below = min(sub.bound for sub in tree.stuck) <= 0
        status[row] = Verdict.STUCK if below else Verdict.UNCONFIRMED
        return False
    if tree.open:
        status[row] = Verdict.BUDGET
        return False
    confirmed = search.confirm(row, tree.image, roots, tree.proved)
    return status[row] != Verdict.PROVED and tree.reopen(confirmed)
