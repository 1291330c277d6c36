"""Rearrangements of weights, done before a loop and not in each of its rounds.

Networks converted from other frameworks hold the kernels of convolutions in another order of axes
than XLA's CPU backend wants, and XLA leaves the transposition of a constant inside a loop: a fifth
of the time of a step of ResNet-18 on eight images.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import JaxprEqn, Var
from jaxtyping import PyTree

from jaxadv.core.jaxprs import bind, walk

REARRANGED = frozenset(
    ("convert_element_type", "expand_dims", "reshape", "rev", "squeeze", "transpose")
)


def hoisted(function: Callable[..., PyTree], *args: PyTree) -> Callable[..., PyTree]:
    """Return `function` for use inside a loop; what only rearranges constants is done now.

    Args:
        function: A function of pytrees of arrays. Constants are the arrays that it closes over.
        *args: Arguments of the shapes that it will be called with.

    Returns:
        The function of arguments of these shapes. Its values are equal.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxadv.cpu.hoist import hoisted
        >>> weights = jnp.arange(6.0).reshape(2, 3)
        >>> hoisted(lambda x: weights.T @ x, jnp.zeros(2))(jnp.ones(2))
        Array([3., 5., 7.], dtype=float32)
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    jaxpr, consts = closed.jaxpr, closed.consts
    known: dict[Var, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    done: dict[Var, list[Any]] = {}  # the outputs of an equation, by the first of them

    for eqn in jaxpr.eqns:
        constant = all(isinstance(v, Var) and v in known for v in eqn.invars)
        if constant and eqn.primitive.name in REARRANGED:
            outputs = bind(eqn, [known[v] for v in eqn.invars if isinstance(v, Var)])
            known.update(zip(eqn.outvars, outputs, strict=True))
            done[eqn.outvars[0]] = outputs

    def outputs_of(eqn: JaxprEqn, inputs: list[Any]) -> list[Any]:
        first = eqn.outvars[0] if eqn.outvars else None
        return done[first] if first in done else bind(eqn, inputs)

    def call(*args: PyTree) -> PyTree:
        results = walk(jaxpr, consts, jax.tree.leaves(args), outputs_of)
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return call
