"""The least margin on a part of a region in which the sign of every ReLU is known.

There the network is affine, and the least margin is a linear program. Its multipliers are those of
the splits in the backward bound (Wang et al. 2021, beta-CROWN, arXiv 2103.06624, theorem 3.2), so a
certificate holds them as it holds any other, and the replay knows nothing of linear programs. Few
of the splits matter, so inequalities are added as they are violated.
"""

from typing import NamedTuple

import numpy as np

from jaxadv.proofs.pieces import Pieces
from jaxadv.proofs.polytopes import Box, lowest
from jaxadv.proofs.subproblems import Subproblem

CUTS = 50  # rounds in which violated inequalities are added
MOST_CUTS = 64  # inequalities that a round adds
VIOLATED = 1e-9  # of the largest input of a ReLU


class Ball(NamedTuple):
    """The region of one image.

    Attributes:
        image: Floats [D].
        box: The least and the largest difference from it, each [D].
        radius: The radius.
        norm: Name of the norm.
    """

    image: np.ndarray
    box: Box
    radius: float
    norm: str


class Optimum(NamedTuple):
    """The least margin on a part.

    Attributes:
        part: The part with its bound and multipliers.
        image: Floats [D], where the margin is attained; None if the part is empty.
    """

    part: Subproblem
    image: np.ndarray | None


def least_margin(
    pieces: Pieces, ball: Ball, label: int, part: Subproblem, known: np.ndarray, needed: float
) -> Optimum:
    """Bound the margin on a part in which every ReLU is split or has one sign.

    Args:
        pieces: The affine pieces of the model.
        ball: The region.
        label: The class of the image.
        part: The part.
        known: Booleans [M], the ReLUs that are on all over the region.
        needed: The bound that is asked for.

    Returns:
        The part, and where its margin is least. It takes a forward pass a round and a backward pass
        an inequality.
    """
    on, x = known.copy(), ball.image
    entry, sign = np.array(part.entry, int), np.array(part.sign, int)
    on[entry] = sign > 0
    margin = pieces.size + part.target
    slack = pieces.slack(on, label, x)
    (cost,) = pieces.gradients(on, label, x, np.array([margin]))
    rows, start = np.zeros((0, x.size)), slack
    used, more = np.zeros(0, int), np.zeros(0, int)
    for _ in range(CUTS):
        used = np.r_[used, more]
        rows = np.r_[rows, pieces.gradients(on, label, x, entry[more])]
        found = lowest(
            ball.norm,
            cost,
            rows,
            -start[entry[used]],
            ball.box,
            ball.radius,
            needed - start[margin],
        )
        bound = start[margin] + found.value
        if bound > needed or found.point is None:
            break
        slack = pieces.slack(on, label, x + found.point)
        short = np.where(np.isin(np.arange(len(entry)), used), 0.0, -slack[entry])
        more = np.flatnonzero(short > VIOLATED * np.abs(slack[: pieces.size]).max(initial=1.0))
        more = more[np.argsort(-short[more], kind="stable")[:MOST_CUTS]]
        if len(more) == 0:
            break
    beta = np.zeros(len(entry))
    beta[used] = found.multipliers
    part = part._replace(bound=max(part.bound, bound), beta=tuple(beta.tolist()))
    return Optimum(part, None if found.point is None else x + found.point)
