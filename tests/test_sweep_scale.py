"""One sweep on many devices, processes and workers, killed or not: the same rows, row for row."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.data.form import Source
from jaxadv.models import get_definition, save_weights
from jaxadv.sweep import RayExecutor, SweepStore, parse_grid
from tests.test_sweep import DATA, GRID, IMAGES, LABELS, MODEL, WEIGHTS, sweep, untimed

ROOT = Path(__file__).parents[1]
FILE = """
seeds = [0, 1]
examples = 20
shard = 15
lanes = 8
images = "none"
epsilons = {linf = [0.02, 0.1]}
data = [{name = "digits"}]
models = [{load = "fc.safetensors"}]
attacks = [{name = "PGD", steps = 5}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sweep file, and weights that were drawn at random."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "sweep.toml").write_text(FILE)
    module = get_definition("FC")(widths=(16,))
    variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    save_weights(
        folder / "fc.safetensors", "FC", {"widths": [16]}, variables, image_shape=(8, 8, 1)
    )
    return folder


def start(folder: Path, store: str, *args: str, devices: int = 1) -> subprocess.Popen:
    """`jaxadv sweep` as a process of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX", "XLA"))}
    environment = {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "JAXADV_CACHE": str(folder / "cache"),
        "JAX_NUM_CPU_DEVICES": str(devices),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "jaxadv", "sweep", "sweep.toml", "--store", store, *args],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes: subprocess.Popen) -> None:
    said = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said


@pytest.fixture(scope="module")
def alone(folder):
    """The rows that one process makes on one device."""
    finish(start(folder, "alone"))
    return untimed(folder / "alone")


@pytest.mark.slow
@pytest.mark.devices
def test_one_device_gives_the_rows_of_eight(tmp_path):
    assert len(jax.local_devices()) == 8
    assert sweep(tmp_path / "eight").complete
    assert sweep(tmp_path / "one", devices=jax.local_devices()[:1]).complete
    assert untimed(tmp_path / "one").equals(untimed(tmp_path / "eight"))


def test_a_job_in_which_nothing_succeeds_is_kept(tmp_path):
    text = GRID.replace('[0.02, "15/255"]', "[1e-6]").replace("seeds = [0, 1]", "seeds = [0]")
    assert sweep(tmp_path, text, only=["PGD*"]).complete
    rows = untimed(tmp_path).to_pylist()
    assert len(rows) == 12 and not any(row["success"] for row in rows)
    assert all(row["linf"] is None and row["status"] == "FAILED" for row in rows)


@pytest.mark.devices
def test_no_device_waits_for_another():
    """The compiled loop of several devices has no collective in it."""
    from jaxadv.engine.lanes import Ends, init_lanes
    from jaxadv.engine.programs import loop_programs
    from jaxadv.engine.verify import sharded

    devices, attack = tuple(jax.local_devices()), ja.PGD(steps=3)
    table = ja.make_table(attack, MODEL, IMAGES, ja.Untargeted(LABELS), 0.1)
    key = jax.random.key(0)
    table = table.with_keys(attack, key)
    flight = jax.eval_shape(lambda: init_lanes(attack, MODEL, table, 4))
    each = [
        jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                (8, *jnp.shape(leaf)), jnp.result_type(leaf), sharding=sharded(devices)
            ),
            tree,
        )
        for tree in (table, flight)
    ]
    go_on = loop_programs("first", False, devices).go_on.function
    ends = Ends(jnp.int32(8), jnp.int32(3), jnp.int32(99))
    program = go_on.lower(attack, MODEL, each[0], each[1], ends).compile()
    text = program.as_text()
    assert "while(" in text and "input_output_alias" in text  # a loop, and donated buffers
    for collective in (
        "all-reduce",
        "all-gather",
        "all-to-all",
        "collective-permute",
        "reduce-scatter",
        "collective-broadcast",
    ):
        assert collective not in text


def test_half_the_lanes_where_the_memory_does_not_suffice(tmp_path, monkeypatch):
    from jaxadv.sweep import runners

    tried, run_rows = [], runners.run_rows

    def short_of_memory(session, *args, **more):
        tried.append(session.lanes)
        if session.lanes > 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        return run_rows(session, *args, **more)

    monkeypatch.setattr(runners, "run_rows", short_of_memory)
    assert sweep(tmp_path / "halved", only=["PGD*seed 0"]).complete
    assert tried == [8, 4, 2]
    monkeypatch.undo()
    sweep(tmp_path / "two", GRID.replace("lanes = 8", "lanes = 2"), only=["PGD*seed 0"])
    assert untimed(tmp_path / "halved").equals(untimed(tmp_path / "two"))


def test_what_a_stand_in_claims_and_the_judge_refuses_is_searched_again():
    model = ja.Model(MODEL.apply, jnp.round(WEIGHTS))  # far coarser than half precision
    goal, key = ja.Untargeted(LABELS), jax.random.key(0)
    how = {"key": key, "judge": MODEL, "lanes": 4}
    whole = ja.run(ja.PGD(steps=9), MODEL, IMAGES, goal, 0.06, key=key, lanes=4)
    once = ja.run(ja.PGD(steps=9), model, IMAGES, goal, 0.06, **how)
    twice = ja.run(ja.PGD(steps=9), model, IMAGES, goal, 0.06, again=True, **how)
    gained = ~once.success & twice.success
    assert gained.any()
    won = np.flatnonzero(twice.success)
    assert (np.asarray(MODEL(twice.images[won]).argmax(-1)) != LABELS[won]).all()
    np.testing.assert_array_equal(twice.images[gained], whole.images[gained])
    assert (twice.forward[gained] > whole.forward[gained]).all()
    np.testing.assert_array_equal(twice.forward[once.success], once.forward[once.success])
    with pytest.raises(ValueError, match="judge"):
        ja.run(ja.FGSM(), model, IMAGES, goal, 0.1, key=key, again=True)


@pytest.mark.slow
def test_what_float32_gets_wrong_from_the_start_needs_no_attack():
    wrong = LABELS.copy()
    wrong[:3] = (wrong[:3] + 1) % 4
    model = ja.Model(lambda w, x: jnp.roll(MODEL.apply(w, x), 1, -1), WEIGHTS)  # another judge
    goal = ja.Untargeted(wrong)
    result = ja.run(
        ja.DDN(steps=5),
        model,
        IMAGES,
        goal,
        key=jax.random.key(0),
        lanes=4,
        judge=MODEL,
        again=True,
    )
    assert (result.status[:3] == ja.Status.MISCLASSIFIED).all()
    assert (result.distance[:3] == 0).all()


@pytest.mark.slow
def test_a_sweep_in_half_precision_is_judged_in_float32(tmp_path):
    text = GRID.replace('{given = "smooth"}', '{given = "smooth", dtype = "bfloat16"}').replace(
        '{name = "DDN", norm = "l2", steps = 20}', '{name = "minimal_distance", effort = "fast"}'
    )
    assert sweep(tmp_path, text, only=["seed 0"]).complete
    store = SweepStore(tmp_path)
    for job in store.manifest["jobs"]:
        if (table := store.load(job)) is not None:
            rows, kept = table.to_pylist(), store.images(job)
            assert sum(row["success"] for row in rows) == len(kept["rows"]) > 0
            answers = np.asarray(MODEL(kept["images"]).argmax(-1))
            assert all(rows[r]["label"] != a for r, a in zip(kept["rows"], answers, strict=True))


@pytest.mark.slow
def test_eight_devices_in_a_process_of_their_own(folder, alone):
    finish(start(folder, "eight", devices=8))
    assert untimed(folder / "eight").equals(alone)


@pytest.mark.slow
def test_four_processes_that_jax_joins(folder, alone):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    finish(
        *(
            start(
                folder, "joined", "--coordinator", address, "--processes", "4", "--process", str(i)
            )
            for i in range(4)
        )
    )
    assert untimed(folder / "joined").equals(alone)


@pytest.mark.slow
def test_three_processes_that_know_nothing_of_each_other(folder, alone):
    finish(*(start(folder, "three", devices=1 + i) for i in range(3)))
    assert untimed(folder / "three").equals(alone)


@pytest.mark.slow
def test_ray_from_the_command_line(folder, alone):
    pytest.importorskip("ray")
    finish(start(folder, "ray", "--ray", "local"))
    assert untimed(folder / "ray").equals(alone)


@pytest.mark.slow
def test_a_worker_of_ray_that_is_killed_loses_nothing(tmp_path):
    ray = pytest.importorskip("ray")

    def read(rows: range) -> ja.data.Dataset:
        with (tmp_path / "log").open("a") as log:
            log.write(f"{os.getpid()}\n")
        if len(rows) < 12 and not (tmp_path / "killed").exists():  # in a job, not while planning
            (tmp_path / "killed").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return DATA.take(rows)

    text = GRID.replace("shard = 30", "shard = 9")
    how = {"models": {"smooth": MODEL}, "data": {"noise": Source(12, read)}}
    ray.init("local", num_cpus=2, log_to_driver=False, logging_level="ERROR")
    try:
        summary = ja.run_sweep(parse_grid(text), tmp_path / "ray", executor=RayExecutor(), **how)
    finally:
        ray.shutdown()
    assert summary.complete and summary.computed == summary.jobs == 12
    killed = (tmp_path / "killed").read_text()
    workers = set((tmp_path / "log").read_text().split())
    assert killed in workers and len(workers) >= 2
    sweep(tmp_path / "here", text)
    assert untimed(tmp_path / "ray").equals(untimed(tmp_path / "here"))


@pytest.mark.slow
def test_kills_at_random_instants(tmp_path, monkeypatch):
    from benchmarks.reliability import kills

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    kills.sweep(tmp_path / "whole", 200)
    reference = kills.rows_of(tmp_path / "whole")
    outcome = kills.disturbed(tmp_path / "killed", 200, 8, 2, reference)
    assert outcome.equal and outcome.rewritten == 0 and outcome.working > 0
    assert outcome.jobs <= outcome.begun <= outcome.jobs + outcome.kills


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(tmp_path, monkeypatch):
    from benchmarks.reliability import memory

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    memory.peak(4_000)  # compiles
    assert memory.peak(100_000)[0] < 1.05 * memory.peak(4_000)[0]
