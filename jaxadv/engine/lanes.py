"""Continuous batching: a fixed number of lanes; a finished lane takes the next queue entry. Pure.

One inner loop records the results of finished lanes and loads new entries, a few at a time; the
other ticks until a lane is finished. All of it is one compiled program, which returns to its caller
after a given number of ticks and can be continued. The lanes are carried in packed form.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxadv.core.attack import Attack, Problem
from jaxadv.core.model import Model
from jaxadv.core.pytree import take, where
from jaxadv.core.typing import Number
from jaxadv.cpu.hoist import hoisted
from jaxadv.engine.batch import on_cpu, tick_function
from jaxadv.engine.packing import Layout, Packed, put_rows, take_rows
from jaxadv.engine.queue import EntryResult, Results, RowResult, Table, improves, success_rank
from jaxadv.engine.tick import Lane

WINDOW = 1024  # entries of the queue that are searched at once


class LoopState(NamedTuple):
    """State of the compiled loop with L lanes, M rows and R entries a row.

    Attributes:
        problems: The problem of each lane, packed; no tick changes it.
        lanes: The rest of the lanes, packed; whether they are finished stands in `finished`.
        finished: Whether each lane waits for its entry to be recorded.
        entry: The queue entry in each lane (R * M: none).
        age: The ticks of each lane's entry.
        head: The head of the queue.
        ticks: The ticks of the whole loop.
        images: The best image so far of each row [M].
        rows: The results so far of the rows, without the image, packed.
        entries: The results so far of the entries, packed.
    """

    problems: Packed
    lanes: Packed
    finished: Bool[Array, " L"]
    entry: Int[Array, " L"]
    age: Int[Array, " L"]
    head: Int[Array, ""]
    ticks: Int[Array, ""]
    images: Float[Array, "M H W C"]
    rows: Packed
    entries: Packed

    @property
    def live(self) -> Bool[Array, " L"]:
        """Which lanes hold an entry."""
        return self.entry < len(self.entries.row)

    @property
    def waiting(self) -> Bool[Array, ""]:
        """Whether the queue holds further entries."""
        return self.head < len(self.entries.row)


class Ends(NamedTuple):
    """Numbers at which the loop or an entry ends.

    Attributes:
        until: Ticks after which the loop returns.
        limit: The most ticks of one entry.
        most: The most model outputs that an entry may use (None: no limit).
    """

    until: Number
    limit: Number
    most: Number | None = None


class Mode(NamedTuple):
    """How the loop is compiled.

    Attributes:
        keep: As in `run`.
        halve: Whether to return, too, once the queue is empty and half of the lanes are idle.
        rewrite: Whether to rewrite the program for the CPU (None: if it runs on a CPU).
    """

    keep: str
    halve: bool = False
    rewrite: bool | None = None


class Layouts(NamedTuple):
    """How the packed parts of a loop state are read.

    Attributes:
        problem: Of the problem of one lane.
        lane: Of the rest of one lane; its fields `problem` and `finished` are None.
        row: Of the result of one row; its field `best.image` is None.
        entry: Of the result of one entry.
    """

    problem: Layout
    lane: Layout
    row: Layout
    entry: Layout

    @classmethod
    def of(cls, attack: Attack, model: Model, table: Table) -> "Layouts":
        """Return the layouts of an attack on the rows of a table that has keys."""

        def one(table: Table) -> tuple[Problem, Lane]:
            return apart(table.lane(attack, model.bounds, jnp.int32(0), jnp.int32(0)))

        assert table.keys is not None
        problem, lane = jax.eval_shape(one, table)
        lanes = Layout(problem, table.keys), Layout(lane, table.keys)
        return cls(*lanes, *result_layouts(attack, table))

    def lanes(self, state: LoopState) -> Lane:
        """Return the lanes of a loop state."""
        # What the compiler derives from the problems alone, such as the box, it moves out of the
        # loop; it could not if they were packed with what a tick changes.
        problem, rest = self.problem.unpack(state.problems), self.lane.unpack(state.lanes)
        return rest._replace(problem=problem, finished=state.finished)

    def results(self, state: LoopState) -> Results:
        """Return the results of a loop state."""
        rows = self.row.unpack(state.rows)
        rows = rows._replace(best=rows.best._replace(image=state.images))
        return Results(rows, self.entry.unpack(state.entries))


def result_layouts(attack: Attack, table: Table) -> tuple[Layout, Layout]:
    """Return the layouts of the result of one row, without its image, and of one entry."""
    leaves, structure = jax.tree.flatten(table)
    kinds = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    return _result_layouts(attack.entries, structure, kinds)


@functools.lru_cache  # a trace takes as long as ten ticks of a small network
def _result_layouts(
    restarts: int, structure: Any, kinds: tuple[jax.ShapeDtypeStruct, ...]
) -> tuple[Layout, Layout]:
    table = structure.unflatten(kinds)

    def each(table: Table) -> tuple[RowResult, EntryResult]:
        rows, entries = take(Results.empty(table, restarts), 0)
        return without_image(rows), entries

    row, entry = jax.eval_shape(each, table)
    return Layout(row, table.keys), Layout(entry, table.keys)


def apart(lane: Lane) -> tuple[Problem, Lane]:
    """Return the problem of a lane, and the rest without whether it is finished."""
    return lane.problem, lane._replace(problem=None, finished=None)


def without_image(result: RowResult) -> RowResult:
    """Return the result of a row without its image."""
    return result._replace(best=result.best._replace(image=None))


def _first(mask: Bool[Array, " N"], count: int) -> Int[Array, " count"]:
    """Return the places of the first `count` true entries (N where there are fewer)."""
    size = len(mask)
    # A cumulative sum and a search give the same, and take five times as long to compile.
    descending, _ = lax.top_k(jnp.where(mask, size - jnp.arange(size, dtype=jnp.float32), 0), count)
    return size - descending.astype(jnp.int32)


def init_lanes(attack: Attack, model: Model, table: Table, width: int) -> LoopState:
    """Return a loop state of `width` empty lanes, all of which wait for an entry."""
    layouts = Layouts.of(attack, model, table)
    results = Results.empty(table, attack.entries)

    def empty(layout: Layout) -> Packed:
        leaves = [jnp.zeros((width, *leaf.shape), leaf.dtype) for leaf in layout.leaves]
        return layout.pack(layout.structure.unflatten(leaves))

    none = jnp.zeros(width, jnp.int32)
    return LoopState(
        problems=empty(layouts.problem),
        lanes=empty(layouts.lane),
        finished=jnp.ones(width, bool),
        entry=none + len(results.entries.ended),
        age=none,
        head=jnp.int32(0),
        ticks=jnp.int32(0),
        images=results.best.image,
        rows=layouts.row.pack(without_image(results.rows)),
        entries=layouts.entry.pack(results.entries),
    )


class Slots(NamedTuple):
    """The finished lanes that are recorded and loaded at once, S at most, in their order.

    Attributes:
        lane: The place of each (L: there are fewer).
        occupied: Whether there is one, and it is recorded now.
    """

    lane: Int[Array, " S"]
    occupied: Bool[Array, " S"]


def _turn_over(
    attack: Attack, model: Model, table: Table, layouts: Layouts, keep: str, state: LoopState
) -> LoopState:
    """Record some lanes, those finished first, and load their next entries."""
    width, rows = len(state.entry), len(state.rows.row)
    # Where no success ends a run, all lanes are done at once; else a few at a time.
    several = width if keep in ("loss", "last") else max(1, width // 8)
    # An entry is dropped once a lower rank of its row has succeeded.
    racing = attack.entries > 1 and keep == "first"
    state, slots = _record_finished(layouts, racing, several, state)
    fresh, loaded, head = _next_entries(table, layouts, racing, state, slots)
    started = jax.vmap(lambda row, rank: table.lane(attack, model.bounds, row, rank))(
        fresh % rows, fresh // rows
    )
    return _load(layouts, started, state, slots, fresh, loaded, head)


def _succeeded_at(layouts: Layouts, state: LoopState, row: Int[Array, " N"]) -> Int[Array, " N"]:
    """Return the rank at which each row has succeeded so far."""
    result = layouts.row.unpack(take_rows(state.rows, row))
    return success_rank(result.best.tier, result.rank)


def _record_finished(
    layouts: Layouts, racing: bool, several: int, state: LoopState
) -> tuple[LoopState, Slots]:
    """Record up to `several` finished lanes; return which they are."""
    rows, entries, width = len(state.rows.row), len(state.entries.row), len(state.entry)
    entry, finished = state.entry, state.finished
    if racing:  # a lower rank has succeeded meanwhile
        won = _succeeded_at(layouts, state, entry % rows)
        dropped = (entry < entries) & (entry // rows > won)
        entry, finished = jnp.where(dropped, entries, entry), finished | dropped
    lane = _first(finished, several)
    occupied = lane < width
    inside = jnp.minimum(lane, width - 1)
    own = jnp.where(occupied, take_rows(entry, inside), entries)
    row, rank = own % rows, own // rows
    if entries > rows:  # two ranks of one row: the second waits for the next turn
        both = (row[:, None] == row[None]) & (own < entries)[None] & (own < entries)[:, None]
        waits = jnp.tril(both, -1).any(1)
        occupied, own = occupied & ~waits, jnp.where(waits, entries, own)
    ended = layouts.lane.unpack(take_rows(state.lanes, inside))
    old = layouts.row.unpack(take_rows(state.rows, row))
    wins = improves(ended, rank, old)
    best = where(wins, ended.best._replace(image=None), old.best)
    nonfinite = old.nonfinite | ended.nonfinite
    result = RowResult(best, jnp.where(wins, rank, old.rank), nonfinite)
    entry_result = EntryResult(ended.counts, jnp.ones(several, bool))
    into = jnp.where(own < entries, row, rows)
    state = state._replace(
        entry=entry,
        finished=finished,
        images=put_rows(state.images, jnp.where(wins, into, rows), ended.best.image),
        rows=put_rows(state.rows, into, layouts.row.pack(result)),
        entries=put_rows(state.entries, own, layouts.entry.pack(entry_result)),
    )
    return state, Slots(lane, occupied)


def _next_entries(
    table: Table, layouts: Layouts, racing: bool, state: LoopState, slots: Slots
) -> tuple[Int[Array, " S"], Bool[Array, " S"], Int[Array, ""]]:
    """Return the next wanted entry for each recorded lane, whether there is one, and the new head.

    At most `WINDOW` entries of the queue are looked through.
    """
    rows, entries, several = len(state.rows.row), len(state.entries.row), len(slots.lane)
    ahead = state.head + jnp.arange(max(several, min(WINDOW, entries)))
    wanted = (ahead < entries) & take_rows(table.active, ahead % rows)
    if racing:
        wanted &= ahead // rows <= _succeeded_at(layouts, state, ahead % rows)
    places = _first(wanted, several)
    # The first free lane takes the first wanted entry, and so on.
    free = jnp.tril(jnp.broadcast_to(slots.occupied, (several, several)), -1).sum(1)
    chosen = take_rows(places, free)
    loaded = slots.occupied & (chosen < len(ahead))
    needed, available = slots.occupied.sum(), jnp.minimum(wanted.sum(), several)
    last = places[jnp.maximum(needed - 1, 0)]
    step = jnp.where(needed <= available, last + 1, len(ahead))
    head = jnp.minimum(state.head + jnp.where(needed == 0, 0, step), entries)
    return jnp.where(loaded, state.head + chosen, 0), loaded, head


def _load(
    layouts: Layouts,
    started: Lane,
    state: LoopState,
    slots: Slots,
    fresh: Int[Array, " S"],
    loaded: Bool[Array, " S"],
    head: Int[Array, ""],
) -> LoopState:
    """Put started entries into the recorded lanes; a lane without an entry becomes idle."""
    entries, width = len(state.entries.row), len(state.entry)
    into = jnp.where(loaded, slots.lane, width)
    # What each lane holds from now on (-1: as before); few comparisons in place of a scatter.
    own = (slots.lane == jnp.arange(width)[:, None]) & slots.occupied
    new = jnp.where(own, jnp.where(loaded, fresh, entries), -1).max(1)
    entry = jnp.where(new < 0, state.entry, new)
    idle = (entry >= entries) & (head >= entries)
    problem, rest = apart(started)
    return state._replace(
        problems=put_rows(state.problems, into, layouts.problem.pack(problem)),
        lanes=put_rows(state.lanes, into, layouts.lane.pack(rest)),
        finished=state.finished & ((new < 0) | (new >= entries)) & ~idle,
        entry=entry,
        age=jnp.where(new < 0, state.age, 0),
        head=head,
    )


def run_lanes(
    attack: Attack, model: Model, table: Table, state: LoopState, ends: Ends, mode: Mode
) -> LoopState:
    """Run until queue and lanes are empty, or the number of ticks is reached. Pure.

    Args:
        attack: The attack, specialized for the goal.
        model: The model under attack.
        table: The rows, with keys.
        state: The loop state to continue from.
        ends: Numbers at which the loop or an entry ends.
        mode: How the loop is compiled.

    Returns:
        The loop state after the last tick.
    """
    layouts = Layouts.of(attack, model, table)
    step = tick_function(attack, model, mode.keep, mode.rewrite)
    if on_cpu() if mode.rewrite is None else mode.rewrite:
        step = hoisted(step, *jax.eval_shape(lambda s: (layouts.lanes(s), s.live), state))
    stop = state.ticks + ends.until
    turn_over = functools.partial(_turn_over, attack, model, table, layouts, mode.keep)

    def unrecorded(state: LoopState) -> Bool[Array, ""]:
        return state.finished.any()

    def proceed(state: LoopState) -> Bool[Array, ""]:
        live = state.live
        going = (state.ticks < stop) & live.any()
        if mode.halve:
            going &= state.waiting | (live.sum() > len(live) // 2)
        return going

    def one_tick(state: LoopState) -> LoopState:
        live, age = state.live, state.age + 1
        lanes = step(layouts.lanes(state), live)
        spent = age >= ends.limit
        if ends.most is not None:
            spent |= lanes.counts.queries >= ends.most
        return state._replace(
            lanes=layouts.lane.pack(apart(lanes)[1]),
            finished=live & (lanes.finished | spent),
            age=age,
            ticks=state.ticks + 1,
        )

    def outer(state: LoopState) -> LoopState:
        state = lax.while_loop(unrecorded, turn_over, state)
        return lax.while_loop(lambda s: proceed(s) & ~unrecorded(s), one_tick, state)

    return lax.while_loop(lambda s: proceed(s) | unrecorded(s), outer, state)


def shrink_lanes(state: LoopState, width: int) -> LoopState:
    """Return the same loop state with `width` lanes; at most that many may be live."""
    order = jnp.argsort(~state.live, stable=True)[:width]
    return state._replace(
        problems=take(state.problems, order),
        lanes=take(state.lanes, order),
        finished=state.finished[order],
        entry=state.entry[order],
        age=state.age[order],
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
    rewrite: bool | None = None,
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
        rewrite: Whether to rewrite the program for the CPU (None: if it runs on a CPU).

    Returns:
        The results of all rows.
    """
    attack = attack.specialize(table.goal, table.clean_logits.shape[-1])
    limit = attack.ticks if limit is None else min(limit, attack.ticks)
    table = table.with_keys(attack, key)
    state = init_lanes(attack, model, table, lanes)
    ends = Ends(jnp.int32(jnp.iinfo(jnp.int32).max), jnp.int32(limit))
    state = run_lanes(attack, model, table, state, ends, Mode(keep, rewrite=rewrite))
    return Layouts.of(attack, model, table).results(state)
