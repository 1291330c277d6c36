"""The fast gradient (sign) method: one step of the length of epsilon."""

from typing import Any, ClassVar

from jaxadv.attacks.gradient import GradientAttack
from jaxadv.core.pytree import pytree, static


@pytree
class FGSM(GradientAttack):
    """Fast gradient sign method (Goodfellow, Shlens, Szegedy 2014, arXiv 1412.6572).

    x + epsilon * sign(gradient), clipped to the box. One gradient, two forward passes.

    >>> import jaxadv as ja
    >>> attack = ja.FGSM()
    """

    steps: int = static(default=1)
    step_size: Any = 1.0
    norms: ClassVar[tuple[str, ...]] = ("linf",)


@pytree
class FGM(GradientAttack):
    """Fast gradient method: the same single step in L2 (or another norm), projected onto the box.

    One gradient, two forward passes (Miyato et al. 2016, arXiv 1605.07725, for L2).

    >>> import jaxadv as ja
    >>> attack = ja.FGM(norm="l2")
    """

    norm: str = static(default="l2")
    steps: int = static(default=1)
    step_size: Any = 1.0
