"""One iterate a tick: what all attacks share that follow a single image along its gradients.

Every tick asks for the iterate; the gradient there is read for `steps` ticks. A last tick asks for
the final iterate's answer only, so that it is judged too.
"""

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxadv.core.attack import Attack, Problem, Reads
from jaxadv.core.pytree import pytree, static


@pytree
class Iterate(Attack):
    """Base of attacks whose state has the fields `image`, the iterate [H, W, C], and `step`, the
    gradients taken so far. Per restart `steps` gradients and `steps + 1` forward passes."""

    norm: str = static(default="linf")
    steps: int = static(default=40)
    restarts: int = static(default=1)

    def __post_init__(self) -> None:
        self.check_norm()
        for field in ("steps", "restarts"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)}: pass 1 or more")

    @property
    def ticks(self) -> int:
        return self.steps + 1

    @property
    def passes(self) -> int:
        return self.entries * (self.ticks + self.steps * self.pullbacks)

    def ask(self, problem: Problem, state: Any) -> Float[Array, "Q ..."]:
        return state.image[None]

    def reads(self, problem: Problem, state: Any) -> Reads:
        return Reads(jnp.ones(1, bool), (state.step < self.steps)[None])

    def done(self, problem: Problem, state: Any) -> Bool[Array, ""]:
        return state.step > self.steps


@pytree
class MinimumNorm(Iterate):
    """Base of attacks that look for the nearest adversarial image.

    The engine keeps the nearest adversarial image of all that were asked. They need no epsilon;
    where one is given it is a distance already reached, and only what is nearer counts.
    """

    needs_epsilon: ClassVar[bool] = False
    keep: ClassVar[str] = "distance"
    asks_inside: ClassVar[bool] = False

    def begin(self, problem: Problem) -> Float[Array, "..."]:
        """Where the first run begins: at the image, or at the start that the problem has."""
        return problem.image if problem.start is None else problem.start
