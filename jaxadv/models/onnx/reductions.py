"""Matrix products, and reductions along axes."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxadv.core.typing import ArrayLike
from jaxadv.models.onnx.node import Node, Operator, integers, library, plain
from jaxadv.models.onnx.normalization import vector_length


def _gemm(node: Node, a: ArrayLike, b: ArrayLike, c: ArrayLike | None = None) -> ArrayLike:
    y = (a.T if node.get("transA", 0) else a) @ (b.T if node.get("transB", 0) else b)
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    y = y if alpha == 1 else alpha * y
    return y if c is None else y + (c if beta == 1 else beta * c)


def _reduce(function: Operator | str) -> Operator:
    """Return a reduction by a function of x, axis and keepdims; a name is one of (jax.)numpy."""

    def apply(node: Node, x: ArrayLike, axes: ArrayLike | None = None) -> ArrayLike:
        along = integers(node, "axes", axes)
        reduce = getattr(library(x), function) if isinstance(function, str) else function
        # Over no axes the entries are still squared, or their logarithms taken.
        over = tuple(along or ()) if along or node.get("noop_with_empty_axes", 0) else None
        return reduce(x, axis=over, keepdims=bool(node.get("keepdims", 1)))

    return apply


def _argument(name: str) -> Operator:
    """Return the index of the largest or smallest entry; of several, the first or the last."""

    def apply(node: Node, x: ArrayLike) -> ArrayLike:
        axis, numpy = node.get("axis", 0), library(x)
        keep = bool(node.get("keepdims", 1))
        if not node.get("select_last_index", 0):
            return getattr(numpy, name)(x, axis=axis, keepdims=keep)
        last = getattr(numpy, name)(numpy.flip(x, axis), axis=axis, keepdims=keep)
        return x.shape[axis] - 1 - last

    return apply


def _top_k(node: Node, x: ArrayLike, k: ArrayLike | None = None) -> tuple[ArrayLike, ArrayLike]:
    (count,) = integers(node, "k", k) or (1,)
    axis = node.get("axis", -1)
    last = jnp.moveaxis(x, axis, -1)
    if node.get("largest", 1):
        values, indices = lax.top_k(last, count)
    else:
        values, indices = lax.top_k(-last, count)
        values = -values
    return jnp.moveaxis(values, -1, axis), jnp.moveaxis(indices, -1, axis)


def _cumulative_sum(node: Node, x: ArrayLike, axis: ArrayLike) -> ArrayLike:
    numpy = library(x)
    (along,) = integers(node, "axis", axis) or (0,)
    turned = numpy.flip(x, along) if node.get("reverse", 0) else x
    total = numpy.cumsum(turned, along, dtype=x.dtype)
    if node.get("exclusive", 0):
        total = total - turned
    return numpy.flip(total, along) if node.get("reverse", 0) else total


OPERATORS: dict[str, Operator] = {
    "ArgMax": _argument("argmax"),
    "ArgMin": _argument("argmin"),
    "CumSum": _cumulative_sum,
    "Einsum": lambda node, *inputs: jnp.einsum(node.get("equation"), *inputs),
    "Gemm": _gemm,
    "MatMul": plain(jnp.matmul),
    "ReduceL1": _reduce(lambda x, **options: jnp.abs(x).sum(**options)),
    "ReduceL2": _reduce(vector_length),
    "ReduceLogSum": _reduce(lambda x, **options: jnp.log(x.sum(**options))),
    "ReduceLogSumExp": _reduce(jax.nn.logsumexp),
    "ReduceMax": _reduce("max"),
    "ReduceMean": _reduce("mean"),
    "ReduceMin": _reduce("min"),
    "ReduceProd": _reduce("prod"),
    "ReduceSum": _reduce("sum"),
    "ReduceSumSquare": _reduce(lambda x, **options: (x * x).sum(**options)),
    "TopK": _top_k,
}
