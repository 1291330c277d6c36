"""Base of attacks that walk to the first point across the boundary and then search the line.

Every tick of the walk queries the iterate and its gradients. When the walk is over (the iterate is
adversarial, or the gradients are used up), the line between the image and the nearest adversarial
point is halved `search` times; these ticks need logits only.
"""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxadv.attacks.common.gradient_iteration import MinimumNorm
from jaxadv.core.attack import Answer, Needs, Problem, State, across
from jaxadv.core.pytree import pytree, static


class Line(NamedTuple):
    """State of the line search of a `Crossing` attack.

    Attributes:
        closest: [H, W, C] float32, the nearest adversarial iterate.
        distance: float32 scalar, its distance from the image (infinite: none yet).
        low: float32 scalar, fraction of the way from the image to `closest` that failed.
        high: float32 scalar, fraction of that way that succeeded.
        queried: int32 scalar, queries of the search so far (-1: the walk is not over).
    """

    closest: Float[Array, "H W C"]
    distance: Float[Array, ""]
    low: Float[Array, ""]
    high: Float[Array, ""]
    queried: Int[Array, ""]

    @classmethod
    def begin(cls, problem: Problem) -> "Line":
        """Return the line before the first tick."""
        zero = jnp.float32(0)
        return cls(problem.image, zero + jnp.inf, zero, zero + 1, jnp.int32(-1))


@pytree
class Crossing(MinimumNorm):
    """Base of the walks; the state of a subclass has the fields `image`, `step` and `line`.

    A run costs at most `steps` backward passes (times `pullbacks`) and `steps + 1 + search` forward
    passes. The walks are deterministic, hence have no restarts. If the problem's start is already
    adversarial, the walk is over at once.

    Attributes:
        norm: Norm in which the nearest adversarial image is kept.
        steps: Largest number of gradients of the walk.
        search: Halvings of the line at the end of the walk.
    """

    search: int = static(default=0)
    restarts: ClassVar[int] = 1  # type: ignore[misc]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(search=0)

    @property
    def ticks(self) -> int:
        return self.gradients + 1 + self.search

    def walk(self, problem: Problem, state: State, answer: Answer, across: Array) -> State:
        """Return the state with the next iterate; the caller clips it to the box.

        Args:
            problem: The problem of this image.
            state: The state before the step.
            answer: Logits and gradients at the iterate.
            across: bool scalar, whether the iterate is adversarial.
        """
        raise NotImplementedError

    def ends(self, problem: Problem, state: State, across: Bool[Array, ""]) -> Bool[Array, ""]:
        """Return whether the iterate is the last one of the walk."""
        return across

    def needs(self, problem: Problem, state: State) -> Needs:
        walking = (state.line.queried < 0) & (state.step < self.gradients)
        return Needs(jnp.ones(1, bool), walking[None])

    def tell(self, problem: Problem, state: State, answer: Answer) -> State:
        line, searching = state.line, state.line.queried >= 0
        beyond = across(problem.goal, answer.logits[0])
        over = searching | self.ends(problem, state, beyond) | (state.step >= self.gradients)
        walked = self.walk(problem, state, answer, beyond)

        distance = self.geometry.distance(state.image - problem.image)
        closer = beyond & ~searching & (distance < line.distance)
        fraction = (line.low + line.high) / 2
        line = Line(
            closest=jnp.where(closer, state.image, line.closest),
            distance=jnp.where(closer, distance, line.distance),
            low=jnp.where(searching & ~beyond, fraction, line.low),
            high=jnp.where(searching & beyond, fraction, line.high),
            queried=jnp.where(over, line.queried + 1, -1),
        )
        between = problem.image + (line.low + line.high) / 2 * (line.closest - problem.image)
        image = jnp.where(over, between, walked.image)
        image = jnp.clip(image, problem.lower, problem.upper)
        return walked._replace(image=image, step=state.step + 1, line=line)

    def done(self, problem: Problem, state: State) -> Bool[Array, ""]:
        nothing = state.line.distance == jnp.inf
        return (state.line.queried >= 0) & (nothing | (state.line.queried >= self.search))
