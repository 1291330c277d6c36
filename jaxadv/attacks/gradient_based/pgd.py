"""Projected gradient descent, with and without a random start."""

from typing import ClassVar

from jaxadv.attacks.common.gradient import GradientAttack
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Number


@pytree
class PGD(GradientAttack):
    """Projected gradient descent (Madry et al. 2017, arXiv 1706.06083), untargeted and targeted.

    The default step is steepest ascent in the norm of the attack. Restarts are counted in order,
    and none is run after a success. Each restart costs at most `steps` backward and `steps + 1`
    forward passes.

    Attributes:
        norm: "linf", "l2", "l1" or "l0".
        steps: Gradients per restart.
        restarts: Independent random starts.
        step_size: Step length as a fraction of epsilon.
        loss: "cross_entropy", "margin", "probability_margin", "dlr" or a function (goal, logits
            [K]) -> scalar.
        random_start: Start at a uniform draw from the ball instead of the image.
        optimizer: A `ja.Optimizer` that replaces steepest ascent; its learning rate is in the scale
            of the image, and `step_size` is not used.
        sparsity: In L1 and L0, fraction of the entries that one step moves (Tramer and Boneh 2019,
            arXiv 1904.13000).

    Raises:
        ValueError: If `norm` or `loss` is unknown, `steps` or `restarts` is below 1, or
            `step_size` is not a finite number above 0.

    >>> import jaxadv as ja
    >>> attack = ja.PGD(norm="linf", steps=40, step_size=0.1)
    """

    random_start: bool = static(default=True)
    simple_norms: ClassVar[tuple[str, ...]] = ("linf", "l2")


@pytree
class BIM(GradientAttack):
    """Basic iterative method (Kurakin, Goodfellow, Bengio 2016, arXiv 1607.02533).

    PGD that starts at the image itself. A run costs at most `steps` backward and `steps + 1`
    forward passes.

    Attributes:
        norm: "linf", "l2", "l1" or "l0".
        steps: Gradients per restart.
        restarts: Runs per image; they differ only with `random_start`.
        step_size: Step length as a fraction of epsilon.
        loss: As in `PGD`.
        random_start: As in `PGD`.
        optimizer: As in `PGD`.
        sparsity: As in `PGD`.

    Raises:
        ValueError: If `norm` or `loss` is unknown, `steps` or `restarts` is below 1, or
            `step_size` is not a finite number above 0.

    >>> import jaxadv as ja
    >>> attack = ja.BIM(steps=10)
    """

    steps: int = static(default=10)
    step_size: Number = 0.1
    simple_norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
