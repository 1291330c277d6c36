"""Surrogate derivatives: backward pass differentiable approximation (BPDA)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array


@jax.custom_jvp
def _nothing(values: Array) -> Array:
    # Not values - stop_gradient(values): a fused product would leave its rounding error there.
    return jnp.zeros_like(values)


@_nothing.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return jnp.zeros_like(primals[0]), tangents[0]


def surrogate(value: Array, smooth: Array) -> Array:
    """Return `value` with the derivative of `smooth` (Athalye et al. 2018, arXiv 1802.00420)."""
    return jax.lax.stop_gradient(value) + _nothing(smooth)


def through(function: Callable[[Array], Array], values: Array) -> Array:
    """Return function(values) with a straight-through derivative of 1.

    Args:
        function: A function whose output has the shape of its input.
        values: Its input.

    Returns:
        The output of the function.

    >>> import jax, jax.numpy as jnp
    >>> from jaxadv.core.bpda import through
    >>> jax.value_and_grad(lambda x: through(jnp.round, x))(jnp.float32(1.7))
    (Array(2., dtype=float32), Array(1., dtype=float32))
    """
    return surrogate(function(values), values)
