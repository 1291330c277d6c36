"""Every ONNX operator against onnxruntime, on graphs built by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.models.onnx.operators import OPERATORS
from tests.onnx_graphs import (
    RANDOM,
    enter,
    flat,
    floats,
    helper,
    integers,
    node,
    parsed,
    truth,
    written,
)

INT_MAX = 2**63 - 1


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def answer(model, images):
    logits, pull = jax.vjp(model, images)
    return logits, pull(jnp.ones_like(logits))[0]


def compare(model, shape, tolerance=1e-5):
    """Logits are onnxruntime's, and gradients finite."""
    inputs = floats(3, *shape)
    logits, gradient = answer(ja.from_onnx(model), enter(inputs))
    expected = truth(model, inputs)
    if expected.shape[1] == 1:  # one logit stands for two classes
        expected = np.concatenate([np.zeros_like(expected), expected], 1)
    np.testing.assert_allclose(logits, expected, rtol=tolerance, atol=tolerance)
    assert np.isfinite(gradient).all()


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


SMALL = (4, 5, 6)
POOL = {"kernel_shape": [3, 3]}


def resize(opset, shape, mode, place=None, scales=None, sizes=None, **attributes):
    if place:
        attributes["coordinate_transformation_mode"] = place
    scales = None if scales is None else np.array(scales, np.float32)
    inputs = [None, scales] + ([] if sizes is None else [integers(*sizes)])
    return case("Resize", opset, shape, *inputs, mode=mode, **attributes)


def recurrent(op, gates, direction, opset=14, initial=0, biased=True, outputs=("y",), **attributes):
    """A recurrent layer over an input [1, time, features], transposed to begin with the time."""
    d, hidden, features = 1 + (direction == "bidirectional"), 3, 4
    arrays = {"w": floats(d, gates * hidden, features), "r": floats(d, gates * hidden, hidden)}
    names = ["t", "w", "r", "", "", *"hc"[:initial]]
    if biased:
        arrays["b"], names[3] = floats(d, 2 * gates * hidden), "b"
    arrays |= {name: floats(d, 1, hidden) for name in "hc"[:initial]}
    layer = node(op, *names, outputs=outputs, direction=direction, hidden_size=hidden, **attributes)
    nodes = [node("Transpose", "x", outputs="t", perm=[1, 0, 2]), layer]
    model = flat(nodes, (1, 5, features), arrays, opset)
    return pytest.param(model, (5, features), id=f"{op}-{direction}-{initial}")


