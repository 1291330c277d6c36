"""What the compiler is given, and when: packed lanes, programs compiled ahead, programs on disk."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import monitoring

import jaxadv as ja
from jaxadv.engine.compilation import Program, forget_programs
from jaxadv.engine.packing import SMALL, Layout, put_rows, take_rows
from tests.common import IMAGES, KEY, LABELS, MODEL

COUNT = 5


def tree(count: int) -> dict[str, jax.Array]:
    """Leaves of every kind, with the values whose bits are easily lost."""
    odd = np.array([np.nan, -0.0, np.inf, 1e-42, -np.nan], np.float32)
    odd = odd.view(np.int32) ^ np.array([1, 0, 0, 0, 7], np.int32)  # another NaN than numpy's
    return {
        "scalar": jnp.asarray(odd.view(np.float32)[:count]),
        "flag": jnp.arange(count) % 2 == 0,
        "vector": jnp.arange(count * 6, dtype=jnp.int32).reshape(count, 2, 3) - 7,
        "word": jnp.full(count, 2**32 - 1, jnp.uint32),
        "key": jax.random.split(KEY, count),
        "half": jnp.ones((count, 2), jnp.bfloat16),
        "large": jnp.arange(count * (SMALL + 1), dtype=jnp.float32).reshape(count, SMALL + 1),
    }


def bits(leaf: jax.Array) -> np.ndarray:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).view(np.uint8)


def test_packing_keeps_every_bit():
    layout = Layout(jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[0], tree(COUNT))), KEY)
    packed = layout.pack(tree(COUNT))
    assert packed.row.dtype == jnp.int32 and packed.row.shape == (COUNT, 1 + 1 + 6 + 1 + 2)
    assert len(packed.apart) == 2  # the large leaf, and the one of another width
    index = jnp.array([3, 1])
    moved = put_rows(packed, jnp.array([0, COUNT]), take_rows(packed, index))  # the second is out
    for name, leaf in layout.unpack(moved).items():
        expected = jnp.asarray(tree(COUNT)[name]).at[0].set(tree(COUNT)[name][3])
        assert leaf.dtype == expected.dtype and leaf.shape == expected.shape
        np.testing.assert_array_equal(bits(leaf), bits(expected))


@pytest.fixture
def compiled() -> list[str]:
    """The programs that are compiled from now on."""
    names: list[str] = []

    def note(name: str, seconds: float, **_: object) -> None:
        if name.endswith("backend_compile_duration"):
            names.append(name)

    monitoring.register_event_duration_secs_listener(note)
    return names


def test_what_was_compiled_ahead_is_not_compiled_again(compiled):
    program = Program(jax.jit(lambda x, scale: x * scale, static_argnums=1), static=1)
    x = jnp.ones(3)
    shape = jax.ShapeDtypeStruct((3,), jnp.float32, sharding=x.sharding)
    pending, out = program.compile(shape, 2)
    assert out.shape == (3,)
    pending.result()
    before = len(compiled)
    np.testing.assert_array_equal(program(x, 2), [2, 2, 2])
    assert program.compile(x, 2)[0] is pending
    assert len(compiled) == before
    np.testing.assert_array_equal(program(x, 3), [3, 3, 3])  # another static argument
    assert len(compiled) > before
    before = len(compiled)
    with jax.default_matmul_precision("float32"):  # another program, as for `jax.jit`
        np.testing.assert_array_equal(program(x, 2), [2, 2, 2])
    assert len(compiled) > before
    forget_programs()
    assert not program.pending


def test_a_stage_runs_what_was_compiled_ahead(compiled):
    """Every program is compiled once, and those of a stage without images are not waited for."""
    stages = []
    how = {"key": KEY, "lanes": 8, "distances": False, "epsilons": [0.01]}
    attacks = {"first": ja.FGSM(), "second": ja.PGD(steps=3), "third": ja.BIM(steps=4)}
    note = lambda stage, *_: stages.append(stage)  # noqa: E731
    report = ja.evaluate(MODEL, IMAGES, LABELS, attacks=attacks, progress=note, **how)
    assert report.complete
    before = len(compiled)
    again = ja.evaluate(MODEL, IMAGES, LABELS, attacks=attacks, **how)
    assert len(compiled) == before
    np.testing.assert_array_equal(report.broken_by, again.broken_by)
    np.testing.assert_array_equal(report.adversarial, again.adversarial)
    assert {"first", "second", "third"} <= set(stages) <= {*attacks, "compiling"}


KEPT = """
import json, sys
import jax, jax.numpy as jnp
import jaxadv as ja
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
folder = ja.keep_compiled(sys.argv[1])
jax.jit(lambda x: jnp.tanh(x) @ x)(jnp.eye(5)).block_until_ready()
again = ja.keep_compiled()
print(json.dumps([str(folder), str(again), sum("cache_hits" in hit for hit in hits)]))
"""


def test_compiled_programs_are_kept_on_disk_and_shared(tmp_path):
    command = [sys.executable, "-c", KEPT, str(tmp_path / "kept")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:  # at the same time
        assert json.loads(process.communicate()[0])[:2] == [str(tmp_path / "kept")] * 2
        assert process.returncode == 0
    third = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert json.loads(third.stdout)[2] > 0
