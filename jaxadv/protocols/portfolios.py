"""Portfolios: named lists of attacks for `minimal_distance`; `ja.Refine` begins at the best.

A single run mostly fails because another class, or another place of the boundary, was nearer. So
Brendel-Bethge walks along the boundary from several noise images: many short walks, whose ball
halves every few steps, find other minima for far fewer passes than one long walk. Where it pays, a
descent precedes the walks (FMN at every class, or ALMA), and a slow attack follows them for masked
gradients. The last walk follows the boundary from the best image to its nearest point. The results
of each portfolio are measured by `python -m benchmarks.quality.exact` and `python -m
benchmarks.peers.minimum`.

An effort consists of phases: those of the next weaker effort, unchanged, and one of its own, which
the functions here return. So more effort never answers worse.
"""

from typing import NamedTuple

from jaxadv.attacks import ALMA, FMN, PDGD, PDPGD, BrendelBethge, EachTarget, SigmaZero
from jaxadv.core.attack import Attack
from jaxadv.core.norms import get_norm
from jaxadv.protocols.cached_run import Refine

Portfolio = dict[str, Attack | Refine]
EFFORTS = {"fast": 400, "standard": 2_000, "strong": 40_000}  # forward and backward passes an image
SEARCHED = ("standard", "strong")  # efforts that end with a pattern search


class Phase(NamedTuple):
    """Members that run one after the other, and then perhaps a pattern search.

    Attributes:
        members: The members by name.
        passes: The most forward and backward passes an image, those of earlier phases included.
        searched: Whether a pattern search follows where the network is small enough.
    """

    members: Portfolio
    passes: int
    searched: bool = False


def fast(norm: str, targeted: bool) -> Portfolio:
    """Return a first descent, one or two short walks along the boundary, and one refinement."""
    if norm == "l0":
        return {
            "Brendel-Bethge": _walks(norm, 30, 3, decays=6),
            "Brendel-Bethge, from the best": _refined(norm, 60, decays=10),
        }
    if norm == "linf":
        return {
            "FMN": _aimed(FMN(norm=norm, steps=10 if not targeted else 90), targeted),
            "Brendel-Bethge": _walks(norm, 45, 1, decays=6),
            "Brendel-Bethge, from the best": _refined(norm, 38, decays=8),
        }
    return {
        "ALMA": ALMA(norm=norm, steps=75),
        "Brendel-Bethge": _walks(norm, 25, 2, decays=5, radius=0.1),
        "Brendel-Bethge, from the best": _refined(norm, 42, decays=8),
    }


def standard(norm: str, targeted: bool) -> Portfolio:
    """Run "fast", then longer descents, more walks from noise and a longer refinement, by norm."""
    if norm == "linf":
        return {
            "FMN, again": _aimed(FMN(norm=norm, steps=14), targeted),
            "Brendel-Bethge, more": _walks(norm, 60, 6, decays=6),
            "Brendel-Bethge, from the best, longer": _refined(norm, 230),
        }
    if norm == "l2":
        return {
            "ALMA, longer": ALMA(norm=norm, steps=230),
            "FMN": _aimed(FMN(norm=norm, steps=18), targeted),
            "Brendel-Bethge, near": _walks(norm, 30, 3, decays=6, radius=0.1),
            "Brendel-Bethge, far": _walks(norm, 30, 4, decays=6, radius=0.5),
            "Brendel-Bethge, from the best, longer": _refined(norm, 150),
        }
    return {
        "Brendel-Bethge, more": _walks(norm, 30, 8 if norm == "l1" else 9, decays=6),
        "slow": _slow(norm, 200),
        "Brendel-Bethge, from the best, longer": _refined(norm, 240),
    }


def strong(norm: str, targeted: bool) -> Portfolio:
    """Run "standard", then the same attacks in rounds, with more starts and longer runs."""
    members: Portfolio = {}
    for turn in range(1, 5):
        many = 1 if turn == 1 else 2
        members[f"FMN, {turn}"] = _aimed(FMN(norm=norm, steps=100, restarts=many), targeted)
        if norm in ALMA.norms:
            members[f"ALMA, {turn}"] = ALMA(norm=norm, steps=500)
        members |= {
            f"slow, {turn}": _slow(norm, 500),
            f"Brendel-Bethge, {turn}": _walks(norm, 200, 3, decays=20),
            f"Brendel-Bethge, short, {turn}": _walks(
                norm, 30, 12, decays=6, radius=0.1 if norm == "l2" else None
            ),
            f"Brendel-Bethge, each target, {turn}": _aimed(
                BrendelBethge(norm=norm, steps=100), targeted
            ),
            f"Brendel-Bethge, from the best, {turn}": _refined(norm, 300),
        }
    return members


def _walks(
    norm: str, steps: int, restarts: int, decays: int, radius: float | None = None
) -> Attack:
    """Return walks along the boundary from noise; radius: of the first ball, as `learning_rate`.

    In L2, far steps find more on smooth networks, near steps on networks with masked gradients.
    """
    return BrendelBethge(
        norm=norm, steps=steps, restarts=restarts, decays=decays, learning_rate=radius
    )


def _slow(norm: str, steps: int) -> Attack:
    """Return a momentum attack with small steps, for networks with masked gradients."""
    if norm == "l0":
        return SigmaZero(steps=steps)
    return PDGD(steps=steps) if norm == "l2" else PDPGD(norm=norm, steps=steps)


def _refined(norm: str, steps: int, decays: int = 20) -> Refine:
    """Return a walk along the boundary from the best image."""
    return Refine(BrendelBethge(norm=norm, steps=steps, decays=decays, draws=0))


def _aimed(attack: Attack, targeted: bool) -> Attack:
    return attack if targeted else EachTarget(attack, targets=9)


def get_portfolio(effort: str | Portfolio, norm: str, targeted: bool) -> tuple[Phase, ...]:
    """Return the phases of an effort for a norm.

    Args:
        effort: "fast", "standard" or "strong", or a dict of named attacks, which is one phase with
            no limit on its passes.
        norm: Name of the norm.
        targeted: Whether the goals name a target; else members choose the classes that they aim at.

    Returns:
        The phases: those of the next weaker effort, and then its own.

    Raises:
        ValueError: If the norm or the effort is unknown, or the dict is empty.
    """
    get_norm(norm)
    if isinstance(effort, dict):
        if not effort:
            raise ValueError("effort is empty: pass one attack or more, each under a name")
        return (Phase(dict(effort), 2**31),)
    if not isinstance(effort, str) or effort not in EFFORTS:
        raise ValueError(f"effort={effort!r}: pass one of {list(EFFORTS)} or a dict of attacks")
    makers = {"fast": fast, "standard": standard, "strong": strong}
    names = list(EFFORTS)
    return tuple(
        Phase(makers[name](norm, targeted), EFFORTS[name], name in SEARCHED)
        for name in names[: names.index(effort) + 1]
    )


def members_of(phases: tuple[Phase, ...]) -> Portfolio:
    """Return the members of all phases, in the order of their runs."""
    return {name: entry for phase in phases for name, entry in phase.members.items()}
