"""What TPUs and GPUs would run: programs compiled and lowered for them where there is none."""

import functools
import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import jaxadv as ja
from benchmarks import drivers, ticks, topology
from benchmarks.speed import accelerators
from benchmarks.topology import Facts, Problem, compile_on, lowers, lowers_run
from jaxadv.core.precision import x64
from jaxadv.engine.batch import on_cpu
from jaxadv.engine.verify import mesh_of
from tests.common import IMAGES, LABELS, MODEL

SHAPE = (6, 6, 1)
HERE = Problem(MODEL, SHAPE, 4, tuple(jax.local_devices()[:1]))
for_tpus = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason='no TPU compiler: pip install ".[tpu]"'
)
for_h100 = pytest.mark.skipif(
    not importlib.util.find_spec("jax_cuda12_plugin") or os.environ.get("JAX_PLATFORMS") != "cpu",
    reason='no compiler for GPUs: pip install ".[cuda]", and set JAX_PLATFORMS=cpu',
)
for_gpus = pytest.mark.skipif(
    not hasattr(jax.sharding, "AbstractDevice"), reason="this JAX lowers for its own devices only"
)


@functools.cache
def chips() -> Problem:
    """The same problem on the four chips of a TPU."""
    return HERE._replace(devices=topology.topology("v5e:2x2"))


def exchanged(facts: Facts) -> tuple[int, int, int, int]:
    return facts.collectives, facts.host, facts.float64, facts.dynamic


@for_tpus
def test_chips_that_run_an_attack_exchange_nothing():
    programs = [Facts.of(each) for each in topology.compile_run(ja.PGD(), chips())]
    assert len(programs) == 3  # the forward pass, the loop's beginning, the loop
    assert {exchanged(each) for each in programs} == {(0, 0, 0, 0)}
    bare = Facts.of(topology.compile_pass(1, 1, chips()))
    ticked = Facts.of(topology.compile_tick(ja.PGD(), chips()))
    assert bare.flops <= 1.05 * ticked.flops  # a tick does not do without a pass


@for_tpus
@pytest.mark.slow
def test_pods_of_any_size_run_the_same_program():
    def programs(name):
        problem = HERE._replace(devices=topology.topology(name))
        return [Facts.of(each) for each in topology.compile_run(ja.PGD(), problem)]

    few, many = programs("v5e:2x2"), programs("v5e:8x8")
    assert [(each.digest, each.memory) for each in few] == [(e.digest, e.memory) for e in many]
    assert {exchanged(each) for each in many} == {(0, 0, 0, 0)}


@for_tpus
@pytest.mark.slow
def test_a_tick_moves_few_bytes_beside_those_of_its_passes():
    problem = accelerators.problem_of("small", "float32", 256, chips().devices)
    row = ticks.tick_row(ja.PGD(), problem, {})
    assert 0.95 < row["bytes"] < 1.15 and 0.95 < row["flops"] < 1.05


@for_tpus
@pytest.mark.parametrize(
    ("name", "collectives"),
    # A chip alone has no other; gradients are averaged once; and where the compiler splits the
    # batch, whether any image is still attacked is asked twice a tick, and no image is collected.
    [("step", 0), ("step-shard_map", 1), ("step-jit", 3)],
)
def test_what_chips_exchange_in_a_training_step(name, collectives):
    make, count = drivers.DRIVERS[name]
    problem = chips()._replace(devices=chips().devices[:count])
    assert exchanged(drivers.compiled(make, problem)) == (collectives, 0, 0, 0)


@for_tpus
def test_programs_that_exchange_call_the_host_or_widen_are_told():
    devices = chips().devices
    numbers, whole = jax.ShapeDtypeStruct((8,), np.float32), PartitionSpec()
    total = jax.shard_map(
        lambda x: jax.lax.psum(x, "devices"),
        mesh=mesh_of(devices),
        in_specs=PartitionSpec("devices"),
        out_specs=whole,
    )
    assert Facts.of(compile_on(total, devices, numbers)).collectives == 1
    asking = lambda x: jax.pure_callback(np.negative, numbers, x)  # noqa: E731
    assert Facts.of(compile_on(asking, devices[:1], numbers)).host == 2  # to it, and back
    with x64():
        wide = compile_on(lambda x: x.astype(jnp.float64).sum(), devices[:1], numbers)
    assert Facts.of(wide).float64 > 0


