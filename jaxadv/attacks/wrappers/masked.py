"""Wrapper that confines an attack to a region of the image."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from jaxadv.attacks.common.wrapper import Around
from jaxadv.core.attack import Answer, Problem, State
from jaxadv.core.pytree import pytree
from jaxadv.core.typing import ArrayLike


@pytree
class Masked(Around):
    """Confine any attack to a mask: a sticker, a border, or the frames that an attacker controls.

    Outside the mask the box is the image itself, the queries have its values and the gradient is 0:
    no image changes there, and starts, projections and nearest points are those of the free values.
    (An attack in no ball, such as `Spatial`, works on the whole image, and its change is kept in
    the mask only.) In Linf with the side of the box as epsilon, the mask is a patch at a given
    position without limits (LaVAN, Karmon et al. 2018, arXiv 1801.02608). For tables, the mask says
    which features an attacker may change. The cost in passes is that of the attack.

    Attributes:
        attack: The wrapped attack.
        mask: Booleans that broadcast to the image [H, W, C], True where the image may change
            (default: everywhere).

    Raises:
        ValueError: If the mask is False everywhere.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
    >>> mask = jnp.zeros((2, 2, 1), bool).at[1, 1].set(True)
    >>> attack, goal = ja.Masked(ja.PGD(), mask), ja.Untargeted(jnp.array([0]))
    >>> images = jnp.full((1, 2, 2, 1), 0.5)
    >>> ja.run(attack, model, images, goal, 1.0, key=jax.random.key(0), keep="last").images.ravel()
    array([0.5, 0.5, 0.5, 1. ], dtype=float32)
    """

    mask: ArrayLike | bool = True

    def __post_init__(self) -> None:
        given = isinstance(self.mask, np.ndarray | jax.Array)
        if given and not isinstance(self.mask, Tracer) and not np.any(self.mask):
            raise ValueError("mask is False everywhere: pass True where the image may change")

    def within(self, problem: Problem) -> Bool[Array, "..."]:
        """Return the mask in the shape of the image (for vectors it is given as a vector)."""
        mask, shape = jnp.asarray(self.mask), problem.image.shape
        if mask.size == problem.image.size:
            return mask.reshape(shape)
        try:
            return jnp.broadcast_to(mask, shape)
        except ValueError:
            raise ValueError(
                f"mask has shape {mask.shape}, and the image {shape}: pass one boolean for each "
                "value of an input, or a mask that broadcasts to the image"
            ) from None

    def seen(self, problem: Problem, state: State) -> tuple[Problem, State]:
        if self.attack.bounded_by:
            return problem, state
        free, image = self.within(problem), problem.image
        lower, upper = (jnp.where(free, end, image) for end in (problem.lower, problem.upper))
        return dataclasses.replace(problem, lower=lower, upper=upper), state

    def ask(self, problem: Problem, state: State) -> Float[Array, "Q ..."]:
        return jnp.where(self.within(problem), super().ask(problem, state), problem.image)

    def tell(self, problem: Problem, state: State, answer: Answer) -> State:
        if answer.gradients is not None:
            gradients = jnp.where(self.within(problem), answer.gradients, 0.0)
            answer = answer._replace(gradients=gradients)
        return super().tell(problem, state, answer)
