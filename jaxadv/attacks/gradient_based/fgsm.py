"""Fast gradient (sign) method: a single step of length epsilon."""

from typing import ClassVar

from jaxadv.attacks.common.gradient import GradientAttack
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Number


@pytree
class FGSM(GradientAttack):
    """Fast gradient sign method (Goodfellow, Shlens, Szegedy 2014, arXiv 1412.6572).

    The adversarial image is x + epsilon * sign(gradient), clipped to the box. A run costs one
    backward and two forward passes.

    Attributes:
        norm: "linf".
        steps: Gradients per restart.
        restarts: Runs per image; they differ only with `random_start`.
        step_size: Step length as a fraction of epsilon.
        loss: As in `PGD`.
        random_start: Start at a uniform draw from the ball.
        optimizer: As in `PGD`.
        sparsity: Not used in Linf.

    Raises:
        ValueError: If `norm` is not "linf", `loss` is unknown, `steps` or `restarts` is below 1, or
            `step_size` is not a finite number above 0.

    >>> import jaxadv as ja
    >>> attack = ja.FGSM()
    """

    steps: int = static(default=1)
    step_size: Number = 1.0
    norms: ClassVar[tuple[str, ...]] = ("linf",)
    simple_norms: ClassVar[tuple[str, ...]] = ("linf",)


@pytree
class FGM(GradientAttack):
    """Fast gradient method: a single gradient step in L2 or another norm, projected onto the box.

    A run costs one backward and two forward passes (Miyato et al. 2016, arXiv 1605.07725, for L2).

    Attributes:
        norm: "linf", "l2", "l1" or "l0".
        steps: Gradients per restart.
        restarts: Runs per image; they differ only with `random_start`.
        step_size: Step length as a fraction of epsilon.
        loss: As in `PGD`.
        random_start: Start at a uniform draw from the ball.
        optimizer: As in `PGD`.
        sparsity: As in `PGD`.

    Raises:
        ValueError: If `norm` or `loss` is unknown, `steps` or `restarts` is below 1, or
            `step_size` is not a finite number above 0.

    >>> import jaxadv as ja
    >>> attack = ja.FGM(norm="l2")
    """

    norm: str = static(default="l2")
    steps: int = static(default=1)
    step_size: Number = 1.0
    simple_norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
