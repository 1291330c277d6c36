"""ONNX networks against onnxruntime: the competition's files, layouts, batches, what is refused."""

import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.cpu.rewrite import needs_rewrite, rewrite_for_cpu
from tests.onnx_graphs import (
    RANDOM,
    TensorProto,
    enter,
    flat,
    floats,
    helper,
    integers,
    node,
    onnx,
    parsed,
    proto,
    session,
    truth,
    written,
)

ZERO, MINUS = integers(0), integers(-1)
NORM = floats(4), floats(4), floats(4), np.exp(floats(4))  # scale, bias, mean, variance


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


# A graph that a batch of 3 is written into: its body, on x [3, 12] with weights w [12, 4].
BATCHES = {
    "reshape": "a = Reshape (x, whole)  b = Transpose <perm = [0, 2, 1]> (a)  f = Flatten (b)",
    "reshape-with-the-rest": "a = Reshape (x, rest)  b = Softmax (a)  f = Reshape (b, rows)",
    "expand": """a = Expand (token, tokens)  b = Unsqueeze (x, one)
                 c = Concat <axis = 1> (a, b)  f = ReduceSum <keepdims = 0> (c, one)""",
    "token-for-each": """b = Unsqueeze (x, one)  c = Concat <axis = 1> (repeated, b)
                 f = ReduceSum <keepdims = 0> (c, one)""",
}
WRITTEN = {
    "whole": integers(3, 2, 6),
    "rest": integers(3, -1),
    "rows": integers(-1, 12),
    "token": floats(1, 1, 12),
    "tokens": integers(3, 1, 12),
    "repeated": np.repeat(floats(1, 1, 12), 3, 0),
    "one": integers(1),
    "w": floats(12, 4),
}
LOOKS = "c = Softmax <axis = 0> (x)  f = Add (c, x)"
HIDDEN = "a = Identity (x)  f = Add (a, h)"


@pytest.mark.parametrize(
    ("name", "declared"),  # with a free batch only a shape without -1 tells what it was written for
    [
        ("reshape", 3),
        ("reshape", "N"),
        ("reshape-with-the-rest", 3),
        ("expand", 3),
        ("token-for-each", 3),  # computed on groups of three
    ],
)
def test_a_batch_that_is_written_into_the_graph_gives_way_to_any_other(name, declared):
    model = batch_of(BATCHES[name], declared)
    inputs = RANDOM.random((6, 12), np.float32)
    expected = np.concatenate(
        [session(model).run(None, {"x": x})[0] for x in inputs.reshape(2, 3, 12)]
    )
    images = inputs.reshape(6, 1, 1, 12)
    for count in (1, 4, 6):
        logits = ja.from_onnx(model)(images[:count])
        np.testing.assert_allclose(logits, expected[:count], rtol=1e-5, atol=1e-5)


def batch_of(body, declared):
    nodes = parsed(body + "  logits = MatMul (f, w)")
    read = {name for n in nodes for name in n.input}
    stored = WRITTEN | {"h": floats(3, 12)}
    return proto(nodes, [declared, 12], {k: v for k, v in stored.items() if k in read})


@pytest.mark.parametrize("body", [LOOKS, HIDDEN], ids=["softmax-over-the-batch", "constant"])
def test_a_graph_that_answers_only_for_its_batch_is_refused(body):
    with pytest.raises(ValueError, match="exported for a batch of 3: export it with a dynamic"):
        ja.from_onnx(batch_of(body, 3))


def test_a_batch_within_an_axis_is_refused_by_its_size():
    model = proto(
        parsed("a = Transpose (x)  logits = Reshape (a, s)"), ["N", 12], {"s": integers(12, 3)}
    )
    with pytest.raises(ValueError, match="exported for a batch of 3: export it with a dynamic"):
        ja.from_onnx(model)


# --- in the engine ---


