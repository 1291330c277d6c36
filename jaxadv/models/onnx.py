"""ONNX classifiers as the engine's `Model`: the graph is a function, its float tensors the weights.

The graph runs on one image with a batch axis of 1, and is vmapped: so a graph that was exported for
a batch of 1, with that 1 in its Reshape nodes, takes batches of any size.
"""

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxadv.core.extras import extra
from jaxadv.core.model import Model
from jaxadv.core.pytree import pytree, static
from jaxadv.models.onnx_operators import OPERATORS, Node

OLDEST = 7  # opsets before it broadcast by other rules
STANDARD = ("", "ai.onnx")  # domains of the standard operators


def from_onnx(
    file: str | os.PathLike[str] | bytes | Any,
    layout: str | None = None,
    *,
    output: str | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Model:
    """A feed-forward classifier in an ONNX file as a model of images [N, H, W, C].

    file: a path, the file's bytes, or an `onnx.ModelProto`, of opset 7 or later. layout: "NCHW" or
    "NHWC", the order in which the graph wants the pixels, also where it wants them as a vector
    ([N, 784], [1, 784, 1], ...: any images with so many pixels will do); default: "NHWC" if the
    declared image ends in 1 or 3 channels and does not begin with them, else "NCHW". The images are
    transposed and reshaped once, at the border. output: the tensor that holds the logits, by its
    name (default: the graph's only output), such as the one before a final Softmax. bounds: the
    least and the largest value of the images.

    The first axis of the declared input is the batch; whatever its size, batches of any size can be
    passed ([D], and [C, H, W] with C > 1, declare an image without a batch axis). All floats are
    computed in float32. `model.params` is a dict of the graph's float tensors by their names: new
    weights never recompile. Integer tensors decide shapes and are part of the program.

    Raises ImportError without the package onnx, FileNotFoundError, and ValueError for a file that
    is no ONNX model, for several inputs or outputs, and for the first node that is not understood,
    with its name and operator.

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
    proto = _read(file)
    opset = _opset(proto)
    entrance = _entrance(proto.graph)
    output = _exit(proto.graph, output)
    protos = _needed(proto.graph, output)
    arrays = _arrays(proto.graph, protos)
    nodes = tuple(_node(p, opset, entrance) for p in protos if p.output[0] not in arrays)
    weights, constants = {}, []
    for name, array in arrays.items():
        if jnp.issubdtype(array.dtype, jnp.floating):
            weights[name] = jnp.asarray(array, jnp.float32)
        else:
            constants.append((name, _Tensor(array.dtype.str, array.shape, array.tobytes())))
    graph = _Graph(nodes, tuple(constants), entrance, output)
    classifier = _Classifier(graph, layout or _usual_layout(entrance.shape))
    if None not in entrance.shape:
        # A node that cannot be computed is told now, not at the first run.
        image = jax.ShapeDtypeStruct(entrance.shape, np.float32)
        jax.eval_shape(classifier.classify, weights, image)
    return Model(classifier, weights, bounds)


class _Entrance(NamedTuple):
    """The graph's input: name; shape: of one image (None: any); batch: the size of the axis before
    it as declared, None if it is free, 0 if there is none."""

    name: str
    shape: tuple[int | None, ...]
    batch: int | None


class _Tensor(NamedTuple):
    """An array as a hashable value."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def array(self) -> np.ndarray:
        return np.frombuffer(self.data, self.dtype).reshape(self.shape)


class _Graph(NamedTuple):
    """nodes: in order of evaluation; constants: the tensors that are no weights."""

    nodes: tuple[Node, ...]
    constants: tuple[tuple[str, _Tensor], ...]
    entrance: _Entrance
    output: str


@pytree
class _Classifier:
    graph: _Graph = static()
    layout: str = static()

    def __call__(self, params: Any, images: Float[Array, "N ..."]) -> Float[Array, "N K"]:
        if images.ndim == 4 and self.layout == "NCHW":
            images = images.transpose(0, 3, 1, 2)
        shape = _fit(self.graph.entrance.shape, images.shape[1:], self.layout)
        inputs = images.reshape(len(images), *shape).astype(jnp.float32)
        return jax.vmap(lambda image: self.classify(params, image))(inputs)

    def classify(self, params: Any, image: Array) -> Float[Array, " K"]:
        """Logits of one image in the shape and layout of the graph."""
        graph = self.graph
        values = {name: tensor.array() for name, tensor in graph.constants} | params
        values[graph.entrance.name] = image if graph.entrance.batch == 0 else image[None]
        for node in graph.nodes:
            values |= _evaluate(node, values)
        logits = values[graph.output]
        if logits.size != max(logits.shape, default=0):
            raise ValueError(
                f"output {graph.output!r} has shape {logits.shape} for one image, but logits are "
                "[1, K]: pass output= the name of the tensor that holds them"
            )
        return logits.reshape(-1).astype(jnp.float32)


def _evaluate(node: Node, values: dict[str, Any]) -> dict[str, Any]:
    """The node's outputs by name."""
    inputs = [values.get(name) for name in node.inputs]
    shapes = ["none" if value is None else str(list(value.shape)) for value in inputs]
    try:
        missing = [n for n, v in zip(node.inputs, inputs, strict=True) if n and v is None]
        if missing:
            raise ValueError(f"nothing supported computes {missing[0]!r}")
        outputs = OPERATORS[node.operator](node, *inputs)
    except Exception as error:
        raise ValueError(
            f"{node} failed on inputs of shape {', '.join(shapes)} (one image): {error}"
        ) from error
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    settled = (v if isinstance(v, jax.Array) else np.asarray(v) for v in outputs)
    return dict(zip(node.outputs, settled, strict=False))


def _fit(declared: Sequence[int | None], given: Sequence[int], layout: str) -> tuple[int, ...]:
    """The shape that the graph wants for an image of shape `given`, which is in its layout."""
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


# --- reading the file ---


def _read(file: Any) -> Any:
    """The `onnx.ModelProto`, its functions inlined."""
    with extra("onnx", "from_onnx"):
        import onnx
        import onnx.inliner
        from google.protobuf.message import DecodeError
    try:
        proto = onnx.load_from_string(file) if isinstance(file, bytes) else file
        proto = proto if isinstance(proto, onnx.ModelProto) else onnx.load(proto)
    except DecodeError as error:
        name = "file" if isinstance(file, bytes) else f"file={str(file)!r}"
        raise ValueError(f"{name} is no ONNX model: {error}") from None
    return onnx.inliner.inline_local_functions(proto) if proto.functions else proto


def _opset(proto: Any) -> int:
    version = max((o.version for o in proto.opset_import if o.domain in STANDARD), default=0)
    if not proto.graph.output or not version:
        raise ValueError("file holds no ONNX graph: pass one that onnx.save wrote")
    if version < OLDEST:
        raise ValueError(
            f"file is of ONNX opset {version}, the oldest known is {OLDEST}: convert it with "
            "onnx.version_converter.convert_version(proto, 13)"
        )
    return version


def _entrance(graph: Any) -> _Entrance:
    from onnx import TensorProto

    stored = {tensor.name for tensor in graph.initializer}  # old files list weights as inputs too
    inputs = [value for value in graph.input if value.name not in stored]
    if len(inputs) != 1:
        raise ValueError(
            f"the ONNX graph has the inputs {[i.name for i in inputs]}: export one that takes an "
            "image alone"
        )
    name, declared = inputs[0].name, inputs[0].type.tensor_type
    kind = TensorProto.DataType.Name(declared.elem_type)
    if kind not in ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"):
        raise ValueError(f"input {name!r} is of type {kind}: export a graph of float images")
    sizes = tuple(d.dim_value or None for d in declared.shape.dim)
    if not sizes:
        raise ValueError(
            f"input {name!r} declares no shape: export it with one, such as [N, C, H, W]"
        )
    if len(sizes) in (1, 3) and sizes[0] not in (1, None):
        return _Entrance(name, sizes, 0)
    return _Entrance(name, sizes[1:], sizes[0])


def _exit(graph: Any, output: str | None) -> str:
    names = [value.name for value in graph.output]
    if output is None:
        if len(names) != 1:
            raise ValueError(
                f"the ONNX graph has the outputs {names}: pass output= the one that holds logits"
            )
        return names[0]
    known = [name for node in graph.node for name in node.output]
    if output not in known:
        raise ValueError(
            f"output={output!r} is computed by no node: pass one of the graph's tensors, the last "
            f"of which are {known[-4:]}"
        )
    return output


def _needed(graph: Any, output: str) -> list[Any]:
    """The nodes that the output depends on, in order."""
    wanted, nodes = {output}, []
    for node in reversed(graph.node):  # ONNX lists them sorted: makers come before users
        if wanted.intersection(node.output):
            wanted.update(filter(None, node.input))
            nodes.append(node)
    return nodes[::-1]


def _arrays(graph: Any, nodes: Sequence[Any]) -> dict[str, np.ndarray]:
    """The initialisers and constants that the nodes read, by name."""
    from onnx import TensorProto, helper, numpy_helper

    def array(name: str, value: Any) -> np.ndarray:
        if isinstance(value, TensorProto):
            if value.data_location == TensorProto.EXTERNAL:
                raise ValueError(
                    f"the weights {name!r} are in a file beside the model: pass the model's path"
                )
            return numpy_helper.to_array(value)
        found = np.asarray(value)
        if found.dtype.kind not in "fi":
            raise ValueError(f"constant {name!r} is sparse or text: export it as numbers")
        return found.astype(np.float32 if found.dtype.kind == "f" else np.int64)

    read = {name for node in nodes for name in node.input}
    arrays = {t.name: array(t.name, t) for t in graph.initializer if t.name in read}
    for node in nodes:
        values = [helper.get_attribute_value(attribute) for attribute in node.attribute]
        if node.op_type == "Constant":
            arrays[node.output[0]] = array(node.output[0], values[0])
        elif node.op_type == "ConstantOfShape" and node.input[0] in arrays:
            fill = array(node.output[0], values[0] if values else 0.0)
            arrays[node.output[0]] = np.full(arrays[node.input[0]], fill)
    return arrays


def _node(proto: Any, opset: int, entrance: _Entrance) -> Node:
    """The node as a value; ValueError for an operator that is not known."""
    from onnx import TensorProto, helper, numpy_helper

    attributes: dict[str, Any] = {}
    node = Node(proto.op_type, proto.name, opset, tuple(proto.input), tuple(proto.output), ())
    if proto.op_type not in OPERATORS or proto.domain not in STANDARD:
        raise ValueError(
            f"{node} is not supported{f' (domain {proto.domain})' if proto.domain else ''}: export "
            "a feed-forward graph of standard operators, pass output= the name of a tensor before "
            "it, or write the network for ja.Model; supported are " + ", ".join(OPERATORS)
        )
    for attribute in proto.attribute:
        value = helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, TensorProto):  # of ConstantOfShape: one number
            value = np.ravel(numpy_helper.to_array(value))[0]
        elif not isinstance(value, int | float):
            value = tuple(value)
        attributes[attribute.name] = value
    if node.operator == "Cast":
        dtype = helper.tensor_dtype_to_np_dtype(attributes["to"])
        attributes["to"] = "float32" if jnp.issubdtype(dtype, jnp.floating) else str(dtype)
    if node.operator == "Squeeze" and entrance.batch not in (0, 1):
        attributes["batch_axes"] = 1
    return node._replace(attributes=tuple(sorted(attributes.items())))
