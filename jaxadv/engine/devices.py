"""Choice of cores, devices and the number of lanes."""

import gc
import math
import os
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jaxtyping import Array, PyTree

from jaxadv.core.model import Model
from jaxadv.core.typing import ChosenDevices, Devices
from jaxadv.engine.compilation import forget_programs

APPLY = jax.jit(lambda model, images: model.raw(images))  # only traced; JAX caches the trace


@jax.jit
def PULLED_BACK(model: Model, images: Array) -> PyTree:
    """Run one forward and one backward pass."""
    logits, pull_back = jax.vjp(model.raw, images)
    return pull_back(logits)


def cpu_cores() -> int:
    """Return how many cores this process may use: its affinity, limited by the cgroup's quota."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        allowed, period = quota.read_text().split()
        if allowed != "max":
            cores = min(cores, max(1, math.ceil(int(allowed) / int(period))))
    return cores


def use_cpu_cores(count: int | None = None) -> int:
    """Make every CPU core a JAX device, so that `run` attacks on all of them.

    Must be called before JAX's first computation.

    Args:
        count: Number of devices; by default the cores that this process may use, at most 8.

    Returns:
        The number of CPU devices.

    Raises:
        RuntimeError: JAX already runs with fewer devices, or with another number than `count`.

    Example:
        >>> import jaxadv as ja
        >>> ja.use_cpu_cores()  # doctest: +SKIP
        2
    """
    wanted, count = count, min(8, cpu_cores()) if count is None else count
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        running = jax.local_device_count("cpu")
        if running < count or wanted not in (None, running):
            raise RuntimeError(
                f"JAX already runs with {running} CPU device(s), so it cannot be given {count}: "
                "call jaxadv.use_cpu_cores() right after the imports, before any array is made, "
                f"or set the environment variable JAX_NUM_CPU_DEVICES={count}"
            ) from None
        return running
    return count


def spare_memory_maps(fraction: float = 0.5) -> bool:
    """Clear JAX's compiled programs if they use too many of the process's memory maps.

    A program on CPUs takes some 450 to 850 of the maps that Linux allows a process (usually
    65,530). With none left the compiler crashes, and the process with it.

    Args:
        fraction: Fraction of the allowed maps above which the programs are cleared.

    Returns:
        Whether the programs were cleared.
    """
    try:
        allowed = int(Path("/proc/sys/vm/max_map_count").read_text())
        with open("/proc/self/maps", "rb") as maps:
            used = sum(1 for _ in maps)
    except OSError:  # not on Linux
        return False
    if used <= fraction * allowed:
        return False
    forget_programs()
    gc.collect()
    return True


class IdleCoresWarning(UserWarning):
    """Some CPU cores are idle; `use_cpu_cores` would use them."""


def choose_devices(devices: Devices) -> ChosenDevices:
    """Return the devices of a run: those given, else all local ones of the default backend.

    Args:
        devices: JAX devices, or None.

    Returns:
        The devices.

    Raises:
        ValueError: `devices` is empty.
    """
    if devices is not None:
        chosen = tuple(devices)
        if not chosen:
            raise ValueError("devices=[] is empty: pass jax.local_devices(), or None for all")
        return chosen
    chosen = tuple(jax.local_devices())
    if len(chosen) == 1 and chosen[0].platform == "cpu" and cpu_cores() > 1:
        warnings.warn(
            f"one of {cpu_cores()} CPU cores is in use: call jaxadv.use_cpu_cores() right after "
            "the imports to attack on all of them",
            IdleCoresWarning,
            stacklevel=4,
        )
    return chosen


def memory_of(device: Any) -> float:
    """Return the device's total memory in bytes (on CPUs an eighth of the machine's).

    Memory in use is not subtracted: equal bits depend on the number of lanes, which must be the
    same in every run on a machine.
    """
    statistics = device.memory_stats() if hasattr(device, "memory_stats") else None
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and limit.read_text().strip() != "max":
        total = min(total, int(limit.read_text()))
    return total / 8  # there are at most 8 CPU devices by default


def _bytes_of(jaxpr: ClosedJaxpr | Jaxpr) -> int:
    """Return the bytes of all intermediate values of a jaxpr, an upper bound of a pass."""
    if isinstance(jaxpr, ClosedJaxpr):
        jaxpr = jaxpr.jaxpr
    total = 0
    for eqn in jaxpr.eqns:
        nested = jax.tree.leaves(eqn.params, is_leaf=lambda v: isinstance(v, ClosedJaxpr | Jaxpr))
        inner = [v for v in nested if isinstance(v, ClosedJaxpr | Jaxpr)]
        outputs: list[Any] = [v.aval for v in eqn.outvars]
        own = sum(
            math.prod(a.shape) * a.dtype.itemsize
            for a in outputs
            if hasattr(a, "shape") and isinstance(getattr(a, "dtype", None), np.dtype)
        )
        total += max([own, *map(_bytes_of, inner)])
    return total


def choose_lanes(model: Model, queries: int, shape: tuple[int, ...], rows: int, device: Any) -> int:
    """Return the default number of lanes per device, a power of two.

    It depends on the number of rows, the model and the memory, but not on the number of devices.

    Args:
        model: The model.
        queries: Queries of a lane in each tick.
        shape: Shape [H, W, C] of an image.
        rows: Number of rows of the run.
        device: A device of the run.

    Returns:
        The number of lanes.
    """
    wanted = min(128, rows / 8) if device.platform == "cpu" else min(1024, rows)
    lanes = 2 ** math.ceil(math.log2(max(wanted, 8)))
    image = jax.ShapeDtypeStruct((1, *shape), np.float32)
    # An upper bound for forward and backward, regardless of the compiler.
    most = 3 * queries * _bytes_of(APPLY.trace(model, image).jaxpr)
    room = memory_of(device) / 4
    while lanes > 1 and lanes * most > room:
        if compiled_bytes(model, lanes * queries, shape) <= room:
            break
        lanes //= 2
    return lanes


def compiled_bytes(model: Model, count: int, shape: tuple[int, ...]) -> float:
    """Return the memory that the compiler plans for a forward and a backward pass.

    For a model without a derivative it is that of the forward pass alone. The model's parameters
    are not counted.

    Args:
        model: The model.
        count: Number of images.
        shape: Shape [H, W, C] of an image.

    Returns:
        The bytes; infinite if the compiler does not report them.
    """

    images = jax.ShapeDtypeStruct((count, *shape), np.float32)
    try:
        traced = PULLED_BACK.trace(model, images)
    except Exception:  # a model without a derivative may raise any error
        traced = APPLY.trace(model, images)
    planned = traced.lower().compile().memory_analysis()
    if planned is None:
        return math.inf
    return planned.temp_size_in_bytes + planned.output_size_in_bytes


def rows_in_memory(shape: tuple[int, ...], device: Any) -> int:
    """Return how many rows (image and best image) a chunk on one device may hold."""
    return max(1024, int(memory_of(device) / 8 / (3 * 4 * math.prod(shape))))
