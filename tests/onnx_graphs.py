"""ONNX graphs built by hand, and what onnxruntime says of them."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RANDOM = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def node(op, *inputs, outputs=("y",), name="", **attributes):
    return helper.make_node(op, list(inputs), list(outputs), name=name, **attributes)


def proto(nodes, shape, arrays=(), opset=17, outputs=("logits",), kind=TensorProto.FLOAT):
    """A model of input "x" and of tensors that are given by name."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in dict(arrays).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def flat(nodes, shape, arrays=(), opset=17):
    """A model whose last node's "y" is flattened to logits."""
    nodes = nodes if isinstance(nodes, list) else [nodes]
    return proto([*nodes, node("Flatten", "y", outputs=["logits"], axis=0)], shape, arrays, opset)


def parsed(body):
    """Nodes written in ONNX's own syntax."""
    header = '<ir_version: 8, opset_import: ["": 17]> net (float[1] x) => (float[1] y)'
    return list(onnx.parser.parse_model(f"{header} {{ {body} }}").graph.node)


def written(body, shape, opset=17, **arrays):
    return flat(parsed(body), shape, arrays, opset)


def session(model):
    content = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    options = onnxruntime.SessionOptions()  # without fusions: what the specification says
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def truth(model, inputs, output=None):
    """onnxruntime's logits [N, K], one input of the graph's own shape [1, ...] at a time."""
    run = session(model)
    name = run.get_inputs()[0].name
    return np.concatenate([run.run(output, {name: x[None]})[0].reshape(1, -1) for x in inputs])


def enter(inputs, layout="NCHW"):
    """Inputs [N, ...] in the graph's own layout as images for jaxadv."""
    return inputs.transpose(0, 2, 3, 1) if inputs.ndim == 4 and layout == "NCHW" else inputs
