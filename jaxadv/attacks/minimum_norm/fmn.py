"""FMN: projected gradient ascent in a ball whose radius follows the boundary, in all four norms.

Until the first adversarial iterate the radius is the distance at which a linear model would be
crossed; then it shrinks after each adversarial iterate and grows after any other, by a decreasing
fraction.
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
from jaxadv.attacks.common.hyperplane import smallest
from jaxadv.attacks.minimum_norm.fab import DUAL, WITHIN
from jaxadv.core.attack import Answer, Needs, Problem
from jaxadv.core.norms import get_norm
from jaxadv.core.pytree import pytree, static, where
from jaxadv.core.typing import Number

STEP_SIZE = {"linf": 10.0, "l2": 1.0, "l1": 1.0, "l0": 1.0}


class FMNState(NamedTuple):
    """State of one run of `FMN`.

    Attributes:
        image: [H, W, C] float32, the next query.
        radius: float32 scalar, radius of the ball.
        closest: float32 scalar, least distance of an adversarial iterate (infinite: none yet).
        step: int32 scalar, gradients taken so far.
        noise: [H, W, C] float32, the direction of a step where the gradient is 0.
        low: float32 scalar, distance of the last point that failed in the search between image and
            start.
        high: float32 scalar, distance of the last point that succeeded in that search.
        searched: int32 scalar, queries of that search so far.
    """

    image: Float[Array, "H W C"]
    radius: Float[Array, ""]
    closest: Float[Array, ""]
    step: Int[Array, ""]
    noise: Float[Array, "H W C"]
    low: Float[Array, ""]
    high: Float[Array, ""]
    searched: Int[Array, ""]


@pytree
class FMN(MinimumNorm):
    """Fast minimum-norm attack (Pintor et al. 2021, arXiv 2102.12827): least distance.

    The loss is the margin. Every iterate is the nearest point of ball and box together; the paper
    clips after the projection onto the ball, and its iterates fall short of the radius. (Foolbox's
    L2 attack never projects.)

    Two choices differ from the paper. The distance of a linear model is exceeded by gamma: without
    that, some iterates converge to the boundary of a piecewise linear network from within and are
    never adversarial. In L0, where the paper grows the radius from one entry, that distance is the
    least number of entries whose way to the box would suffice.

    Each restart costs `steps` backward and `steps + 1` forward passes, since the last iterate is
    evaluated too, and `search` more forward passes where the problem has a start.

    Attributes:
        norm: "linf", "l2", "l1" or "l0".
        steps: Gradients per restart.
        restarts: The first run starts at the image, the others at random points within 0.3, 1 and 5
            sides of the box in Linf, L2 and L1, and with a hundredth of the entries redrawn in L0.
        step_size: L2 length of the first step in sides of the box (None: 10 in Linf, else 1); it
            decays along a cosine.
        last_step: Fraction of `step_size` at the end of the decay.
        gamma: First fraction by which the radius shrinks or grows; it decays along the same cosine
            (in L0 the radius changes by one entry at least).
        last_gamma: Fraction by which the radius shrinks or grows at the end.
        search: If the problem has a start, number of points between it and the image (projections
            onto balls) that are queried by bisection before the first step.
        sphere: In L2, always project the iterate onto the sphere, also from inside (as in adv-lib,
            but within the box); False for the paper's projection. The distances are equal on small
            networks and 2 % smaller on an adversarially trained one.

    Raises:
        ValueError: If `norm` is unknown, `steps` or `restarts` is below 1, `search` is below 0,
            `step_size` is not above 0, or `last_step`, `gamma` or `last_gamma` is not in (0, 1].

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(4)[:, :2])
    >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.7)
    >>> goal = ja.Untargeted(jnp.array([0]))
    >>> ja.run(ja.FMN(), model, images, goal, key=jax.random.key(0)).distance.round(3)
    array([0.1])
    """

    steps: int = static(default=100)
    step_size: Number | None = None
    last_step: Number = 0.01
    gamma: Number = 0.05
    last_gamma: Number = 0.001
    search: int = static(default=10)
    sphere: bool = static(default=True)
    simple_norms: ClassVar[tuple[str, ...]] = ("linf", "l2")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(search=0)
        check_numbers(self, step_size=np.inf, last_step=1, gamma=1, last_gamma=1)

    @property
    def ticks(self) -> int:
        return self.search + self.steps + 1

    def init(self, problem: Problem, key: Array) -> FMNState:
        within = WITHIN.get(self.norm, 0) * problem.side
        if self.norm == "l0":
            within = jnp.ceil(problem.image.size / 100)
        image = begin(self, problem, key, within)
        zero, none = jnp.float32(0), jnp.int32(0)
        high, radius = zero + jnp.inf, farthest(self, problem)
        state = FMNState(
            image, radius, high, none, noise(key, image), zero, high, none + self.search
        )
        if problem.start is None or self.search == 0:
            return state
        high = self.geometry.distance(image - problem.image)
        state = state._replace(high=high, searched=none)
        return state._replace(image=self.project(problem, image, self._between(state)))

    def needs(self, problem: Problem, state: FMNState) -> Needs:
        stepping = (state.searched == self.search) & (state.step < self.steps)
        return Needs(jnp.ones(1, bool), stepping[None])

    def tell(self, problem: Problem, state: FMNState, answer: Answer) -> FMNState:
        across = problem.goal.margin(answer.logits[0]) < 0
        distance = self.geometry.distance(state.image - problem.image)
        closest = jnp.where(across, jnp.minimum(state.closest, distance), state.closest)
        state = state._replace(closest=closest)
        stepped = self.step(problem, state, answer, across, distance)
        if problem.start is None or self.search == 0:
            return stepped
        return where(state.searched < self.search, self.bisect(problem, state, across), stepped)

    def _between(self, state: FMNState) -> Float[Array, ""]:
        middle = (state.low + state.high) / 2
        return jnp.ceil(middle) if self.norm == "l0" else middle

    def bisect(self, problem: Problem, state: FMNState, across: Bool[Array, ""]) -> FMNState:
        """Return the next point between image and start; at the end, the nearest success."""
        assert problem.start is not None
        queried = self._between(state)
        low, high = where(across, (state.low, queried), (queried, state.high))
        state = state._replace(low=low, high=high, searched=state.searched + 1)
        following = jnp.where(state.searched == self.search, high, self._between(state))
        image = self.project(problem, problem.start, following)
        return state._replace(image=image, radius=jnp.minimum(high, farthest(self, problem)))

    def step(
        self,
        problem: Problem,
        state: FMNState,
        answer: Answer,
        across: Bool[Array, ""],
        distance: Float[Array, ""],
    ) -> FMNState:
        """Update the radius, take a gradient step and project."""
        import optax

        gradient, loss = answer.gradients[0, 0], jnp.abs(problem.goal.margin(answer.logits[0]))
        span = problem.side
        cosine = optax.cosine_decay_schedule(1.0, self.steps)(state.step)
        gamma = self.last_gamma + (self.gamma - self.last_gamma) * cosine
        step_size = STEP_SIZE[self.norm] if self.step_size is None else self.step_size
        step_size = span * step_size * (self.last_step + (1 - self.last_step) * cosine)

        smaller, larger = state.radius * (1 - gamma), state.radius * (1 + gamma)
        crossed = (distance + self.linear(problem, state.image, gradient, loss)) * (1 + gamma)
        if self.norm == "l0":
            smaller = jnp.minimum(state.radius - 1, jnp.floor(smaller))
            larger = jnp.maximum(state.radius + 1, jnp.floor(larger))
            crossed = jnp.floor(crossed)
        inwards = jnp.maximum(jnp.minimum(smaller, state.closest), 0)
        outwards = jnp.where(state.closest < jnp.inf, larger, crossed)
        radius = jnp.minimum(jnp.where(across, inwards, outwards), farthest(self, problem))

        way = direction(gradient, state.noise)
        image = state.image + step_size * way
        if self.norm == "l2" and self.sphere:
            image = on_sphere(self, problem, image, radius)
        else:
            image = self.project(problem, image, radius)
        return state._replace(image=image, radius=radius, step=state.step + 1)

    def linear(
        self,
        problem: Problem,
        image: Float[Array, "..."],
        gradient: Float[Array, "..."],
        loss: Float[Array, ""],
    ) -> Float[Array, ""]:
        """Return the distance from `image` at which a linear model would be crossed."""
        scale = jnp.maximum(jnp.abs(gradient).max(), 1e-37)  # keeps squares finite
        gradient, loss = gradient / scale, loss / scale
        if self.norm != "l0":
            slope = get_norm(DUAL[self.norm]).distance(gradient)
            return loss / jnp.maximum(slope, 1e-30)
        room = jnp.where(gradient > 0, problem.upper - image, image - problem.lower)
        gains = jnp.abs(gradient) * room
        least = smallest(lambda gain: jnp.where(gains > gain, gains, 0).sum() <= loss)
        return (gains > least).sum() + 1.0
