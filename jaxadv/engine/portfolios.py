"""Portfolios: named lists of attacks for `minimal_distance`; a `Refine` goes on from the best.

FMN aimed at each wrong class finds which mistake is near (most of what an untargeted attack loses
is the wrong class), and Brendel-Bethge then follows the boundary to its nearest point, to five
digits. Against networks whose gradients lead nowhere from the image, primal-dual descent and walks
that begin at noise find what it does not. What a portfolio reaches is shown by `python -m
benchmarks.exact` and `benchmarks.minimum`.
"""

from typing import NamedTuple

from jaxadv.attacks import FMN, PDGD, PDPGD, BrendelBethge, EachTarget, SigmaZero
from jaxadv.core.attack import Attack
from jaxadv.core.norms import get_norm


class Refine(NamedTuple):
    """In a portfolio: an attack that begins at the best image so far (and is not run without).

    Those that are no refinements begin as they would alone.
    """

    attack: Attack


Portfolio = dict[str, Attack | Refine]
EFFORTS = {"fast": 400, "standard": 2_000, "strong": 40_000}  # forward and backward passes an image


def fast(norm: str, targeted: bool) -> Portfolio:
    """One look at every wrong class, and one refinement."""
    return {
        "FMN": _aimed(FMN(norm=norm, steps=14 if not targeted else 100), targeted),
        "Brendel-Bethge": Refine(BrendelBethge(norm=norm, steps=50)),
    }


def standard(norm: str, targeted: bool) -> Portfolio:
    """A look at every wrong class, a slow descent, a walk along the boundary, a refinement."""
    return {
        "FMN": _aimed(FMN(norm=norm, steps=30), targeted),
        "slow": _slow(norm, 250),
        "Brendel-Bethge": BrendelBethge(norm=norm, steps=150),
        "Brendel-Bethge, from the best": Refine(BrendelBethge(norm=norm, steps=150)),
    }


def strong(norm: str, targeted: bool) -> Portfolio:
    """The same from many starts, with longer runs, in rounds."""
    found: Portfolio = {}
    for turn in range(1, 5):
        many = 1 if turn == 1 else 3
        found |= {
            f"FMN, {turn}": _aimed(FMN(norm=norm, steps=100, restarts=many), targeted),
            f"slow, {turn}": _slow(norm, 500),
            f"Brendel-Bethge, {turn}": BrendelBethge(norm=norm, steps=200, restarts=3),
            f"Brendel-Bethge, each target, {turn}": _aimed(
                BrendelBethge(norm=norm, steps=100), targeted
            ),
            f"Brendel-Bethge, from the best, {turn}": Refine(BrendelBethge(norm=norm, steps=300)),
        }
    return found


def _slow(norm: str, steps: int) -> Attack:
    """What finds its way where gradients mislead: small steps with a memory."""
    if norm == "l0":
        return SigmaZero(steps=steps)
    return PDGD(steps=steps) if norm == "l2" else PDPGD(norm=norm, steps=steps)


def _aimed(attack: Attack, targeted: bool) -> Attack:
    return attack if targeted else EachTarget(attack, targets=9)


def get_portfolio(
    effort: str | Portfolio, norm: str, targeted: bool
) -> tuple[Portfolio, int | None]:
    """The members of that effort for a norm, and the passes an image may cost. ValueError.

    targeted: whether the goals name a target; else members aim at classes of their own choice.
    Named attacks are returned as they are, with no limit on their passes.
    """
    get_norm(norm)
    if isinstance(effort, dict):
        return dict(effort), None
    if effort not in EFFORTS:
        raise ValueError(f"effort={effort!r}: pass one of {list(EFFORTS)} or a dict of attacks")
    make = {"fast": fast, "standard": standard, "strong": strong}[effort]
    return make(norm, targeted), EFFORTS[effort]
