"""Projected gradient descent, with and without a random start."""

from typing import Any

from jaxadv.attacks.gradient import GradientAttack
from jaxadv.core.pytree import pytree, static


@pytree
class PGD(GradientAttack):
    """Projected gradient descent (Madry et al. 2017, arXiv 1706.06083), untargeted and targeted.

    norm: "linf", "l2", "l1" or "l0"; steps: gradients per restart; step_size: as a share of
    epsilon; loss: "cross_entropy", "margin", "dlr" or a function (goal, logits [K]) -> scalar;
    random_start: begin at a uniform draw from the ball; restarts: independent starts, counted in
    order, none after a success; optimizer: a `ja.Optimizer` in place of steepest ascent (its
    learning rate is in the scale of the image, and `step_size` is not used); sparsity: in L1 and L0
    the share of the entries that one step moves (Tramer and Boneh 2019, arXiv 1904.13000).

    Per restart at most `steps` backward and `steps + 1` forward passes. Raises ValueError for an
    unknown norm or loss, and for steps or restarts below 1.

    >>> import jaxadv as ja
    >>> attack = ja.PGD(norm="linf", steps=40, step_size=0.1)
    """

    random_start: bool = static(default=True)


@pytree
class BIM(GradientAttack):
    """Basic iterative method (Kurakin, Goodfellow, Bengio 2016, arXiv 1607.02533).

    PGD from the image itself. `steps` backward and `steps + 1` forward passes.

    >>> import jaxadv as ja
    >>> attack = ja.BIM(steps=10)
    """

    steps: int = static(default=10)
    step_size: Any = 0.1
