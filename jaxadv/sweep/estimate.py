"""Estimates the cost of a sweep before it is run."""

import time
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from jaxadv.core.model import Model
from jaxadv.cpu.rewrite import rewrite_for_cpu
from jaxadv.sweep.grid import Grid
from jaxadv.sweep.names import job_of
from jaxadv.sweep.plan import Group, make_plan
from jaxadv.sweep.resources import Given
from jaxadv.sweep.store import SweepStore
from jaxadv.sweep.training import untrained


class Cost(NamedTuple):
    """Estimated cost of one group.

    Attributes:
        group: The group.
        cells: Number of its cells.
        rows: Number of its rows.
        done: Number of rows that the store holds.
        passes: Upper bound of the passes of a row.
        seconds: Upper bound of the time of the open rows on all devices.
    """

    group: Group
    cells: int
    rows: int
    done: int
    passes: int
    seconds: float


def estimate(grid: Grid, store: SweepStore, given: Given, only: tuple[str, ...] = ()) -> list[Cost]:
    """Return an upper bound of the cost of every group; nothing is written, trained or attacked.

    The seconds assume the largest number of gradients that the attack can request, at the speed of
    one batch measured now. Attacks that end at the first success take less; compilation is extra.
    """
    groups = make_plan(
        grid, given, lambda model, data: untrained(store.folder, model, data, given), only=only
    )
    done = _rows_done(store)
    speed: dict[str, float] = {}
    costs = []
    for group in groups:
        count = group.images.source.count
        held = sum(done.get(cell.fingerprint, 0) for cell in group.cells)
        rows = count * len(group.cells)
        seconds = 0.0
        if held < rows:
            if group.subject.fingerprint not in speed:
                speed[group.subject.fingerprint] = _seconds_per_pass(group)
            devices = jax.local_device_count()
            seconds = (rows - held) * group.passes * speed[group.subject.fingerprint] / devices
        costs.append(Cost(group, len(group.cells), rows, held, group.passes, seconds))
    return costs


def _rows_done(store: SweepStore) -> Mapping[str, int]:
    """Return the number of rows of each cell that the store holds."""
    done: dict[str, int] = {}
    for fingerprint, about in store.manifest["jobs"].items():
        job = job_of(fingerprint, about)
        if store.load(job) is not None:
            for cell in job.cells:
                done[cell] = done.get(cell, 0) + job.end - job.begin
    return done


def _seconds_per_pass(group: Group) -> float:
    """Measure the seconds of one forward or backward pass of one image on one device."""
    on_cpu = jax.default_backend() == "cpu"

    def gradient(model: Model, images: Array) -> Array:
        return jax.grad(lambda x: jax.nn.logsumexp(model(x), -1).sum())(images)

    step = jax.jit(rewrite_for_cpu(gradient) if on_cpu else gradient)
    images = np.zeros((group.lanes, *group.images.shape), np.float32)
    jax.block_until_ready(step(group.subject.model, images))
    times = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(step(group.subject.model, images))
        times.append(time.perf_counter() - began)
    return float(np.median(times)) / group.lanes / 2
