"""A walk that ends at the first point across the boundary, and a line search from there.

Every tick of the walk asks for the iterate and its gradients. When the walk is over (it is across,
or its gradients are spent) the line between the image and the nearest adversarial point is halved
`search` times; these ticks read answers only.
"""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxadv.attacks.iterate import MinimumNorm
from jaxadv.core.attack import Answer, Problem, Reads, across
from jaxadv.core.pytree import pytree, static


class Line(NamedTuple):
    """closest, distance: the nearest adversarial iterate [H, W, C]; low, high: shares of the way
    from the image to it that failed and succeeded; asked: images of the search (-1: walking)."""

    closest: Any
    distance: Any
    low: Any
    high: Any
    asked: Any

    @classmethod
    def begin(cls, problem: Problem) -> "Line":
        """Before the first tick."""
        zero = jnp.float32(0)
        return cls(problem.image, zero + jnp.inf, zero, zero + 1, jnp.int32(-1))


@pytree
class Crossing(MinimumNorm):
    """Base of the walks; a subclass's state has the fields `image`, `step` and `line`.

    steps: most gradients of the walk; search: halvings of the line at its end. At most `steps`
    backward (times `pullbacks`) and `steps + 1 + search` forward passes. Deterministic, hence no
    restarts. Where the problem's start is adversarial already, the walk is over at once.
    """

    search: int = static(default=0)
    restarts: ClassVar[int] = 1  # type: ignore[misc]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(search=0)

    @property
    def ticks(self) -> int:
        return self.gradients + 1 + self.search

    def walk(self, problem: Problem, state: Any, answer: Answer, across: Array) -> Any:
        """The state with the next iterate (which is clipped to the box); across: is this one?"""
        raise NotImplementedError

    def ends(self, problem: Problem, state: Any, across: Bool[Array, ""]) -> Bool[Array, ""]:
        """Whether the iterate is the walk's last."""
        return across

    def reads(self, problem: Problem, state: Any) -> Reads:
        walking = (state.line.asked < 0) & (state.step < self.gradients)
        return Reads(jnp.ones(1, bool), walking[None])

    def tell(self, problem: Problem, state: Any, answer: Answer) -> Any:
        line, searching = state.line, state.line.asked >= 0
        beyond = across(problem.goal, answer.logits[0])
        over = searching | self.ends(problem, state, beyond) | (state.step >= self.gradients)
        walked = self.walk(problem, state, answer, beyond)

        distance = self.geometry.distance(state.image - problem.image)
        closer = beyond & ~searching & (distance < line.distance)
        share = (line.low + line.high) / 2
        line = Line(
            closest=jnp.where(closer, state.image, line.closest),
            distance=jnp.where(closer, distance, line.distance),
            low=jnp.where(searching & ~beyond, share, line.low),
            high=jnp.where(searching & beyond, share, line.high),
            asked=jnp.where(over, line.asked + 1, -1),
        )
        between = problem.image + (line.low + line.high) / 2 * (line.closest - problem.image)
        image = jnp.where(over, between, walked.image)
        image = jnp.clip(image, problem.lower, problem.upper)
        return walked._replace(image=image, step=state.step + 1, line=line)

    def done(self, problem: Problem, state: Any) -> Bool[Array, ""]:
        nothing = state.line.distance == jnp.inf
        return (state.line.asked >= 0) & (nothing | (state.line.asked >= self.search))
