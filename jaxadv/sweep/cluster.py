"""Runs a sweep on a Ray cluster: every job is a Ray task, which Ray places, counts and retries.

The calling process plans nothing and does not start JAX: one task plans, the others run the jobs,
and each returns how many jobs it computed. The store, and the models and data sets that the grid
names, lie on a file system that all nodes share; models and data sets handed in are sent once to
each worker.
"""

import dataclasses
import os
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxadv.core.optional_dependency import extra
from jaxadv.engine.devices import use_cpu_cores
from jaxadv.engine.interrupt import interruptible
from jaxadv.sweep.execute import Ran, open_jobs, prepare, run_jobs
from jaxadv.sweep.grid import Grid, placed_in
from jaxadv.sweep.job import Plan
from jaxadv.sweep.names import Job
from jaxadv.sweep.resources import Given, software
from jaxadv.sweep.store import SweepStore
from jaxadv.sweep.training import SweepProgress

LOOK_SECONDS = 0.5  # between two checks for Ctrl-C
GRACE_SECONDS = 10.0  # time for a cancelled job to reach the end of a piece of work
CACHE = (  # of compiled programs: a worker uses the folder of the calling process
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


class Order(NamedTuple):
    """Description of a sweep for its workers.

    Attributes:
        name: Name of this call of `run_sweep`, unique to it.
        grid: The grid.
        folder: Folder of the store.
        given: Models and data sets handed in, as [a Ray reference].
        only: Patterns of the titles of cells to run.
        settings: Configuration of JAX.
        gpus: GPUs of a job.
        cpus: CPU cores of a job.
    """

    name: str
    grid: Grid
    folder: Path
    given: list[Any]
    only: tuple[str, ...]
    settings: Mapping[str, Any]
    gpus: float
    cpus: int


@dataclasses.dataclass(frozen=True)
class RayExecutor:
    """Executor that runs the jobs of a sweep as Ray tasks (extra `ray`).

    `RayExecutor` raises ValueError for numbers out of range. Running a sweep with it raises
    ImportError without Ray, and ConnectionError if no cluster can be reached.

    Attributes:
        address: Address of a cluster ("auto", "HOST:PORT", "ray://HOST:PORT"), or "local" for one
            on this machine that ends with the sweep. If Ray is already initialised in this process,
            that cluster is used.
        gpus_per_job: GPUs that a job occupies; without GPUs each of its cores is a device.
        cpus_per_job: CPU cores that a job occupies.
        max_retries: Number of times that a job runs again after its worker died.

    Example:
        >>> import jaxadv as ja
        >>> ja.sweep.RayExecutor("local", cpus_per_job=2)
        RayExecutor(address='local', gpus_per_job=0, cpus_per_job=2, max_retries=3)
    """

    address: str = "local"
    gpus_per_job: float = 0
    cpus_per_job: int = 1
    max_retries: int = 3

    def __post_init__(self) -> None:
        for name, least in (("gpus_per_job", 0), ("cpus_per_job", 1), ("max_retries", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: pass {least} or more")

    def run(
        self,
        grid: Grid,
        store: SweepStore,
        given: Given,
        only: tuple[str, ...],
        retry_failed: bool,
        progress: SweepProgress | None,
    ) -> Ran:
        """Plan the sweep, and run the jobs that the store does not hold."""
        ray = _import_ray()
        begun = not ray.is_initialized()
        if begun:
            ray.init(self.address, log_to_driver=False, logging_level="ERROR")
        try:
            settings = {name: getattr(jax.config, name) for name in CACHE}
            order = Order(
                uuid.uuid4().hex,
                placed_in(grid, Path.cwd()),
                store.folder.resolve(),
                [ray.put(given)],
                only,
                settings,
                self.gpus_per_job,
                self.cpus_per_job,
            )
            return self._run(ray, order, store, retry_failed, progress)
        finally:
            if begun:
                ray.shutdown()

    def _run(
        self,
        ray: Any,
        order: Order,
        store: SweepStore,
        retry_failed: bool,
        progress: SweepProgress | None,
    ) -> Ran:
        def task(function: Callable[..., Any]) -> Any:
            return ray.remote(
                num_cpus=self.cpus_per_job,
                num_gpus=self.gpus_per_job,
                max_retries=self.max_retries,
            )(function)

        jobs, titles, ran = _result(ray, task(_plan).remote(order))
        todo = open_jobs(store, jobs, retry_failed)
        total, computed = sum(job.rows for job in jobs), 0
        done, kept = total - sum(job.rows for job in todo), len(jobs) - len(todo)
        work = task(_work)
        running = {work.remote(order, ran, job): job for job in todo}
        try:
            with interruptible() as interrupted:
                while running and not interrupted():
                    ready, _ = ray.wait(list(running), timeout=LOOK_SECONDS)
                    for reference in ready:
                        job = running.pop(reference)
                        computed += self._record(ray, store, job, reference)
                        done += job.rows
                        if progress is not None:
                            progress(titles[job.group], done, total, 0)
        finally:
            for reference in running:
                ray.cancel(reference)
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=GRACE_SECONDS)
        return Ran(jobs, kept, computed, not running)

    def _record(self, ray: Any, store: SweepStore, job: Job, reference: Any) -> int:
        """Return the number of jobs a task computed; the death of its workers is a failure."""
        try:
            return _result(ray, reference)
        except ray.exceptions.RayError as error:
            store.fail(job, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
            return 0


def _import_ray() -> Any:
    with extra("ray", "RayExecutor", " on every node"):
        import ray  # pyright: ignore[reportMissingImports]
    return ray


def _result(ray: Any, reference: Any) -> Any:
    """Return the result of a task; its exception is raised unchanged."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if error.cause is None:
            raise
        raise error.cause from None


_PLANS: dict[str, Plan] = {}  # holds only the plan of the current sweep


def _plan_of(order: Order) -> Plan:
    """Return the plan of a sweep; models and data are opened once in each worker."""
    if order.name not in _PLANS:
        import ray  # pyright: ignore[reportMissingImports]

        if 0 < order.gpus < 1:  # several workers share a GPU, and each takes its part of the memory
            fraction = str(0.9 * order.gpus)
            os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", fraction)
        with suppress(RuntimeError):  # JAX runs already, in a worker that served another sweep
            use_cpu_cores(order.cpus)
        for name, value in order.settings.items():
            jax.config.update(name, value)
        _PLANS.clear()
        given: Any = ray.get(order.given[0])
        _PLANS[order.name] = prepare(order.grid, SweepStore(order.folder), given, order.only)
    return _PLANS[order.name]


def _plan(order: Order) -> tuple[list[Job], dict[str, str], dict[str, str]]:
    """Task: return the jobs of a sweep, its groups' titles by name, and this node's software."""
    plan = _plan_of(order)
    return (
        plan.jobs,
        {fingerprint: group.title() for fingerprint, group in plan.groups.items()},
        software(),
    )


def _work(order: Order, planned_by: Mapping[str, str], job: Job) -> int:
    """Task: run one job; return how many were computed (0 if another process was faster)."""
    plan = _plan_of(order)
    if job.group not in plan.groups:
        other = {k: v for k, v in software().items() if planned_by.get(k) != v}
        raise ValueError(
            f"the nodes differ in {other or 'the models or data that they open'}: "
            "their rows would not belong to one sweep"
        )
    _, computed = run_jobs(plan, [job])
    return computed