OPS += [
    case(
        "AveragePool", 13, IMAGE, **POOL, strides=[2, 2], auto_pad="SAME_UPPER", count_include_pad=1
    ),
    case("AveragePool", 13, (4, 8, 8), **POOL, strides=[2, 2], pads=[1] * 4, ceil_mode=1),
    case(
        "AveragePool",
        19,
        IMAGE,
        kernel_shape=[2, 2],
        dilations=[2, 2],
        pads=[1] * 4,
        ceil_mode=1,
        strides=[2, 2],
        count_include_pad=1,
    ),
    case("AveragePool", 13, (2, 5, 6, 7), kernel_shape=[2, 3, 2], strides=[2, 1, 2]),
    case(
        "MaxPool",
        12,
        IMAGE,
        **POOL,
        dilations=[2, 2],
        pads=[1, 2, 2, 1],
        strides=[2, 3],
        ceil_mode=1,
    ),
    case("MaxPool", 12, IMAGE, **POOL, strides=[2, 2], auto_pad="SAME_LOWER"),
    case("MaxPool", 12, IMAGE, **POOL, strides=[2, 2], auto_pad="VALID"),
    case("MaxPool", 12, (2, 5, 6, 7), kernel_shape=[2, 3, 2], pads=[1] * 6),
    case("MaxPool", 8, (4, 9), kernel_shape=[3], strides=[2]),
    case("ConvTranspose", 11, (4, 9), floats(4, 5, 3), floats(5), strides=[2]),
    case(
        "ConvTranspose", 11, IMAGE, floats(4, 5, 3, 2), floats(5), strides=[2, 3], pads=[1, 0, 2, 1]
    ),
    case(
        "ConvTranspose",
        11,
        IMAGE,
        floats(4, 3, 3, 3),
        group=2,
        output_padding=[1, 0],
        strides=[2, 2],
    ),
    case("ConvTranspose", 11, IMAGE, floats(4, 5, 3, 2), dilations=[2, 3], pads=[1] * 4),
    case("ConvTranspose", 11, IMAGE, floats(4, 5, 3, 4), auto_pad="SAME_UPPER", strides=[2, 3]),
    case("ConvTranspose", 11, IMAGE, floats(4, 5, 4, 3), auto_pad="SAME_LOWER", strides=[3, 2]),
    case("ConvTranspose", 11, IMAGE, floats(4, 5, 3, 2), auto_pad="VALID", strides=[2, 2]),
    case("ConvTranspose", 11, IMAGE, floats(4, 5, 3, 3), output_shape=[14, 17], strides=[2, 2]),
    case("ConvTranspose", 11, IMAGE, floats(4, 5, 2, 2), strides=[3, 3]),
    case("ConvTranspose", 11, IMAGE, floats(4, 5, 1, 1), pads=[1, 1, 0, 2]),
    case("DepthToSpace", 10, (8, 2, 4), blocksize=2),
    case("DepthToSpace", 13, (8, 2, 4), blocksize=2, mode="CRD"),
    case("SpaceToDepth", 13, (3, 4, 6), blocksize=2),
    case("InstanceNormalization", 13, IMAGE, floats(4), floats(4)),
    case("InstanceNormalization", 13, (4, 9), floats(4), floats(4), epsilon=0.1),
    case("GroupNormalization", 18, IMAGE, floats(2), floats(2), num_groups=2),
    case("GroupNormalization", 21, IMAGE, floats(4), floats(4), num_groups=2, epsilon=0.1),
    case("LayerNormalization", 17, IMAGE, floats(4, 7, 8), axis=1),
    case("RMSNormalization", 23, IMAGE, floats(8), epsilon=0.1),
    case("LpNormalization", 13, IMAGE),
    case("LpNormalization", 13, IMAGE, axis=1, p=1),
    case("ReduceL1", 13, SMALL, axes=[-1]),
    case("ReduceL1", 18, SMALL, integers(1, 2), keepdims=0),
    case("ReduceL2", 13, SMALL, axes=[1, -1]),
    case("ReduceL2", 18, SMALL, integers(-1), keepdims=0),
    case("ReduceLogSumExp", 13, SMALL, axes=[2]),
    case("ReduceLogSumExp", 18, SMALL),
    case("ReduceSumSquare", 18, SMALL, integers(-2)),
    case("ReduceMax", 18, SMALL, integers(), noop_with_empty_axes=0),
    *[
        case(f"Reduce{name}", 18, SMALL, noop_with_empty_axes=1)
        for name in ("L1", "L2", "SumSquare", "LogSumExp", "Max", "Prod")
    ],
    case("ReduceSum", 13, SMALL, noop_with_empty_axes=1),
    case("Celu", 12, IMAGE),
    case("Celu", 12, IMAGE, alpha=0.4),
    case("Elu", 13, IMAGE),
    case("HardSigmoid", 13, IMAGE, alpha=0.3, beta=0.1),
    case("HardSigmoid", 13, IMAGE),
    case("Mish", 18, IMAGE),
    case("Selu", 13, IMAGE, alpha=1.2, gamma=0.9),
    case("Shrink", 9, IMAGE),
    case("Shrink", 9, IMAGE, lambd=0.3, bias=0.1),
    case("ThresholdedRelu", 10, IMAGE),
    case("ThresholdedRelu", 22, IMAGE, alpha=0.3),
    case("Round", 13, IMAGE),
    case("Sin", 13, IMAGE),
    case("Cos", 13, IMAGE),
    case("Clip", 13, IMAGE),
    case("Clip", 13, IMAGE, np.float32(-0.5)),
    case("Mod", 13, IMAGE, np.float32(0.7), fmod=1),
    case("Pow", 13, IMAGE, np.int64(3)),
    case("Tile", 13, SMALL, integers(1, 2, 1, 3)),
    case("Trilu", 14, SMALL),
    case("Trilu", 14, SMALL, np.array(-1), upper=0),
    case("CumSum", 14, SMALL, np.array(-1)),
    case("CumSum", 14, SMALL, np.array(2), exclusive=1, reverse=1),
    case("Einsum", 12, SMALL, floats(1, 4, 6, 3), equation="bhid, bhdj -> bhij"),
    case("Einsum", 12, SMALL, floats(6), equation="...i,i"),
    case("GatherElements", 13, (3, 4), integers(*[0, -1, 2, 1, 0, 0]).reshape(1, 2, 3), axis=2),
    case("GatherND", 13, (2, 3), np.array([[0, 1, 2], [0, -1, -3]])),
    case("GatherND", 13, (2, 3), np.array([[[1], [0], [-1]]]), batch_dims=1),
    case("ScatterND", 13, (2, 3), np.array([[0, 1, 2], [0, 0, -3]]), floats(2)),
    case("ScatterND", 16, (2, 3), np.array([[0, 1], [0, 1]]), floats(2, 3), reduction="add"),
    case("ScatterElements", 16, (4,), np.array([[0, -1]]), floats(1, 2), axis=1),
    case("ScatterElements", 16, (4,), np.array([[2, 2]]), floats(1, 2), axis=1, reduction="mul"),
    case("Pad", 18, IMAGE, integers(-2, 3), None, integers(-1), mode="reflect"),
    case("Pad", 18, IMAGE, integers(3, -2), None, integers(-1), mode="edge"),
    case("Softmax", 12, IMAGE, axis=-1),
    case("LogSoftmax", 13, IMAGE, axis=-2),
    case("Gemm", 13, (6,), floats(3, 6), floats(1, 3), alpha=2.0, beta=0.0, transB=1),
    case("Upsample", 9, IMAGE, np.float32([1, 1, 2, 3])),
    case("Upsample", 9, IMAGE, np.float32([1, 1, 2, 3]), mode="linear"),
    case("Upsample", 7, IMAGE, scales=[1.0, 1.0, 2.0, 1.5], mode="nearest"),
    case("Resize", 10, IMAGE, np.float32([1, 1, 2, 1.5]), mode="linear"),
    case("Resize", 10, IMAGE, np.float32([1, 1, 0.6, 1.5])),
    resize(13, IMAGE, "nearest", "asymmetric", [1, 1, 2, 3], nearest_mode="floor"),
    resize(13, IMAGE, "nearest", "asymmetric", [1, 1, 1.7, 0.6], nearest_mode="ceil"),
    resize(13, IMAGE, "nearest", "half_pixel", [1, 1, 1.7, 0.6]),
    resize(13, IMAGE, "nearest", "half_pixel", [1, 1, 2, 0.5], nearest_mode="round_prefer_ceil"),
    resize(13, IMAGE, "nearest", None, None, [1, 4, 14, 4]),
    resize(13, IMAGE, "nearest", "align_corners", None, [1, 4, 13, 5]),
    resize(13, IMAGE, "linear", "half_pixel", [1, 1, 2, 1.3]),
    resize(13, IMAGE, "linear", "asymmetric", [1, 1, 0.5, 2]),
    resize(13, IMAGE, "linear", "align_corners", None, [1, 4, 13, 1]),
    resize(13, IMAGE, "linear", "pytorch_half_pixel", None, [1, 4, 1, 13]),
    resize(19, IMAGE, "linear", "half_pixel_symmetric", [1, 1, 1.3, 0.7]),
    resize(18, IMAGE, "linear", None, [2.0, 0.5], axes=[2, -1]),
    resize(13, IMAGE, "cubic", "half_pixel", [1, 1, 2, 1.3]),
    resize(13, IMAGE, "cubic", "align_corners", None, [1, 4, 3, 13], cubic_coeff_a=-0.5),
    resize(13, IMAGE, "cubic", "half_pixel", [1, 1, 1.5, 2], exclude_outside=1),
    resize(13, (4, 9), "linear", "half_pixel", [1, 1, 2]),
    recurrent("LSTM", 4, "forward"),
    recurrent("LSTM", 4, "reverse", initial=2),
    recurrent("LSTM", 4, "bidirectional", initial=2, outputs=["", "y"]),
    recurrent(
        "LSTM",
        4,
        "bidirectional",
        biased=False,
        outputs=["", "", "y"],
        activations=["Sigmoid", "Tanh", "Relu", "Sigmoid", "Softsign", "Tanh"],
    ),
    recurrent("GRU", 3, "forward"),
    recurrent("GRU", 3, "bidirectional", initial=1, linear_before_reset=1),
    recurrent("RNN", 1, "bidirectional", initial=1, outputs=["", "y"]),
    recurrent("RNN", 1, "reverse", activations=["Relu"], biased=False),
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


# Comparisons, logic, integers and indices: the body of a graph on x [1, 2, 6], with b [1, 1, 6],
# integers i and j [1, 2, 6] and k [2], and the float f.
STORED = {
    "b": floats(1, 1, 6),
    "i": RANDOM.integers(-7, 8, (1, 2, 6)),
    "j": RANDOM.integers(1, 5, (1, 2, 6)) * RANDOM.choice([-1, 1], (1, 2, 6)),
    "k": integers(1, -1),
    "f": np.float32(3),
    "zero": ZERO,
    "one": ONE,
    "two": integers(2),
    "nan": np.float32(np.nan),
    "scale": np.array([0.05, 0.2, 0.1, 0.3, 0.02, 0.1], np.float32),
    "offset": np.array([3, -5, 0, 100, -7, 1], np.int8),
    "whole": np.float32(0.013),
    "byte": np.uint8(120),
    "bytes": RANDOM.integers(-128, 128, (6, 4)).astype(np.int8),
    "half": RANDOM.normal(size=6).astype(np.float16),
    "brain": RANDOM.normal(size=6).astype(jnp.bfloat16),
}
BODIES = {
    "greater": "a = Greater (x, b)  y = Where (a, x, b)",
    "greater-or-equal": "a = GreaterOrEqual (x, x)  y = Cast <to = 1> (a)",
    "less": "a = Less (x, b)  y = CastLike (a, x)",
    "less-or-equal": "a = LessOrEqual (b, x)  y = Cast <to = 1> (a)",
    "logic": """p = Less (x, b)  q = Greater (x, zerof)  r = And (p, q)  s = Or (p, q)
                t = Xor (s, r)  u = Not (t)  zerof = Identity (b)  y = Cast <to = 1> (u)""",
    "is-nan": "p = Less (x, b)  a = Where (p, nan, x)  c = IsNaN (a)  y = Where (c, b, a)",
    "divide-known-integers": "a = Div (i, j)  c = Cast <to = 1> (a)  y = Mul (x, c)",
    "divide-integers": """m = Mul (x, f)  n = Cast <to = 7> (m)  a = Div (n, j)  c = Mod (n, j)
                          d = Mod <fmod = 1> (n, j)  e = Cast <to = 1> (a)  g = Cast <to = 1> (c)
                          h = Cast <to = 1> (d)  y = Concat <axis = 1> (e, g, h)""",
    "modulo-of-known-integers": """c = Mod (i, j)  d = Mod <fmod = 1> (i, j)  e = Add (c, d)
                                   g = Cast <to = 1> (e)  y = Add (x, g)""",
    "power-of-integers": """m = Mul (x, f)  n = Cast <to = 7> (m)  a = Pow (n, f)
                            y = Cast <to = 1> (a)""",
    "to-integers-and-back": """m = Mul (x, f)  n = Cast <to = 6> (m)  a = Abs (n)
                               y = Cast <to = 1> (a)""",
    "to-bool": "n = Cast <to = 6> (x)  a = Cast <to = 9> (n)  y = Cast <to = 1> (a)",
    "half-precision": "a = Cast <to = 1> (half)  y = Mul (x, a)",
    "brain-precision": "a = Cast <to = 1> (brain)  y = Mul (x, a)",
    "argmax": "a = ArgMax <axis = -1> (x)  y = GatherElements <axis = 2> (x, a)",
    "argmax-without-axis": "a = ArgMax <axis = 1, keepdims = 0> (x)  y = Cast <to = 1> (a)",
    "argmin-of-the-last": """r = Round (x)  a = ArgMin <axis = 2, select_last_index = 1> (r)
                             y = Cast <to = 1> (a)""",
    "top-k": "v, n = TopK (x, two)  c = Cast <to = 1> (n)  y = Concat <axis = 1> (v, c)",
    "least-k": """v, n = TopK <axis = 2, largest = 0> (x, two)  c = Cast <to = 1> (n)
                  y = Mul (v, c)""",
    "where": "a = Less (i, j)  y = Where (a, b, x)",
    "sum-of-logarithms": "a = Abs (x)  y = ReduceLogSum <axes = [-1], keepdims = 0> (a)",
    "product": "y = ReduceProd <axes = [1]> (x)",
    "size-and-range": """a = Size (x)  d = Squeeze (zero)  e = Squeeze (one)  r = Range (d, a, e)
                         s = Shape (x)  t = Reshape (r, s)  u = Cast <to = 1> (t)
                         y = Mul (u, x)""",
    "shape-from-its-end": """a = Shape <start = -2> (x)  m = Constant <value_ints = [-1]> ()
                             c = Concat <axis = 0> (m, a)  y = Reshape (x, c)""",
    "shape-by-floats": """a = Shape (x)  c = Cast <to = 1> (a)  d = Slice (c, two, three)
                          three = Constant <value_ints = [3]> ()  e = Mul (d, f)  g = Floor (e)
                          h = Cast <to = 7> (g)  p = Concat <axis = 0> (one, two, h)
                          q = Constant <value_floats = [1.0, 1.0, 3.0]> ()
                          y = Resize <mode = "nearest"> (x, , q)""",
    "known-integers": """a = Shape (x)  n = Neg (a)  c = Abs (n)  e = Clip (c, u)
                         u = Squeeze (one)  g = Max (e, one)  y = Reshape (x, g)""",
    "scatter-known": """a = Shape (x)  y = Reshape (x, s)  m = Constant <value_ints = [-1]> ()
                        p = Unsqueeze (one, zero)  s = ScatterND (a, p, m)""",
    "quantized": """q = QuantizeLinear (x, whole, byte)  y = DequantizeLinear (q, whole, byte)""",
    "quantized-by-channels": """q = QuantizeLinear <axis = -1> (x, scale, offset)
                                y = DequantizeLinear <axis = -1> (q, scale, offset)""",
    "quantized-without-zero": """q = QuantizeLinear (x, whole)  y = DequantizeLinear (q, whole)""",
    "quantized-weights": """w = DequantizeLinear <axis = 0> (bytes, scale, offset)
                            y = MatMul (x, w)""",
}


def sorted_body(body):
    """The body's nodes, makers before users."""
    waiting, ready, nodes = parsed(body), {"x", "", *STORED}, []
    while waiting:
        chosen = next(n for n in waiting if ready.issuperset(n.input))
        waiting.remove(chosen)
        nodes.append(chosen)
        ready.update(chosen.output)
    return nodes


def body_graph(body, opset=17):
    nodes = sorted_body(body)
    read = {name for n in nodes for name in n.input}
    return flat(nodes, [1, 2, 6], {k: v for k, v in STORED.items() if k in read}, opset)


def classical(op, *stored, **attributes):
    """A graph of one node of the domain ai.onnx.ml, of a classifier its scores."""
    outputs = ["label", "y"] if op == "LinearClassifier" else ["y"]
    one = node(op, "x", *stored, outputs=outputs, domain="ai.onnx.ml", **attributes)
    model = flat(one, (1, 4), {name: np.array([2, 0, 2]) for name in stored})
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    return (4,), model


LINEAR = {
    "coefficients": floats(12),
    "intercepts": floats(3),
    "classlabels_ints": [0, 1, 2],
    "multi_class": 1,
}
GRAPHS |= {
    "linear": classical("LinearClassifier", **LINEAR, post_transform="NONE"),
    "linear-softmax": classical("LinearClassifier", **LINEAR, post_transform="SOFTMAX"),
    "linear-logistic": classical("LinearClassifier", **LINEAR, post_transform="LOGISTIC"),
    "features": classical("ArrayFeatureExtractor", "places"),
    "normalized-by-l1": classical("Normalizer", norm="L1"),
    "normalized-by-l2": classical("Normalizer", norm="L2"),
    "normalized-by-max": classical("Normalizer", norm="MAX"),
    "scaled": classical("Scaler", offset=floats(4), scale=floats(4)),
}
GRAPHS |= {name: ((2, 6), body_graph(body)) for name, body in BODIES.items()}


@pytest.mark.parametrize("name", GRAPHS)
def test_graph(name):
    shape, model = GRAPHS[name]
    compare(model, shape)


def test_every_operator_is_held_against_onnxruntime():
    models = [case.values[0] for case in OPS] + [model for _, model in GRAPHS.values()]
    tested = {node.op_type for model in models for node in model.graph.node}
    assert set(OPERATORS) - tested == set()
