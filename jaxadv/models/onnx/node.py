"""One operator of an ONNX graph as a value, and what the families of operators share.

Each operator is a function of its node and its inputs (None for an optional one that is left out).
What is known before the program runs stays a numpy array, for it decides shapes in turn: constants,
shapes, and what is computed from them alone. All else is a jax array, weights among them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Operator = Callable[..., Any]


class Node(NamedTuple):
    """One operator of a graph: hashable, part of the compiled program.

    inputs, outputs: names of tensors, "" for one that is left out; attributes: (name, value) pairs;
    batch: the size of the batch that the graph was exported for, None if it is free.
    """

    operator: str
    name: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, Any], ...]
    batch: int | None = None

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute of that name."""
        return dict(self.attributes).get(name, default)

    def only(self, **values: Any) -> None:
        """ValueError where an attribute has another value than the one that is supported."""
        for name, value in values.items():
            if (given := self.get(name, value)) != value:
                raise ValueError(f"{name}={given!r} is not supported: export with {name}={value!r}")

    def __str__(self) -> str:
        return f"node {self.name or self.outputs[0]!r} ({self.operator}, opset {self.opset})"


def library(*values: Any) -> Any:
    """numpy where all values are known before the program runs, else jax.numpy."""
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def known(node: Node, name: str, given: Any = None) -> np.ndarray | None:
    """The values of an input or, where that is left out, of the attribute `name`, as older opsets
    state it."""
    value = node.get(name) if given is None else given
    if isinstance(value, jax.Array):
        raise ValueError(
            f"its {name} depend on the image or on float weights, but they decide a shape: export "
            "with constant shapes, or simplify the file (onnxsim)"
        )
    return None if value is None else np.ravel(value)


def integers(node: Node, name: str, given: Any = None) -> list[int] | None:
    """The integers of an input or attribute that is known."""
    values = known(node, name, given)
    return None if values is None else [int(v) for v in values]


def per_channel(values: Any, rank: int, axis: int = 1) -> Any:
    """A vector so shaped that it runs along one axis of an array of that rank."""
    return values.reshape(-1, *(1,) * (rank - 1 - axis % rank))


def plain(function: Operator) -> Operator:
    """A function of the inputs alone."""
    return lambda node, *inputs: function(*inputs)


def either(name: str) -> Operator:
    """A function of that name in numpy and in jax.numpy."""
    return lambda node, *inputs: getattr(library(*inputs), name)(*inputs)


def fold(name: str) -> Operator:
    """A function of two inputs, of that name, over any number of them."""
    return lambda node, *inputs: functools.reduce(getattr(library(*inputs), name), inputs)
