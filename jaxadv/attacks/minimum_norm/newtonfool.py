"""NewtonFool: Newton steps that lower the label's probability to that of a random guess."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxadv.attacks.common.boundary_walk import Crossing, Line
from jaxadv.attacks.minimum_norm.deepfool import DeepFoolState
from jaxadv.core.attack import Answer, Problem
from jaxadv.core.goals import Goal
from jaxadv.core.losses import log_odds
from jaxadv.core.norms import diameter
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Number


@pytree
class NewtonFool(Crossing):
    """NewtonFool (Jang, Wu and Jha 2017, doi 10.1145/3134600.3134635): small changes in L2.

    With F the softmax probability of the label and g its gradient, each step goes against g by the
    length min(eta * |x0|, (F - 1 / K) / |g|): F would fall to 1 / K if it were linear, and no step
    is longer than a fraction of the image's length. |x0| is measured from the lower corner of the
    box (0 in the paper), and is the diagonal of the box for an image that lies there. The walk ends
    at the first adversarial iterate. The attack is untargeted and deterministic.

    ART takes all steps, which continue beyond the boundary, or go back once F < 1 / K. Entries at
    the edge of the box are excluded from g: where steps are only clipped, one image in seven of a
    robust network does not move. The gradient of a saturated softmax is 0 in float32, and 0 / 0
    where implementations divide by its square; here it is pulled back divided by 1 - F, and neither
    happens.

    A run costs at most `steps` backward and `steps + 1 + search` forward passes.

    Attributes:
        norm: "l2".
        steps: Largest number of steps.
        search: Halvings of the line to the image at the end (paper: none).
        eta: Largest length of a step, as a fraction of |x0|.

    Raises:
        ValueError: If `norm` is not "l2", `steps` is below 1, `search` is below 0, `eta` is not
            above 0, or the goal is targeted.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(4)[:, :2])
    >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.7)
    >>> goal = ja.Untargeted(jnp.array([0]))
    >>> ja.run(ja.NewtonFool(), model, images, goal, key=jax.random.key(0)).success
    array([ True])
    """

    norm: str = static(default="l2")
    steps: int = static(default=100)
    eta: Number = 0.01
    norms: ClassVar[tuple[str, ...]] = ("l2",)
    needs_box: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.eta, np.floating) and not 0 < self.eta < np.inf:
            raise ValueError(f"eta={self.eta}: pass a number above 0")

    def specialize(self, goal: Goal, classes: int) -> "NewtonFool":
        if goal.targeted:
            raise ValueError("NewtonFool has no targeted form: pass ja.Untargeted(labels)")
        return self

    def init(self, problem: Problem, key: Array) -> DeepFoolState:
        return DeepFoolState(self.begin(problem), jnp.int32(0), Line.begin(problem))

    def cotangents(
        self, problem: Problem, state: DeepFoolState, logits: Float[Array, "Q K"]
    ) -> Float[Array, "Q P K"]:
        # F's gradient is F (1 - F) times that of the log-odds, z_label - logsumexp(others).
        return -jax.grad(log_odds, argnums=1)(problem.goal, logits[0])[None, None]

    def walk(
        self, problem: Problem, state: DeepFoolState, answer: Answer, across: Array
    ) -> DeepFoolState:
        logits, odds = answer.logits[0], answer.gradients[0, 0]
        classes, gap = logits.shape[-1], -log_odds(problem.goal, logits)
        probability, rest = jax.nn.sigmoid(gap), jax.nn.sigmoid(-gap)

        free = jnp.where(odds > 0, state.image > problem.lower, state.image < problem.upper)
        odds = jnp.where(free, odds, 0)
        scale = jnp.maximum(jnp.abs(odds).max(), 1e-37)  # keeps squares finite
        slope = self.geometry.distance(odds / scale)
        direction = odds / scale / jnp.maximum(slope, 1e-30)
        newton = (probability - 1 / classes) / jnp.maximum(
            probability * rest * slope * scale, 1e-37
        )
        size = self.geometry.distance(problem.image - problem.lower)
        diagonal = diameter(self.norm, problem.image.size, problem.sides)
        longest = self.eta * jnp.where(size > 0, size, diagonal)
        length = jnp.clip(newton, 0, longest)
        return state._replace(image=state.image - length * direction)
