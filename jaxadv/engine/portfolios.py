"""Portfolios: named lists of attacks for `minimal_distance`; a `ja.Refine` goes on from the best.

Most of what a single run loses is the wrong mistake: another class, or another place, was nearer.
So the first member looks at every class (FMN aimed at each, in Linf and L0) or keeps to none (ALMA,
L2 and L1), and Brendel-Bethge walks along the boundary from several noise images, shortly; slow
descent finds its way where gradients mislead; and the last walk follows the boundary from the best
image to its nearest point, to five digits. What a portfolio reaches is shown by `python -m
benchmarks.exact` and `benchmarks.minimum`.
"""

from jaxadv.attacks import ALMA, FMN, PDGD, PDPGD, BrendelBethge, EachTarget, SigmaZero
from jaxadv.core.attack import Attack
from jaxadv.core.norms import get_norm
from jaxadv.engine.stage import Refine

Portfolio = dict[str, Attack | Refine]
EFFORTS = {"fast": 400, "standard": 2_000, "strong": 40_000}  # forward and backward passes an image


def fast(norm: str, targeted: bool) -> Portfolio:
    """A first descent, a short walk along the boundary or two, and one refinement."""
    starts = 2 if norm in ALMA.norms else 1
    return {
        "descent": _descent(norm, targeted, 75, 6),
        "Brendel-Bethge": BrendelBethge(norm=norm, steps=25, restarts=starts),
        "Brendel-Bethge, from the best": _refined(norm, 35),
    }


def standard(norm: str, targeted: bool) -> Portfolio:
    """A longer descent, more walks from noise, a slow descent, a longer refinement."""
    return {
        "descent": _descent(norm, targeted, 250, 20),
        "Brendel-Bethge": BrendelBethge(norm=norm, steps=30, restarts=7),
        "slow": _slow(norm, 250),
        "Brendel-Bethge, from the best": _refined(norm, 150),
    }


def strong(norm: str, targeted: bool) -> Portfolio:
    """The same from many starts, with longer runs, in rounds."""
    found: Portfolio = {}
    for turn in range(1, 5):
        many = 1 if turn == 1 else 2
        found[f"FMN, {turn}"] = _aimed(FMN(norm=norm, steps=100, restarts=many), targeted)
        if norm in ALMA.norms:
            found[f"ALMA, {turn}"] = ALMA(norm=norm, steps=500)
        found |= {
            f"slow, {turn}": _slow(norm, 500),
            f"Brendel-Bethge, {turn}": BrendelBethge(norm=norm, steps=200, restarts=3),
            f"Brendel-Bethge, short, {turn}": BrendelBethge(norm=norm, steps=30, restarts=12),
            f"Brendel-Bethge, each target, {turn}": _aimed(
                BrendelBethge(norm=norm, steps=100), targeted
            ),
            f"Brendel-Bethge, from the best, {turn}": _refined(norm, 300),
        }
    return found


def _descent(norm: str, targeted: bool, steps: int, each: int) -> Attack:
    """ALMA of so many steps where it is defined; else FMN with `each` towards each class."""
    if norm in ALMA.norms:
        return ALMA(norm=norm, steps=steps)
    return _aimed(FMN(norm=norm, steps=each if not targeted else 10 * each), targeted)


def _slow(norm: str, steps: int) -> Attack:
    """What finds its way where gradients mislead: small steps with a memory."""
    if norm == "l0":
        return SigmaZero(steps=steps)
    return PDGD(steps=steps) if norm == "l2" else PDPGD(norm=norm, steps=steps)


def _refined(norm: str, steps: int) -> Refine:
    """A walk along the boundary from the best image."""
    return Refine(BrendelBethge(norm=norm, steps=steps, draws=0))


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