def network(seed=0):
    """A small network with what is rewritten for CPUs: convolutions in NCHW and max-pooling."""
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
    result = ja.run(
        ja.PGD(steps=20),
        model,
        IMAGES,
        ja.Untargeted(labels),
        0.1,
        key=jax.random.key(0),
        lanes=4,
        devices=jax.devices()[:1],
    )
    answers = truth(file, result.images.transpose(0, 3, 1, 2)).argmax(1)
    np.testing.assert_array_equal(result.success, answers != labels)
    assert result.success.any()


def test_all_of_it_is_rewritten():
    model = ja.from_onnx(network(), output="z")
    gradient = jax.grad(lambda x: (model(x) ** 2).sum())
    assert needs_rewrite(jax.make_jaxpr(gradient)(IMAGES))
    assert not needs_rewrite(jax.make_jaxpr(rewrite_for_cpu(gradient))(IMAGES))
    np.testing.assert_allclose(
        rewrite_for_cpu(gradient)(IMAGES), gradient(IMAGES), rtol=1e-4, atol=1e-5
    )


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


DET = node("Det", "x", outputs=["l"], name="volume")
RELU = node("Relu", "x", outputs=["logits"])
TRAINING = {"r": np.float32(0.5), "t": np.array(True)}


def recurrent_of(op, lengths=None, **attributes):
    """A layer over a sequence of 5 that begins with its time."""
    arrays = {"w": floats(1, 8, 4), "r": floats(1, 8, 2)} | (
        {} if lengths is None else {"n": lengths}
    )
    names = ["t", "w", "r", "", "n" if "n" in arrays else ""]
    nodes = [
        node("Transpose", "x", outputs="t", perm=[1, 0, 2]),
        node(op, *names, hidden_size=2, **attributes),
    ]
    return flat(nodes, [1, 5, 4], arrays)


