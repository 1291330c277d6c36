"""One operator of an exported program as a value, and the order of axes in which it computes.

Operators are functions with the arguments that ATen's schema gives them; axes are counted as torch
counts them, [N, C, space...]. Convolutions are fast with channels last, and a transposition before
and after each would cost more than many of them: such values are kept as `ChannelsLast`, and turned
only for an operator that does not know of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxadv.core.typing import ArrayLike
from jaxadv.models.tensor import Tensor


class Reference(NamedTuple):
    """An argument that is the value of another node, by its name."""

    name: str


class Node(NamedTuple):
    """One operator of a program: hashable, part of the compiled program.

    Attributes:
        operator: Name of the ATen operator with its overload, such as "add.Tensor".
        name: Name of its value.
        arguments: Positional arguments: numbers, names of dtypes, tuples, references.
        options: (name, value) pairs of the keyword arguments.
        module: Path and class of the module that calls it, for messages.
    """

    operator: str
    name: str
    arguments: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...]
    module: str

    def __str__(self) -> str:
        return f"aten.{self.operator} in {self.module}"


@dataclass(frozen=True)
class ChannelsLast:
    """The value [N, C, space...] whose entries are held as an array [N, space..., C]."""

    array: ArrayLike

    @property
    def ndim(self) -> int:
        return self.array.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        n, *space, channels = self.array.shape
        return (n, channels, *space)


class Program(NamedTuple):
    """The nodes that compute the logits.

    Attributes:
        nodes: The nodes in order of evaluation.
        constants: (name, tensor) of the tensors that are not weights.
        weights: (name, name of the weight).
        entrance: Name of the input.
        exit: Name of the logits.
        batch: Size of the batch for which it was exported; None: any.
    """

    nodes: tuple[Node, ...]
    constants: tuple[tuple[str, Tensor], ...]
    weights: tuple[tuple[str, str], ...]
    entrance: str
    exit: str
    batch: int | None


Value = Any  # an array, ChannelsLast, a number, or a tuple of these


class Operator(NamedTuple):
    """How an operator is computed.

    Attributes:
        function: Takes the arguments of the schema.
        layout: "plain": arrays are in torch's order of axes. "pointwise": axes are in any order
            that all arrays share. "images": the first array has its channels last, and so has the
            result. "held": values as they are held, arrays or `ChannelsLast`.
    """

    function: Callable[..., Any]
    layout: str = "plain"

    def __call__(self, *arguments: Value, **options: Value) -> Value:
        if self.layout == "held":
            return self.function(*arguments, **options)
        if self.layout == "images":
            x, *others = arguments
            others, options = plain(tuple(others)), plain(options)
            return images_last(self.function(channels_last(x), *others, **options))
        if self.layout == "pointwise":
            values = (*arguments, *options.values())
            rank = max((v.ndim for v in values if isinstance(v, ChannelsLast)), default=0)
            if rank and all(np.ndim(v) <= rank for v in values if is_array(v)):
                turned = [_turned(v, rank) for v in arguments]
                named = {name: _turned(v, rank) for name, v in options.items()}
                return ChannelsLast(self.function(*turned, **named))
        return self.function(*plain(arguments), **plain(options))


def is_array(value: Value) -> bool:
    """Return whether this is an array, in whatever order of axes."""
    return isinstance(value, np.ndarray | Array | ChannelsLast)


def plain(value: Value) -> Value:
    """Return the value, or the values of a tuple or dict, in torch's order of axes."""
    if isinstance(value, ChannelsLast):
        return jnp.moveaxis(value.array, -1, 1)
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    return {n: plain(v) for n, v in value.items()} if isinstance(value, dict) else value


def channels_last(value: Value) -> ArrayLike:
    """Return an array [N, space..., C] of a value [N, C, space...]."""
    return value.array if isinstance(value, ChannelsLast) else jnp.moveaxis(value, 1, -1)


def images_last(value: Value) -> Value:
    """Mark the array, or the first one of a tuple, as one with its channels last."""
    if isinstance(value, tuple):
        return (ChannelsLast(value[0]), *value[1:])
    return ChannelsLast(value)


def _turned(value: Value, rank: int) -> Value:
    """Return a value that is broadcast to `rank` axes with its channels last."""
    if isinstance(value, ChannelsLast):
        return value.array
    if not is_array(value) or value.ndim == 0:
        return value
    return jnp.moveaxis(value.reshape((1,) * (rank - value.ndim) + value.shape), 1, -1)


def operators(
    functions: dict[str, Callable[..., Any]], layout: str = "plain"
) -> dict[str, Operator]:
    """Return a table of operators of one layout."""
    return {name: Operator(function, layout) for name, function in functions.items()}
