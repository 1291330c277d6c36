"""Reading an ONNX file: the nodes and tensors that the output needs, and the graph's input."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadv.core.optional_dependency import extra
from jaxadv.models.onnx.node import Node
from jaxadv.models.onnx.operators import DECIDING, DOMAINS, OPERATORS
from jaxadv.models.tensor import Tensor

if TYPE_CHECKING:
    import os

    from onnx import GraphProto, ModelProto, NodeProto

TYPES = ("to", "output_dtype")  # attributes that name a type of tensor
OLDEST = 7  # earlier opsets broadcast by other rules
STANDARD = ("", "ai.onnx")  # domains of the standard operators


class Entrance(NamedTuple):
    """The graph's input.

    Attributes:
        name: Its name.
        shape: Shape of one image; None: any size.
        batch: Declared size of the batch axis; None if it is free, 0 if there is none.
    """

    name: str
    shape: tuple[int | None, ...]
    batch: int | None


class Graph(NamedTuple):
    """The part of an ONNX graph that computes the output.

    Attributes:
        nodes: The nodes in order of evaluation.
        constants: (name, tensor) of the tensors that are not weights.
        entrance: The input.
        output: Name of the output.
    """

    nodes: tuple[Node, ...]
    constants: tuple[tuple[str, Tensor], ...]
    entrance: Entrance
    output: str


def read(
    file: "str | os.PathLike[str] | bytes | ModelProto", output: str | None
) -> tuple[Graph, dict[str, jax.Array]]:
    """Return the graph that computes the output (None: the only one), and its weights by name."""
    proto = _load(file)
    opset = _opset(proto)
    entrance = _entrance(proto.graph)
    output = _exit(proto.graph, output)
    protos = _needed(proto.graph, output)
    arrays = _arrays(proto.graph, protos)
    nodes = tuple(_node(p, opset, entrance) for p in protos if p.output[0] not in arrays)
    deciding = _deciding(protos)
    weights, constants = {}, []
    for name, array in arrays.items():
        if jnp.issubdtype(array.dtype, jnp.floating):
            array = array.astype(np.float32)
            if name not in deciding:
                weights[name] = jnp.asarray(array)
                continue
        constants.append((name, Tensor.of(array)))
    return Graph(nodes, tuple(constants), entrance, output), weights


def _load(file: "str | os.PathLike[str] | bytes | ModelProto") -> "ModelProto":
    """Return the `onnx.ModelProto`, with its functions inlined."""
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


def _opset(proto: "ModelProto") -> int:
    version = max((o.version for o in proto.opset_import if o.domain in STANDARD), default=0)
    version = version or OLDEST * any(o.domain in DOMAINS for o in proto.opset_import)
    if not proto.graph.output or not version:
        raise ValueError("file holds no ONNX graph: pass one that onnx.save wrote")
    if version < OLDEST:
        raise ValueError(
            f"file is of ONNX opset {version}, the oldest known is {OLDEST}: convert it with "
            "onnx.version_converter.convert_version(proto, 13)"
        )
    return version


def _entrance(graph: "GraphProto") -> Entrance:
    from onnx import TensorProto

    stored = {tensor.name for tensor in graph.initializer}  # old files list weights as inputs too
    inputs = [value for value in graph.input if value.name not in stored]
    if len(inputs) != 1:
        raise ValueError(
            f"the ONNX graph has the inputs {[i.name for i in inputs]}: export one that takes an "
            "image alone, with the others fixed inside it"
        )
    name, declared = inputs[0].name, inputs[0].type.tensor_type
    kind = TensorProto.DataType.Name(declared.elem_type)
    if kind not in ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"):
        raise ValueError(
            f"input {name!r} is of type {kind}, in which no attack can take small steps: export a "
            "graph of float images, that casts or rounds inside, or write it for ja.Model"
        )
    sizes = tuple(d.dim_value or None for d in declared.shape.dim)
    if not sizes:
        raise ValueError(
            f"input {name!r} declares no shape: export it with one, such as [N, C, H, W]"
        )
    if len(sizes) in (1, 3) and sizes[0] not in (1, None):
        return Entrance(name, sizes, 0)
    return Entrance(name, sizes[1:], sizes[0])


def _exit(graph: "GraphProto", output: str | None) -> str:
    names = [value.name for value in graph.output]
    if output is None:
        scores = names if len(names) == 1 else _scores(graph)
        if len(scores) == 1:
            return scores[0]
        raise ValueError(
            f"the ONNX graph has the outputs {names}: pass output= the one that holds logits (on "
            "the command line --logits-of)"
        )
    known = [name for node in graph.node for name in node.output]
    if output not in known:
        raise ValueError(
            f"output={output!r} is computed by no node: pass one of the graph's tensors, the last "
            f"of which are {known[-4:]}"
        )
    return output


def _scores(graph: "GraphProto") -> list[str]:
    """Return the outputs without labels, which are integers or texts, and without the dicts of
    `ZipMap`, in whose place what they are made of is returned."""
    from onnx import TensorProto

    labels = (TensorProto.INT64, TensorProto.INT32, TensorProto.STRING)
    zipped = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "ZipMap"}
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.output}
    return [zipped.get(name, name) for name, kind in kinds.items() if kind not in labels]


def _needed(graph: "GraphProto", output: str) -> "list[NodeProto]":
    """Return the nodes on which the output depends, in order."""
    wanted, nodes = {output}, []
    for node in reversed(graph.node):  # ONNX lists them sorted: makers come before users
        if wanted.intersection(node.output):
            wanted.update(filter(None, node.input))
            nodes.append(node)
    return nodes[::-1]


def _arrays(graph: "GraphProto", nodes: "Sequence[NodeProto]") -> dict[str, np.ndarray]:
    """Return the initialisers and constants that the nodes read, by name."""
    from onnx import TensorProto, helper, numpy_helper

    def array(name: str, value: object) -> np.ndarray:
        if isinstance(value, TensorProto):
            if value.data_location == TensorProto.EXTERNAL:
                raise ValueError(
                    f"the weights {name!r} are in a file beside the model: pass the model's path"
                )
            stored = numpy_helper.to_array(value)
            if stored.dtype.kind in "OSU":
                raise ValueError(f"the tensor {name!r} holds text: export it as numbers")
            return stored
        given = np.asarray(value)
        if given.dtype.kind not in "fi":
            raise ValueError(f"constant {name!r} is sparse or text: export it as numbers")
        return given.astype(np.float32 if given.dtype.kind == "f" else np.int64)

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


def _deciding(nodes: "Sequence[NodeProto]") -> set[str]:
    """Return the tensors that determine shapes, which must be known before the program runs."""
    names: set[str] = set()
    for node in reversed(nodes):
        names.update(node.input[i] for i in DECIDING.get(node.op_type, ()) if i < len(node.input))
        if node.op_type not in ("Shape", "Size") and names.intersection(node.output):
            names.update(node.input)
    return names - {""}


def _node(proto: "NodeProto", opset: int, entrance: Entrance) -> Node:
    """Convert the node to a value; ValueError for an operator that is not supported."""
    from onnx import TensorProto, helper, numpy_helper

    attributes: dict[str, Any] = {}
    names = tuple(proto.input), tuple(proto.output)
    node = Node(proto.op_type, proto.name, opset, *names, (), entrance.batch)
    if proto.op_type not in DOMAINS.get(proto.domain, {}):
        if proto.domain in DOMAINS and proto.domain not in STANDARD:
            trees = ", and trees have no gradient" * proto.op_type.startswith("TreeEnsemble")
            raise ValueError(
                f"{node} is not supported (domain {proto.domain}){trees}: pass the estimator "
                "itself to ja.from_sklearn, or write the model for ja.Model"
            )
        raise ValueError(
            f"{node} is not supported{f' (domain {proto.domain})' if proto.domain else ''}: export "
            "a graph of these operators, pass output= the name of a tensor before "
            "it, or write the network for ja.Model; supported are " + ", ".join(OPERATORS)
        )
    for attribute in proto.attribute:
        value = helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, TensorProto):  # ConstantOfShape: a single number
            value = np.ravel(numpy_helper.to_array(value))[0]
        elif not isinstance(value, int | float):
            value = tuple(v.decode() if isinstance(v, bytes) else v for v in value)
        if attribute.name in TYPES and value:
            value = _type(node, attribute.i)
        attributes[attribute.name] = value
    return node._replace(attributes=tuple(sorted(attributes.items())))


def _type(node: Node, kind: int) -> str:
    """Return the numpy name of an ONNX type; for floats, that in which they are computed."""
    from onnx import TensorProto, helper

    name = TensorProto.DataType.Name(kind)
    if name == "STRING" or name.startswith(("FLOAT8", "FLOAT4")):
        raise ValueError(f"{node} makes tensors of type {name}: export it in float32")
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    return "float32" if jnp.issubdtype(dtype, jnp.floating) else str(dtype)
