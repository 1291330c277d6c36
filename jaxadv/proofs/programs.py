"""Compiled programs of bounds, whose rows are divided among devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jaxadv.core.typing import Devices
from jaxadv.cpu.rewrite import rewrite_for_cpu

FEW_ROWS, MOST_ROWS = 16, 128  # rows of one call, a device
ROW_BYTES = 2**28  # all rows of one call together


def compiled(function: Callable[..., Any], *static: str) -> Callable[..., Any]:
    """Return the function jitted, and rewritten where convolutions are slow in loops."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        return _rewritten(functools.partial(function, **options))(*args)

    return jax.jit(call, static_argnames=static)


def divided(function: Callable[..., Any], *static: str) -> Callable[..., Any]:
    """Return a function of a model, what is known, and rows, compiled for a mesh of devices.

    Each device does its own part of the rows, without a word to the others, so results do not
    depend on how many devices there are; but XLA compiles for one device alone in another way, and
    sums may be rounded differently there.

    Args:
        function: Called with a model, what is known of images, and pytrees with a leading axis of
            rows; returns pytrees with that axis.
        *static: Names of its keywords.

    Returns:
        The function, with one more keyword, `mesh`. The rows must be a multiple of its size.
    """

    def call(model: Any, known: Any, *rows: Any, mesh: Mesh, **options: Any) -> Any:
        part, whole = PartitionSpec(mesh.axis_names[0]), PartitionSpec()
        specs = (whole, whole, *(part for _ in rows))
        one = _rewritten(functools.partial(function, **options))
        return jax.shard_map(one, mesh=mesh, in_specs=specs, out_specs=part, check_vma=False)(
            model, known, *rows
        )

    call.__name__ = function.__name__
    return jax.jit(call, static_argnames=(*static, "mesh"))


def _rewritten(function: Callable[..., Any]) -> Callable[..., Any]:
    return rewrite_for_cpu(function) if jax.default_backend() == "cpu" else function


def mesh_of(devices: Devices = None) -> Mesh:
    """Return the mesh of devices (default: all local ones), along which rows are divided."""
    chosen = np.array(jax.local_devices() if devices is None else list(devices))
    return Mesh(chosen, ("rows",), axis_types=(AxisType.Auto,))


def everywhere(tree: PyTree, mesh: Mesh) -> PyTree:
    """Return the arrays on every device of the mesh, so that no call has to send them there."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def width_of(size: int, rows: int, mesh: Mesh) -> int:
    """Return how many rows with `size` inputs of nonlinearities one call takes.

    On a CPU a device takes few, whose bounds stay in its cache.
    """
    if jax.default_backend() == "cpu":
        return FEW_ROWS * mesh.size
    most = max(FEW_ROWS, min(MOST_ROWS, ROW_BYTES // (64 * max(size, 1))))
    few = rows <= FEW_ROWS * mesh.size
    return mesh.size * (FEW_ROWS if few else 1 << (most.bit_length() - 1))
