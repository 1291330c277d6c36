"""The ONNX operators of feed-forward classifiers as jax functions, opset 7 and later.

Each takes its node and its inputs (None for an optional one that is left out). Integers stay numpy
arrays as long as they come from constants and shapes alone, for they decide shapes in turn; floats
are jax arrays, weights among them. What an older opset states as an attribute and a newer one as an
input is read by `_integers`.
"""

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Node(NamedTuple):
    """One operator of a graph: hashable, part of the compiled program.

    inputs, outputs: names of tensors, "" for one that is left out; attributes: (name, value) pairs.
    """

    operator: str
    name: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, Any], ...]

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute of that name."""
        return dict(self.attributes).get(name, default)

    def __str__(self) -> str:
        return f"node {self.name or self.outputs[0]!r} ({self.operator}, opset {self.opset})"


def _numpy(*values: Any) -> Any:
    """numpy where all values are known before the program runs, else jax.numpy."""
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def _integers(node: Node, name: str, given: Any = None) -> list[int] | None:
    """The integers of an input or, where that is left out, of the attribute `name`."""
    value = node.get(name) if given is None else given
    if isinstance(value, jax.Array):
        raise ValueError(
            f"its {name} depend on the image or on float weights, but they decide a shape: export "
            "with constant shapes, or simplify the file (onnxsim)"
        )
    return None if value is None else [int(v) for v in np.ravel(value)]


def _per_channel(values: Any, rank: int) -> Any:
    return values.reshape(-1, *(1,) * (rank - 2))


# --- convolution and pooling: [N, C, space...] ---


class _Windows(NamedTuple):
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: list[tuple[int, int]]


def _windows(node: Node, space: Sequence[int], kernel: Sequence[int]) -> _Windows:
    ones = (1,) * len(space)
    strides, dilations = node.get("strides", ones), node.get("dilations", ones)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    mode = node.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        total = [max((-(-n // s) - 1) * s + r - n, 0)
                 for n, s, r in zip(space, strides, reach, strict=True)]  # fmt: skip
        small = [t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in total]
        padding = [(low, t - low) for low, t in zip(small, total, strict=True)]
    else:
        pads = node.get("pads", (0,) * 2 * len(space))
        padding = list(zip(pads[: len(space)], pads[len(space) :], strict=True))
    return _Windows(strides, dilations, padding)


def _convolution(node: Node, x: Any, weight: Any, bias: Any = None) -> Any:
    windows = _windows(node, x.shape[2:], weight.shape[2:])
    space = "DHW"[5 - x.ndim :]
    y = lax.conv_general_dilated(
        x, weight, windows.strides, windows.padding, rhs_dilation=windows.dilations,
        dimension_numbers=(f"NC{space}", f"OI{space}", f"NC{space}"),
        feature_group_count=node.get("group", 1),
    )  # fmt: skip
    return y if bias is None else y + _per_channel(bias, x.ndim)


def _pool(node: Node, x: Any, start: float, combine: Any, windows: _Windows) -> Any:
    kernel = node.get("kernel_shape")
    padding = windows.padding
    if node.get("ceil_mode", 0):  # a last window may reach over the end, but must not begin there
        padding = []
        for n, k, s, d, (low, high) in zip(x.shape[2:], kernel, windows.strides, windows.dilations,
                                           windows.padding, strict=True):  # fmt: skip
            reach = (k - 1) * d + 1
            steps = -(-(n + low + high - reach) // s)
            steps -= steps * s >= n + low
            padding.append((low, max(high, steps * s + reach - n - low)))
    return lax.reduce_window(
        x, start, combine, (1, 1, *kernel), (1, 1, *windows.strides), [(0, 0), (0, 0), *padding],
        window_dilation=(1, 1, *windows.dilations),
    )  # fmt: skip


def _max_pool(node: Node, x: Any) -> Any:
    return _pool(node, x, -jnp.inf, lax.max, _windows(node, x.shape[2:], node.get("kernel_shape")))


def _average_pool(node: Node, x: Any) -> Any:
    windows = _windows(node, x.shape[2:], node.get("kernel_shape"))
    counted = jnp.ones((1, 1, *x.shape[2:]), x.dtype)
    if node.get("count_include_pad", 0):  # what ceil_mode adds is never counted
        edges = [(0, 0), (0, 0), *windows.padding]
        x, counted = jnp.pad(x, edges), jnp.pad(counted, edges, constant_values=1)
        windows = windows._replace(padding=[(0, 0)] * len(windows.padding))
    total = _pool(node, x, 0.0, lax.add, windows)
    return total / _pool(node, counted, 0.0, lax.add, windows)


def _global_pool(name: str) -> Callable[..., Any]:
    return lambda node, x: getattr(jnp, name)(x, axis=tuple(range(2, x.ndim)), keepdims=True)


# --- normalisation ---


def _batch_normalization(
    node: Node, x: Any, scale: Any, bias: Any, mean: Any, variance: Any
) -> Any:
    if node.get("training_mode", 0):
        raise ValueError("it is in training mode: export the model in evaluation mode")
    slope = scale / jnp.sqrt(variance + node.get("epsilon", 1e-5))
    shift = bias - mean * slope
    return x * _per_channel(slope, x.ndim) + _per_channel(shift, x.ndim)


def _layer_normalization(node: Node, x: Any, scale: Any, bias: Any = None) -> Any:
    axes = tuple(range(node.get("axis", -1) % x.ndim, x.ndim))
    centred = x - x.mean(axes, keepdims=True)
    y = centred / jnp.sqrt((centred**2).mean(axes, keepdims=True) + node.get("epsilon", 1e-5))
    return y * scale if bias is None else y * scale + bias


def _local_response(node: Node, x: Any) -> Any:
    size = node.get("size")
    before = (size - 1) // 2
    edges = [(0, 0), (before, size - 1 - before), *[(0, 0)] * (x.ndim - 2)]
    window = (1, size, *(1,) * (x.ndim - 2))
    squares = lax.reduce_window(x * x, 0.0, lax.add, window, (1,) * x.ndim, edges)
    scale = node.get("bias", 1.0) + node.get("alpha", 1e-4) / size * squares
    return x * scale ** -node.get("beta", 0.75)


def _dropout(node: Node, x: Any, ratio: Any = None, training: Any = None) -> Any:
    if training is not None and (isinstance(training, jax.Array) or training.any()):
        raise ValueError("it is in training mode: export the model in evaluation mode")
    return x


def _softmax(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(node: Node, x: Any) -> Any:
        if node.opset >= 13:
            return function(x, axis=node.get("axis", -1))
        axis = node.get("axis", 1) % x.ndim  # of old: over this and all later axes together
        return function(x.reshape(*x.shape[:axis], -1), axis=-1).reshape(x.shape)

    return apply


# --- matrices ---


def _gemm(node: Node, a: Any, b: Any, c: Any = None) -> Any:
    y = (a.T if node.get("transA", 0) else a) @ (b.T if node.get("transB", 0) else b)
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    y = y if alpha == 1 else alpha * y
    return y if c is None else y + (c if beta == 1 else beta * c)


# --- shapes ---


def _reshape(node: Node, x: Any, shape: Any = None) -> Any:
    wanted = _integers(node, "shape", shape) or []
    if not node.get("allowzero", 0):
        wanted = [x.shape[axis] if n == 0 else n for axis, n in enumerate(wanted)]
    return x.reshape(wanted)


def _flatten(node: Node, x: Any) -> Any:
    axis = node.get("axis", 1)
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def _squeeze(node: Node, x: Any, axes: Any = None) -> Any:
    chosen = _integers(node, "axes", axes)
    if chosen is None:  # every axis of length 1, but not a batch axis that may be longer
        first = node.get("batch_axes", 0)
        chosen = [axis for axis, n in enumerate(x.shape) if n == 1 and axis >= first]
    return x.squeeze(tuple(chosen))


def _unsqueeze(node: Node, x: Any, axes: Any = None) -> Any:
    return _numpy(x).expand_dims(x, tuple(_integers(node, "axes", axes) or ()))


def _concat(node: Node, *parts: Any) -> Any:
    return _numpy(*parts).concatenate(parts, node.get("axis"))


def _split(node: Node, x: Any, sizes: Any = None) -> Any:
    axis = node.get("axis", 0)
    given = _integers(node, "split", sizes)
    if given is None:
        count = node.get("num_outputs", len(node.outputs))
        size = -(-x.shape[axis] // count)
        given = [size] * count
    return tuple(_numpy(x).split(x, list(itertools.accumulate(given))[:-1], axis))


def _slice(
    node: Node, x: Any, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None
) -> Any:
    first, last = _integers(node, "starts", starts) or [], _integers(node, "ends", ends) or []
    along = _integers(node, "axes", axes) or range(len(first))
    step = _integers(node, "steps", steps) or [1] * len(first)
    index = [slice(None)] * x.ndim
    for axis, *bounds in zip(along, first, last, step, strict=True):
        index[axis] = slice(*bounds)
    return x[tuple(index)]


def _gather(node: Node, x: Any, indices: Any) -> Any:
    axis = node.get("axis", 0)
    wrapped = _numpy(indices).where(indices < 0, indices + x.shape[axis], indices)
    return _numpy(x, wrapped).take(x, wrapped, axis)


def _shape(node: Node, x: Any) -> Any:
    return np.array(x.shape[node.get("start", 0) : node.get("end")], np.int64)


def _expand(node: Node, x: Any, shape: Any) -> Any:
    wanted = np.broadcast_shapes(x.shape, tuple(_integers(node, "shape", shape) or ()))
    return _numpy(x).broadcast_to(x, wanted)


def _pad(node: Node, x: Any, pads: Any = None, value: Any = None, axes: Any = None) -> Any:
    given = _integers(node, "pads", pads) or []
    along = _integers(node, "axes", axes) or range(len(given) // 2)
    edges = [(0, 0)] * x.ndim
    for axis, low, high in zip(
        along, given[: len(given) // 2], given[len(given) // 2 :], strict=True
    ):
        edges[axis] = (low, high)
    mode = node.get("mode", "constant")
    if mode == "constant":
        fill = node.get("value", 0.0) if value is None else value
        return lax.pad(x, jnp.asarray(fill, x.dtype).reshape(()), [(*edge, 0) for edge in edges])
    return jnp.pad(x, edges, mode=mode)


def _reduce(name: str) -> Callable[..., Any]:
    def apply(node: Node, x: Any, axes: Any = None) -> Any:
        along = _integers(node, "axes", axes)
        if not along and node.get("noop_with_empty_axes", 0):
            return x
        keep = bool(node.get("keepdims", 1))
        return getattr(_numpy(x), name)(x, axis=tuple(along) if along else None, keepdims=keep)

    return apply


# --- element by element ---


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the inputs alone."""
    return lambda node, *inputs: function(*inputs)