REFUSED = {
    "operator": (
        proto([DET, node("Flatten", "l", outputs=["logits"])], [1, 4, 4]),
        r"node 'volume' \(Det, opset 17\) is not supported.*ja\.Model",
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
    "batch-statistics-of-old": (
        flat(
            node("BatchNormalization", "x", *"sbmv", outputs="ypqrt"),
            [1, 4],
            dict(zip("sbmv", NORM, strict=True)),
            9,
        ),
        "BatchNormalization.*training mode",
    ),
    "text": (
        flat(node("Cast", "x", to=TensorProto.STRING), [1, 4]),
        r"node 'y' \(Cast, opset 17\) makes tensors of type STRING",
    ),
    "float8": (
        flat(node("Cast", "x", to=TensorProto.FLOAT8E4M3FN), [1, 4], opset=19),
        "makes tensors of type FLOAT8E4M3FN: export it in float32",
    ),
    "antialias": (
        flat(node("Resize", "x", "", "s", antialias=1), [1, 4], {"s": np.float32([1, 2])}, 18),
        "Resize, opset 18.*antialias=1 is not supported: export with antialias=0",
    ),
    "crop": (
        flat(
            node("Resize", "x", "", "s", coordinate_transformation_mode="tf_crop_and_resize"),
            [1, 4],
            {"s": np.float32([1, 2])},
        ),
        "'tf_crop_and_resize' is not supported: export with one of",
    ),
    "short-sequences": (
        recurrent_of("LSTM", lengths=np.int32([3])),
        "LSTM.*sequence_lens=.3.: only whole sequences, of 5",
    ),
    "activation": (
        recurrent_of("LSTM", activations=["HardSigmoid", "Tanh", "Tanh"]),
        "LSTM.*'hardsigmoid'.*not supported: only",
    ),
    "clipped-gates": (recurrent_of("LSTM", clip=3.0), "LSTM.*clip=3.0 is not supported"),
    "quantized-to-float8": (
        flat(
            node("QuantizeLinear", "x", "s", output_dtype=TensorProto.FLOAT8E5M2),
            [1, 4],
            {"s": np.float32(1)},
            21,
        ),
        "QuantizeLinear.*FLOAT8E5M2",
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
    model = proto([node("Relu", "x", outputs=["z"]), DET], [1, 4], outputs="l")
    logits = ja.from_onnx(model, output="z")(np.ones((2, 4), np.float32))
    assert logits.shape == (2, 4)


def test_probabilities_are_warned_of():
    with pytest.warns(ja.CheckWarning, match="before the softmax"):
        ja.run(
            ja.FGSM(),
            ja.from_onnx(network()),
            IMAGES,
            ja.Untargeted(np.zeros(7, int)),
            0.1,
            key=jax.random.key(0),
            lanes=4,
            devices=jax.devices()[:1],
        )


def test_gradients_pass_the_rounding_of_quantized_activations():
    arrays = {"s": np.float32(0.1), "z": np.uint8(0), "w": floats(4, 3)}
    body = """q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)
              logits = MatMul (d, w)"""
    model = ja.from_onnx(proto(parsed(body), [1, 4], arrays), bounds=(-1, 30))
    image = np.array([0.33, 0.7, -0.5, 29.0], np.float32).reshape(1, 1, 1, 4)
    gradient = jax.grad(lambda x: model(x)[0, 0])(jnp.asarray(image))
    inside = np.array([1, 1, 0, 0])  # -0.5 and 29 lie beyond what uint8 holds
    np.testing.assert_allclose(gradient.ravel(), arrays["w"][:, 0] * inside, rtol=1e-5)


def test_floats_that_decide_shapes_are_no_weights():
    arrays = {"s": np.float32([1, 1, 2, 2]), "w": floats(12, 3)}
    body = "r = Resize (x, , s)  f = Flatten (r)  p = MatMul (f, w)  logits = Identity (p)"
    model = ja.from_onnx(proto(parsed(body), [1, 3, 1, 1], arrays))
    assert list(model.params) == ["w"]


def test_a_sequence_model_runs_in_double_precision_too():
    with jax.enable_x64(True):
        model = ja.from_onnx(recurrent_of("LSTM"))
        assert model(np.ones((2, 5, 4), np.float64)).dtype == np.float32


def test_of_labels_and_scores_the_scores_are_taken():
    graph = """<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 3]>
        net (float[N, 2] x) => (int64[N] label, {scores}[N, 2] probability)
        <float[2, 2] w = {{1, 0, 0, 1}}>
        {{ z = MatMul (x, w)
           label = ArgMax <axis = 1, keepdims = 0> (z)  probability = Softmax (z) }}"""
    proto = onnx.parser.parse_model(graph.format(scores="float"))
    rows = np.array([[0.2, 0.9], [0.7, 0.1]], np.float32)
    np.testing.assert_allclose(ja.from_onnx(proto)(rows), jax.nn.softmax(rows), rtol=1e-6)
    with pytest.raises(ValueError, match=r"\['label', 'probability'\]: pass output="):
        ja.from_onnx(onnx.parser.parse_model(graph.format(scores="int64")))


@pytest.mark.parametrize("kind", ["linear", "network", "vectors"])
def test_classifiers_of_scikit_learn_by_skl2onnx(kind):
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn import linear_model, neural_network, svm

    builds = {
        "linear": linear_model.LogisticRegression(),
        "network": neural_network.MLPClassifier((8,), max_iter=20),
        "vectors": svm.LinearSVC(),
    }
    rows = np.random.default_rng(0).standard_normal((60, 5), np.float32)
    for labels in (rows[:, 0] > 0, np.digitize(rows[:, 0] - rows[:, 1], [-0.5, 0.5])):
        estimator = builds[kind].fit(rows, labels.astype(int))
        proto = skl2onnx.to_onnx(estimator, rows[:1])
        model = ja.from_onnx(proto, bounds=(-np.inf, np.inf))
        np.testing.assert_array_equal(model(rows).argmax(1), estimator.predict(rows))


def test_trees_have_no_gradient_and_are_refused_with_the_reason():
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(2).fit(np.eye(4), [0, 1, 0, 1])
    proto = skl2onnx.to_onnx(forest, np.eye(4, dtype=np.float32)[:1])
    with pytest.raises(ValueError, match=r"trees have no gradient.*ja.from_sklearn"):
        ja.from_onnx(proto)
