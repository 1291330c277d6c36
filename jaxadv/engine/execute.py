"""Run one chunk of rows on the devices: compiled loop, control by the host, verification."""

import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from jaxadv.core.attack import Attack, safe_epsilon
from jaxadv.core.goals import Goal
from jaxadv.core.model import Model
from jaxadv.core.pytree import take
from jaxadv.core.result import Result, Status
from jaxadv.core.shapes import image_shape
from jaxadv.core.typing import ChosenDevices
from jaxadv.engine import checks, clean_answers
from jaxadv.engine.compilation import compiles
from jaxadv.engine.lanes import Ends, result_layouts
from jaxadv.engine.programs import LoopPrograms, Seen, loop_programs, shrinking
from jaxadv.engine.queue import Table
from jaxadv.engine.session import Room, RowProgress, Rows, Session
from jaxadv.engine.verify import (
    compile_forward,
    compile_predict,
    forward_sharded,
    margins,
    predict,
    sharded,
    verify,
)

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
        room: The least sizes of a table.
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
    room: Room = Room()

    @property
    def programs(self) -> LoopPrograms:
        """The programs of the loop."""
        simple = self.attack.norm in self.attack.simple_norms
        return loop_programs(self.keep, self.halve, self.devices, simple)

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


def compile_loop(setup: Setup, table: Table) -> list[Future[Any]]:
    """Begin to compile, in other threads, the programs of the loop.

    Args:
        setup: How the rows are attacked.
        table: The rows; arrays may be `jax.ShapeDtypeStruct`.

    Returns:
        The compilations.
    """
    attack, model, programs = setup.attack, setup.model, setup.programs
    first, shapes = programs.begin.compile(attack, model, table, setup.key, setup.lanes)
    place = sharded(setup.devices)
    keys, state = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes
    )
    one = np.int32(1)
    table = table._replace(keys=keys)
    second, _ = programs.go_on.compile(attack, model, table, state, Ends(one, one, one))
    return [first, second]


