"""The compiled programs of a run: begin the loop, go on with it, shrink it."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Int

from jaxadv.core.attack import Attack
from jaxadv.core.model import Model
from jaxadv.core.pytree import take
from jaxadv.core.typing import ChosenDevices
from jaxadv.cpu.compiler import brief_options, simple_options
from jaxadv.engine.compilation import Program
from jaxadv.engine.lanes import Ends, LoopState, Mode, init_lanes, run_lanes, shrink_lanes
from jaxadv.engine.packing import Layout
from jaxadv.engine.queue import Results, Table
from jaxadv.engine.tick import Counts
from jaxadv.engine.verify import mesh_of, sharded


class Seen(NamedTuple):
    """What the host reads of the state of a loop on D devices with M rows each.

    Attributes:
        live: Number of lanes that hold an entry.
        waiting: Whether the queue holds further entries.
        ticks: The ticks of the loop.
        complete: Whether each row is complete.
        adversarial: Whether the best image of each row is adversarial.
        nonfinite: Whether a row has met a non-finite value.
        counts: Counts of a sequential run for each row.
    """

    live: Int[np.ndarray, " D"]
    waiting: Bool[np.ndarray, " D"]
    ticks: Int[np.ndarray, " D"]
    complete: Bool[np.ndarray, "D M"]
    adversarial: Bool[np.ndarray, "D M"]
    nonfinite: Bool[np.ndarray, "D M"]
    counts: Counts

    @classmethod
    def of(cls, state: LoopState, layouts: tuple[Layout, Layout], keep: str) -> "Seen":
        """Wait for a loop, and read its state.

        Args:
            state: The state, with a leading axis of devices.
            layouts: Those of the results (`result_layouts`).
            keep: As in `run`.

        Returns:
            What is read.
        """
        rows, entries, entry, head, ticks = jax.device_get(
            (state.rows.row, state.entries.row, state.entry, state.head, state.ticks)
        )
        results, count = Results(layouts[0].read(rows), layouts[1].read(entries)), entries.shape[1]
        counts, complete = results.totals(keep)
        return cls(
            live=(entry < count).sum(1),
            waiting=head < count,
            ticks=ticks,
            complete=np.asarray(complete),
            adversarial=np.asarray(results.best.adversarial),
            nonfinite=np.asarray(results.rows.nonfinite),
            counts=counts,
        )


class LoopPrograms(NamedTuple):
    """The programs of a loop. Every array has a leading axis of devices.

    Attributes:
        begin: (attack, model, table, key, width) -> (keys of the table, loop state).
        go_on: (attack, model, table with keys, loop state, ends) -> loop state. The state that it
            is given is updated in place.
    """

    begin: Program
    go_on: Program


@functools.lru_cache
def loop_programs(
    keep: str, halve: bool, devices: ChosenDevices, simple: bool = False
) -> LoopPrograms:
    """Return the programs that begin and continue a loop, on one device or on several.

    Args:
        keep: As in `run`.
        halve: As in `run`.
        devices: The devices.
        simple: Whether the loop is compiled in a simpler way (`Attack.simple_norms`).

    Returns:
        The programs.
    """
    platform = mesh_of(devices).devices.flat[0].platform
    mode = Mode(keep, halve, rewrite=platform == "cpu")

    def begin(
        attack: Attack, model: Model, table: Table, key: Array, width: int
    ) -> tuple[Array, LoopState]:
        table = take(table, 0).with_keys(attack, key)
        state = init_lanes(attack, model, table, width)
        return jax.tree.map(lambda leaf: leaf[None], (table.keys, state))

    def go_on(
        attack: Attack, model: Model, table: Table, state: LoopState, ends: Ends
    ) -> LoopState:
        table, state = take((table, state), 0)
        state = run_lanes(attack, model, table, state, ends, mode)
        return jax.tree.map(lambda leaf: leaf[None], state)

    def begin_all(attack: Attack, model: Model, table: Table, key: Array, width: int) -> Any:
        if len(devices) == 1:
            return begin(attack, model, table, key, width)
        each = several(lambda a, m, t, k: begin(a, m, t, k, width), in_specs=(one, one, split, one))
        return each(attack, model, table, key)

    split, one = PartitionSpec("devices"), PartitionSpec()
    several = functools.partial(
        jax.shard_map, mesh=mesh_of(devices), out_specs=split, check_vma=False
    )
    go_on_all = go_on
    if len(devices) > 1:
        go_on_all = several(go_on, in_specs=(one, one, split, split, one))
    options, place = brief_options(platform), sharded(devices)
    looping = simple_options(platform) if simple else None
    return LoopPrograms(
        Program(
            jax.jit(begin_all, static_argnums=4, out_shardings=place, compiler_options=options),
            static=4,
        ),
        Program(
            jax.jit(go_on_all, donate_argnums=3, out_shardings=place, compiler_options=looping)
        ),
    )


@functools.lru_cache
def shrinking(width: int, devices: ChosenDevices) -> Program:
    """Return the program that leaves `width` lanes of a loop state on each device."""
    platform = mesh_of(devices).devices.flat[0].platform
    options, place = brief_options(platform), sharded(devices)
    shrink = jax.vmap(lambda state: shrink_lanes(state, width))
    return Program(jax.jit(shrink, out_shardings=place, compiler_options=options))
