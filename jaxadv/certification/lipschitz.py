"""The product of the norms of all layers of a network, computed from its trace.

A model is traced, and its equations are walked in order with an upper bound of how far each value
moves when the image moves by 1 (L2): a layer multiplies the bound by its norm, a sum of branches
adds theirs. It works on any model of dense layers, convolutions, pooling, residual sums,
(evaluated) batch normalisation and activations of bounded slope; what has no global bound, such as
attention or layer normalisation, raises ValueError. Szegedy et al. 2013 (arXiv 1312.6199), section
4.3.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.core import ShapedArray
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var
from jaxtyping import Array, Float

from jaxadv.certification.operator_norms import (
    convolution_bound,
    matrix_norm,
    operator_norm,
    pooling_norm,
    sum_bound,
)
from jaxadv.core.jaxprs import bind, called, walk
from jaxadv.core.model import Model
from jaxadv.engine.verify import predict

_WEIGHTED = ("dot_general", "conv_general_dilated")
_SLOPES = {  # of functions of one number
    "neg": 1.0,
    "abs": 1.0,
    "tanh": 1.0,
    "sin": 1.0,
    "cos": 1.0,
    "logistic": 0.25,
    "erf": 2 / math.sqrt(math.pi),
    "clamp": 1.0,
    "convert_element_type": 1.0,
    "copy": 1.0,
    "atan": 1.0,
    "asinh": 1.0,
    "stop_gradient": 1.0,
}
_MOVES = (
    "slice",
    "pad",
    "gather",
    "broadcast_in_dim",
    "reduce_sum",
    "reduce_window_sum",
    "dynamic_slice",
    "cumsum",
)
_PLAIN = (
    "add",
    "sub",
    "add_any",
    "max",
    "min",
    "concatenate",
    "reduce_max",
    "reduce_min",
    "split",
    "reshape",
    "transpose",
    "squeeze",
    "expand_dims",
    "rev",
)
DotNumbers = tuple[tuple[Sequence[int], Sequence[int]], tuple[Sequence[int], Sequence[int]]]
"""Contracted and batch axes of both sides of a `dot_general`."""


class Layer(NamedTuple):
    """Norm of one step of a network.

    Attributes:
        name: Its place in the network.
        kind: "dense", "convolution", "pooling", "scaling", "activation" or "sum".
        size: Size in words.
        lower: Norm by power iteration, a lower bound (nan if not iterated).
        norm: Upper bound of the norm.
        through: Upper bound from the image up to the output of this step.
    """

    name: str
    kind: str
    size: str
    lower: float
    norm: float
    through: float


class Spectrum(NamedTuple):
    """The norms of a network.

    Attributes:
        layers: The layers in order.
        constant: Bound L of the whole network: |f(x + r) - f(x)| <= L |r|.
    """

    layers: tuple[Layer, ...]
    constant: float


class _Moving(NamedTuple):
    """A value that depends on the image: the bound of its changes, or the value itself."""

    value: Any


def spectrum(model: Model, image_shape: Sequence[int], iterations: int = 300) -> Spectrum:
    """Compute the norm of every layer of a model, and their product.

    The model is traced, not called.

    Args:
        model: The model.
        image_shape: Shape [H, W, C] of an image.
        iterations: Iterations of `operator_norm` for every weighted layer (0: none).

    Returns:
        The layers and the bound. `constant` is an upper bound in exact arithmetic of the float32
        weights: dense layers by their singular values, convolutions by `convolution_bound`.

    Raises:
        ValueError: A step of the model, which is named, has no global bound.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> apply = lambda w, x: jnp.tanh(x.reshape(len(x), -1) @ w)
        >>> model = ja.Model(apply, jnp.diag(jnp.arange(4.0)))
        >>> spectrum(model, (2, 2, 1)).constant
        3.0
    """
    image = jnp.zeros((1, *image_shape), jnp.float32)
    traced = jax.make_jaxpr(model.raw)(image)
    layers: list[Layer] = []

    def rule(eqn: JaxprEqn, values: list[Any], name: str) -> list[Any]:
        gain, kind, size = _gain(eqn, values, name)
        through = _combined(eqn, values, name) * gain
        if kind in ("dense", "convolution", "pooling") or gain != 1:
            lower = math.nan
            if kind in ("dense", "convolution") and iterations:
                place = next(i for i, v in enumerate(values) if isinstance(v, _Moving))
                shape = _shape(eqn.invars[place])
                lower = operator_norm(_alone(eqn, values), shape, iterations=iterations)
            layers.append(Layer(name, kind, size, lower, gain, through))
        return [through] * len(eqn.outvars)

    (out,) = _interpret(traced.jaxpr, traced.consts, [_Moving(1.0)], rule)
    return Spectrum(_distinct(layers), out.value if isinstance(out, _Moving) else 0.0)


def layer_outputs(model: Model, images: npt.ArrayLike) -> dict[str, Float[np.ndarray, "N n"]]:
    """Return the output of every dense layer and convolution, before its bias.

    Costs one model call.

    Args:
        model: The model.
        images: Images [N, H, W, C].

    Returns:
        {name: float32 [N, n]} in the order of the layers, with the names of `spectrum`.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> model = ja.Model(lambda w, x: jnp.tanh(x.reshape(len(x), -1) @ w) @ w, jnp.eye(4))
        >>> [v.shape for v in layer_outputs(model, jnp.ones((3, 2, 2, 1))).values()]
        [(3, 4), (3, 4)]
    """
    images = jnp.asarray(images, jnp.float32)
    traced = jax.make_jaxpr(model.raw)(images)
    found: list[tuple[str, np.ndarray]] = []

    def rule(eqn: JaxprEqn, values: list[Any], name: str) -> list[Any]:
        outputs = bind(eqn, [v.value if isinstance(v, _Moving) else v for v in values])
        if eqn.primitive.name in _WEIGHTED:
            found.append((name, np.asarray(outputs[0]).reshape(len(images), -1)))
        return outputs

    _interpret(traced.jaxpr, traced.consts, [_Moving(images)], rule)
    names = _distinct([Layer(name, "layer", "", 0, 0, 0) for name, _ in found])
    return {layer.name: value for layer, (_, value) in zip(names, found, strict=True)}


def certified_distance(
    model: Model, images: npt.ArrayLike, labels: npt.ArrayLike, constant: float
) -> Float[np.ndarray, " N"]:
    """Return L2 distances [N] within which no image changes its class: margin / (sqrt(2) L).

    The difference of two logits moves by at most sqrt(2) L |r|. Margins are of float32 logits.
    Costs one forward pass for each image.

    Args:
        model: The model.
        images: Images [N, H, W, C].
        labels: Classes [N] that are to stay.
        constant: The bound L of `spectrum`.

    Returns:
        The distances, float64; 0 for images of another class already.

    Raises:
        ValueError: `constant` is not above 0.
    """
    if not constant > 0:
        raise ValueError(f"constant={constant}: pass spectrum(model, image_shape).constant")
    logits = predict(model, np.asarray(images)).astype(np.float64)
    rows, labels = np.arange(len(logits)), np.asarray(labels)
    own = logits[rows, labels].copy()
    logits[rows, labels] = -np.inf
    return np.maximum(own - logits.max(1), 0) / (math.sqrt(2) * constant)


def local_norms(model: Model, images: npt.ArrayLike) -> Float[np.ndarray, " N"]:
    """Return the norm [N] of the logits' Jacobian at each image [N, H, W, C].

    This is the gain that no small perturbation there exceeds. Costs as many backward passes for
    each image as there are classes.
    """

    @jax.jit
    def jacobian(image: Array) -> Float[Array, "K D"]:
        rows = jax.jacrev(lambda x: model(x[None])[0])(image)
        return rows.reshape(len(rows), -1)

    return np.array([matrix_norm(jacobian(image)) for image in jnp.asarray(images, jnp.float32)])


def _interpret(
    jaxpr: Jaxpr,
    consts: Sequence[Any],
    inputs: Sequence[Any],
    rule: Callable[..., Any],
    scope: str = "",
) -> list[Any]:
    """Evaluate a jaxpr; equations that depend on the image are left to rule(eqn, values, name)."""

    def outputs_of(eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        name = "/".join(part for part in (scope, str(eqn.source_info.name_stack)) if part)
        if not any(isinstance(value, _Moving) for value in values):
            return bind(eqn, values)
        if (inner := called(eqn)) is not None:
            return _interpret(inner.jaxpr, inner.consts, values, rule, name)
        return [_Moving(out) for out in rule(eqn, values, name)]

    return walk(jaxpr, consts, inputs, outputs_of)


def _shape(atom: Var | Literal) -> tuple[int, ...]:
    return cast(ShapedArray, atom.aval).shape


def _alone(eqn: JaxprEqn, values: Sequence[Any]) -> Callable[[Any], Any]:
    """Return the equation as a function of its one value that depends on the image."""
    return lambda x: bind(eqn, [x if isinstance(v, _Moving) else v for v in values])[0]


def _combined(eqn: JaxprEqn, values: Sequence[Any], name: str) -> float:
    """Return the bound of the inputs of an equation."""
    bounds = [value.value for value in values if isinstance(value, _Moving)]
    if len(bounds) == 1:
        return bounds[0]
    if eqn.primitive.name in ("add", "sub", "add_any"):
        return sum(bounds)
    if eqn.primitive.name in ("concatenate", "max", "min"):
        return math.hypot(*bounds)  # each entry moves by no more than one of theirs
    if eqn.primitive.name == "select_n" and not isinstance(values[0], _Moving):
        return math.hypot(*bounds)
    raise _unbounded(eqn, name)


def _gain(eqn: JaxprEqn, values: Sequence[Any], name: str) -> tuple[float, str, str]:
    """Return the gain of an equation, its kind and its size."""
    kind, params = eqn.primitive.name, eqn.params
    place = next(i for i, value in enumerate(values) if isinstance(value, _Moving))
    others = [value for value in values if not isinstance(value, _Moving)]
    shape = _shape(eqn.invars[place])
    alone = len(others) == len(values) - 1
    if kind == "dot_general" and alone:
        weight, axes = _matrices(others[0], params["dimension_numbers"], 1 - place)
        return matrix_norm(weight), "dense", f"{axes[0]} x {axes[1]}"
    if kind == "conv_general_dilated" and place == 0 and alone:
        return _convolution(np.asarray(others[0], np.float64), shape, eqn, name)
    if kind == "reduce_window_max":
        if any(d != 1 for d in params["base_dilation"]):
            raise _unbounded(eqn, name)
        window, strides = params["window_dimensions"], params["window_strides"]
        gain = pooling_norm(shape, window, strides, params["padding"], params["window_dilation"])
        size = " x ".join(str(n) for n in window if n > 1)
        return gain, "pooling", f"{size}, stride {max(strides)}"
    if kind in _SLOPES:
        return _SLOPES[kind], "activation", kind
    if kind in ("mul", "div") and alone and (kind == "mul" or place == 0):
        factor = np.abs(np.asarray(others[0], np.float64))
        return float(factor.max() if kind == "mul" else 1 / factor.min()), "scaling", ""
    if kind in _PLAIN:
        return 1.0, "", ""
    if kind == "select_n" and not isinstance(values[0], _Moving):
        return 1.0, "", ""
    if kind in _MOVES and alone and place == 0:
        return sum_bound(_alone(eqn, values), shape), "sum", kind
    raise _unbounded(eqn, name)


def _matrices(
    weight: npt.ArrayLike, numbers: DotNumbers, side: int
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the weight of a dot_general as [batch, in, out], and its (in, out)."""
    weight = np.asarray(weight, np.float64)
    contract, batch = numbers[0][side], numbers[1][side]
    free = [axis for axis in range(weight.ndim) if axis not in (*contract, *batch)]
    shape = [math.prod(weight.shape[axis] for axis in axes) for axes in (batch, contract, free)]
    return weight.transpose(*batch, *contract, *free).reshape(shape), (shape[1], shape[2])


