"""Continuous batching: a fixed number of lanes; a finished lane takes the next queue entry. Pure.

One inner loop records the results of finished lanes and loads new entries, a few at a time; the
other ticks until a lane is finished. All of it is one compiled program, which returns to its caller
after a given number of ticks and can be continued.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from jaxadv.core.attack import Attack
from jaxadv.core.model import Model
from jaxadv.core.pytree import take
from jaxadv.engine.batch import advance, tick_function
from jaxadv.engine.queue import Results, Table
from jaxadv.engine.tick import Lane, needs_gradient

WINDOW = 1024  # entries of the queue that are searched at once


class LoopState(NamedTuple):
    """State of the compiled loop with L lanes, M rows and R entries a row.

    Attributes:
        lanes: The lanes [L].
        entry: Integers [L], the queue entry in each lane (R * M: none).
        age: Integers [L], the ticks of each lane's entry.
        head: Integer, the head of the queue.
        gathered: The results so far.
        ticks: Integer, the ticks of the whole loop.
    """

    lanes: Lane
    entry: Any
    age: Any
    head: Any
    gathered: Results
    ticks: Any


class Ends(NamedTuple):
    """Numbers at which the loop or an entry ends.

    Attributes:
        until: Ticks after which the loop returns.
        limit: The most ticks of one entry.
        most: The most model outputs that an entry may use (None: no limit).
    """

    until: Any
    limit: Any
    most: Any = None


class Mode(NamedTuple):
    """How the loop is compiled.

    Attributes:
        keep: As in `run`.
        halve: Whether to return, too, once the queue is empty and half of the lanes are idle.
        cure: Whether to rewrite the program for the CPU (None: if it runs on a CPU).
    """

    keep: str
    halve: bool = False
    cure: bool | None = None


def _first(mask: Bool[Array, " N"], count: int) -> Int[Array, " count"]:
    """Return the places of the first `count` true entries (N where there are fewer)."""
    return jnp.searchsorted(jnp.cumsum(mask), jnp.arange(1, count + 1), method="compare_all")


def init_lanes(attack: Attack, model: Model, table: Table, key: Array, width: int) -> LoopState:
    """Return a loop state of `width` empty lanes, all of which wait for an entry."""
    one = jax.eval_shape(lambda: table.lane(attack, model.bounds, key, jnp.int32(0), jnp.int32(0)))
    lanes = jax.tree.map(lambda leaf: jnp.zeros((width, *leaf.shape), leaf.dtype), one)
    lanes = lanes._replace(finished=jnp.ones(width, bool))
    none = jnp.zeros(width, jnp.int32)
    empty = none + table.source.shape[0] * attack.entries
    gathered = Results.empty(table, attack.entries)
    return LoopState(lanes, empty, none, jnp.int32(0), gathered, jnp.int32(0))


def _turn_over(
    attack: Attack,
    model: Model,
    table: Table,
    key: Array,
    keep: str,
    several: int,
    flight: LoopState,
) -> LoopState:
    """Record up to `several` lanes, those finished first, and load their next entries."""
    # An entry is dropped once a lower rank of its row has succeeded.
    racing = attack.entries > 1 and keep == "first"
    flight, slot, occupied = _settle_finished(attack, racing, several, flight)
    fresh, loaded, head = _next_entries(table, racing, several, flight, occupied)
    rows = table.source.shape[0]
    started = jax.vmap(lambda r, k: table.lane(attack, model.bounds, key, r, k))(
        fresh % rows, fresh // rows
    )
    return _load(flight, started, slot, occupied, fresh, loaded, head)


def _settle_finished(
    attack: Attack, racing: bool, several: int, flight: LoopState
) -> tuple[LoopState, Int[Array, " S"], Bool[Array, " S"]]:
    """Record up to `several` finished lanes; return their places and which are recorded."""
    rows, width = flight.gathered.rank.shape[0], flight.entry.shape[0]
    entries = rows * attack.entries
    lanes, entry, gathered = flight.lanes, flight.entry, flight.gathered
    if racing:  # a lower rank has succeeded meanwhile
        dropped = (entry < entries) & (entry // rows > gathered.success_rank(entry % rows))
        entry = jnp.where(dropped, entries, entry)
        lanes = lanes._replace(finished=lanes.finished | dropped)
    slot = _first(lanes.finished, several)
    occupied = slot < width
    settling = jnp.where(occupied, entry.at[slot].get(mode="fill", fill_value=entries), entries)
    row, rank = settling % rows, settling // rows
    if attack.entries > 1:  # two ranks of one row: the second waits for the next turn
        earlier = (
            (row[:, None] == row[None]) & (settling < entries)[None] & (settling < entries)[:, None]
        )
        waits = jnp.tril(earlier, -1).any(1)
        occupied, settling = occupied & ~waits, jnp.where(waits, entries, settling)
    gathered = gathered.settle(
        take(lanes, jnp.minimum(slot, width - 1)), row, rank, settling < entries
    )
    return flight._replace(lanes=lanes, entry=entry, gathered=gathered), slot, occupied


def _next_entries(
    table: Table, racing: bool, several: int, flight: LoopState, occupied: Bool[Array, " S"]
) -> tuple[Int[Array, " S"], Bool[Array, " S"], Int[Array, ""]]:
    """Return the next wanted entry for each recorded lane, whether there is one, and the new head.

    At most `WINDOW` entries of the queue are looked through.
    """
    rows, entries = table.source.shape[0], flight.gathered.ended.shape[0]
    ahead = flight.head + jnp.arange(min(WINDOW, entries))
    wanted = (ahead < entries) & table.active[ahead % rows]
    if racing:
        wanted &= ahead // rows <= flight.gathered.success_rank(ahead % rows)
    free = jnp.cumsum(occupied) - 1  # index of this lane among the free ones
    places = _first(wanted, several)
    chosen = jnp.where(occupied, places.at[free].get(mode="clip"), ahead.shape[0])
    loaded = occupied & (chosen < ahead.shape[0])
    needed, found = occupied.sum(), jnp.minimum(wanted.sum(), several)
    last = places[jnp.maximum(needed - 1, 0)]
    head = flight.head + jnp.where(
        needed == 0, 0, jnp.where(needed <= found, last + 1, ahead.shape[0])
    )
    return jnp.where(loaded, flight.head + chosen, 0), loaded, jnp.minimum(head, entries)


def _load(
    flight: LoopState,
    started: Lane,
    slot: Int[Array, " S"],
    occupied: Bool[Array, " S"],
    fresh: Int[Array, " S"],
    loaded: Bool[Array, " S"],
    head: Int[Array, ""],
) -> LoopState:
    """Put started entries into the recorded lanes; a lane without an entry becomes idle."""
    entries, width = flight.gathered.ended.shape[0], flight.entry.shape[0]
    into = jnp.where(loaded, slot, width)
    lanes = jax.tree.map(lambda old, new: old.at[into].set(new, mode="drop"), flight.lanes, started)
    emptied = jnp.where(occupied, slot, width)
    entry = flight.entry.at[emptied].set(jnp.where(loaded, fresh, entries), mode="drop")
    idle = (entry >= entries) & (head >= entries)
    return flight._replace(
        lanes=lanes._replace(finished=lanes.finished & ~idle),
        entry=entry,
        age=flight.age.at[emptied].set(0, mode="drop"),
        head=head,
    )


def live(flight: LoopState) -> Bool[Array, " L"]:
    """Return which lanes hold an entry."""
    return flight.entry < flight.gathered.ended.shape[0]


def run_lanes(
    attack: Attack,
    model: Model,
    table: Table,
    key: Array,
    flight: LoopState,
    ends: Ends,
    mode: Mode,
) -> LoopState:
    """Run until queue and lanes are empty, or the number of ticks is reached. Pure.

    Args:
        attack: The attack, specialized for the goal.
        model: The model under attack.
        table: The rows.
        key: A JAX random key.
        flight: The loop state to continue from.
        ends: Numbers at which the loop or an entry ends.
        mode: How the loop is compiled.

    Returns:
        The loop state after the last tick.
    """
    step = tick_function(attack, model, mode.keep, mode.cure)
    width = flight.entry.shape[0]
    stop = flight.ticks + ends.until
    # Where no success ends a run, all lanes are done at once; else a few at a time.
    several = width if mode.keep in ("loss", "last") else max(1, width // 8)
    turn_over = functools.partial(_turn_over, attack, model, table, key, mode.keep, several)

    def unsettled(flight: LoopState) -> Any:
        return flight.lanes.finished.any()

    def sparse(flight: LoopState) -> Any:
        dry = flight.head >= flight.gathered.ended.shape[0]
        return mode.halve & dry & (live(flight).sum() <= width // 2)

    def in_flight(flight: LoopState) -> Any:
        going = (flight.ticks < stop) & live(flight).any() & ~unsettled(flight)
        return going & ~sparse(flight)

    def one_tick(flight: LoopState, backward: bool) -> LoopState:
        alive = live(flight)
        age = flight.age + 1
        lanes = step(flight.lanes, alive, backward)
        spent = age >= ends.limit
        if ends.most is not None:
            spent |= lanes.counts.queries >= ends.most
        finished = alive & (lanes.finished | spent)
        return flight._replace(
            lanes=lanes._replace(finished=finished), age=age, ticks=flight.ticks + 1
        )

    def outer(flight: LoopState) -> LoopState:
        flight = lax.while_loop(unsettled, turn_over, flight)
        return advance(
            in_flight,
            lambda f: needs_gradient(attack, f.lanes, live(f)),
            one_tick,
            flight,
            attack.pullbacks > 0,
        )

    def go_on(flight: LoopState) -> Any:
        more = live(flight).any() & (flight.ticks < stop) & ~sparse(flight)
        return more | unsettled(flight)

    return lax.while_loop(go_on, outer, flight)


def shrink_lanes(flight: LoopState, width: int) -> LoopState:
    """Return the same loop state with `width` lanes; at most that many may be live."""
    order = jnp.argsort(~live(flight), stable=True)[:width]
    return flight._replace(
        lanes=take(flight.lanes, order), entry=flight.entry[order], age=flight.age[order]
    )


def drive_lanes(
    attack: Attack,
    model: Model,
    table: Table,
    key: Array,
    *,
    keep: str,
    lanes: int,
    limit: int | None = None,
    cure: bool | None = None,
) -> Results:
    """Run the whole table in `lanes` lanes, in one call. Pure, as `drive_batch` is.

    Args:
        attack: The attack with its settings.
        model: The model under attack.
        table: The rows.
        key: A JAX random key.
        keep: As in `run`.
        lanes: Number of lanes.
        limit: The most ticks per entry (None: those of the attack).
        cure: Whether to rewrite the program for the CPU (None: if it runs on a CPU).

    Returns:
        The results of all rows.
    """
    attack = attack.specialize(table.goal, table.clean_logits.shape[-1])
    limit = attack.ticks if limit is None else min(limit, attack.ticks)
    flight = init_lanes(attack, model, table, key, lanes)
    ends = Ends(jnp.iinfo(jnp.int32).max, limit)
    return run_lanes(attack, model, table, key, flight, ends, Mode(keep, cure=cure)).gathered
