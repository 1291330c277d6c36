"""Branch and bound on images that cheaper bounds left undecided, until the replay confirms it."""

from typing import TYPE_CHECKING

import numpy as np

from jaxadv.proofs.roots import Roots
from jaxadv.proofs.slopes import Answers, Entries
from jaxadv.proofs.tree import STEPS, Subproblem, Tree, grow
from jaxadv.protocols.verdicts import Verdict

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
    growing, budget = trees, search.prover.budget

    def stop(_: list[Tree]) -> bool:
        search.report("branch and bound")
        return search.late()

    def attack(places: np.ndarray, corners: np.ndarray) -> np.ndarray:
        return search.try_corners(rows[places], corners)

    while growing:
        grow(search.session.model, roots.regions, search.norm, growing, budget, attack, stop)
        growing = [tree for tree in growing if _again(search, int(rows[tree.image]), tree, roots)]
    for tree in trees:
        row, ledger = rows[tree.image], search.ledger
        ledger.subproblems[row] += tree.count
        ledger.forward[row] += tree.count * (STEPS + 1)
        ledger.backward[row] += tree.count * (STEPS + 8)
        if ledger.status[row] != Verdict.PROVED:
            ledger.lower[row] = max(ledger.lower[row], tree.lower)


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