@for_h100
def test_a_gpu_that_is_not_here_is_compiled_for():
    problem = HERE._replace(devices=topology.topology("h100"))
    programs = [Facts.of(each) for each in topology.compile_run(ja.PGD(), problem)]
    assert {exchanged(each) for each in programs} == {(0, 0, 0, 0)}
    bare = Facts.of(topology.compile_pass(1, 1, problem))
    ticked = Facts.of(topology.compile_tick(ja.PGD(), problem))
    assert 1 < bare.kernels < ticked.kernels and bare.bytes < ticked.bytes
    assert exchanged(drivers.facts("step", problem)) == (0, 0, 0, 0)


def test_what_the_kernels_of_a_gpu_read_and_write():
    text = """
%inner (p: f32[2,3]) -> f32[2,3] {
  ROOT %n = f32[2,3]{1,0} negate(%p)
}

%few (q: f32[2,3]) -> f32[2,3] {
  %q = f32[2,3]{1,0} parameter(0)
  ROOT %f = f32[2,3]{1,0} fusion(%q), kind=kLoop, calls=%inner
}

%many (r: f32[2,3]) -> f32[2,3] {
  %r = f32[2,3]{1,0} parameter(0)
  %g = f32[2,3]{1,0} copy(%r)
  ROOT %h = f32[2,3]{1,0} fusion(%g), kind=kLoop, calls=%inner
}

ENTRY %main (a: f32[2,3], s: s32[]) -> pred[] {
  %a = f32[2,3]{1,0} parameter(0)
  %s = s32[] parameter(1)
  %b = (f32[2,3]{1,0}, u8[0]{0}) custom-call(%a, %a), custom_call_target="x"
  %c = f32[2,3]{1,0} get-tuple-element(%b), index=0
  %e = f32[2,3]{1,0} conditional(%s, %c, %c), branch_computations={%few, %many}
  ROOT %d = pred[] fusion(%e), kind=kLoop, calls=%inner
}
"""
    assert topology.kernels_of(text) == (1 + 2 + 1, 3 * 24 + 4 * 24 + 24 + 1)


@for_gpus
@pytest.mark.parametrize("platform", topology.GPUS)
def test_programs_are_lowered_for_gpus(platform):
    assert lowers_run(platform, ja.PGD(), HERE) == "yes"
    assert lowers(platform, lambda: drivers.step(HERE)) == "yes"
    hessenberg = jax.jit(jax.lax.linalg.hessenberg), (jnp.eye(3),)  # LAPACK's, on CPUs alone
    assert "hessenberg" in lowers(platform, lambda: hessenberg)


@for_gpus
def test_the_mesh_says_where_a_function_will_run():
    devices = {
        name: jax.sharding.AbstractDevice(device_kind=name, num_cores=None, platform=name)
        for name in ("cpu", "tpu", "gpu")
    }
    mesh = functools.partial(jax.sharding.AbstractMesh, (1,), ("devices",), AxisType.Auto)
    for name, device in devices.items():
        with jax.sharding.use_abstract_mesh(mesh(abstract_device=device)):
            assert on_cpu() == (name == "cpu")
            assert jax.jit(lambda _, name=name: on_cpu() == (name == "cpu"))(0)
    assert on_cpu()


def test_the_bare_loop_is_the_attack():
    images, goal = IMAGES[:4], ja.Untargeted(LABELS[:4])
    attack = ja.BIM(steps=ticks.STEPS, step_size=1 / ticks.STEPS)
    settings = {"key": jax.random.key(0), "keep": "last"}
    ours = ja.perturb(attack, MODEL, images, goal, ticks.EPSILON, **settings)
    bare = jax.jit(ticks.bare_loop)(MODEL, images, LABELS[:4])
    np.testing.assert_allclose(ours, bare, atol=1e-5)


def test_without_the_compiler_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"pip install \"\.\[tpu\]\""):
        topology.topology("v5e:2x2")


def test_finished_rows_are_kept(tmp_path):
    path, made = tmp_path / "rows.json", []

    def row(name):
        made.append(name)
        return {"program": name, "seconds": 1.5, "memory": 2**20, "failed": "a | b"}

    for _ in range(2):
        kept = accelerators.Kept(path, "v5e:2x2 small")
        for name in ("PGD", "FMN"):
            found = kept.get(name, lambda name=name: row(name))
    assert made == ["PGD", "FMN"] and found["program"] == "FMN"
    assert accelerators.Kept(path, "v5e:2x2 madry").rows.keys() == kept.rows.keys()
    assert accelerators.cells(found)[:2] == ["FMN", "does not compile: a / b"]
    assert "1.0 MiB" in accelerators.cells(found)
