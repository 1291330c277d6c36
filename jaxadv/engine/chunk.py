"""One chunk of rows on the devices: the compiled loop, the host's looks at it, verified answers."""

import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array

from jaxadv.core.attack import Attack, safe_epsilon
from jaxadv.core.goals import Goal
from jaxadv.core.model import Model
from jaxadv.core.pytree import take
from jaxadv.core.result import Result, Status
from jaxadv.engine import checks
from jaxadv.engine.lanes import fly, live, narrow, take_off
from jaxadv.engine.table import Table
from jaxadv.engine.verify import bucket, forward_sharded, margins, mesh_of, predict, sharded, verify

PIECE_SECONDS = 2.0  # how long a compiled program runs before the host looks in
Progress = Callable[[int, int, int], None]  # rows done, rows in all, successes so far


class Budget(NamedTuple):
    """Where to stop; None is no limit.

    steps: ticks (one forward and backward pass) per image and restart; passes: images sent forward
    and gradients pulled back by the hardware in the whole run, idle lanes included; seconds: wall
    time, compilation included. What was not finished has the status NOT_RUN, and is finished by
    another run with its ids. queries: answers read per image and restart; the tick that reaches it
    is the last.
    """

    steps: int | None = None
    passes: int | None = None
    seconds: float | None = None
    queries: int | None = None


class Batch(NamedTuple):
    """images, goal, ids, clean_logits: of N images; source, epsilon, start, seeds: of M rows."""

    images: np.ndarray
    goal: Goal
    ids: np.ndarray
    source: np.ndarray
    epsilon: np.ndarray
    clean_logits: np.ndarray | None
    start: np.ndarray | None
    seeds: np.ndarray | None


def _deal(values: np.ndarray, owner: np.ndarray, parts: int, size: int) -> np.ndarray:
    """Values [N, ...] to [parts, size, ...]: each part its own, in order, padded with zeros."""
    dealt = np.zeros((parts, size, *values.shape[1:]), values.dtype)
    for part in range(parts):
        own = values[owner == part]
        dealt[part, : len(own)] = own
    return dealt


@functools.lru_cache
def programs(keep: str, halve: bool, devices: tuple[Any, ...]) -> tuple[Any, Any]:
    """Jitted (take off) and (fly on), on one device or on each of several.

    Every array has a leading axis of devices. The flight is donated: it stays in place.
    """
    cure = devices[0].platform == "cpu"

    def begin(attack: Attack, model: Model, table: Table, key: Array, width: int) -> Any:
        flight = take_off(attack, model, take(table, 0), key, width)
        return jax.tree.map(lambda leaf: leaf[None], flight)

    def go_on(attack, model, table, key, flight, until, limit, most) -> Any:
        flight = fly(
            attack, model, take(table, 0), key, take(flight, 0),
            keep=keep, until=until, limit=limit, most=most, halve=halve, cure=cure,
        )  # fmt: skip
        _, complete = flight.gathered.totals(keep)
        found = flight.gathered.best.adversarial & complete
        seen = (live(flight).sum(), flight.head < flight.gathered.ended.shape[0], complete, found)
        return jax.tree.map(lambda leaf: leaf[None], (flight, seen))

    if len(devices) == 1:
        return jax.jit(begin, static_argnums=4), jax.jit(go_on, donate_argnums=4)
    split, whole = PartitionSpec("devices"), PartitionSpec()
    several = functools.partial(
        jax.shard_map, mesh=mesh_of(devices), out_specs=split, check_vma=False
    )

    @functools.partial(jax.jit, static_argnums=4)
    def begin_all(attack, model, table, key, width) -> Any:
        each = several(lambda a, m, t, k: begin(a, m, t, k, width),
                       in_specs=(whole, whole, split, whole))  # fmt: skip
        return each(attack, model, table, key)

    go_on_all = several(go_on, in_specs=(whole, whole, split, whole, split, whole, whole, whole))
    return begin_all, jax.jit(go_on_all, donate_argnums=4)


@functools.partial(jax.jit, static_argnums=1)
def _totals(gathered: Any, keep: str) -> Any:
    return jax.vmap(lambda one: one.totals(keep))(gathered)


@functools.lru_cache
def _narrowing(width: int) -> Any:
    return jax.jit(jax.vmap(lambda flight: narrow(flight, width)))