def _either(name: str) -> Callable[..., Any]:
    """A function of that name in numpy and in jax.numpy."""
    return lambda node, *inputs: getattr(_numpy(*inputs), name)(*inputs)


def _fold(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda node, *inputs: functools.reduce(function, inputs)


def _divide(node: Node, a: Any, b: Any) -> Any:
    if isinstance(a, np.ndarray) and np.issubdtype(a.dtype, np.integer):
        return np.trunc(a / b).astype(a.dtype)
    return a / b


def _clip(node: Node, x: Any, least: Any = None, greatest: Any = None) -> Any:
    least = node.get("min") if least is None else least
    greatest = node.get("max") if greatest is None else greatest
    return jnp.clip(x, least, greatest)


def _leaky_relu(node: Node, x: Any) -> Any:
    return jnp.where(x >= 0, x, node.get("alpha", 0.01) * x)


def _hard_sigmoid(node: Node, x: Any) -> Any:
    return jnp.clip(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0, 1)


def _selu(node: Node, x: Any) -> Any:
    alpha, gamma = node.get("alpha", 1.6732632423543772), node.get("gamma", 1.0507009873554805)
    return gamma * jax.nn.elu(x, alpha)


def _cast(node: Node, x: Any) -> Any:
    to = node.get("to")
    return x.astype(to if isinstance(x, np.ndarray) else jax.dtypes.canonicalize_dtype(to))


def _constant_of_shape(node: Node, shape: Any) -> Any:
    value = node.get("value", np.zeros(1, np.float32))
    return np.full(_integers(node, "shape", shape) or (), np.ravel(value)[0])


OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": _plain(jnp.abs),
    "Add": _plain(operator.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Ceil": _either("ceil"),
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Conv": _convolution,
    "Div": _divide,
    "Dropout": _dropout,
    "Elu": lambda node, x: jax.nn.elu(x, node.get("alpha", 1.0)),
    "Equal": _either("equal"),
    "Erf": _plain(lax.erf),
    "Exp": _plain(jnp.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _either("floor"),
    "Gather": _gather,
    "Gelu": lambda node, x: jax.nn.gelu(x, node.get("approximate", "none") == "tanh"),
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool("mean"),
    "GlobalMaxPool": _global_pool("max"),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(lambda x: x * jnp.clip(x / 6 + 0.5, 0, 1)),
    "Identity": _plain(lambda x: x),
    "LRN": _local_response,
    "LayerNormalization": _layer_normalization,
    "LeakyRelu": _leaky_relu,
    "Log": _plain(jnp.log),
    "LogSoftmax": _softmax(jax.nn.log_softmax),
    "MatMul": _plain(jnp.matmul),
    "Max": _fold(lambda a, b: _numpy(a, b).maximum(a, b)),
    "MaxPool": _max_pool,
    "Mean": lambda node, *inputs: functools.reduce(operator.add, inputs) / len(inputs),
    "Min": _fold(lambda a, b: _numpy(a, b).minimum(a, b)),
    "Mul": _plain(operator.mul),
    "Neg": _plain(operator.neg),
    "PRelu": _plain(lambda x, slope: jnp.where(x >= 0, x, slope * x)),
    "Pad": _pad,
    "Pow": _either("power"),
    "Reciprocal": _plain(lambda x: 1 / x),
    "ReduceMax": _reduce("max"),
    "ReduceMean": _reduce("mean"),
    "ReduceMin": _reduce("min"),
    "ReduceProd": _reduce("prod"),
    "ReduceSum": _reduce("sum"),
    "Relu": _plain(jax.nn.relu),
    "Reshape": _reshape,
    "Selu": _selu,
    "Shape": _shape,
    "Sigmoid": _plain(jax.nn.sigmoid),
    "Sign": _plain(jnp.sign),
    "Slice": _slice,
    "Softmax": _softmax(jax.nn.softmax),
    "Softplus": _plain(jax.nn.softplus),
    "Softsign": _plain(jax.nn.soft_sign),
    "Split": _split,
    "Sqrt": _plain(jnp.sqrt),
    "Squeeze": _squeeze,
    "Sub": _plain(operator.sub),
    "Sum": _fold(operator.add),
    "Tanh": _plain(jnp.tanh),
    "Transpose": lambda node, x: x.transpose(node.get("perm", tuple(range(x.ndim))[::-1])),
    "Unsqueeze": _unsqueeze,
    "Where": _either("where"),
}