def compile_room(setup: Setup, session: Session, rows: Rows, start: bool) -> list[Future[Any]]:
    """Begin to compile, in other threads, what `run_chunk` calls for tables of least size.

    Args:
        setup: How the rows are attacked.
        session: The images and their goal.
        rows: The rows.
        start: Whether the rows will bring images to begin from.

    Returns:
        The compilations.
    """
    devices, shape = setup.devices, tuple(session.images.shape[1:])
    images, each = setup.room.bucket(setup.room, setup.lanes)
    classes, seeds = checks.count_classes(session.model, shape), rows.seeds
    judge = setup.judge or setup.model.fresh()

    def many(count: int, shape: tuple[int, ...] = (), dtype: Any = np.float32) -> Any:
        whole = (len(devices), count, *shape)
        return jax.ShapeDtypeStruct(whole, dtype, sharding=sharded(devices))

    table = Table(
        images=many(images, image_shape(shape)),
        clean_logits=many(images, (classes,)),
        source=many(each, dtype=np.int32),
        goal=jax.tree.map(lambda leaf: many(each, dtype=np.asarray(leaf).dtype), session.goal),
        radius=many(each),
        ids=many(each, dtype=np.int32),
        active=many(each, dtype=bool),
        start=many(each, image_shape(shape)) if start else None,
        seeds=None if seeds is None else many(each, seeds.shape[1:], seeds.dtype),
    )
    return [compile_predict(judge, image_shape(shape), devices), *compile_loop(setup, table)]


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
    dealt, rows = _Dealt(batch, devices, width, setup.room), batch.rows
    table = Table(
        images=dealt.images(batch.images),
        clean_logits=dealt.logits(batch.clean_logits, model),
        source=dealt.rows((rows.source // parts).astype(np.int32)),
        goal=dealt.rows(take(batch.goal, rows.source)),
        radius=dealt.rows(safe_epsilon(attack.norm, rows.epsilon)),
        ids=dealt.rows(batch.ids[rows.source].astype(np.int32)),
        active=dealt.rows(np.ones(len(rows.source), bool)),
        start=None if rows.start is None else dealt.rows(rows.start),
        seeds=None if rows.seeds is None else dealt.rows(rows.seeds),
    )
    if compiles():  # all programs at once; each is waited for where it is called
        if batch.clean_logits is None:
            compile_forward(model, table.images, width, devices)
        compile_loop(setup, table)
        compile_predict(setup.judge or model.fresh(), batch.images.shape[1:], devices)
    if batch.clean_logits is None:
        clean = forward_sharded(model, table.images, width, devices)
        logits = np.asarray(clean).swapaxes(0, 1).reshape(-1, clean.shape[-1])[: len(batch.images)]
        table = table._replace(clean_logits=clean)
    else:
        logits = np.asarray(batch.clean_logits, np.float32)
    if watch.interrupted():
        return None, 0
    if batch.clean_logits is None:
        clean_answers.warn_about_logits(logits)
    clean_margin = margins(batch.goal, logits)
    clean_answers.warn_about_targets(batch.goal, clean_margin)
    active = np.ones(len(rows.source), bool)
    if setup.keep in ("first", "distance"):
        active = ~(clean_margin[rows.source] < 0)
        table = table._replace(active=dealt.rows(active))
    begin, go_on = setup.programs
    limit = attack.ticks if budget.steps is None else min(budget.steps, attack.ticks)
    most = np.iinfo(np.int32).max if budget.queries is None else budget.queries
    keys, state = begin(attack, model, table, setup.key, width)
    table = table._replace(keys=keys)
    skipped = int((~active).sum())
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), table)
    layouts = result_layouts(attack, one)
    seen, lane_ticks, until = Seen.of(state, layouts, setup.keep), 0, 8
    while True:
        if budget.passes is not None:
            left = budget.passes - (spent + lane_ticks) * setup.passes_per_tick
            until = min(until, left // (setup.passes_per_tick * parts * width))
        late = budget.seconds is not None and time.perf_counter() - watch.began > budget.seconds
        if until < 1 or late or watch.interrupted():
            break
        tick = time.perf_counter()
        ends = Ends(np.int32(until), np.int32(limit), np.int32(most))
        state, before = go_on(attack, model, table, state, ends), int(seen.ticks.max())
        seen = Seen.of(state, layouts, setup.keep)
        elapsed = time.perf_counter() - tick
        lane_ticks += (int(seen.ticks.max()) - before) * width * parts
        # Only rows that are attacked are ever complete: neither padding nor clean successes are.
        if watch.progress is not None:
            done = int(seen.complete.sum()) + skipped
            successes = int((seen.adversarial & seen.complete).sum()) + skipped
            watch.progress(done, len(rows.source), successes)
        if not seen.live.any() and not seen.waiting.any():
            break
        if setup.halve and width > 1 and not seen.waiting.any() and seen.live.max() <= width // 2:
            width //= 2
            state = shrinking(width, devices)(state)
        until = int(np.clip(until * PIECE_SECONDS / max(elapsed, 1e-3), until / 4 + 1, until * 4))
    return _verified(setup, batch, dealt, state.images, seen, active), lane_ticks


class _Dealt:
    """Distribution of a batch to the devices, as arrays [D, size, ...].

    Images are dealt in turn, rows to the device of their image.
    """

    def __init__(self, batch: Batch, devices: ChosenDevices, width: int, room: Room) -> None:
        self.parts, self.place = len(devices), sharded(devices)
        self.shape = batch.images.shape[1:]
        self.image_owner = np.arange(len(batch.images)) % self.parts
        self.row_owner = batch.rows.source % self.parts
        most = Room(
            math.ceil(len(batch.images) / self.parts),
            int(np.bincount(self.row_owner, minlength=self.parts).max()),
        )
        self.per_image, self.per_row = room.bucket(most, width)

    def images(self, values: Any) -> Any:
        """Distribute values [N, ...] of the images to the devices."""
        return self._deal(values, self.image_owner, self.per_image)

    def logits(self, values: np.ndarray | None, model: Model) -> Any:
        """Distribute logits [N, K] to the devices; where they are unknown, only their shape."""
        if values is not None:
            return self.images(np.asarray(values, np.float32))
        classes = checks.count_classes(model, self.shape)
        shape = (self.parts, self.per_image, classes)
        return jax.ShapeDtypeStruct(shape, np.float32, sharding=self.place)

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
    setup: Setup, batch: Batch, dealt: _Dealt, best: Array, seen: Seen, active: np.ndarray
) -> Result:
    """Return the verified rows of a chunk; those that are not complete are NOT_RUN."""
    model, judge, rows, collect = setup.model, setup.judge, batch.rows, dealt.collect
    originals, goal = batch.images[rows.source], take(batch.goal, rows.source)
    images = np.where(_like(active, originals), collect(best), originals)
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
    claimed = collect(seen.adversarial)
    unclaimed = ~claimed if judge is None or setup.again else margin >= 0
    status[(status != Status.SUCCESS) & unclaimed] = Status.FAILED
    if judge is not None and setup.again and setup.keep in ("first", "distance"):
        judged = margins(batch.goal, predict(judge, batch.images, setup.devices))
        wrong = judged[rows.source] < 0  # misclassified by the judge, so no attack was needed
        status[active & wrong] = Status.REJECTED_LABEL
    nonfinite = collect(seen.nonfinite)
    status[(status == Status.FAILED) & nonfinite] = Status.NONFINITE
    status[~active & (status == Status.SUCCESS)] = Status.MISCLASSIFIED
    status[~(collect(seen.complete) | ~active)] = Status.NOT_RUN

    def paid(name: str) -> np.ndarray:
        clean = name in ("forward", "computed") and batch.clean_logits is None
        return model.samples * (collect(getattr(seen.counts, name)) * active + clean)

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
