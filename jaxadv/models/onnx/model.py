"""ONNX classifiers as the engine's `Model`: the graph is a function, its float tensors the weights.

The graph is computed on one image with a batch axis of 1, under vmap, so a graph that was exported
for a batch of 1, with that 1 in its Reshape nodes, takes batches of any size. So does one that was
exported for a larger batch, if an image alone has the same logits as in the batch. Else it is
computed on batches of that size, or refused if the logits of an image depend on the others.
"""

import contextlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxadv.core.bounds import Bounds
from jaxadv.core.model import Model
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import ArrayLike
from jaxadv.models.onnx.file import Graph, read
from jaxadv.models.onnx.node import Node
from jaxadv.models.onnx.operators import OPERATORS

if TYPE_CHECKING:
    import onnx

Weights = Mapping[str, Array]  # the float tensors of a graph by their names


def from_onnx(
    file: "str | os.PathLike[str] | bytes | onnx.ModelProto",
    layout: str | None = None,
    *,
    output: str | None = None,
    bounds: Bounds = (0.0, 1.0),
) -> Model:
    """Convert a classifier in an ONNX file to a `ja.Model` of images [N, H, W, C].

    The first axis of the declared input is the batch; regardless of its size, batches of any size
    can be passed ([D], and [C, H, W] with C > 1, declare an image without a batch axis). All floats
    are computed in float32. `model.params` is a dict of the graph's float tensors by their names:
    new weights never recompile. Integers, floats that determine shapes, and the weights of
    `ai.onnx.ml` are part of the program.

    Gradients pass the rounding of QuantizeLinear unchanged (a straight-through estimate; values are
    exact), and are zero through integers, comparisons, Round, Floor and Ceil.

    Args:
        file: A path, the file's bytes, or an `onnx.ModelProto`, of opset 7 or later.
        layout: "NCHW" or "NHWC", the order of the pixels in the graph's input, also where that is a
            vector ([N, 784], [1, 784, 1], ...: any images with that number of pixels are accepted).
            Default: "NHWC" if the declared image ends in 1 or 3 channels and does not begin with
            them, else "NCHW". The images are transposed and reshaped once, at the input.
        output: Name of the tensor with the logits (default: the graph's only output), such as the
            one before a final Softmax.
        bounds: Least and largest value of the images, numbers, or arrays that broadcast to one
            input.

    Returns:
        The model; its parameters are the graph's weights.

    Raises:
        ImportError: If the package onnx is not installed.
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no ONNX model, the graph has several inputs or outputs, a node is
            not supported (named with its operator), or the graph was exported for a batch of
            several images, and the logits of one depend on the others.

    >>> import jax.numpy as jnp, jaxadv as ja, onnx
    >>> proto = onnx.parser.parse_model('''
    ...     <ir_version: 8, opset_import: ["": 17]>
    ...     net (float[1, 1, 2, 2] image) => (float[1, 2] logits)
    ...     <float[4, 2] weight = {1, 0, 1, 0, 0, 1, 0, 1}>
    ...     { pixels = Flatten (image)   logits = MatMul (pixels, weight) }''')
    >>> model = ja.from_onnx(proto.SerializeToString())
    >>> model(jnp.ones((3, 2, 2, 1))).tolist(), model.params["weight"].shape
    ([[2.0, 2.0], [2.0, 2.0], [2.0, 2.0]], (4, 2))
    """
    if layout not in (None, "NCHW", "NHWC"):
        raise ValueError(f'layout={layout!r}: pass "NCHW" or "NHWC"')
    graph, weights = read(file, output)
    classifier = _Classifier(graph, layout or _usual_layout(graph.entrance.shape))
    if None not in graph.entrance.shape:
        classifier = _checked(classifier, weights)
    return Model(classifier, weights, bounds)


