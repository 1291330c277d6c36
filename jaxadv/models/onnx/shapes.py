"""Operators that move, repeat or create entries without computing with them."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxadv.core.typing import ArrayLike
from jaxadv.models.onnx.node import Node, Operator, either, integers, known, library, plain


def _reshape(node: Node, x: ArrayLike, shape: ArrayLike | None = None) -> ArrayLike:
    wanted = integers(node, "shape", shape) or []
    if not node.get("allowzero", 0):
        wanted = [x.shape[axis] if n == 0 else n for axis, n in enumerate(wanted)]
    wanted = _one_image(node, x, wanted)
    if x.size and math.prod(wanted) > x.size and math.prod(wanted) % x.size == 0:
        count = math.prod(wanted) // x.size
        raise ValueError(
            f"the shape {wanted} holds {count} such images: the graph was exported for a batch of "
            f"{count}: export it with a dynamic batch axis"
        )
    return x.reshape(wanted)


def _one_image(node: Node, x: ArrayLike, wanted: list[int]) -> list[int]:
    """Return the shape for one image, where `wanted` begins with the batch of the export."""
    if not wanted or wanted[0] < 2 or not x.ndim or x.shape[0] != 1:
        return wanted
    sizes = math.prod(wanted), x.size
    if sizes[0] == wanted[0] * sizes[1] or (-1 in wanted and wanted[0] == node.batch):
        return [1, *wanted[1:]]
    return wanted


def _flatten(node: Node, x: ArrayLike) -> ArrayLike:
    axis = node.get("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _squeeze(node: Node, x: ArrayLike, axes: ArrayLike | None = None) -> ArrayLike:
    chosen = integers(node, "axes", axes)
    if chosen is None:  # every axis of length 1, but not a batch axis that may be longer
        first = int(node.batch not in (0, 1))
        chosen = [axis for axis, n in enumerate(x.shape) if n == 1 and axis >= first]
    return x.squeeze(tuple(chosen))


def _unsqueeze(node: Node, x: ArrayLike, axes: ArrayLike | None = None) -> ArrayLike:
    return library(x).expand_dims(x, tuple(integers(node, "axes", axes) or ()))


def _concat(node: Node, *parts: ArrayLike) -> ArrayLike:
    return library(*parts).concatenate(parts, node.get("axis"))


def _split(node: Node, x: ArrayLike, sizes: ArrayLike | None = None) -> tuple[ArrayLike, ...]:
    axis = node.get("axis", 0)
    given = integers(node, "split", sizes)
    if given is None:
        count = node.get("num_outputs", len(node.outputs))
        size = -(-x.shape[axis] // count)
        given = [size] * count
    return tuple(library(x).split(x, list(itertools.accumulate(given))[:-1], axis))


def _slice(
    node: Node,
    x: ArrayLike,
    starts: ArrayLike | None = None,
    ends: ArrayLike | None = None,
    axes: ArrayLike | None = None,
    steps: ArrayLike | None = None,
) -> ArrayLike:
    first, last = integers(node, "starts", starts) or [], integers(node, "ends", ends) or []
    along = integers(node, "axes", axes) or range(len(first))
    step = integers(node, "steps", steps) or [1] * len(first)
    index = [slice(None)] * x.ndim
    for axis, *bounds in zip(along, first, last, step, strict=True):
        index[axis] = slice(*bounds)
    return x[tuple(index)]


def _shape(node: Node, x: ArrayLike) -> ArrayLike:
    return np.array(x.shape[node.get("start", 0) : node.get("end")], np.int64)


def _expand(node: Node, x: ArrayLike, shape: ArrayLike) -> ArrayLike:
    given = integers(node, "shape", shape) or []
    if node.batch and len(given) == x.ndim and x.shape[:1] == (1,) and given[0] == node.batch:
        given[0] = 1  # the batch of the export
    wanted = np.broadcast_shapes(x.shape, tuple(given))
    return library(x).broadcast_to(x, wanted)


def _pad(
    node: Node,
    x: ArrayLike,
    pads: ArrayLike | None = None,
    value: ArrayLike | None = None,
    axes: ArrayLike | None = None,
) -> ArrayLike:
    given = integers(node, "pads", pads) or []
    along = integers(node, "axes", axes) or range(len(given) // 2)
    edges = [(0, 0)] * x.ndim
    for axis, low, high in zip(
        along, given[: len(given) // 2], given[len(given) // 2 :], strict=True
    ):
        edges[axis] = (low, high)
    # Negative padding cuts first, so that a reflection starts at what is left.
    x = x[
        tuple(
            slice(max(-low, 0), n + min(high, 0))
            for n, (low, high) in zip(x.shape, edges, strict=True)
        )
    ]
    edges = [(max(low, 0), max(high, 0)) for low, high in edges]
    mode = node.get("mode", "constant")
    if mode != "constant":
        return jnp.pad(x, edges, mode=mode)
    fill = node.get("value", 0.0) if value is None else value
    return lax.pad(x, jnp.asarray(fill, x.dtype).reshape(()), [(*edge, 0) for edge in edges])


def _constant_of_shape(node: Node, shape: ArrayLike) -> ArrayLike:
    value = node.get("value", np.zeros(1, np.float32))
    return np.full(integers(node, "shape", shape) or (), np.ravel(value)[0])


def _range(node: Node, start: ArrayLike, limit: ArrayLike, delta: ArrayLike) -> ArrayLike:
    ends = [
        known(node, name, value)
        for name, value in (("start", start), ("limit", limit), ("delta", delta))
    ]
    return np.arange(*(end[0] for end in ends if end is not None), dtype=start.dtype)


def _tile(node: Node, x: ArrayLike, repeats: ArrayLike) -> ArrayLike:
    return library(x).tile(x, integers(node, "repeats", repeats))


def _triangle(node: Node, x: ArrayLike, k: ArrayLike | None = None) -> ArrayLike:
    (offset,) = integers(node, "k", k) or (0,)
    return getattr(library(x), "triu" if node.get("upper", 1) else "tril")(x, offset)


OPERATORS: dict[str, Operator] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Identity": plain(lambda x: x),
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": plain(lambda x: np.array(x.size, np.int64)),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": lambda node, x: x.transpose(node.get("perm", tuple(range(x.ndim))[::-1])),
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
    "Where": either("where"),
}
