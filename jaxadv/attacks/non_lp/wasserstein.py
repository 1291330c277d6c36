"""Wasserstein attack: brightness moves to neighbouring pixels at a transport cost."""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxadv.attacks.common.gradient_iteration import Iterate
from jaxadv.attacks.non_lp.sinkhorn import Prices, affordable, costs, plan_of, sinkhorn
from jaxadv.core.attack import Answer, Problem
from jaxadv.core.goals import Goal
from jaxadv.core.losses import Loss, get_loss
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Number


class WassersteinState(NamedTuple):
    """State of the attack.

    Attributes:
        image: [H, W, C], the iterate.
        prices: Dual variables of its projection, from which the next projection starts.
        step: Integer scalar, gradients taken so far.
    """

    image: Float[Array, "H W C"]
    prices: Prices
    step: Int[Array, ""]


@pytree
class Wasserstein(Iterate):
    """Wasserstein attack (Wong, Schmidt and Kolter 2019, arXiv 1902.07906): PGD in transport cost.

    The image's brightness above the lower end of the box, normalised to a sum of 1, is mass. Moving
    a mass m by d pixels within a channel costs m d^`power`, and the whole may cost `radius`: 0.1 is
    a tenth of the brightness moved by a pixel. A step along the gradient is projected onto that
    ball, with entropic regularisation, by Sinkhorn iterations that start from the last step's dual
    variables. One forward and one backward pass a step.

    The result is the image under a transport plan, reduced until it is affordable and no pixel
    leaves the box: its Wasserstein distance is at most `radius` by construction, and it keeps its
    mass. The authors' code clips to the box instead, which loses mass (Hu et al. 2020, arXiv
    2004.12478). Distances are reported in L2.

    Attributes:
        norm: "l2", in which distances are reported.
        steps: Gradients per restart.
        restarts: Number of runs; nothing in a run is random.
        radius: Largest Wasserstein distance (the paper's: 0.1).
        power: Exponent of the distance in the cost: 2, as in the authors' code.
        window: Side in pixels of the square within which mass moves, an odd number.
        iterations: Sinkhorn iterations per step.
        sharpness: Weight of the distance against the entropy: the authors' 3000 for CIFAR-10
            (digits: 1000). The larger, the nearer to the projection without entropy, which blurs.
        step_size: Move of the entry with the largest gradient, in sides of the box; the others move
            in proportion. A short step is lost in the blur: the authors' 0.1 gets half as far.
        loss: The loss that is maximised: a name, or a function (goal, logits [K]) -> scalar.

    Raises:
        ValueError: If the loss or the norm is unknown, window is even or below 3, steps, restarts
            or iterations is below 1, or radius, power, sharpness or step_size is not positive; in a
            run, for a start.

    >>> import jax, numpy as np, jaxadv as ja
    >>> lit = ja.Model(lambda side, x: x.mean((1, 3)) @ side, np.eye(8)[:, [3, 4]])
    >>> image = np.zeros((1, 8, 8, 1), np.float32)
    >>> image[:, :, 3] = 0.6
    >>> goal, attack = ja.Untargeted(np.array([0])), ja.Wasserstein(radius=0.55, steps=20)
    >>> result = ja.run(attack, lit, image, goal, key=jax.random.key(0))
    >>> result.success, result.images.sum().round(3)
    (array([ True]), np.float32(4.8))
    """

    norm: str = static(default="l2")
    steps: int = static(default=50)
    radius: Number = 0.1
    power: Number = 2.0
    window: int = static(default=5)
    iterations: int = static(default=20)
    sharpness: Number = 3000.0
    step_size: Number = 1.0
    loss: str | Loss = static(default="cross_entropy")
    norms: ClassVar[tuple[str, ...]] = ("l2",)
    needs_box: ClassVar[bool] = True
    needs_epsilon: ClassVar[bool] = False
    bounded_by: ClassVar[str] = "Wasserstein distance"

    def __post_init__(self) -> None:
        super().__post_init__()
        get_loss(self.loss)
        self.check_least(window=3, iterations=1)
        if self.window % 2 == 0:
            raise ValueError(f"window={self.window}: pass an odd number")
        for field in ("radius", "power", "sharpness", "step_size"):
            value = getattr(self, field)
            if isinstance(value, np.floating) and not 0 < value < np.inf:
                raise ValueError(f"{field}={value}: pass a number above 0")

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        return get_loss(self.loss)(goal, logits)

    def init(self, problem: Problem, key: Array) -> WassersteinState:
        if problem.start is not None:
            raise ValueError("start: Wasserstein begins at the image itself; pass none")
        prices = Prices(0 * problem.image, jnp.float32(1))
        return WassersteinState(problem.image, prices, jnp.int32(0))

    def tell(self, problem: Problem, state: WassersteinState, answer: Answer) -> WassersteinState:
        gradient, side = answer.gradients[0, 0], problem.sides
        gradient = gradient / jnp.maximum(jnp.abs(gradient).max(), 1e-30)
        moved = state.image + self.step_size * side * gradient
        above = problem.image - problem.lower
        total = jnp.maximum(above.sum(), 1e-12)
        mass, wanted = above / total, (moved - problem.lower) / total
        cost = costs(self.window, self.power)
        prices = sinkhorn(
            mass,
            wanted,
            self.radius,
            state.prices,
            cost,
            self.window,
            self.sharpness,
            self.iterations,
        )
        plan = plan_of(mass, prices, cost, self.window)
        room = (problem.upper - problem.image) / total
        image = problem.lower + total * affordable(plan, room, self.radius, cost, self.window)
        image = jnp.clip(image, problem.lower, problem.upper)  # against rounding
        return WassersteinState(image, prices, state.step + 1)
