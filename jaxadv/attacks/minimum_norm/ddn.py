"""DDN: the direction follows the gradient, the norm follows success; minimum L2 distance.

Each step adds a normalised gradient to the perturbation and projects the sum onto a sphere around
the image. The sphere shrinks after an adversarial iterate and grows after any other.
"""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.attacks.common.gradient_iteration import (
    MinimumNorm,
    begin,
    check_numbers,
    direction,
    farthest,
    noise,
    on_sphere,
)
from jaxadv.core.attack import Answer, Problem
from jaxadv.core.goals import Goal
from jaxadv.core.losses import log_odds
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Number


class DDNState(NamedTuple):
    """State of one run of `DDN`.

    Attributes:
        image: [H, W, C] float32, the iterate.
        radius: float32 scalar, radius of the sphere on which the iterate lies.
        step: int32 scalar, gradients taken so far.
        noise: [H, W, C] float32, the direction of a step where the gradient is 0; one for the whole
            run, since a draw at every tick would cost as much as a small network.
        found: bool scalar, whether an iterate was adversarial.
        crossed: bool scalar, whether an iterate after an adversarial one was not.
    """

    image: Float[Array, "H W C"]
    radius: Float[Array, ""]
    step: Int[Array, ""]
    noise: Float[Array, "H W C"]
    found: Bool[Array, ""]
    crossed: Bool[Array, ""]


@pytree
class DDN(MinimumNorm):
    """Decoupled direction and norm (Rony et al. 2018, arXiv 1811.09600): least distance in L2.

    The direction is that of the gradient of the cross-entropy (targeted: of its descent). It is
    computed from the log-odds, of which the cross-entropy is a monotone function, so that it does
    not vanish where the network is confident. Where it is zero all the same, the direction is
    random.

    Three choices differ from the paper's code. The perturbation is scaled so that it lies on the
    sphere after clipping to the box (there: before clipping, so that the norm falls short of the
    radius). Rounding is not accumulated: the iterate stays unrounded, otherwise late steps, smaller
    than half a level, would be lost. Once the radius has been too large and then too small, the
    fraction by which it changes decays as the steps do, so that the last iterates are not 5 % of
    it apart. Until then it stays: else a first radius far too large could not shrink enough.

    Each restart costs `steps` backward and `steps + 1` forward passes, since the last iterate is
    evaluated too.

    Attributes:
        norm: "l2".
        steps: Gradients per restart.
        restarts: The first run starts at the image (or at the problem's start, with its distance as
            radius), the others at random points of the first sphere's ball.
        radius: Radius of the first sphere in sides of the box (1 where images lie in [0, 1]).
        gamma: Fraction by which the radius shrinks or grows after a step; once the radius has been
            too large and then too small, this fraction decays along a cosine.
        last_gamma: Fraction of `gamma` at the end of the decay; 1 is the paper's.
        step_size: Length of the first step in sides of the box; it decays along a cosine.
        last_step: Fraction of `step_size` at the end of the decay.
        levels: 0, or the number of grey values to which every query is rounded. With 256 an image
            file holds the result unchanged; the paper's tables use it.

    Raises:
        ValueError: If `norm` is not "l2", `steps` or `restarts` is below 1, `radius` or `step_size`
            is not above 0, `gamma`, `last_gamma` or `last_step` is not in (0, 1], or `levels` is 1
            or negative.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(4)[:, :2])
    >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.7)
    >>> goal = ja.Untargeted(jnp.array([0]))
    >>> ja.run(ja.DDN(), model, images, goal, key=jax.random.key(0)).distance.round(2)
    array([0.14])
    """

    norm: str = static(default="l2")
    steps: int = static(default=100)
    radius: Number = 1.0
    gamma: Number = 0.05
    last_gamma: Number = 0.02
    step_size: Number = 1.0
    last_step: Number = 0.01
    levels: int = static(default=0)
    norms: ClassVar[tuple[str, ...]] = ("l2",)
    simple_norms: ClassVar[tuple[str, ...]] = ("l2",)
    needs_box: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels != 0 and self.levels < 2:
            raise ValueError(f"levels={self.levels}: pass 0 (no rounding), or 2 or more")
        check_numbers(self, radius=np.inf, gamma=1, last_gamma=1, step_size=np.inf, last_step=1)

    def init(self, problem: Problem, key: Array) -> DDNState:
        radius = self.radius * problem.side
        image = begin(self, problem, key, radius)
        if problem.start is not None:
            distance = self.geometry.distance(image - problem.image)
            radius = jnp.where(distance > 0, distance, radius)
        radius = jnp.minimum(radius, farthest(self, problem))
        none, no = jnp.int32(0), jnp.bool_(False)
        return DDNState(image, radius, none, noise(key, image), found=no, crossed=no)

    def ask(self, problem: Problem, state: DDNState) -> Float[Array, "Q ..."]:
        if self.levels == 0:
            return state.image[None]
        level = problem.sides / (self.levels - 1)
        level = jnp.maximum(level, 1e-30) if level.ndim else level
        rounded = problem.lower + jnp.round((state.image - problem.lower) / level) * level
        return jnp.clip(rounded, problem.lower, problem.upper)[None]

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        return log_odds(goal, logits)

    def tell(self, problem: Problem, state: DDNState, answer: Answer) -> DDNState:
        import optax

        # Not answer.adversarial: the radius must shrink also if rounding exceeds epsilon.
        across = problem.goal.margin(answer.logits[0]) < 0
        decay = optax.cosine_decay_schedule(1.0, self.steps, self.last_gamma)(state.step)
        found = state.found | across
        crossed = state.crossed | (state.found & ~across)
        change = self.gamma * jnp.where(crossed, decay, 1)
        radius = state.radius * jnp.where(across, 1 - change, 1 + change)
        radius = jnp.minimum(radius, farthest(self, problem))

        span = problem.side
        step_size = optax.cosine_decay_schedule(1.0, self.steps, self.last_step)(state.step)
        step_size = span * self.step_size * step_size
        way = direction(answer.gradients[0, 0], state.noise)
        image = on_sphere(self, problem, state.image + step_size * way, radius)
        return DDNState(image, radius, state.step + 1, state.noise, found, crossed)
