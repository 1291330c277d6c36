"""Properties of VNN-LIB, against another reader, brute force, and the competition's answers."""

import csv
import itertools
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.models.onnx.model import with_input_shape
from jaxadv.proofs.vnnlib import parse_vnnlib, read_vnnlib
from tests.commands import run_command
from tests.common import slow

HEAD = "".join(f"(declare-const {name} Real)\n" for name in ("X_0", "X_1", "Y_0", "Y_1", "Y_2"))
PGD = {"PGD": ja.PGD(steps=20, restarts=3, loss="margin")}
BOX = "(assert (and (>= X_0 -1) (<= X_0 0.7)))(assert (>= X_1 0.1))(assert (<= X_1 1.0))"


def holds(text, inputs, outputs):
    """Whether a property holds, by Python's own evaluation of its text."""
    values = {f"X_{i}": v for i, v in enumerate(inputs)} | {
        f"Y_{i}": v for i, v in enumerate(outputs)
    }

    def value(part):
        if isinstance(part, str):
            return values[part] if part in values else float(part)
        head, *rest = part[0], *map(value, part[1:])
        if head == "-" and len(rest) == 1:
            return -rest[0]
        two = {
            "+": lambda a, b: a + b,
            "-": lambda a, b: a - b,
            "*": lambda a, b: a * b,
            "<=": lambda a, b: a <= b,
            ">=": lambda a, b: a >= b,
            "and": lambda a, b: a and b,
            "or": lambda a, b: a or b,
        }[head]
        result = rest[0]
        for other in rest[1:]:
            result = two(result, other)
        return result

    text = re.sub(r";[^\n]*", "", text)
    nested = re.sub(r"[^\s()]+", lambda word: f"'{word[0]}',", text)
    parts = eval(f"[{nested.replace('(', '[').replace(')', '],')}]")
    return all(value(part[1]) for part in parts if part[0] == "assert")


def random_property(rng):
    """Constraints on outputs, nested at random, some with a box of inputs of their own."""

    def sum_of():
        name = f"Y_{rng.integers(3)}"
        other = f"(* {rng.normal():.3f} Y_{rng.integers(3)})"
        return str(rng.choice([name, f"(+ {name} {other} 0.1)", f"(- {other} {name})"]))

    def compare():
        return f"({rng.choice(['<=', '>='])} {sum_of()} {rng.choice([sum_of(), '0.25'])})"

    def nested(depth):
        kind = rng.choice(["and", "or", "compare"]) if depth else "compare"
        if kind == "compare":
            return compare()
        return f"({kind} {' '.join(nested(depth - 1) for _ in range(rng.integers(1, 4)))})"

    first = f"(assert {nested(2)}) ; a remark (with brackets"
    own = "(assert (or (and (>= X_0 0.2) (<= Y_0 Y_1)) (and (<= X_0 0) (>= Y_2 0.1))))"
    return HEAD + BOX + first + "\n" + (own if rng.random() < 0.4 else "")


def in_cases(wanted, inputs, outputs):
    return any(
        (case.low <= inputs).all()
        and (inputs <= case.high).all()
        and any(one.holds(outputs) for one in case.wanted)
        for case in wanted.cases
    )


@pytest.mark.parametrize("seed", range(20))
def test_cases_say_what_the_text_says(seed):
    rng = np.random.default_rng(seed)
    text = random_property(rng)
    wanted = parse_vnnlib(text)
    assert (wanted.inputs, wanted.outputs) == (2, 3)
    for _ in range(300):
        inputs, outputs = rng.uniform(-1.2, 1.2, 2), rng.normal(size=3)
        assert in_cases(wanted, inputs, outputs) == holds(text, inputs, outputs)


def network(seed):
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=s).astype(np.float32) for s in ((2, 6), (6, 6), (6, 3))]

    def numpy(x):
        for weight in weights[:-1]:
            x = np.maximum(x @ weight.astype(float) + 0.2, 0)
        return x @ weights[-1].astype(float)

    def apply(weights, x):
        for weight in weights[:-1]:
            x = jnp.maximum(x @ weight + 0.2, 0)
        return x @ weights[-1]

    return ja.Model(apply, [jnp.asarray(w) for w in weights]), numpy


