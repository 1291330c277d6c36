"""ONNX networks against onnxruntime: the competition's files, every operator, what is refused."""

import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.engine.cure import cured, needs_cure
from jaxadv.models.onnx_operators import OPERATORS

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RANDOM = np.random.default_rng(0)
INT_MAX = 2**63 - 1


def floats(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def node(op, *inputs, outputs=("y",), name="", **attributes):
    return helper.make_node(op, list(inputs), list(outputs), name=name, **attributes)


def proto(nodes, shape, arrays=(), opset=17, outputs=("logits",), kind=TensorProto.FLOAT):
    """A model of input "x" and of tensors that are given by name."""
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in dict(arrays).items()],
    )  # fmt: skip
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
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def truth(model, inputs, output=None):
    """onnxruntime's logits [N, K], one input of the graph's own shape [1, ...] at a time."""
    run = session(model)
    name = run.get_inputs()[0].name
    return np.concatenate([run.run(output, {name: x[None]})[0].reshape(1, -1) for x in inputs])


def enter(inputs, layout="NCHW"):
    """Inputs [N, ...] in the graph's own layout as images for jaxadv."""
    return inputs.transpose(0, 2, 3, 1) if inputs.ndim == 4 and layout == "NCHW" else inputs


def compare(model, shape, tolerance=1e-5, **arguments):
    ours = ja.from_onnx(model, **arguments)
    inputs = floats(7, *shape)
    expected = truth(model, inputs)
    for count in (1, 7):
        given = jax.jit(lambda m, x: m(x))(ours, enter(inputs[:count]))
        np.testing.assert_allclose(given, expected[:count], rtol=tolerance, atol=tolerance)


W1, W2, W3, W33 = floats(5, 4, 3), floats(5, 4, 3, 2), floats(5, 4, 2, 2, 2), floats(6, 2, 3, 3)
NORM = floats(4), floats(4), floats(4), np.exp(floats(4))  # scale, bias, mean, variance
IMAGE = (4, 7, 8)


def case(op, opset, shape, *inputs, **attributes):
    """An operator on an input of that shape (without the batch) and on stored tensors."""
    names = ["x", *("" if array is None else f"stored{i}" for i, array in enumerate(inputs))]
    arrays = {name: array for name, array in zip(names[1:], inputs, strict=True) if name}
    model = flat(node(op, *names, **attributes), (1, *shape), arrays, opset)
    return pytest.param(model, shape, id=f"{op}-{opset}")


