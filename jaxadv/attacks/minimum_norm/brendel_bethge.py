"""Brendel-Bethge attack: from an adversarial start along the decision boundary to the image."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.attacks.common.boundary_step import boundary_step
from jaxadv.attacks.common.gradient_iteration import MinimumNorm
from jaxadv.core.attack import Answer, Needs, Problem, across
from jaxadv.core.norms import diameter
from jaxadv.core.pytree import pytree, static, where
from jaxadv.core.typing import Key, Number

RADIUS = {"linf": 0.3, "l2": 0.5, "l1": 0.1, "l0": 1.0}
CLEAR = 4e-6  # of the largest logit: a smaller margin is within rounding


class BrendelBethgeState(NamedTuple):
    """State of one run of `BrendelBethge`.

    Attributes:
        image: [H, W, C] float32, the next query.
        phase: int32 scalar: 0 looks for a start, 1 is the binary search between the image and
            `far`, 2 follows the boundary.
        drawn: int32 scalar, random starts queried so far.
        halved: int32 scalar, queries of the binary search so far.
        step: int32 scalar, gradients taken.
        since: int32 scalar, gradients taken from the first adversarial iterate on.
        far: [H, W, C] float32, the adversarial start.
        low: float32 scalar, fraction of the distance of `far` that failed in the binary search.
        high: float32 scalar, fraction of the distance of `far` that succeeded.
        normal: [H, W, C] float32, the averaged gradient of the margin.
        key: Random key of the draws.
    """

    image: Float[Array, "H W C"]
    phase: Int[Array, ""]
    drawn: Int[Array, ""]
    halved: Int[Array, ""]
    step: Int[Array, ""]
    since: Int[Array, ""]
    far: Float[Array, "H W C"]
    low: Float[Array, ""]
    high: Float[Array, ""]
    normal: Float[Array, "H W C"]
    key: Key


@pytree
class BrendelBethge(MinimumNorm):
    """Brendel-Bethge attack (Brendel et al. 2019, arXiv 1907.01003): least distance.

    The attack takes as start the first adversarial image among `problem.start` (`ja.run(...,
    start=)`; the first restart only) and uniform draws from the box, and finds the boundary between
    it and the image by binary search. Then each step goes to the point of the linearised boundary
    that is nearest to the image, within an L2 ball around the iterate (`boundary_step`). Where no
    start is adversarial (a noise image has one class, which may be the label), the steps begin at
    the image, and the ball keeps its first radius until they have crossed the boundary.

    Steps aim no nearer to the boundary than a few rounding errors of the logits. A wide ball suits
    L2 on smooth networks; where gradients are unreliable, a smaller one (0.1) may come nearer. In
    L0 an entry must be able to return to its original value in one step.

    Foolbox's ball has a radius of 1e-3 times the number of entries of the whole batch, so its
    results depend on the batch; here the radius depends on the box alone. For one MNIST image
    Foolbox's radius is 0.028 of the diagonal, too little in L2; for a hundred images it is no bound
    at all. Foolbox also gives up a batch in which one image has no start.

    Each restart costs `steps` backward and at most `draws + search + 2 + steps` forward passes.

    Attributes:
        norm: "linf", "l2", "l1" or "l0".
        steps: Gradients per restart.
        restarts: Runs per image, each with its own random draws.
        learning_rate: First radius of the ball, as a fraction of the diagonal of the box (None: L2
            0.5, Linf 0.3, L1 0.1, L0 1).
        decay: Factor of the radius, applied `decays` times after equal numbers of steps.
        decays: Number of times that the radius is multiplied by `decay`.
        momentum: Weight of the former average in the averaged gradient.
        overshoot: How far a step aims beyond the boundary; 1 is the boundary itself.
        draws: Largest number of random starts (0: only `problem.start`).
        search: Halvings between the image and the start, along the projections of the start onto
            smaller balls of the norm.

    Raises:
        ValueError: If `norm` is unknown, `steps`, `restarts` or `decays` is below 1, `draws`,
            `search` or `learning_rate` is below 0, `decay` or `momentum` is not in [0, 1], or
            `overshoot` is not in [1, 2].

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(4)[:, :2])
    >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.7)
    >>> goal = ja.Untargeted(jnp.array([0]))
    >>> attack = ja.BrendelBethge(steps=100)
    >>> ja.run(attack, model, images, goal, key=jax.random.key(0)).distance.round(3)
    array([0.1])
    """

    steps: int = static(default=1000)
    learning_rate: Number | None = None
    decay: Number = 0.5
    decays: int = static(default=20)
    momentum: Number = 0.8
    overshoot: Number = 1.1
    draws: int = static(default=20)
    search: int = static(default=10)
    SEEK: ClassVar[int] = 0
    SEARCH: ClassVar[int] = 1
    FOLLOW: ClassVar[int] = 2
    needs_box: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(decays=1, draws=0, search=0)
        for field, least, most in (
            ("learning_rate", 0, np.inf),
            ("decay", 0, 1),
            ("momentum", 0, 1),
            ("overshoot", 1, 2),
        ):
            value = getattr(self, field)
            if isinstance(value, np.floating) and not least <= value <= most:
                raise ValueError(f"{field}={value}: pass a number from {least} to {most}")

    @property
    def ticks(self) -> int:
        return 1 + self.draws + self.search + self.steps + 1

    def init(self, problem: Problem, key: Array) -> BrendelBethgeState:
        zero, none = jnp.float32(0), jnp.int32(0)
        state = BrendelBethgeState(
            image=problem.image,
            phase=none,
            drawn=none,
            halved=none,
            step=none,
            since=none,
            far=problem.image,
            low=zero,
            high=zero + 1,
            normal=0 * problem.image,
            key=key,
        )
        fresh = self._another(problem, state)
        if problem.start is None:
            return fresh
        return where(problem.rank == 0, state._replace(image=problem.start), fresh)

    def _another(self, problem: Problem, state: BrendelBethgeState) -> BrendelBethgeState:
        """Return the state with the next random start, or the image once all draws are used up."""
        left = state.drawn < self.draws
        uniform = jax.random.uniform(
            jax.random.fold_in(state.key, state.drawn), problem.image.shape, problem.image.dtype
        )
        drawn = jnp.clip(problem.lower + uniform * problem.sides, problem.lower, problem.upper)
        return state._replace(
            image=jnp.where(left, drawn, problem.image),
            phase=jnp.where(left, self.SEEK, self.FOLLOW),
            drawn=state.drawn + left,
        )

    def needs(self, problem: Problem, state: BrendelBethgeState) -> Needs:
        gradient = (state.phase == self.FOLLOW) & (state.step < self.steps)
        return Needs(jnp.ones(1, bool), gradient[None])

    def tell(
        self, problem: Problem, state: BrendelBethgeState, answer: Answer
    ) -> BrendelBethgeState:
        adversarial = across(problem.goal, answer.logits[0])  # also beyond epsilon
        sought = where(
            adversarial,
            self._between(problem, state._replace(far=state.image, phase=jnp.int32(self.SEARCH))),
            self._another(problem, state),
        )
        middle = (state.low + state.high) / 2
        halved = self._between(
            problem,
            state._replace(
                low=jnp.where(adversarial, state.low, middle),
                high=jnp.where(adversarial, middle, state.high),
                halved=state.halved + 1,
            ),
        )
        followed = self._follow(problem, state, answer, adversarial)
        begun = where(state.phase == self.SEARCH, halved, followed)
        return where(state.phase == self.SEEK, sought, begun)

    def _between(self, problem: Problem, state: BrendelBethgeState) -> BrendelBethgeState:
        """Return the state with the next query of the binary search, or with its last success."""
        over = state.halved >= self.search
        fraction = jnp.where(over, state.high, (state.low + state.high) / 2)
        distance = self.geometry.distance(state.far - problem.image)
        nearer = self.project(problem, state.far, fraction * distance)
        image = jnp.where(fraction < 1, nearer, state.far)
        phase = jnp.where(over, self.FOLLOW, self.SEARCH)
        return state._replace(
            image=jnp.clip(image, problem.lower, problem.upper), phase=phase.astype(jnp.int32)
        )

    def _follow(
        self,
        problem: Problem,
        state: BrendelBethgeState,
        answer: Answer,
        adversarial: Bool[Array, ""],
    ) -> BrendelBethgeState:
        """Return the state after one step within the trust region.

        The ball shrinks from the first adversarial iterate on, regardless of epsilon.

        Args:
            problem: The problem of this image.
            state: The state before the step.
            answer: Logits and gradient at the iterate.
            adversarial: bool scalar, whether the iterate is adversarial.

        Returns:
            The state with the next iterate.
        """
        logits = answer.logits[0]
        margin, gradient = problem.goal.margin(logits), -answer.gradients[0, 0]
        averaged = (1 - self.momentum) * gradient + self.momentum * state.normal
        normal = jnp.where(state.step == 0, gradient, averaged)

        beyond = jnp.maximum((self.overshoot - 1) * jnp.abs(margin), CLEAR * jnp.abs(logits).max())
        lower, upper = problem.lower, problem.upper
        every = max(self.steps // self.decays, 1)
        first = RADIUS[self.norm] if self.learning_rate is None else self.learning_rate
        radius = first * diameter("l2", state.image.size, problem.sides)
        since = state.since + (adversarial | (state.since > 0))
        radius = radius * self.decay ** (since // every).astype(jnp.float32)
        image = boundary_step(
            self.norm, state.image, problem.image, normal, -beyond - margin, radius, lower, upper
        )
        return state._replace(image=image, normal=normal, step=state.step + 1, since=since)

    def done(self, problem: Problem, state: BrendelBethgeState) -> Bool[Array, ""]:
        return state.step > self.steps
