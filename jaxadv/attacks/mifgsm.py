"""The momentum iterative fast gradient sign method."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxadv.attacks.gradient import GradientAttack
from jaxadv.core.attack import Problem
from jaxadv.core.pytree import pytree, static

if TYPE_CHECKING:
    import optax


def _normalise_l1() -> "optax.GradientTransformation":
    import optax

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        scaled = jax.tree.map(lambda g: g / jnp.maximum(jnp.abs(g).sum(), 1e-30), updates)
        return scaled, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


@pytree
class MIFGSM(GradientAttack):
    """MI-FGSM (Dong et al. 2017, arXiv 1710.06081): g <- decay * g + gradient / |gradient|_1.

    The gradient is normalised per image (not over the batch); the step is step_size * epsilon *
    sign(g). `steps` backward and `steps + 1` forward passes.

    >>> import jaxadv as ja
    >>> attack = ja.MIFGSM(steps=10, decay=1.0)
    """

    steps: int = static(default=10)
    step_size: Any = 0.1
    decay: Any = 1.0

    def transformation(self, problem: Problem) -> "optax.GradientTransformation":
        import optax

        step = super().transformation(problem)
        return optax.chain(_normalise_l1(), optax.trace(decay=self.decay), step)
