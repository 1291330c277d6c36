"""Broken files and arrays of every kind: one clear error each, never a traceback, no damage.

JAXADV_FUZZ=2500 python -m pytest tests/test_fuzz.py: so many cases of each kind, others each time
(default: 60, always the same).
"""

import os
import shutil
import tempfile
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxadv as ja
from jaxadv.models import get_definition, save_weights
from jaxadv.sweep import SCHEMA, SweepStore, parse_grid
from jaxadv.sweep.names import Job

CASES = settings(
    max_examples=int(os.environ.get("JAXADV_FUZZ", "60")),
    deadline=None,
    database=None,
    derandomize="JAXADV_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
GRID = """\
seeds = [0, 1]
shard = 30
images = "none"
epsilons = {linf = [0.02, "15/255"], l2 = [1]}

[[data]]
name = "digits"
examples = 10

[[models]]
train = "fc"
epochs = 1
data = ["digits"]

[[models]]
given = "mine"
dtype = "bfloat16"

[[attacks]]
name = "PGD"
norm = ["linf", "l2"]
steps = [5, 10]
step_size = 0.1

[[attacks]]
name = "standard"
goal = "next"

[[attacks]]
name = "MinimalEpsilon"
attack = {name = "PGD", steps = 3}
rounds = 4
"""
JUNK = (
    "",
    "0",
    "-1",
    "1e400",
    "nan",
    "true",
    '"x"',
    "[]",
    "[[]]",
    "{}",
    "{a = 1}",
    "'''",
    "1979",
    "[1, 'a']",
    "\x00",
    "é",
    "9" * 40,
    "=",
    "]",
    "2024-01-01",
    "[0.1, [0.2]]",
)


def test_the_grid_itself_is_sound():
    assert len(parse_grid(GRID).attacks) == 3


@st.composite
def broken_grids(draw):
    """The grid with a few edits: values replaced, lines lost, doubled or moved, bytes changed."""
    lines = GRID.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["value", "key", "lose", "double", "swap", "byte"]))
        key, equals, _ = lines[row].partition("=")
        if kind == "value" and equals:
            lines[row] = f"{key}= {draw(st.sampled_from(JUNK))}"
        elif kind == "key" and equals:
            new = draw(st.sampled_from(["norm", "name", "steps", "x", "data", "loss", "restarts"]))
            lines[row] = lines[row].replace(key.strip(), new, 1)
        elif kind == "lose":
            lines[row] = ""
        elif kind == "double":
            lines.insert(row, lines[row])
        elif kind == "swap":
            other = draw(st.integers(0, len(lines) - 1))
            lines[row], lines[other] = lines[other], lines[row]
        elif lines[row]:
            place = draw(st.integers(0, len(lines[row]) - 1))
            letter = draw(st.characters(codec="utf-8"))
            lines[row] = lines[row][:place] + letter + lines[row][place + 1 :]
    return "\n".join(lines)


def one_line(error: BaseException, *words: str) -> None:
    """A message that names one of the words, and no dump."""
    assert str(error).strip()
    assert len(str(error)) < 2000
    assert not words or any(word in str(error) for word in words)


