"""Branch and bound on images that cheaper bounds left undecided, until the replay confirms it."""

from typing import TYPE_CHECKING

import numpy as np

from jaxadv.proofs.backward import Region
from jaxadv.proofs.leaves import Ball, least_margin
from jaxadv.proofs.roots import Balls, Roots
from jaxadv.proofs.slopes import Answers, Entries, Stopped
from jaxadv.proofs.subproblems import BACKWARD, FORWARD, STEPS, Subproblem
from jaxadv.proofs.tree import Tree, grow
from jaxadv.protocols.proof_descents import descend_from_corners
from jaxadv.protocols.prover import INNER_STEPS, LAST_STEPS
from jaxadv.protocols.verdicts import Verdict

SHARPEN = 250  # subproblems after which inputs of nonlinearities are split too
PARTS, MOST_PARTS = 2, 20_000  # their subproblems, for each nonlinearity: of the budget, at most
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
    trees = plant(search, rows, answers, left)
    budget = search.prover.budget

    def stop() -> bool:
        search.report("branch and bound")
        return search.late()

    settings = search.settings(STEPS)._replace(stop=stop)

    def attack(places: np.ndarray, corners: np.ndarray) -> np.ndarray:
        return search.try_corners(rows[places], corners)

    def settle(tree: Tree) -> None:
        solve_leaves(search, int(rows[tree.image]), tree, roots)

    model, decided = search.session.model, []
    for limit in sorted({*(first for first in (SHARPEN, *DESCENTS) if first < budget), budget}):
        growing = [tree for tree in trees if tree.unfinished]
        while growing:
            grow(model, roots.regions, settings, growing, limit, attack, settle)
            growing = [
                tree for tree in growing if _again(search, int(rows[tree.image]), tree, roots)
            ]
        if limit == SHARPEN:
            try:
                roots, sharpened = sharpen(search, rows, roots, trees)
            except Stopped:
                break
            again = {tree.image for tree in sharpened}
            decided, trees = [tree for tree in trees if tree.image not in again], sharpened
        if limit in DESCENTS or budget < DESCENTS[0]:
            descend_from_corners(search, rows, [*decided, *trees])
    for tree in [*decided, *trees]:
        row, ledger = rows[tree.image], search.ledger
        ledger.subproblems[row] += tree.count
        ledger.forward[row] += tree.count * FORWARD
        ledger.backward[row] += tree.count * BACKWARD
        if ledger.status[row] != Verdict.PROVED:
            ledger.lower[row] = max(ledger.lower[row], tree.lower)


def plant(
    search: "Search", rows: np.ndarray, answers: tuple[Entries, Answers], left: np.ndarray
) -> list[Tree]:
    """Return a tree for each image of the chunk at the places that are left."""
    entries, found = answers
    return [
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


def sharpen(
    search: "Search", rows: np.ndarray, roots: Roots, trees: list[Tree]
) -> tuple[Roots, list[Tree]]:
    """Split the inputs of nonlinearities of the images that are open, and plant new trees.

    Args:
        search: The search, whose ledger is written into.
        rows: The images of the chunk.
        roots: The bounds of their nonlinearities' inputs.
        trees: The trees so far.

    Returns:
        The bounds, with better ones for images that are open, and new trees, with the counts and
        corners of the old ones, for those which these leave undecided.

    Raises:
        Stopped: It is late.
    """
    open_trees = {tree.image: tree for tree in trees if tree.unfinished}
    kinds = [node.kind for node in search.network.nodes]
    if not open_trees or "relu" not in kinds[1:]:
        return roots, trees
    search.report("bounds by splits")
    left, ball = np.array(sorted(open_trees)), Balls(*roots.regions[:4])
    settings = search.settings(INNER_STEPS, min(PARTS * search.prover.budget, MOST_PARTS))
    found = search.roots(rows, ball, settings, left, roots.regions)
    slopes = [[*old, *new] for old, new in zip(roots.slopes, found.slopes, strict=True)]
    roots = found._replace(slopes=slopes)
    answers = search.margins(rows, roots, LAST_STEPS, left)
    planted = plant(search, rows, answers, search.conclude(rows, roots, answers))
    for tree in planted:
        old = open_trees[tree.image]
        tree.count, tree.needed = old.count, old.needed
        tree.corners, tree.numbers = old.corners, old.numbers
    return roots, planted


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