OPS = [
    case("Abs", 13, IMAGE),
    case("Add", 13, IMAGE, floats(4, 1, 1)),
    case("Add", 7, IMAGE, floats(8)),
    case("AveragePool", 13, IMAGE, kernel_shape=[3, 2], strides=[2, 2]),
    case("AveragePool", 13, IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 0]),
    case("AveragePool", 7, IMAGE, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
    case("AveragePool", 19, IMAGE, kernel_shape=[2, 2], dilations=[2, 3]),
    case("AveragePool", 13, IMAGE, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
    case("AveragePool", 19, IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case(
        "AveragePool",
        19,
        (4, 6, 6),
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1] * 4,
        ceil_mode=1,
        count_include_pad=1,
    ),
    case("AveragePool", 13, (4, 9), kernel_shape=[3]),
    case("BatchNormalization", 8, IMAGE, *NORM),
    case("BatchNormalization", 9, IMAGE, *NORM, epsilon=0.1),
    case("BatchNormalization", 15, (4,), *NORM, epsilon=0.001),
    case("Ceil", 13, IMAGE),
    case("Clip", 10, IMAGE, min=-0.5, max=0.25),
    case("Clip", 10, IMAGE, min=-0.5),
    case("Clip", 13, IMAGE, np.float32(-0.5), np.float32(0.25)),
    case("Clip", 13, IMAGE, None, np.float32(0.25)),
    case("Conv", 13, IMAGE, W2, floats(5), pads=[1, 0, 2, 1], strides=[2, 1]),
    case("Conv", 13, IMAGE, W2, dilations=[2, 3]),
    case("Conv", 13, IMAGE, W33, floats(6), group=2),
    case("Conv", 13, IMAGE, W2, auto_pad="SAME_UPPER", strides=[2, 3]),
    case("Conv", 13, IMAGE, W2, auto_pad="SAME_LOWER", strides=[2, 2]),
    case("Conv", 13, IMAGE, W2, auto_pad="VALID"),
    case("Conv", 13, (4, 9), W1, pads=[1, 2]),
    case("Conv", 13, (4, 5, 6, 7), W3),
    case("Div", 13, IMAGE, np.float32(3)),
    case("Dropout", 10, IMAGE, ratio=0.9),
    case("Dropout", 13, IMAGE, np.float32(0.9), np.array(False)),
    case("Elu", 13, IMAGE, alpha=0.7),
    case("Erf", 13, IMAGE),
    case("Exp", 13, IMAGE),
    case("Expand", 13, (4, 1, 1), integers(1, 4, 2, 3)),
    case("Flatten", 13, IMAGE, axis=2),
    case("Flatten", 13, IMAGE, axis=-1),
    case("Floor", 13, IMAGE),
    case("Gather", 13, IMAGE, integers(2, -1), axis=1),
    case("Gather", 13, IMAGE, np.array(-2), axis=3),
    case("Gelu", 20, IMAGE),
    case("Gelu", 20, IMAGE, approximate="tanh"),
    case("Gemm", 13, (6,), floats(6, 3), floats(3)),
    case("Gemm", 13, (6,), floats(3, 6), floats(1), alpha=0.5, beta=2.0, transB=1),
    case("Gemm", 11, (6,), floats(6, 3)),
    case("Gemm", 13, (6,), floats(1, 3), transA=1),
    case("GlobalAveragePool", 13, IMAGE),
    case("GlobalMaxPool", 13, IMAGE),
    case("HardSigmoid", 13, IMAGE, alpha=0.3),
    case("HardSwish", 14, IMAGE),
    case("Identity", 13, IMAGE),
    case("LRN", 13, IMAGE, size=3),
    case("LRN", 13, IMAGE, size=5, alpha=0.5, beta=0.6, bias=2.0),
    case("LayerNormalization", 17, IMAGE, floats(7, 8), floats(7, 8), axis=-2),
    case("LayerNormalization", 17, (6,), floats(6), epsilon=0.1),
    case("LeakyRelu", 13, IMAGE),
    case("LeakyRelu", 16, IMAGE, alpha=0.3),
    case("LogSoftmax", 12, IMAGE),
    case("LogSoftmax", 13, IMAGE),
    case("MatMul", 13, IMAGE, floats(8, 3)),
    case("MatMul", 13, IMAGE, floats(4, 8, 3)),
    case("Max", 13, IMAGE, floats(8), floats(1)),
    case("MaxPool", 12, IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    case("MaxPool", 12, IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 1]),
    case("MaxPool", 12, IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case("MaxPool", 12, (4, 4, 4), kernel_shape=[1, 1], strides=[2, 2], ceil_mode=1),
    case("MaxPool", 12, IMAGE, kernel_shape=[2, 2], dilations=[3, 2]),
    case("MaxPool", 12, IMAGE, kernel_shape=[2, 3], auto_pad="SAME_UPPER"),
    case("Mean", 13, IMAGE, floats(8), floats(1)),
    case("Min", 8, IMAGE, floats(8), floats(1)),
    case("Mul", 13, IMAGE, floats(1, 4, 7, 1)),
    case("Neg", 13, IMAGE),
    case("PRelu", 13, IMAGE, floats(4, 1, 1)),
    case("Pad", 10, IMAGE, pads=[0, 0, 1, 2, 0, 0, 3, 0], value=0.5),
    case("Pad", 13, IMAGE, integers(0, 1, 1, 2, 0, 0, 3, 0)),
    case("Pad", 13, IMAGE, integers(0, 0, 1, -2, 0, 0, 3, 0), np.float32(0.5)),
    case("Pad", 13, IMAGE, integers(0, 0, 1, 2, 0, 0, 3, 0), mode="reflect"),
    case("Pad", 18, IMAGE, integers(1, 2, 3, 0), None, integers(-2, 3), mode="edge"),
    case("Pad", 19, IMAGE, integers(0, 0, 1, 2, 0, 0, 3, 0), mode="wrap"),
    case("Pow", 13, IMAGE, np.float32(2)),
    case("Reciprocal", 13, IMAGE),
    case("ReduceMax", 13, IMAGE, axes=[1, -1], keepdims=0),
    case("ReduceMean", 13, IMAGE, axes=[2, 3]),
    case("ReduceMean", 18, IMAGE, integers(2, 3), keepdims=0),
    case("ReduceMean", 18, IMAGE, noop_with_empty_axes=1),
    case("ReduceMin", 18, IMAGE, integers(-1)),
    case("ReduceProd", 13, IMAGE, axes=[3]),
    case("ReduceSum", 11, IMAGE, axes=[1]),
    case("ReduceSum", 13, IMAGE, integers(1, 2)),
    case("Relu", 13, IMAGE),
    case("Reshape", 13, IMAGE, integers(1, -1)),
    case("Reshape", 13, IMAGE, integers(0, 2, -1, 0)),
    case("Reshape", 14, IMAGE, integers(1, 2, -1, 8), allowzero=1),
    case("Selu", 13, IMAGE),
    case("Sigmoid", 13, IMAGE),
    case("Sign", 13, IMAGE),
    case("Slice", 9, IMAGE, starts=[1, -3], ends=[-1, INT_MAX], axes=[1, 3]),
    case("Slice", 9, (5,), starts=[0, 1], ends=[1, 4]),
    case("Slice", 13, IMAGE, integers(1), integers(6), integers(-1), integers(2)),
    case("Slice", 13, IMAGE, integers(-1), integers(-INT_MAX), integers(2), integers(-2)),
    case("Softmax", 12, IMAGE),
    case("Softmax", 12, IMAGE, axis=2),
    case("Softmax", 13, IMAGE, axis=1),
    case("Softplus", 13, IMAGE),
    case("Softsign", 13, IMAGE),
    case("Squeeze", 12, (4, 1, 6), axes=[2]),
    case("Squeeze", 13, (4, 1, 6), integers(-2)),
    case("Squeeze", 13, (4, 1, 6)),
    case("Sub", 13, IMAGE, floats(1)),
    case("Sum", 13, IMAGE, floats(8), floats(1)),
    case("Tanh", 13, IMAGE),
    case("Transpose", 13, IMAGE, perm=[0, 2, 3, 1]),
    case("Transpose", 13, IMAGE),
    case("Unsqueeze", 12, IMAGE, axes=[2]),
    case("Unsqueeze", 13, IMAGE, integers(0, -1)),
]


@pytest.mark.parametrize(("model", "shape"), OPS)
def test_operator(model, shape):
    compare(model, shape)


ZERO, ONE, MINUS = integers(0), integers(1), integers(-1)
GRAPHS = {  # of several nodes: shape of one input, model
    "positive": (IMAGE, written("a = Abs (x)  b = Sqrt (a)  y = Log (b)", [1, *IMAGE])),
    "split-12": (
        IMAGE,
        written("a, b = Split <axis = 1, split = [1, 3]> (x)  y = Mul (a, b)", [1, *IMAGE], 12),
    ),
    "split-13": (
        IMAGE,
        written("a, b = Split <axis = 1> (x, s)  y = Mul (a, b)", [1, *IMAGE], s=integers(3, 1)),
    ),
    "split-18": (
        (4, 7),
        written(
            "a, b = Split <axis = -1, num_outputs = 2> (x)  y = Concat <axis = 2> (b, a)",
            [1, 4, 7],
            18,
        ),
    ),
    "batch-of-one": (
        IMAGE,
        written(
            "a = Reshape (x, s)  y = Concat <axis = 1> (a, z)",
            [1, *IMAGE],
            s=integers(1, 4, 56),
            z=floats(1, 2, 56),
        ),
    ),
    "without-batch": (
        (6,),
        written(
            "a = Squeeze (x)  b = MatMul (a, w)  y = Unsqueeze (b, zero)",
            [1, 6],
            w=floats(6, 3),
            zero=ZERO,
        ),
    ),
    "shapes": (
        IMAGE,
        written(
            """a = Shape (x)  b = Gather <axis = 0> (a, one)  c = Unsqueeze (b, zero)
               d = Constant <value = int64[1] {2}> ()  e = Div (c, d)
               f = Concat <axis = 0> (e, d, d, minus)  y = Reshape (x, f)""",
            [1, *IMAGE],
            one=np.array(1),
            zero=ZERO,
            minus=MINUS,
        ),
    ),
    "cut-by-its-shape": (
        (4, 5, 6),
        written(
            """a = Shape <start = 2> (x)  b = Slice (a, zero, one)  c = Sub (b, one)
               y = Slice (x, zero, c, two)""",
            [1, 4, 5, 6],
            zero=ZERO,
            one=ONE,
            two=integers(2),
        ),
    ),
    "constants": (
        (6,),
        written(
            """a = Constant <value_float = 0.5> ()  b = Constant <value_floats = [1.0, 2.0, 3.0]> ()
               c = Constant <value_ints = [2, 3]> ()  d = Mul (x, a)  e = Reshape (d, c)
               f = Add (e, b)  g = Constant <value_int = 6> ()  h = Unsqueeze (g, zero)
               i = Reshape (f, h)  y = Unsqueeze (i, zero)""",
            [1, 6],
            zero=ZERO,
        ),
    ),
    "filled": (
        IMAGE,
        written(
            """a = Shape (x)  b = ConstantOfShape <value = float[1] {2.0}> (a)
               c = ConstantOfShape (a)  y = Sum (x, b, c)""",
            [1, *IMAGE],
        ),
    ),
    "where": (
        (3,),
        written(
            "a = Equal (i, j)  b = Where (a, x, w)  c = Cast <to = 1> (a)  y = Add (b, c)",
            [1, 3],
            i=integers(1, 2, 3),
            j=integers(1, 5, 3),
            w=floats(3),
        ),
    ),
    "expanded-as-torch-does": (
        (2, 3),
        written(
            """a = ConstantOfShape <value = int64[1] {1}> (n)  b = Mul (a, minus)  c = Equal (s, b)
               d = Where (c, a, s)  e = Expand (w, d)  y = Concat <axis = 1> (e, x)""",
            [1, 2, 3],
            n=integers(3),
            minus=MINUS,
            s=integers(-1, 1, -1),
            w=floats(1, 1, 3),
        ),
    ),
    "double": (
        (6,),
        written(
            "a = Cast <to = 11> (x)  b = Mul (a, w)  y = Cast <to = 1> (b)",
            [1, 6],
            w=RANDOM.normal(size=6),
        ),
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graph(name):
    shape, model = GRAPHS[name]
    compare(model, shape)


def test_every_operator_is_held_against_onnxruntime():
    tested = {case.values[0].graph.node[0].op_type for case in OPS}
    tested |= {node.op_type for _, model in GRAPHS.values() for node in model.graph.node}
    assert set(OPERATORS) - tested == set()


# --- the competition's networks ---


def networks():
    """Every .onnx file of the shared data with the first box of its instances."""
    shared = Path(os.environ.get("JAXADV_SHARED", Path(__file__).parents[2] / "shared"))
    return sorted((shared / "data/vnncomp").glob("*/onnx/*.onnx"))


@pytest.mark.parametrize("path", networks() or [None], ids=lambda p: p.stem if p else "none")
def test_competition_network(shared, path):
    with np.load(path.parents[1] / "instances.npz") as rows:
        chosen = np.flatnonzero(rows["network"] == path.name)[:7]
        lower, upper = rows["lower"][chosen], rows["upper"][chosen]
    shape = session(path).get_inputs()[0].shape[1:]
    inputs = (lower + RANDOM.random(lower.shape) * (upper - lower)).astype(np.float32)
    inputs = inputs.reshape(-1, *shape)
    expected = truth(path, inputs)
    model = ja.from_onnx(path, bounds=(-5, 5))
    for images in (enter(inputs), enter(inputs)[:1]):
        logits = jax.jit(lambda m, x: m(x))(model, images)
        np.testing.assert_allclose(logits, expected[: len(images)], atol=1e-4)


LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", sorted(LIGHT.glob("*.onnx")) or [None], ids=lambda path: path.stem if path else "none"
)
def test_network_of_the_zoo(path):
    """The classics for ImageNet that onnx ships with made-up weights: up to the last softmax."""
    if path is None:
        pytest.skip(f"onnx ships no networks in {LIGHT}")
    model = onnx.load(path)
    softmax = model.graph.node[-1]
    logits = softmax.input[0] if softmax.op_type == "Softmax" else softmax.output[0]
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(logits, TensorProto.FLOAT, None))
    images = RANDOM.random((2, 224, 224, 3), np.float32)
    expected = truth(model, images.transpose(0, 3, 1, 2))
    given = jax.jit(lambda m, x: m(x))(ja.from_onnx(model), images)
    np.testing.assert_allclose(given, expected, rtol=1e-4)


# --- layouts and batches ---


def linear(shape, count, **arguments):
    """[1, *shape] -> Flatten -> 3 logits, and its weight."""
    weight = floats(count, 3)
    nodes = [node("Flatten", "x", outputs="f"), node("MatMul", "f", "w", outputs=["logits"])]
    return proto(nodes, shape, {"w": weight}, **arguments), weight


IMAGES = RANDOM.random((7, 5, 4, 3), np.float32)


@pytest.mark.parametrize(
    ("declared", "layout", "order"),
    [
        ([1, 3, 5, 4], None, (0, 3, 1, 2)),
        (["N", 3, "H", "W"], None, (0, 3, 1, 2)),
        ([1, 5, 4, 3], None, (0, 1, 2, 3)),
        ([1, 5, 4, 3], "NHWC", (0, 1, 2, 3)),
        ([64, 3, 5, 4], "NCHW", (0, 3, 1, 2)),
        ([1, 60], None, (0, 3, 1, 2)),
        ([1, 60], "NHWC", (0, 1, 2, 3)),
        (["N", 60, 1], None, (0, 3, 1, 2)),
        ([None, None], "NHWC", (0, 1, 2, 3)),
        ([1, 1, 1, 60], None, (0, 3, 1, 2)),
    ],
)
def test_layout(declared, layout, order):
    model, weight = linear(declared, 60)
    expected = IMAGES.transpose(order).reshape(7, -1) @ weight
    logits = ja.from_onnx(model, layout)(IMAGES)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("declared", [[1, 5, 4], [1, 1, 5, 4], [1, 5, 4, 1], [1, 20], [20]])
def test_gray_images(declared):
    images = IMAGES[..., :1]
    model = flat(node("Relu", "x"), declared)
    np.testing.assert_array_equal(ja.from_onnx(model)(images), images.reshape(7, -1))


def test_an_image_without_a_batch_axis():
    model = flat(node("Relu", "x"), [3, 5, 4])
    expected = IMAGES.transpose(0, 3, 1, 2).reshape(7, -1)
    np.testing.assert_array_equal(ja.from_onnx(model)(IMAGES), expected)


@pytest.mark.parametrize("images", [IMAGES.transpose(0, 3, 1, 2), IMAGES[:, 1:], IMAGES[0]])
def test_images_that_do_not_fit(images):
    with pytest.raises(ValueError, match=r"wants an image of shape \[3, 5, 4\] and gets"):
        ja.from_onnx(linear([1, 3, 5, 4], 60)[0])(images)


def test_a_free_batch_axis_equals_onnxruntime_on_the_whole_batch():
    body = """a = Conv (x, k)  b = GlobalAveragePool (a)  c = Squeeze (b)  d = Shape (c)
              e = Gather (d, zero)  f = Concat <axis = 0> (e, minus)  logits = Reshape (c, f)"""
    arrays = {"k": floats(6, 3, 2, 2), "zero": ZERO, "minus": MINUS}
    model = proto(parsed(body), ["N", 3, 5, 4], arrays)
    inputs = IMAGES.transpose(0, 3, 1, 2)
    (expected,) = session(model).run(None, {"x": inputs})
    np.testing.assert_allclose(ja.from_onnx(model)(IMAGES), expected, rtol=1e-5, atol=1e-6)


# --- in the engine ---


def network(seed=0):
    """A small network with what the cure rewrites: convolutions in NCHW and max-pooling."""
    random = np.random.default_rng(seed)
    sizes = {"k": (4, 3, 3, 3), "c": (4,), "w": (3, 16), "b": (3,), "low": (), "high": ()}
    arrays = {n: random.normal(size=size).astype(np.float32) for n, size in sizes.items()}
    arrays |= {"low": np.float32(-1), "high": np.float32(3), "s": integers(1, 16)}
    body = """h = Conv <pads = [1, 1, 1, 1]> (x, k, c)  i = Clip (h, low, high)
              j = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (i)  l = Reshape (j, s)
              z = Gemm <transB = 1> (l, w, b)  logits = Softmax (z)"""
    return proto(parsed(body), [1, 3, 5, 4], arrays)


def test_an_attack_on_it_is_judged_alike_by_onnxruntime():
    file = network()
    model = ja.from_onnx(file.SerializeToString(), output="z")
    labels = np.asarray(model(IMAGES).argmax(1))
    result = ja.run(ja.PGD(steps=20), model, IMAGES, ja.Untargeted(labels), 0.1,
                    key=jax.random.key(0), lanes=4, devices=jax.devices()[:1])  # fmt: skip
    answers = truth(file, result.images.transpose(0, 3, 1, 2)).argmax(1)
    np.testing.assert_array_equal(result.success, answers != labels)
    assert result.success.any()


def test_the_cure_rewrites_all_of_it():
    model = ja.from_onnx(network(), output="z")
    gradient = jax.grad(lambda x: (model(x) ** 2).sum())
    assert needs_cure(jax.make_jaxpr(gradient)(IMAGES))
    assert not needs_cure(jax.make_jaxpr(cured(gradient))(IMAGES))
    np.testing.assert_allclose(cured(gradient)(IMAGES), gradient(IMAGES), rtol=1e-4, atol=1e-5)


def test_new_weights_share_one_program_and_no_float_is_part_of_it():
    traces = []

    @jax.jit
    def call(model, images):
        traces.append(model)
        return model(images)

    for seed in range(3):
        model = ja.from_onnx(network(seed))
        expected = truth(network(seed), IMAGES.transpose(0, 3, 1, 2))
        np.testing.assert_allclose(call(model, IMAGES), expected, rtol=1e-4, atol=1e-6)
    assert len(traces) == 1
    assert sorted(model.params) == ["b", "c", "high", "k", "low", "w"]
    program = jax.make_jaxpr(model.apply)(model.params, IMAGES)
    assert not [c for c in program.consts if jnp.issubdtype(c.dtype, jnp.floating)]


def test_functions_are_inlined():
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17, "local": 1]>
        net (float[1, 4] x) => (float[1, 4] y) { y = local.twice (x) }
        <domain: "local", opset_import: ["": 17]>
        twice (a) => (b) { b = Add (a, a) }""")
    np.testing.assert_array_equal(
        ja.from_onnx(model)(np.ones((2, 4), np.float32)), np.full((2, 4), 2)
    )


# --- what is refused ---


LSTM = node("LSTM", "x", "w", "w", outputs=["l"], name="memory", hidden_size=2)
RELU = node("Relu", "x", outputs=["logits"])
TRAINING = {"r": np.float32(0.5), "t": np.array(True)}
REFUSED = {
    "operator": (
        proto([LSTM, node("Flatten", "l", outputs=["logits"])], [1, 6, 4], {"w": floats(1, 8, 4)}),
        r"node 'memory' \(LSTM, opset 17\) is not supported.*ja\.Model",
    ),
    "domain": (
        proto([node("Relu", "x", outputs=["logits"], domain="com.other")], [1, 4]),
        r"node 'logits' \(Relu.*domain com\.other",
    ),
    "opset": (proto([RELU], [1, 4], opset=6), "opset 6.*convert_version"),
    "outputs": (
        proto([node("Split", "x", outputs="ab", axis=1)], [1, 4], outputs="ab"),
        r"outputs \['a', 'b'\]: pass output=",
    ),
    "inputs": (
        onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
            net (float[1, 2] p, float[1, 2] q) => (float[1, 2] y) { y = Add (p, q) }"""),
        r"inputs \['p', 'q'\]",
    ),
    "kind": (proto([RELU], [1, 4], kind=TensorProto.UINT8), "input 'x' is of type UINT8.*float"),
    "shape": (proto([RELU], None), "'x' declares no shape"),
    "no-logits": (proto([RELU], [1, 3, 4]), r"'logits' has shape \(1, 3, 4\).*output="),
    "weights-do-not-fit": (
        flat(node("Gemm", "x", "w", name="fc"), [1, 5], {"w": floats(4, 3)}),
        r"node 'fc' \(Gemm, opset 17\) failed on inputs of shape \[1, 5\], \[4, 3\]",
    ),
    "data-dependent": (
        written("s = Cast <to = 7> (x)  y = Reshape (x, s)", [1, 2]),
        "node 'y' .*depend on the image.*onnxsim",
    ),
    "training": (written("y = Dropout (x, r, t)", [1, 2], **TRAINING), "Dropout.*training mode"),
    "batch-statistics": (
        flat(
            node("BatchNormalization", "x", *"sbmv", outputs="ypq", training_mode=1),
            [1, 4],
            dict(zip("sbmv", NORM, strict=True)),
        ),
        "BatchNormalization.*training mode",
    ),
    "indices": (
        written("a, i = MaxPool <kernel_shape = [2]> (x)  y = Identity (i)", [1, 3, 4]),
        "node 'y' .*nothing supported computes 'i'",
    ),
    "empty": (b"", "no ONNX graph"),
    "junk": (b"not a graph in sight", "no ONNX model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    file, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        ja.from_onnx(file)


def test_refused_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        ja.from_onnx(tmp_path / "absent.onnx")
    with pytest.raises(ValueError, match="layout='CHW'"):
        ja.from_onnx(network(), "CHW")
    with pytest.raises(ValueError, match=r"output='nothing'.*'z', 'logits'"):
        ja.from_onnx(network(), output="nothing")


def test_weights_beside_the_file(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(network(), path, save_as_external_data=True, size_threshold=0)
    np.testing.assert_array_equal(ja.from_onnx(path)(IMAGES), ja.from_onnx(network())(IMAGES))
    with pytest.raises(ValueError, match="beside the model: pass the model's path"):
        ja.from_onnx(path.read_bytes())


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"jaxadv\[onnx\]"):
        ja.from_onnx(b"")


def test_what_comes_after_the_output_need_not_be_understood():
    model = proto(
        [node("Relu", "x", outputs=["z"]), LSTM], [1, 4], {"w": floats(1, 8, 4)}, outputs="l"
    )
    logits = ja.from_onnx(model, output="z")(np.ones((2, 4), np.float32))
    assert logits.shape == (2, 4)


def test_probabilities_are_warned_of():
    with pytest.warns(ja.CheckWarning, match="before the softmax"):
        ja.run(ja.FGSM(), ja.from_onnx(network()), IMAGES, ja.Untargeted(np.zeros(7, int)), 0.1,
               key=jax.random.key(0), lanes=4, devices=jax.devices()[:1])  # fmt: skip
