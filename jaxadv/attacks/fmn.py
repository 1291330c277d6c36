"""FMN: projected gradient ascent in a ball whose radius follows the boundary. L0, L1, L2, Linf.

Until a first adversarial iterate is found the radius is the distance at which a linear model would
be crossed; then it shrinks after each adversarial iterate and grows after any other, ever less.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxadv.attacks.fab import DUAL, WITHIN
from jaxadv.attacks.hyperplane import smallest
from jaxadv.attacks.iterate import (
    MinimumNorm,
    begin,
    check_numbers,
    direction,
    farthest,
    noise,
    on_sphere,
)
from jaxadv.core.attack import Answer, Problem, Reads
from jaxadv.core.norms import get_norm
from jaxadv.core.pytree import pytree, static, where

STEP_SIZE = {"linf": 10.0, "l2": 1.0, "l1": 1.0, "l0": 1.0}


class FMNState(NamedTuple):
    """image: what is asked next [H, W, C]; radius: of the ball; closest: the least distance of an
    adversarial iterate (infinite: none yet); step: gradients so far; noise: the direction taken
    where there is no gradient. The search between image and start has images at the distances low
    (not adversarial) and high; searched: images it has asked."""

    image: Any
    radius: Any
    closest: Any
    step: Any
    noise: Any
    low: Any
    high: Any
    searched: Any


@pytree
class FMN(MinimumNorm):
    """Fast minimum-norm attack (Pintor et al. 2021, arXiv 2102.12827): least distance.

    norm: "linf", "l2", "l1" or "l0"; step_size: L2 length of the first step, in sides of the box
    (None: 10 in Linf, else 1), which falls along a cosine to `last_step` of it; gamma, last_gamma:
    the first and the last share by which the radius shrinks or grows, along the same cosine (in L0
    by one entry at least). search: where the problem has a start, the points of its way to the
    image (projections onto balls) that are asked, by bisection, before the first step. restarts:
    the first begins at the image, the others at random points within 0.3, 1 and 5 sides of the box
    in Linf, L2 and L1, and with a hundredth of the entries drawn anew in L0.

    The loss is the margin. Every iterate is the nearest point of ball and box together; the paper
    clips after the projection onto the ball, and its iterates fall short of the radius. sphere: in
    L2 the iterate is always put onto the sphere, also from inside (as in adv-lib, but within the
    box): distances equal on small networks, and 2 % less on an adversarially trained one; False for
    the paper's projection. (Foolbox's L2 attack never projects.) Two choices are ours. A linear
    model's distance is exceeded by gamma: without that some iterates converge to the boundary of a
    piecewise linear network from within, and are never adversarial. In L0, where the paper grows
    the radius from one entry, that distance is the least number of entries whose way to the box
    would do.

    Per restart `steps` backward and `steps + 1` forward passes (the last iterate is judged too),
    and `search` forward passes more where there is a start. Raises ValueError for settings below or
    above what they can mean.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(4)[:, :2])
    >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.7)
    >>> goal = ja.Untargeted(jnp.array([0]))
    >>> ja.run(ja.FMN(), model, images, goal, key=jax.random.key(0)).distance.round(3)
    array([0.1])
    """

    steps: int = static(default=100)
    step_size: Any = None
    last_step: Any = 0.01
    gamma: Any = 0.05
    last_gamma: Any = 0.001
    search: int = static(default=10)
    sphere: bool = static(default=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(search=0)
        check_numbers(self, step_size=np.inf, last_step=1, gamma=1, last_gamma=1)

    @property
    def ticks(self) -> int:
        return self.search + self.steps + 1

    def init(self, problem: Problem, key: Array) -> FMNState:
        within = WITHIN.get(self.norm, 0) * (problem.upper - problem.lower)
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

    def reads(self, problem: Problem, state: FMNState) -> Reads:
        stepping = (state.searched == self.search) & (state.step < self.steps)
        return Reads(jnp.ones(1, bool), stepping[None])

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
        """The next point between image and start, and after the last one the nearest across."""
        assert problem.start is not None
        asked = self._between(state)
        low, high = where(across, (state.low, asked), (asked, state.high))
        state = state._replace(low=low, high=high, searched=state.searched + 1)
        following = jnp.where(state.searched == self.search, high, self._between(state))
        image = self.project(problem, problem.start, following)
        return state._replace(image=image, radius=jnp.minimum(high, farthest(self, problem)))

    def step(
        self, problem: Problem, state: FMNState, answer: Answer, across: Any, distance: Any
    ) -> FMNState:
        """A new radius, a gradient step, and the projection."""
        import optax

        gradient, loss = answer.gradients[0, 0], jnp.abs(problem.goal.margin(answer.logits[0]))
        span = problem.upper - problem.lower
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

    def linear(self, problem: Problem, image: Any, gradient: Any, loss: Any) -> Float[Array, ""]:
        """How far from `image` a linear model with this loss and gradient would be crossed."""
        scale = jnp.maximum(jnp.abs(gradient).max(), 1e-37)  # squares are to stay finite
        gradient, loss = gradient / scale, loss / scale
        if self.norm != "l0":
            slope = get_norm(DUAL[self.norm]).distance(gradient)
            return loss / jnp.maximum(slope, 1e-30)
        room = jnp.where(gradient > 0, problem.upper - image, image - problem.lower)
        gains = jnp.abs(gradient) * room
        least = smallest(lambda gain: jnp.where(gains > gain, gains, 0).sum() <= loss)
        return (gains > least).sum() + 1.0