@pytest.mark.parametrize("seed", [3, 7, slow(0), slow(1), slow(2), slow(5)])
def test_answers_are_those_of_brute_force(seed):
    model, numpy = network(seed)
    text = random_property(np.random.default_rng(seed))
    axes = np.linspace(-1, 0.7, 141), np.linspace(0.1, 1, 91)
    points = np.array(list(itertools.product(*axes)))
    among = [holds(text, x, y) for x, y in zip(points, numpy(points), strict=True)]
    found = ja.prove_property(model, parse_vnnlib(text), attacks=PGD, budget=500)
    if found.answer == "sat":
        assert holds(text, found.inputs.astype(float), found.outputs.astype(float))
        np.testing.assert_allclose(found.outputs, numpy(found.inputs.astype(float)), atol=1e-4)
    elif found.answer == "unsat":
        assert not any(among)
    else:
        assert np.mean(among) < 0.01  # what is hard to find may stay open


@pytest.mark.parametrize(
    ("constraint", "box", "answers"),
    [
        ("(>= Y_0 1.0)", (0, 1), {"sat", "unknown"}),  # at the end of the box only
        ("(>= Y_0 1.001)", (0, 1), {"unsat"}),
        ("(<= (* 0.1 Y_0) 0)", (0, 1), {"sat", "unknown"}),
        ("(>= Y_0 0.1)", (0, 0.1), {"sat", "unknown"}),  # 0.1 is no float32
        ("(>= (* 0.1 Y_0) 0.01)", (0, 0.1), {"sat", "unknown"}),
        ("(<= Y_0 0.29999999999)", (0.3, 0.4), {"unknown", "sat", "unsat"}),
        ("(<= Y_0 0.299)", (0.3, 0.4), {"unsat"}),
        ("(and (>= Y_0 0.6) (<= Y_0 0.5))", (0, 1), {"unsat"}),
        ("(and (>= Y_0 0.4) (<= Y_0 0.5))", (0, 1), {"sat"}),
        ("(>= Y_0 0.5)", (0.7, 0.7), {"sat", "unknown"}),  # no float32 is in the box
        ("(>= Y_0 0.5)", (0.75, 0.75), {"sat"}),
        ("(>= X_0 0.25)", (0, 1), {"sat"}),  # of inputs alone
        ("(>= X_0 1.25)", (0, 1), {"unsat"}),  # no input is in the box
    ],
)
def test_ends_of_boxes_and_of_constraints(constraint, box, answers):
    text = "(declare-const X_0 Real)(declare-const Y_0 Real)"
    text += f"(assert (>= X_0 {box[0]}))(assert (<= X_0 {box[1]}))(assert {constraint})"
    model = ja.Model(lambda w, x: x * w, jnp.ones(1))
    for arithmetic in ("real", "float32"):
        found = ja.prove_property(model, parse_vnnlib(text), attacks=PGD, arithmetic=arithmetic)
        assert found.answer in answers
        if found.inputs is not None:
            assert holds(text, found.inputs.astype(float), found.outputs.astype(float))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(declare-const X_0 Real)", "are declared"),
        (HEAD + BOX + "(assert (<= Y_0 Z))", "'Z' is neither"),
        (HEAD + BOX + "(assert (< Y_0 Y_1))", r"\(< Y_0 Y_1\)"),
        (HEAD + BOX + "(assert (<= X_0 Y_1))", "compared with numbers"),
        (HEAD + BOX + "(assert (<= (* Y_0 Y_1) 1))", "no sum or multiple"),
        (HEAD + BOX + "(assert (<= Y_7 1))", "Y_7 is not declared"),
        (HEAD + BOX + "(assert (<= Y_0 nan))", "not finite"),
        (HEAD + BOX + "(assert (<= Y_0 1)", "cut off"),
        (HEAD + BOX + "(assert (<= Y_0 1)))", "closing bracket"),
        (HEAD + "(assert (<= X_0 1))(assert (<= Y_0 1))", "X_0 is not bounded"),
        (HEAD + BOX + "(check-sat)", "not of VNN-LIB"),
        (HEAD + BOX + "Y_0", "outside of brackets"),
    ],
)
def test_what_is_not_of_the_form_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_vnnlib(text)


