"""EAD, the elastic-net attack: Carlini and Wagner's loss with an L1 penalty, by FISTA."""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxadv.attacks.common.penalty_rounds import Rounds, RoundsState, Weight
from jaxadv.core.attack import Answer, Problem
from jaxadv.core.pytree import pytree, static, where
from jaxadv.core.typing import Number


class EADState(NamedTuple):
    """State of one run of `EAD`.

    Attributes:
        x: [H, W, C] float32, the iterate.
        y: [H, W, C] float32, the point after the momentum step, where the gradient is taken.
        weight: The search for c.
        progress: Progress of the rounds and the best image so far.
    """

    x: Float[Array, "H W C"]
    y: Float[Array, "H W C"]
    weight: Weight
    progress: RoundsState


@pytree
class EAD(Rounds):
    """Elastic-net attack (Chen et al. 2017, arXiv 1709.04114): least distance in L1.

    The attack minimises c * max(margin + confidence, 0) + |d|_2^2 + beta |d|_1 over the box, with d
    in sides of the box. c is multiplied by ten, from `initial_c`, until a round succeeds, and then
    found by bisection. Each value of c takes at most `steps` steps of FISTA from the image. It is
    deterministic; `start` replaces the image as the first point.

    A step queries the gradient at y and the class of x, as in the authors' code: two forward passes
    and one backward pass. The final image costs one more forward pass. y is clipped to the box,
    unlike in the authors' code.

    Attributes:
        steps: Largest number of steps for one value of c.
        rounds: Number of values of c.
        learning_rate: First step size; it falls as the square root of the remaining fraction of the
            round.
        initial_c: First value of c.
        confidence: Required distance beyond the boundary, in logits; images that do not reach it
            count as failures.
        abort_early: End a round when, within a tenth of it, neither the lowest loss has fallen by
            a fraction of 1e-4 nor a nearer adversarial image has been found; decided for each image
            on its own (implementations compare single losses, summed over the batch).
        beta: Amount by which each step shrinks every entry of d, as in the paper (proximal gradient
            descent on the formula above would shrink by beta times the step size). The paper's 1e-3
            leaves many small entries: on an MNIST network 1.6 times the proved least distance,
            against 1.16 with 0.01 and 1.06 with 0.03.
        rule: Selection of the image returned: the success with the least "l1" distance, or with the
            least "en", |d|_2^2 + beta |d|_1 (`keep="last"`).

    Raises:
        ValueError: If `steps` or `rounds` is below 1, `learning_rate` or `initial_c` is not above
            0, `confidence` or `beta` is below 0, or `rule` is neither "l1" nor "en".

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(4)[:, :2])
    >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.7)
    >>> goal = ja.Untargeted(jnp.array([0]))
    >>> ja.run(ja.EAD(), model, images, goal, key=jax.random.key(0)).distance.round(2)
    array([0.2])
    """

    beta: Number = 1e-2
    rule: str = static(default="l1")
    norm: ClassVar[str] = "l1"
    norms: ClassVar[tuple[str, ...]] = ("l1",)
    queries: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule not in ("l1", "en"):
            raise ValueError(f"rule={self.rule!r}: pass 'l1' or 'en'")
        if isinstance(self.beta, np.floating) and not 0 <= self.beta < np.inf:
            raise ValueError(f"beta={self.beta}: pass 0 or more")

    @property
    def keep(self) -> str:  # type: ignore[override]
        return "last" if self.rule == "en" else super().keep

    def init(self, problem: Problem, key: Array) -> EADState:
        start = problem.image if problem.start is None else problem.start
        return EADState(
            start, start, Weight.begin(self.initial_c), RoundsState.begin(problem.image)
        )

    def ask(self, problem: Problem, state: EADState) -> Float[Array, "Q ..."]:
        both = jnp.stack([state.y, state.x])
        return jnp.where(state.progress.last, state.progress.best, both)

    def tell(self, problem: Problem, state: EADState, answer: Answer) -> EADState:
        image, side, weight = problem.image, problem.side, state.weight
        delta = (state.x - image) / side
        length = jnp.abs(delta).sum()
        elastic = jnp.square(delta).sum() + self.beta * length
        lacking, success = self.shortfall(problem.goal, answer.logits[1])
        step = state.progress.step.astype(jnp.float32)
        progress = self.seen(
            state.progress, success, state.x, elastic if self.rule == "en" else length
        )
        reached = progress.reached
        progress, over = self.stepped(progress, elastic + weight.c * lacking)

        # One step of FISTA from y: down the smooth part, shrunk towards the image, into the box.
        slope = -side * answer.gradients[0, 0]
        ahead = (state.y - image) / side
        pushed = jnp.where(self.shortfall(problem.goal, answer.logits[0])[0] > 0, weight.c, 0)
        size = self.learning_rate * jnp.sqrt(1 - step / self.steps)
        moved = ahead - size * (pushed * slope + 2 * ahead)
        shrunk = jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - self.beta, 0)
        x = jnp.clip(image + side * shrunk, problem.lower, problem.upper)
        y = jnp.clip(x + step / (step + 3) * (x - state.x), problem.lower, problem.upper)

        start = image if problem.start is None else problem.start
        x, y, weight = where(over, (start, start, weight.after(reached)), (x, y, weight))
        return EADState(x, y, weight, progress._replace(reached=progress.reached & ~over))
