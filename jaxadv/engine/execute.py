"""Run one chunk of rows on the devices: compiled loop, control by the host, verification."""

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
from jaxadv.engine.lanes import Ends, Mode, init_lanes, live, run_lanes, shrink_lanes
from jaxadv.engine.queue import Table
from jaxadv.engine.session import RowProgress, Rows
from jaxadv.engine.verify import bucket, forward_sharded, margins, mesh_of, predict, sharded, verify

PIECE_SECONDS = 2.0  # time between two checks by the host


class Budget(NamedTuple):
    """Limits at which a run stops; None is no limit.

    An entry that was not finished has the status NOT_RUN; another run with its ids finishes it.

    Attributes:
        steps: The most ticks (one forward and backward pass) per image and random restart.
        passes: The most forward and backward passes of the hardware in the whole run, idle lanes
            included.
        seconds: The most wall time, compilation included.
        queries: The most model outputs used per image and random restart; the tick that reaches
            this number is the last.
    """

    steps: int | None = None
    passes: int | None = None
    seconds: float | None = None
    queries: int | None = None


class Batch(NamedTuple):
    """The N images of one chunk and the rows that attack them.

    Attributes:
        images: Floats [N, H, W, C].
        goal: The goal, with integers [N].
        ids: Integers [N] that identify the images in the random keys.
        clean_logits: Floats [N, K], or None where they are not known.
        rows: The M rows that attack the images.
    """

    images: np.ndarray
    goal: Goal
    ids: np.ndarray
    clean_logits: np.ndarray | None
    rows: Rows


class Setup(NamedTuple):
    """How rows are attacked: what is the same for every chunk of a run.

    Attributes:
        attack: The attack, specialized for the goal.
        model: The model under attack.
        judge: The model that decides about success, or None for `model`.
        again: Whether to search again on the judge what it rejects.
        keep: As in `run`.
        key: A JAX random key.
        devices: The devices.
        lanes: Number of lanes on each device.
        halve: As in `run`.
        budget: Limits of the run.
    """

    attack: Attack
    model: Model
    judge: Model | None
    again: bool
    keep: str
    key: Array
    devices: tuple[Any, ...]
    lanes: int
    halve: bool
    budget: Budget

    @property
    def passes_per_tick(self) -> int:
        """Forward and backward passes of one lane in one tick."""
        return self.attack.queries * (1 + self.attack.pullbacks)


class Watch(NamedTuple):
    """What the host checks between two calls of the compiled loop.

    Attributes:
        began: When the run began, in seconds of `time.perf_counter`.
        interrupted: Returns whether to stop.
        progress: Called with (rows done, rows in all, successes), or None.
    """

    began: float
    interrupted: Callable[[], bool]
    progress: RowProgress | None


def _deal(values: np.ndarray, owner: np.ndarray, parts: int, size: int) -> np.ndarray:
    """Distribute values [N, ...] to [parts, size, ...] by owner, in order, padded with zeros."""
    dealt = np.zeros((parts, size, *values.shape[1:]), values.dtype)
    for part in range(parts):
        own = values[owner == part]
        dealt[part, : len(own)] = own
    return dealt


@functools.lru_cache
def programs(keep: str, halve: bool, devices: tuple[Any, ...]) -> tuple[Any, Any]:
    """Return the jitted functions that begin and continue the loop, on one device or on several.

    Every array has a leading axis of devices. The loop state is donated, so it is updated in place.
    """
    cure = devices[0].platform == "cpu"

    def begin(attack: Attack, model: Model, table: Table, key: Array, width: int) -> Any:
        flight = init_lanes(attack, model, take(table, 0), key, width)
        return jax.tree.map(lambda leaf: leaf[None], flight)

    def go_on(attack, model, table, key, flight, ends) -> Any:
        mode = Mode(keep, halve, cure)
        flight = run_lanes(attack, model, take(table, 0), key, take(flight, 0), ends, mode)
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
        each = several(
            lambda a, m, t, k: begin(a, m, t, k, width), in_specs=(whole, whole, split, whole)
        )
        return each(attack, model, table, key)

    go_on_all = several(go_on, in_specs=(whole, whole, split, whole, split, whole))
    return begin_all, jax.jit(go_on_all, donate_argnums=4)