COMPETITION = [
    ("mnist-net_256x2", "prop_0_0.03"),
    ("mnist-net_256x2", "prop_1_0.03"),
    ("mnist-net_256x2", "prop_13_0.03"),
    ("mnist-net_256x4", "prop_3_0.03"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("net", "name"), COMPETITION)
def test_the_competitions_answers(shared, tmp_path, net, name):
    onnxruntime = pytest.importorskip("onnxruntime")
    place = shared / "data" / "vnncomp" / "mnist_fc_2022"
    if not place.is_dir():
        pytest.skip("data/vnncomp is not in JAXADV_SHARED")
    with (place / "results.csv").open() as file:
        rows = {(row["network"], row["vnnlib"]): row for row in csv.DictReader(file)}
    known = rows[f"{net}.onnx", f"{name}.vnnlib"]["consensus"]
    assert known in ("sat", "unsat")
    network, path = place / "onnx" / f"{net}.onnx", place / "vnnlib" / f"{name}.vnnlib.gz"
    result = run_command("prove", network, path, "--effort strong --output", tmp_path)
    assert result.exit_code == 0, result.output
    answer, *witness = (tmp_path / "result.txt").read_text().splitlines()
    assert answer == known == json.loads((tmp_path / "report.json").read_text())["answer"]
    assert f"\n{answer}\n" in f"\n{result.stdout}"
    if answer == "sat":
        pairs = re.findall(r"\(([XY]_\d+) ([^\s()]+)\)", "\n".join(witness))
        values = {side: float(value) for side, value in pairs}
        inputs = np.array([values[f"X_{i}"] for i in range(784)], np.float32)
        session = onnxruntime.InferenceSession(network)
        shape = [size if isinstance(size, int) else 1 for size in session.get_inputs()[0].shape]
        (outputs,) = session.run(None, {session.get_inputs()[0].name: inputs.reshape(shape)})
        assert in_cases(read_vnnlib(path), inputs.astype(float), outputs.ravel().astype(float))
        said = [values[f"Y_{i}"] for i in range(10)]
        np.testing.assert_allclose(said, outputs.ravel(), atol=1e-4)
        assert witness[0].startswith("((X_0 ") and witness[-1].endswith("))")


def test_wrong_options_are_named(tmp_path):
    file = tmp_path / "property.vnnlib"
    file.write_text(HEAD + BOX)
    assert "--model net.onnx" in run_command("prove --model fc --property", file).stderr
    assert (
        "leave --epsilon out"
        in run_command("prove --model net.onnx --epsilon 0.1 --property", file).stderr
    )
    assert "pass NET.onnx PROPERTY.vnnlib" in run_command("prove net.onnx").stderr
    missing = run_command("prove --model net.onnx --property missing.vnnlib --output", tmp_path)
    assert "missing.vnnlib does not exist" in missing.stderr
    with pytest.raises(ValueError, match="the property has 2 inputs"):
        ja.prove_property(network(0)[0], read_vnnlib(file), (3,))


def test_a_graph_takes_inputs_as_it_declares_them(tmp_path):
    onnx = pytest.importorskip("onnx")
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        net (float[1, 2, 1, 2] image) => (float[1, 2] logits)
        <float[4, 2] weight = {1, 0, 2, 0, 3, 1, 4, 1}>
        { pixels = Flatten (image)   logits = MatMul (pixels, weight) }""")
    onnx.save(proto, tmp_path / "net.onnx")
    model, shape = with_input_shape(tmp_path / "net.onnx", 4)
    assert shape == (2, 1, 2)
    x = np.array([1.0, 10, 100, 1000], np.float32).reshape(1, *shape)
    assert np.asarray(model(x)).tolist() == [[4321, 1100]]
    with pytest.raises(ValueError, match="not 5 numbers"):
        with_input_shape(tmp_path / "net.onnx", 5)
