"""One operator of an ONNX graph as a value, and helpers shared by the families of operators.

Each operator is a function of its node and its inputs (None for an optional one that is omitted).
Values known before the program runs stay numpy arrays, since they determine shapes: constants,
shapes, and values computed from these alone. All others are jax arrays, weights among them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadv.core.typing import ArrayLike

Operator = Callable[..., Any]


class Node(NamedTuple):
    """One operator of a graph: hashable, part of the compiled program.

    Attributes:
        operator: Name of the operator.
        name: Name of the node, which may be empty.
        opset: Version of the operators.
        inputs: Names of the input tensors, "" for one that is omitted.
        outputs: Names of the output tensors, "" for one that is omitted.
        attributes: (name, value) pairs.
        batch: Size of the batch for which the graph was exported; None if it is free.
    """

    operator: str
    name: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, Any], ...]
    batch: int | None = None

    def get(self, name: str, default: Any = None) -> Any:
        """Return the attribute of this name."""
        return dict(self.attributes).get(name, default)

    def only(self, **values: object) -> None:
        """Raise ValueError where an attribute has another value than the supported one."""
        for name, value in values.items():
            if (given := self.get(name, value)) != value:
                raise ValueError(f"{name}={given!r} is not supported: export with {name}={value!r}")

    def __str__(self) -> str:
        return f"node {self.name or self.outputs[0]!r} ({self.operator}, opset {self.opset})"


def library(*values: object) -> Any:
    """Return numpy where all values are known before the program runs, else jax.numpy."""
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def known(node: Node, name: str, given: ArrayLike | None = None) -> np.ndarray | None:
    """Return the values of an input that must be known before the program runs.

    Args:
        node: The node.
        name: The attribute that states the values in older opsets, where the input is omitted.
        given: The input, or None.

    Returns:
        The values as a vector; None if neither is given.

    Raises:
        ValueError: If the input depends on the image or on float weights.
    """
    value = node.get(name) if given is None else given
    if isinstance(value, jax.Array):
        raise ValueError(
            f"its {name} depend on the image or on float weights, but they decide a shape: export "
            "with constant shapes, or simplify the file (onnxsim)"
        )
    return None if value is None else np.ravel(value)


def integers(node: Node, name: str, given: ArrayLike | None = None) -> list[int] | None:
    """Return the integers of an input or attribute that is known."""
    values = known(node, name, given)
    return None if values is None else [int(v) for v in values]


def per_channel(values: ArrayLike, rank: int, axis: int = 1) -> ArrayLike:
    """Return a vector reshaped to run along one axis of an array of this rank."""
    return values.reshape(-1, *(1,) * (rank - 1 - axis % rank))


def plain(function: Operator) -> Operator:
    """Return an operator that is a function of the inputs alone."""
    return lambda node, *inputs: function(*inputs)


def either(name: str) -> Operator:
    """Return an operator that is the function of this name in numpy and in jax.numpy."""
    return lambda node, *inputs: getattr(library(*inputs), name)(*inputs)


def fold(name: str) -> Operator:
    """Return an operator that applies a binary function of this name over any number of inputs."""
    return lambda node, *inputs: functools.reduce(getattr(library(*inputs), name), inputs)