@functools.partial(jax.jit, static_argnums=1)
def _totals(gathered: Any, keep: str) -> Any:
    return jax.vmap(lambda one: one.totals(keep))(gathered)


@functools.lru_cache
def _narrowing(width: int) -> Any:
    return jax.jit(jax.vmap(lambda flight: shrink_lanes(flight, width)))


def run_chunk(setup: Setup, batch: Batch, watch: Watch, spent: int) -> tuple[Result | None, int]:
    """Attack one chunk of rows and verify the images.

    Args:
        setup: How the rows are attacked.
        batch: The images and rows of the chunk.
        watch: When the run began, whether to stop, and whom to report progress to.
        spent: Lane ticks of the chunks before.

    Returns:
        The verified rows (None: interrupted before the chunk began), and the lane ticks.
    """
    attack, model, devices = setup.attack, setup.model, setup.devices
    width, budget, parts = setup.lanes, setup.budget, len(setup.devices)
    dealt = _Dealt(batch, devices, width)
    images = dealt.images(batch.images)
    if batch.clean_logits is None:
        clean = forward_sharded(model, images, width, devices)
        logits = np.asarray(clean).swapaxes(0, 1).reshape(-1, clean.shape[-1])[: len(batch.images)]
    else:
        logits = np.asarray(batch.clean_logits, np.float32)
        clean = dealt.images(logits)
    if watch.interrupted():
        return None, 0
    if batch.clean_logits is None:
        checks.warn_about_logits(logits)
    rows = batch.rows
    clean_margin = margins(batch.goal, logits)
    checks.warn_about_targets(batch.goal, clean_margin)
    active = np.ones(len(rows.source), bool)
    if setup.keep in ("first", "distance"):
        active = ~(clean_margin[rows.source] < 0)
    table = Table(
        images=images,
        clean_logits=clean,
        source=dealt.rows((rows.source // parts).astype(np.int32)),
        goal=dealt.rows(take(batch.goal, rows.source)),
        radius=dealt.rows(safe_epsilon(attack.norm, rows.epsilon)),
        ids=dealt.rows(batch.ids[rows.source].astype(np.int32)),
        active=dealt.rows(active),
        start=None if rows.start is None else dealt.rows(rows.start),
        seeds=None if rows.seeds is None else dealt.rows(rows.seeds),
    )
    begin, go_on = programs(setup.keep, setup.halve, devices)
    limit = attack.ticks if budget.steps is None else min(budget.steps, attack.ticks)
    most = jnp.iinfo(jnp.int32).max if budget.queries is None else budget.queries
    flight = begin(attack, model, table, setup.key, width)
    skipped = int((~active).sum())
    ticks, lane_ticks, until, complete = 0, 0, 8, None
    while True:
        if budget.passes is not None:
            left = budget.passes - (spent + lane_ticks) * setup.passes_per_tick
            until = min(until, left // (setup.passes_per_tick * parts * width))
        late = budget.seconds is not None and time.perf_counter() - watch.began > budget.seconds
        if until < 1 or late or watch.interrupted():
            break
        tick = time.perf_counter()
        ends = Ends(jnp.int32(until), jnp.int32(limit), jnp.int32(most))
        flight, seen = go_on(attack, model, table, setup.key, flight, ends)
        alive, waiting, complete, found = jax.device_get(seen)
        elapsed = time.perf_counter() - tick
        before, ticks = ticks, int(np.asarray(flight.ticks).max())
        lane_ticks += (ticks - before) * width * parts
        # Only rows that are attacked are ever complete: neither padding nor clean successes are.
        if watch.progress is not None:
            done, successes = int(complete.sum()) + skipped, int(found.sum()) + skipped
            watch.progress(done, len(rows.source), successes)
        if not alive.any() and not waiting.any():
            break
        if setup.halve and width > 1 and not waiting.any() and alive.max() <= width // 2:
            width //= 2
            flight = _narrowing(width)(flight)
        until = int(np.clip(until * PIECE_SECONDS / max(elapsed, 1e-3), until / 4 + 1, until * 4))
    return _verified(setup, batch, dealt, flight.gathered, active), lane_ticks


class _Dealt:
    """Distribution of a batch to the devices, as arrays [parts, size, ...].

    Images are dealt in turn, rows to the device of their image.
    """

    def __init__(self, batch: Batch, devices: tuple[Any, ...], width: int) -> None:
        self.parts, self.place = len(devices), sharded(devices)
        self.image_owner = np.arange(len(batch.images)) % self.parts
        self.row_owner = batch.rows.source % self.parts
        self.per_image = bucket(math.ceil(len(batch.images) / self.parts), width)
        most = int(np.bincount(self.row_owner, minlength=self.parts).max())
        self.per_row = bucket(most, width)

    def images(self, values: Any) -> Any:
        """Distribute values [N, ...] of the images to the devices."""
        return self._deal(values, self.image_owner, self.per_image)

    def rows(self, values: Any) -> Any:
        """Distribute values [M, ...] of the rows, or a pytree of them, to the devices."""
        return self._deal(values, self.row_owner, self.per_row)

    def _deal(self, values: Any, owner: np.ndarray, size: int) -> Any:
        def deal(leaf: Any) -> Any:
            return jax.device_put(_deal(np.asarray(leaf), owner, self.parts, size), self.place)

        return jax.tree.map(deal, values)

    def collect(self, dealt: Any) -> np.ndarray:
        """Return distributed rows as [M, ...] on the host."""
        dealt = np.asarray(dealt)
        out = np.zeros((len(self.row_owner), *dealt.shape[2:]), dealt.dtype)
        for part in range(self.parts):
            own = np.flatnonzero(self.row_owner == part)
            out[own] = dealt[part, : len(own)]
        return out


def _verified(
    setup: Setup, batch: Batch, dealt: _Dealt, gathered: Any, active: np.ndarray
) -> Result:
    """Return the verified rows of a chunk; those that are not complete are NOT_RUN."""
    model, judge, rows, collect = setup.model, setup.judge, batch.rows, dealt.collect
    counts, complete = jax.device_get(_totals(gathered, setup.keep))
    originals, goal = batch.images[rows.source], take(batch.goal, rows.source)
    images = np.where(_like(active, originals), collect(gathered.best.image), originals)
    status, distance, margin = verify(
        judge or model.fresh(),
        setup.attack.norm,
        images,
        originals,
        goal,
        rows.epsilon,
        setup.devices,
    )
    # Only a claimed success can be rejected; an image without one has failed.
    claimed = collect(gathered.best.adversarial)
    unclaimed = ~claimed if judge is None or setup.again else margin >= 0
    status[(status != Status.SUCCESS) & unclaimed] = Status.FAILED
    if judge is not None and setup.again and setup.keep in ("first", "distance"):
        judged = margins(batch.goal, predict(judge, batch.images, setup.devices))
        wrong = judged[rows.source] < 0  # misclassified by the judge, so no attack was needed
        status[active & wrong] = Status.REJECTED_LABEL
    nonfinite = collect(gathered.nonfinite)
    status[(status == Status.FAILED) & nonfinite] = Status.NONFINITE
    status[~active & (status == Status.SUCCESS)] = Status.MISCLASSIFIED
    status[~(collect(complete) | ~active)] = Status.NOT_RUN

    def paid(name: str) -> np.ndarray:
        clean = name in ("forward", "computed") and batch.clean_logits is None
        return model.samples * (collect(getattr(counts, name)) * active + clean)

    return Result(
        images=images,
        success=np.isin(status, (Status.SUCCESS, Status.MISCLASSIFIED)),
        distance=distance,
        margin=margin,
        forward=paid("forward"),
        backward=paid("backward"),
        queries=paid("queries"),
        computed=paid("computed"),
        status=status,
        ids=batch.ids[rows.source],
        epsilon=rows.epsilon,
    )


def _like(mask: np.ndarray, images: np.ndarray) -> np.ndarray:
    return mask.reshape(-1, *(1,) * (images.ndim - 1))
