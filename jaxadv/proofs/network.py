"""A model as a function of its parameters and one image, and its nonlinearities."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jaxtyping import Array

from jaxadv.core.model import Model
from jaxadv.proofs.intervals import Interval, IntervalRules
from jaxadv.proofs.rules import Rules
from jaxadv.proofs.walk import evaluate


class Node(NamedTuple):
    """A nonlinearity of a network.

    Attributes:
        kind: Its name.
        shape: The shape of its input.
        place: Where its entries are among those of all nonlinearities.
    """

    kind: str
    shape: tuple[int, ...]
    place: slice


class Network(NamedTuple):
    """A model as a function of its parameters and one image.

    Attributes:
        traced: The traced function.
        nodes: Its nonlinearities, in their order.
        size: The number M of inputs of all nonlinearities.
        classes: The number of logits.
    """

    traced: ClosedJaxpr
    nodes: tuple[Node, ...]
    size: int
    classes: int

    @classmethod
    def of(cls, model: Model, shape: tuple[int, ...]) -> "Network":
        """Trace a model for images of this shape; ValueError names what cannot be bounded."""
        image = jax.ShapeDtypeStruct(shape, jnp.float32)

        def logits(params: Any, x: Array) -> Array:
            return dataclasses.replace(model, params=params).raw(x[None])[0]

        traced = jax.make_jaxpr(logits)(model.params, image)
        found: list[Node] = []

        def look(params: Any, x: Array) -> None:
            rules = IntervalRules()
            run(traced, params, Interval(x, x, jnp.zeros_like(x)), rules)
            begin = 0
            for kind, z in rules.inputs:
                length = int(np.prod(z.low.shape))
                found.append(Node(kind, z.low.shape, slice(begin, begin + length)))
                begin += length

        jax.eval_shape(look, model.params, image)
        size = found[-1].place.stop if found else 0
        return cls(traced, tuple(found), size, traced.out_avals[0].shape[0])


def run(traced: ClosedJaxpr, params: Any, x: Any, rules: Rules) -> Any:
    """Return the output of a traced model, by the rules."""
    leaves = jax.tree.leaves(params)
    (out,) = evaluate(traced, [*leaves, x], [False] * len(leaves) + [True], rules)
    return out.value