def _convolution(
    kernel: np.ndarray, shape: Sequence[int], eqn: JaxprEqn, name: str
) -> tuple[float, str, str]:
    params = eqn.params
    image, weight, _ = params["dimension_numbers"]
    if any(d != 1 for d in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        raise _unbounded(eqn, name)
    kernel = kernel.transpose(*weight[2:], weight[1], weight[0])
    space = kernel.shape[:-2]
    size = " x ".join(map(str, kernel.shape))
    wide = np.zeros(
        [
            *(d * (n - 1) + 1 for n, d in zip(space, params["rhs_dilation"], strict=True)),
            *kernel.shape[-2:],
        ]
    )
    wide[tuple(slice(None, None, d) for d in params["rhs_dilation"])] = kernel
    sides = [shape[axis] for axis in image[2:]]
    strides = params["window_strides"]
    groups = np.split(wide, params["feature_group_count"], axis=-1)
    norm = max(convolution_bound(part, sides, strides, params["padding"]) for part in groups)
    return norm, "convolution", f"{size}, stride {max(strides)}"


def _distinct(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Name layers by their place in the network or their kind, numbered where not unique."""
    short = [layer.name.partition("/")[2] or layer.kind for layer in layers]
    seen: dict[str, int] = {}
    out = []
    for layer, name in zip(layers, short, strict=True):
        seen[name] = seen.get(name, 0) + 1
        out.append(layer._replace(name=f"{name} {seen[name]}" if seen[name] > 1 else name))
    return tuple(out)


def _unbounded(eqn: JaxprEqn, name: str) -> ValueError:
    return ValueError(
        f"model: its step {eqn.primitive.name!r} ({name or 'outside any layer'}) has no bound here "
        "that holds everywhere (attention, layer normalisation, products of activations): use "
        "operator_norm(model, at=image) for the gain at one image"
    )
