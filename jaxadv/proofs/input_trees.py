"""Bounds of the inputs of nonlinearities by branch and bound over earlier ReLUs.

What is lost in the bounds of inputs is lost again in every bound that rests on them: in deep
networks more than splits can win back later. So inputs whose signs are open are split themselves,
as margins are (`tree`), layer by layer. It serves what mixed-integer programs serve in Tjeng et al.
2019 (MIPVerify, arXiv 1711.07356), for few subproblems.
"""

from collections import Counter

import numpy as np

from jaxadv.core.model import Model
from jaxadv.proofs.backward import Region
from jaxadv.proofs.programs import everywhere, width_of
from jaxadv.proofs.slopes import Answers, Entries, Settings, Stopped
from jaxadv.proofs.subproblems import Subproblem
from jaxadv.proofs.tree import Tree, treat_round

ROUND = 8  # the most subproblems of an input in a round
LEAST = 4  # subproblems of each input, below which none is split
MOST = 128  # subproblems of an input
TIGHT = 0.05  # of the interval's width: what is nearer to the truth is not split


def input_trees(
    model: Model,
    regions: Region,
    rows: Entries,
    found: Answers,
    node: int,
    settings: Settings,
) -> list[Tree]:
    """Split the regions of rows, each a bound of one input of one nonlinearity.

    An input is done when its sign is known, when an image shows that its bound is near the truth,
    after `MOST` subproblems, or when those of all inputs of its image, `settings.parts`, are spent.

    Args:
        model: The model.
        regions: The regions of the images.
        rows: The rows: lower bounds of inputs, and then upper bounds of the same.
        found: Their bounds and slopes so far.
        node: The number of the nonlinearity.
        settings: How they are bounded.

    Returns:
        A tree for each row, whose parts cover its region.

    Raises:
        Stopped: `settings.stop` said so.
    """
    entries = zip(rows.image, rows.entry, rows.side, found.bound, found.alpha, strict=True)
    trees = [
        Tree(int(i), int(j), [Subproblem(float(b), int(side), alpha, own=float(b))])
        for i, j, side, b, alpha in entries
    ]
    counts = Counter(tree.image for tree in trees)
    going = [t for t in trees if settings.parts >= LEAST * counts[t.image] and np.isfinite(t.lower)]
    half = len(trees) // 2
    width = np.tile(-(found.bound[:half] + found.bound[half:]), 2)
    room = dict(zip(trees, TIGHT * width, strict=True))
    size, mesh, spent = found.alpha.shape[1], settings.mesh, Counter[int]()
    model, regions = everywhere((model, regions), mesh)

    def worth(tree: Tree) -> bool:
        near = tree.attained - tree.lower <= room[tree]
        free = tree.count < MOST and spent[tree.image] < settings.parts
        return tree.unfinished and free and not near

    while going := [tree for tree in going if worth(tree)]:
        round_of = [(tree, sub) for tree in going for sub in tree.worst(ROUND)]
        width = width_of(size, len(round_of), mesh)
        for begin in range(0, len(round_of), width):
            if settings.stop():
                raise Stopped
            part = round_of[begin : begin + width]
            out = treat_round(model, regions, settings, part, width, node)
            for row, (tree, sub) in enumerate(part):
                tree.attained = min(tree.attained, float(out.value[row, 0]))
                before = tree.count
                tree.take_in(sub, type(out)(*(field[row] for field in out)))
                spent[tree.image] += tree.count - before
                while tree.stuck:  # further steps may still tighten it
                    tree.put(tree.stuck.pop())
    return trees
