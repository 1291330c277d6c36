"""Wrapper that applies one perturbation to all frames of a window, for attacks in Linf."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxadv.attacks.common.wrapper import Around
from jaxadv.core.attack import Answer, Problem, State
from jaxadv.core.pytree import pytree, static


@pytree
class Repeated(Around):
    """Run any attack in Linf with one perturbation that is added to every frame of a window.

    The perturbation persists while readings come and go, like a sticker on the lens. The wrapped
    attack works on the perturbation [H, W, C] itself: an image of zeros in a box of twice the side.
    Each frame is clipped to the real box, and the gradient is the sum over the frames, passed
    straight through the clipping (BPDA, Athalye et al. 2018, arXiv 1802.00420). With `ja.Masked`
    around it only some of the frames carry the perturbation. The cost in passes is that of the
    attack.

    Attributes:
        attack: The wrapped attack, in Linf.
        frames: Number of frames in the image [frames * H, W, C], one below the other (see
            `ja.windowed`).

    Raises:
        ValueError: If the norm of the attack is not "linf", `frames` is below 1, or `frames` does
            not divide the number of rows of the image.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
    >>> images = jnp.arange(4).reshape(1, 4, 1, 1) / 8
    >>> goal = ja.Targeted(jnp.array([3]), jnp.array([0]))
    >>> found = ja.run(ja.Repeated(ja.BIM(), frames=2), model, images, goal, 0.25, keep="last",
    ...                key=jax.random.key(0))
    >>> (found.images - images).ravel().round(3)
    Array([ 0.25 , -0.125,  0.25 , -0.25 ], dtype=float32)
    """

    frames: int = static(default=1)
    norms: ClassVar[tuple[str, ...]] = ("linf",)

    def __post_init__(self) -> None:
        self.check_least(frames=1)
        if self.attack.norm != "linf":
            raise ValueError(
                f"attack is in {self.attack.norm}: one perturbation for all frames has the same "
                "length in all of them in linf alone; pass an attack in linf"
            )

    def seen(self, problem: Problem, state: State) -> tuple[Problem, State]:
        height, *rest = problem.image.shape
        if height % self.frames:
            raise ValueError(f"frames={self.frames}: the image has {height} rows; pass a divisor")
        span = problem.sides
        if span.ndim:  # the change as a whole may be as long as in the widest frame
            span = span.reshape(self.frames, height // self.frames, *rest).max(0)
        change = jnp.zeros((height // self.frames, *rest), problem.image.dtype)
        seen = dataclasses.replace(problem, image=change, lower=-span, upper=span, start=None)
        return seen, state

    def ask(self, problem: Problem, state: State) -> Float[Array, "Q ..."]:
        change = self.attack.ask(*self.seen(problem, state))
        repeats = (1, self.frames, *(1,) * (change.ndim - 2))
        return jnp.clip(problem.image + jnp.tile(change, repeats), problem.lower, problem.upper)

    def tell(self, problem: Problem, state: State, answer: Answer) -> State:
        if answer.gradients is not None:
            queries, pullbacks, height, *rest = answer.gradients.shape
            each = (queries, pullbacks, self.frames, height // self.frames, *rest)
            answer = answer._replace(gradients=answer.gradients.reshape(each).sum(2))
        return self.attack.tell(*self.seen(problem, state), answer)