@CASES
@given(broken_grids())
def test_sweep_files(text):
    try:
        parse_grid(text)
    except ValueError as error:
        one_line(error, "line")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three jobs of fabricated rows, with images."""
    folder = SweepStore(tmp_path_factory.mktemp("store"))
    jobs = {}
    for number in range(3):
        job = Job(f"job{number}", "group", ("cell",), 0, 5)
        columns = {
            field.name: ["x"] * 5
            if str(field.type) == "string"
            else np.zeros(5, field.type.to_pandas_dtype())
            for field in SCHEMA
        }
        columns["id"] = np.arange(5) + 5 * number
        folder.save(job, columns, {"images": np.zeros((5, 2, 2, 1)), "rows": np.arange(5)})
        jobs[job.fingerprint] = {"group": "group", "cells": ["cell"], "begin": 0, "end": 5}
    import json

    manifest = {"format": 1, "groups": {}, "cells": {}, "jobs": jobs, "sweeps": []}
    (folder.folder / "manifest.json").write_text(json.dumps(manifest))
    assert folder.rows().num_rows == 15
    return folder.folder


@st.composite
def damages(draw):
    """Which file (by number), and what is done to its bytes."""
    kind = draw(st.sampled_from(["byte", "cut", "insert", "zero", "swap"]))
    return draw(st.integers(0, 10**6)), kind, draw(st.floats(0, 1)), draw(st.integers(0, 255))


def damage(content: bytes, kind: str, where: float, value: int, other: bytes) -> bytes:
    place = int(where * max(len(content) - 1, 0))
    if kind == "byte":
        return content[:place] + bytes([value]) + content[place + 1 :]
    if kind == "cut":
        return content[:place]
    if kind == "insert":
        return content[:place] + bytes([value]) * 7 + content[place:]
    return bytes(len(content)) if kind == "zero" else other


@CASES
@given(damages())
def test_stores(store, how):
    number, kind, where, value = how
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(store, Path(folder) / "store"))
        files = sorted(path for path in copy.rglob("*") if path.is_file())
        file, other = files[number % len(files)], files[(number + 1) % len(files)]
        before = file.read_bytes()
        file.write_bytes(damage(before, kind, where, value, other.read_bytes()))
        try:
            rows = SweepStore(copy).rows().to_pylist()
        except ValueError as error:  # the manifest itself
            assert file.name == "manifest.json"
            one_line(error)
            return
        # A job counts whole, with what was saved, or not at all.
        jobs = [rows[i : i + 5] for i in range(0, len(rows), 5)]
        whole = SweepStore(store).rows().to_pylist()
        assert all(job in [whole[i : i + 5] for i in range(0, 15, 5)] for job in jobs)
        assert len(jobs) >= (2 if file.name != "manifest.json" else 0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    module = get_definition("FC")(widths=(4,))
    path = tmp_path_factory.mktemp("weights") / "fc.safetensors"
    variables = module.init(jax.random.key(0), jnp.zeros((1, 3, 3, 1)))
    save_weights(path, "FC", {"widths": [4]}, variables, image_shape=(3, 3, 1))
    return path


@CASES
@given(damages())
def test_weights(weights, how):
    _, kind, where, value = how
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fc.safetensors"
        file.write_bytes(damage(weights.read_bytes(), kind, where, value, b"other"))
        try:
            model, about = ja.load_weights(file)
            assert about["definition"] == "FC"
            assert model(np.zeros((1, 3, 3, 1), np.float32)).shape == (1, 10)
        except ValueError as error:
            one_line(error)


MODEL = ja.Model(lambda w, x: x.reshape(len(x), -1)[:, :4] @ w, jnp.eye(4))
VALUES = st.sampled_from([0.0, 0.5, 1.0, -0.1, 1.1, np.nan, np.inf, -np.inf, 1e30])


@st.composite
def calls(draw):
    """Images, labels and an epsilon, any of which may be wrong in shape, type or value."""
    shape = draw(st.sampled_from([(2, 2, 2, 1), (2, 2, 2), (2,), (), (0, 2, 2, 1), (2, 4)]))
    kind = draw(st.sampled_from([np.float32, np.float64, np.int32, np.uint8, bool, object]))
    images = np.full(shape, 0.5).astype(kind)
    if images.size and kind in (np.float32, np.float64):
        images.flat[0] = draw(VALUES)
    labels = draw(
        st.sampled_from(
            [
                np.array([0, 1]),
                np.array([0, 7]),
                np.array([-1, 0]),
                np.array([0.0, 1.5]),
                np.array([[0, 1]]),
                np.array([0]),
                np.array(["a", "b"]),
                None,
            ]
        )
    )
    epsilon = draw(st.sampled_from([0.1, 0.0, -0.1, np.nan, np.inf, None, [0.1, 0.2], [0.1], "x"]))
    return images, labels, epsilon


@pytest.mark.slow
@CASES
@given(calls())
def test_images_labels_and_epsilons(call):
    images, labels, epsilon = call
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = ja.run(
                ja.FGSM(),
                MODEL,
                images,
                ja.Untargeted(labels),
                epsilon,
                key=jax.random.key(0),
                lanes=2,
            )
        except ValueError as error:
            one_line(error, "images", "labels", "goal", "epsilon")
            return
    assert np.isfinite(result.images).all()
    assert (result.distance <= np.asarray(epsilon, float)).all()