def fly_chunk(
    attack: Attack, model: Model, batch: Batch, key: Array, keep: str, devices: tuple[Any, ...],
    width: int, halve: bool, budget: Budget, interrupted: Callable[[], bool], began: float,
    spent: int, outcome: Result, mine: np.ndarray, judge: Model | None, again: bool,
    progress: Progress | None,
) -> int:  # fmt: skip
    """Attack one chunk and write its verified rows into `outcome`; returns the lane ticks."""
    parts = len(devices)
    place = sharded(devices)
    image_owner = np.arange(len(batch.images)) % parts
    row_owner = batch.source % parts
    per_image = bucket(math.ceil(len(batch.images) / parts), width)
    per_row = bucket(int(np.bincount(row_owner, minlength=parts).max()), width)

    def deal(values: Any, owner: np.ndarray, size: int) -> Any:
        return jax.tree.map(
            lambda leaf: jax.device_put(_deal(np.asarray(leaf), owner, parts, size), place), values
        )

    images = deal(batch.images, image_owner, per_image)
    if batch.clean_logits is None:
        clean = forward_sharded(model, images, width, devices)
        logits = np.asarray(clean).swapaxes(0, 1).reshape(-1, clean.shape[-1])[: len(batch.images)]
    else:
        logits = np.asarray(batch.clean_logits, np.float32)
        clean = deal(logits, image_owner, per_image)
    if interrupted():
        return 0
    if batch.clean_logits is None:
        checks.warn_about_logits(logits)
    clean_margin = margins(batch.goal, logits)
    checks.warn_about_targets(batch.goal, clean_margin)
    active = np.ones(len(batch.source), bool)
    if keep in ("first", "distance"):
        active = ~(clean_margin[batch.source] < 0)
    radius = safe_epsilon(attack.norm, batch.epsilon)
    table = Table(
        images=images,
        clean_logits=clean,
        source=deal((batch.source // parts).astype(np.int32), row_owner, per_row),
        goal=deal(take(batch.goal, batch.source), row_owner, per_row),
        epsilon=deal(radius, row_owner, per_row),
        ids=deal(batch.ids[batch.source].astype(np.int32), row_owner, per_row),
        active=deal(active, row_owner, per_row),
        start=None if batch.start is None else deal(batch.start, row_owner, per_row),
        seeds=None if batch.seeds is None else deal(batch.seeds, row_owner, per_row),
    )
    begin, go_on = programs(keep, halve, devices)
    limit = attack.ticks if budget.steps is None else min(budget.steps, attack.ticks)
    most = jnp.iinfo(jnp.int32).max if budget.queries is None else budget.queries
    ends = (jnp.int32(limit), jnp.int32(most))
    flight = begin(attack, model, table, key, width)
    skipped = int((~active).sum())
    ticks, lane_ticks, until, complete = 0, 0, 8, None
    passes = attack.queries * (1 + attack.pullbacks) * parts
    while True:
        if budget.passes is not None:
            left = budget.passes - (spent + lane_ticks) * attack.queries * (1 + attack.pullbacks)
            until = min(until, left // (passes * width))
        late = budget.seconds is not None and time.perf_counter() - began > budget.seconds
        if until < 1 or late or interrupted():
            break
        tick = time.perf_counter()
        flight, seen = go_on(attack, model, table, key, flight, jnp.int32(until), *ends)
        alive, waiting, complete, found = jax.device_get(seen)
        elapsed = time.perf_counter() - tick
        before, ticks = ticks, int(np.asarray(flight.ticks).max())
        lane_ticks += (ticks - before) * width * parts
        # Only rows that are attacked are ever complete: neither padding nor clean successes are.
        if progress is not None:
            progress(int(complete.sum()) + skipped, len(batch.source), int(found.sum()) + skipped)
        if not alive.any() and not waiting.any():
            break
        if halve and width > 1 and not waiting.any() and alive.max() <= width // 2:
            width //= 2
            flight = _narrowing(width)(flight)
        until = int(np.clip(until * PIECE_SECONDS / max(elapsed, 1e-3), until / 4 + 1, until * 4))
    _write(attack, model, batch, keep, devices, flight, active, clean_margin, row_owner, outcome,
           mine, judge, again)  # fmt: skip
    return lane_ticks


def _write(
    attack: Attack, model: Model, batch: Batch, keep: str, devices: tuple[Any, ...], flight: Any,
    active: np.ndarray, clean_margin: np.ndarray, row_owner: np.ndarray, outcome: Result,
    mine: np.ndarray, judge: Model | None, again: bool,
) -> None:  # fmt: skip
    """Verify the rows of a chunk that are complete, and write them into `outcome`."""
    gathered = flight.gathered
    counts, complete = jax.device_get(_totals(gathered, keep))

    def collect(dealt: Any) -> np.ndarray:
        dealt = np.asarray(dealt)
        out = np.zeros((len(batch.source), *dealt.shape[2:]), dealt.dtype)
        for part in range(len(devices)):
            own = np.flatnonzero(row_owner == part)
            out[own] = dealt[part, : len(own)]
        return out

    originals = batch.images[batch.source]
    goal = take(batch.goal, batch.source)
    claimed = collect(gathered.best.adversarial)
    images = np.where(_like(active, originals), collect(gathered.best.image), originals)
    status, distance, margin = verify(
        model.fresh() if judge is None else judge,
        attack.norm,
        images,
        originals,
        goal,
        batch.epsilon,
        devices,
    )
    # A refusal is one of a claim; an image that never claimed anything has simply failed.
    unclaimed = ~claimed if judge is None or again else margin >= 0
    status[(status != Status.SUCCESS) & unclaimed] = Status.FAILED
    if judge is not None and again and keep in ("first", "distance"):
        wrong = margins(batch.goal, predict(judge, batch.images, devices))[batch.source] < 0
        status[active & wrong] = Status.REJECTED_LABEL  # the model attacked what need not be
    nonfinite = collect(gathered.nonfinite)
    status[(status == Status.FAILED) & nonfinite] = Status.NONFINITE
    status[~active & (status == Status.SUCCESS)] = Status.MISCLASSIFIED
    finished = collect(complete) | ~active
    status[~finished] = Status.NOT_RUN

    outcome.images[mine] = images
    outcome.status[mine] = status
    outcome.success[mine] = (status == Status.SUCCESS) | (status == Status.MISCLASSIFIED)
    outcome.distance[mine] = distance
    outcome.margin[mine] = margin
    for name in ("forward", "backward", "queries", "computed"):
        clean = name in ("forward", "computed") and batch.clean_logits is None
        getattr(outcome, name)[mine] = model.samples * (
            collect(getattr(counts, name)) * active + clean
        )


def _like(mask: np.ndarray, images: np.ndarray) -> np.ndarray:
    return mask.reshape(-1, *(1,) * (images.ndim - 1))