def with_input_shape(file: "str | os.PathLike[str]", entries: int) -> tuple[Model, tuple[int, ...]]:
    """Convert a classifier to a model of inputs as the graph declares them.

    Args:
        file: The path.
        entries: Number of entries of one input.

    Returns:
        The model, of inputs in the order of memory, and the shape of one input.

    Raises:
        ValueError: The graph takes another number of entries, or as `from_onnx`.
    """
    model = from_onnx(file, "NHWC")
    assert isinstance(model.apply, _Classifier)
    declared = model.apply.graph.entrance.shape
    known = math.prod(size for size in declared if size is not None)
    shape = tuple(entries // known if size is None else size for size in declared)
    if declared.count(None) > 1 or math.prod(shape) != entries:
        raise ValueError(
            f"{file} takes inputs of shape {_text(declared)}, and not {entries} numbers"
        )
    return model, shape


def _checked(classifier: "_Classifier", weights: dict[str, Array]) -> "_Classifier":
    """Return the classifier, of single images or of groups of them.

    Raises ValueError now, not at the first run, for a node that cannot be computed, and for a graph
    of a batch of several images whose logits of one depend on the others.
    """
    graph = classifier.graph
    shape, batch = graph.entrance.shape, graph.entrance.batch or 1
    if batch == 1:
        jax.eval_shape(classifier.classify, weights, jax.ShapeDtypeStruct(shape, np.float32))
        return classifier
    # Unchanged: a node without a batch does not rewrite shapes for one image.
    unchanged = graph._replace(nodes=tuple(node._replace(batch=None) for node in graph.nodes))
    compute = jax.jit(_compute, static_argnums=0)
    draw = np.random.default_rng(0)
    images, others = draw.random((2, batch, *[n or 1 for n in shape]), np.float32)

    def rows(images: np.ndarray) -> np.ndarray:
        return np.asarray(compute(unchanged, weights, images)).reshape(batch, -1)

    def equal(logits: ArrayLike, expected: np.ndarray, what: str) -> None:
        tolerance = 1e-3 * float(np.abs(expected).max())
        np.testing.assert_allclose(logits, expected, 1e-3, tolerance, err_msg=what)

    try:
        logits = rows(images)
        try:
            alone = jax.jit(jax.vmap(classifier.classify, (None, 0)))(weights, images[[0, -1]])
            equal(alone, logits[[0, -1]], "one image in the batch")
        except (AssertionError, ValueError, TypeError):
            equal(rows(np.roll(images, 1, 0)), np.roll(logits, 1, 0), "in another order")
            others[0] = images[0]
            equal(rows(others)[0], logits[0], "among other images")
            return replace(classifier, graph=unchanged, groups=batch)
    except (AssertionError, ValueError, TypeError) as error:
        raise ValueError(
            f"the graph was exported for a batch of {batch}: export it with a dynamic batch axis; "
            f"the logits of an image depend on the others, or cannot be computed: {error}"
        ) from error
    return classifier


@pytree
class _Classifier:
    graph: Graph = static()
    layout: str = static()
    groups: int = static(default=0)  # images that are computed together (0: each alone)

    def __call__(self, params: Weights, images: Float[Array, "N ..."]) -> Float[Array, "N K"]:
        if images.ndim == 4 and self.layout == "NCHW":
            images = images.transpose(0, 3, 1, 2)
        shape = _fit(self.graph.entrance.shape, images.shape[1:], self.layout)
        inputs = images.reshape(len(images), *shape).astype(jnp.float32)
        if self.groups:
            return self._in_groups(params, inputs)
        return jax.vmap(lambda image: self.classify(params, image))(inputs)

    def _in_groups(self, params: Weights, inputs: Array) -> Float[Array, "N K"]:
        count, size = len(inputs), self.groups
        padded = jnp.pad(inputs, [(0, -count % size)] + [(0, 0)] * (inputs.ndim - 1))
        groups = padded.reshape(-1, size, *inputs.shape[1:])
        logits = jax.vmap(lambda group: _compute(self.graph, params, group))(groups)
        return logits.reshape(len(padded), -1)[:count].astype(jnp.float32)

    def classify(self, params: Weights, image: Array) -> Float[Array, " K"]:
        """Logits of one image in the shape and layout of the graph."""
        graph = self.graph
        batch = graph.entrance.batch
        logits = _compute(graph, params, image if batch == 0 else image[None])
        rows = 1 if batch in (0, 1) else (*logits.shape, 1)[0]
        if rows != 1 or logits.size != max(logits.shape, default=0):
            raise ValueError(
                f"output {graph.output!r} has shape {logits.shape} for one image, but logits are "
                "[1, K]: pass output= the name of the tensor that holds them"
                + f", or, if the graph was exported for a batch of {rows}, export it with a "
                "dynamic batch axis" * (rows != 1)
            )
        return logits.reshape(-1).astype(jnp.float32)


def _compute(graph: Graph, params: Weights, inputs: Array) -> Array:
    """Return the graph's output for an input of the declared shape."""
    values = {**{name: tensor.array() for name, tensor in graph.constants}, **params}
    values[graph.entrance.name] = inputs
    for node in graph.nodes:
        values |= _evaluate(node, values)
    return values[graph.output]


def _evaluate(node: Node, values: Mapping[str, ArrayLike]) -> dict[str, ArrayLike]:
    """Return the node's outputs by name; those computed from known inputs alone are known too."""
    inputs = [values.get(name) for name in node.inputs]
    shapes = ["none" if value is None else str(list(value.shape)) for value in inputs]
    known = not any(isinstance(value, jax.Array) for value in inputs)
    try:
        missing = [n for n, v in zip(node.inputs, inputs, strict=True) if n and v is None]
        if missing:
            raise ValueError(f"nothing supported computes {missing[0]!r}")
        with jax.ensure_compile_time_eval() if known else contextlib.nullcontext():
            outputs = OPERATORS[node.operator](node, *inputs)
    except Exception as error:
        raise ValueError(
            f"{node} failed on inputs of shape {', '.join(shapes)} (one image): {error}"
        ) from error
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    allowed = Tracer if known else jax.Array
    return {
        name: value if isinstance(value, allowed) else np.asarray(value)
        for name, value in zip(node.outputs, outputs, strict=False)
        if value is not None
    }


def _fit(declared: Sequence[int | None], given: Sequence[int], layout: str) -> tuple[int, ...]:
    """Return the shape that the graph declares for an image of shape `given` in its layout."""
    colour = 0 if layout == "NCHW" else -1
    if len(declared) == len(given) - 1 and given[colour] == 1:  # gray, without an axis for it
        given = given[1:] if layout == "NCHW" else given[:-1]
    if len(declared) == len(given) and all(
        wanted in (None, size) for wanted, size in zip(declared, given, strict=True)
    ):
        return tuple(given)
    pixels = math.prod(given)
    if sum(size != 1 for size in declared) <= 1:  # a vector
        wanted = tuple(pixels if size is None else size for size in declared)
        if math.prod(wanted) == pixels:
            return wanted
    raise ValueError(
        f"the ONNX graph wants an image of shape {_text(declared)} and gets {_text(given)}, in the "
        f"layout {layout}: pass images [N, H, W, C] that fit, or give from_onnx the other layout"
    )


def _text(shape: Sequence[int | None]) -> str:
    return str(["any" if n is None else n for n in shape]).replace("'", "")


def _usual_layout(shape: Sequence[int | None]) -> str:
    last = len(shape) == 3 and shape[-1] in (1, 3) and shape[0] not in (1, 3)
    return "NHWC" if last else "NCHW"
