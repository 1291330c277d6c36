"""Runs one job of a sweep: attacks and judges its rows, and makes the columns of the store."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxadv.core.bounds import two_numbers
from jaxadv.core.goals import Targeted
from jaxadv.core.norms import distances64
from jaxadv.core.pytree import take
from jaxadv.core.random import IMPLEMENTATION
from jaxadv.core.result import Result, Status
from jaxadv.engine.compilation import Compilation, forget_programs
from jaxadv.engine.devices import choose_devices
from jaxadv.engine.run import Plan as AttackPlan
from jaxadv.engine.run import compile_ahead
from jaxadv.engine.session import Room, Rows, Session
from jaxadv.engine.verify import margins, predict
from jaxadv.protocols.cached_run import keep_of
from jaxadv.sweep.names import Job
from jaxadv.sweep.plan import Cell, Group
from jaxadv.sweep.runners import UNKNOWN, goal_of
from jaxadv.sweep.store import SCHEMA, SweepStore

KEYS = jax.jit(jax.vmap(lambda seed: jax.random.key(seed, impl=IMPLEMENTATION)))


class Plan(NamedTuple):
    """A sweep that is ready to run.

    Attributes:
        store: Store of the results.
        groups: Groups by name.
        cells: Cells by name.
        jobs: All jobs.
        images: Adversarial images that are kept: "none", "float32" or "uint8".
        clean: Clean predictions of the last images, which the next cells share.
    """

    store: SweepStore
    groups: Mapping[str, Group]
    cells: Mapping[str, Cell]
    jobs: list[Job]
    images: str
    clean: dict[tuple[str, str, int, int], np.ndarray]


def open_job(plan: Plan, job: Job, devices: tuple[Any, ...] | None) -> tuple[Session, Rows]:
    """Return the session and the rows of a job."""
    group = plan.groups[job.group]
    part = group.images.source.read(range(job.begin, job.end))
    count, cells = len(part.labels), [plan.cells[fingerprint] for fingerprint in job.cells]
    epsilon = [np.nan if cell.epsilon is None else cell.epsilon for cell in cells]
    judge = group.subject.judge
    session = Session(
        group.subject.model,
        part.images,
        goal_of(group.goal, part.labels, group.images.classes),
        part.ids,
        jax.random.key(0),
        devices,
        group.lanes,
        judge=judge,
        again=judge is not None,
        room=Room.of(part.images, len(cells), len(choose_devices(devices))),
    )
    seeds = np.repeat([cell.seed for cell in cells], count)
    rows = Rows(
        np.tile(np.arange(count), len(cells)),
        np.repeat(epsilon, count) if group.entry.needs_epsilon else None,
        seeds=np.asarray(jax.random.key_data(KEYS(seeds.astype(np.uint32)))),
    )
    return session, rows


def compile_job(plan: Plan, job: Job, devices: tuple[Any, ...] | None) -> Compilation:
    """Begin to compile the first attack of a job in other threads."""
    session, rows = open_job(plan, job, devices)
    targeted = isinstance(session.goal, Targeted)
    attack = plan.groups[job.group].entry.attacks(targeted)[0]
    lanes = session.width(attack.queries, len(rows.source))
    keep = keep_of(attack, session.model)
    return compile_ahead(session, AttackPlan(attack, rows, keep, lanes, start=False))


def run_job(
    plan: Plan,
    job: Job,
    devices: tuple[Any, ...] | None,
    progress: Callable[[int, int], None] = lambda *_: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> bool:
    """Compute one job and save it; return False, and save nothing, if it was interrupted.

    If the memory does not suffice, the number of lanes is halved, down to one.
    """
    began = time.perf_counter()
    group = plan.groups[job.group]
    session, rows = open_job(plan, job, devices)
    session = session._replace(
        progress=lambda _, done, __, successes: progress(done, successes),
        interrupted=interrupted,
    )
    lanes = group.lanes
    while True:
        session = session._replace(lanes=lanes)
        try:
            result, broken_by = group.entry.run(session, rows)
            break
        except Exception as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or lanes == 1:
                raise
        forget_programs()
        lanes //= 2
    if (result.status == Status.NOT_RUN).any():
        return False
    columns, images = _columns(plan, job, session, rows, result)
    columns |= {
        "broken_by": [name or None for name in broken_by],
        "seed": np.repeat([plan.cells[cell].seed for cell in job.cells], len(session.images)),
        "label": np.asarray(session.goal.labels)[rows.source].astype(np.int32),
    }
    columns["seconds"] = np.full(job.rows, (time.perf_counter() - began) / job.rows)
    if images is not None:
        rows_of_job = range(job.begin, job.end)
        plan.store.keep_originals(group.about["data_hash"], rows_of_job, group.images.source)
    plan.store.save(job, {name: columns[name] for name in SCHEMA.names}, images)
    return True


def _columns(
    plan: Plan, job: Job, session: Session, rows: Rows, result: Result
) -> tuple[dict[str, Any], dict[str, np.ndarray] | None]:
    """Return the columns of a job, and the images to keep."""
    judge, source, won = session.judge or session.model, rows.source, result.success
    group, successes = plan.groups[job.group], np.flatnonzero(won)
    originals = session.images[source[successes]]
    clean = group.subject.fingerprint, group.images.fingerprint, job.begin, job.end
    if clean not in plan.clean:
        plan.clean.clear()
        plan.clean[clean] = predict(judge, session.images, session.devices).argmax(1)
    prediction = plan.clean[clean]
    columns: dict[str, Any] = {
        name: [group.about[name]] * job.rows for name in SCHEMA.names if name in group.about
    }
    cells = np.repeat(np.arange(len(job.cells)), len(session.images))
    columns |= {
        "cell": np.array(job.cells, object)[cells],
        "epsilon": [None] * job.rows if rows.epsilon is None else rows.epsilon,
        "id": session.ids[source].astype(np.int64),
        "target": [None] * job.rows,
        "prediction": prediction[source].astype(np.int32),
        "success": won,
        "status": [Status(code).name for code in result.status],
        "margin": result.margin,
        "distance": _filled(result.distance[successes], successes, job.rows),
        "lanes": np.full(job.rows, session.lanes, np.int32),
        "success_8bit": [None] * job.rows,
        **{
            norm: _filled(lengths, successes, job.rows)
            for norm, lengths in distances64(result.images[successes], originals).items()
        },
        **{
            name: [None if n == UNKNOWN else int(n) for n in getattr(result, name)]
            for name in ("forward", "backward", "queries")
        },
    }
    if isinstance(session.goal, Targeted):
        columns["target"] = np.asarray(session.goal.targets)[source].astype(np.int32)
    if plan.images == "none":
        return columns, None
    images = result.images[successes]
    if plan.images == "uint8":
        lower, upper = two_numbers(judge.bounds, "a sweep")
        images = np.round(255 * (images - lower) / (upper - lower)).astype(np.uint8)
        rounded = (images / np.float32(255) * (upper - lower) + lower).astype(np.float32)
        still = np.zeros(job.rows, bool)
        if len(successes):
            logits = predict(judge, rounded, session.devices)
            still[successes] = margins(take(session.goal, source[successes]), logits) < 0
        columns["success_8bit"] = still
    return columns, {"images": images, "rows": successes.astype(np.int32)}


def _filled(values: np.ndarray, rows: np.ndarray, count: int) -> list[float | None]:
    """Return a column of `count` values that is empty except at some rows."""
    column: list[float | None] = [None] * count
    for row, value in zip(rows, values, strict=True):
        column[row] = float(value)
    return column
