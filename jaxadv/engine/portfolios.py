"""Portfolios: named lists of attacks for `minimal_distance`, each going on from the best so far.

What each member is for, and the order, come from `python -m benchmarks.exact`.
"""

from jaxadv.attacks import FAB
from jaxadv.core.attack import Attack

Portfolio = dict[str, Attack]
EFFORTS = {"fast": 400, "standard": 2_000, "strong": 40_000}  # forward and backward passes an image


def get_portfolio(effort: str | Portfolio, norm: str, targeted: bool) -> tuple[Portfolio, int]:
    """The members of that effort for a norm, and the passes an image may cost. ValueError.

    targeted: whether the goals name a target; else members aim at classes of their own choice.
    Named attacks are returned as they are, with no limit on their passes.
    """
    if isinstance(effort, dict):
        return dict(effort), 2**31
    if effort not in EFFORTS:
        raise ValueError(f"effort={effort!r}: pass one of {list(EFFORTS)} or a dict of attacks")
    return {"FAB": FAB(norm=norm, targets=0 if targeted else 9)}, EFFORTS[effort]
