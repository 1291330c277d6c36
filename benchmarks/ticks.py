"""A tick beside the bare passes that it pays for; its loop compiled beside a bare loop."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxadv as ja
from benchmarks import topology
from benchmarks.common import ratio
from benchmarks.topology import Facts, Problem
from jaxadv.engine.compilation import forget_programs
from jaxadv.engine.programs import loop_programs

STEPS, EPSILON = 40, 0.1
SIDES = ("tick", "bare", "memory", "bare memory")
TICK = ("program", "flops", "bytes", *SIDES, "seconds")
GPU_TICK = ("program", "bytes", *SIDES, "kernels", "bare kernels", "seconds")
LOOP = ("program", "loop", "bare loop", "ratio", "all programs")
ROUNDS = 3
Bare = dict[Any, Facts]
"""The bare passes compiled so far, under their numbers of queries and pull-backs."""


def tick_row(attack: ja.Attack, problem: Problem, bare: Bare) -> dict[str, Any]:
    """One tick on one chip: FLOPs, bytes and memory, beside those of its bare passes."""
    alone = attack.specialize(problem.goal, topology.classes_of(problem))
    kind = alone.queries, alone.pullbacks
    if kind not in bare:
        bare[kind] = Facts.of(topology.compile_pass(*kind, problem))
    under, begun = bare[kind], time.perf_counter()
    over = Facts.of(topology.compile_tick(attack, problem))
    return {
        "flops": over.flops / under.flops,
        "bytes": over.bytes / under.bytes,
        "tick": over.bytes,
        "bare": under.bytes,
        "memory": over.memory,
        "bare memory": under.memory,
        "kernels": over.kernels,
        "bare kernels": under.kernels,
        "seconds": time.perf_counter() - begun,
    }


def bare_loop(model: Any, images: Any, labels: Any) -> Any:
    """PGD in Linf as one writes it in plain JAX: gradient, sign, clip, 40 times."""

    def loss(images: Any) -> Any:
        return -jax.nn.log_softmax(model(images))[jnp.arange(len(labels)), labels].sum()

    def step(_: Any, moved: Any) -> Any:
        moved = moved + EPSILON / STEPS * jnp.sign(jax.grad(loss)(moved))
        moved = jnp.clip(moved, images - EPSILON, images + EPSILON)
        return jnp.clip(moved, 0, 1)

    return jax.lax.fori_loop(0, STEPS, step, images)


def loop_row(attack: ja.Attack, problem: Problem) -> dict[str, Any]:
    """Seconds to trace and compile for one chip, medians: `ja.run`'s loop, and the bare loop."""
    problem = problem._replace(devices=problem.devices[:1])
    image = jax.ShapeDtypeStruct((problem.lanes, *problem.shape), np.float32)
    labels = jax.ShapeDtypeStruct((problem.lanes,), np.int32)

    def every() -> None:
        forget_programs()
        topology.compile_run(attack, problem)

    def loop() -> None:  # the forward pass and the loop's beginning are known from `every`
        for simple in (False, True):
            loop_programs(attack.keep, False, problem.devices, simple).go_on.pending.clear()
        jax.clear_caches()
        topology.compile_run(attack, problem)

    def bare() -> None:
        jax.clear_caches()
        topology.compile_on(bare_loop, problem.devices, problem.model, image, labels)

    sides = {"all programs": every, "loop": loop, "bare loop": bare}
    bare()  # the compiler itself is loaded
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, call in sides.items():
            seconds[name].append(_seconds(call))
    row: dict[str, Any] = {name: statistics.median(each) for name, each in seconds.items()}
    return row | {"ratio": ratio(seconds["loop"], seconds["bare loop"])}


def _seconds(call: Callable[[], None]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun
