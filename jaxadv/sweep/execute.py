"""Runs every job of a sweep that the store does not hold yet, in one or several processes."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax

from jaxadv.core.files import check_folder
from jaxadv.core.model import Model
from jaxadv.core.typing import Devices
from jaxadv.data.form import Dataset, Source
from jaxadv.engine.devices import choose_devices
from jaxadv.engine.interrupt import interruptible
from jaxadv.sweep.grid import Grid, read_grid
from jaxadv.sweep.job import Plan, compile_job, run_job
from jaxadv.sweep.names import Job
from jaxadv.sweep.plan import Cell, make_jobs, make_plan
from jaxadv.sweep.resources import Given
from jaxadv.sweep.store import SweepStore
from jaxadv.sweep.training import SweepProgress, trained, untrained

WAIT_SECONDS = 0.5  # between two checks of the jobs that other processes run


class Summary(NamedTuple):
    """Result of `run_sweep`.

    Attributes:
        jobs: Number of jobs in the sweep.
        kept: Number of jobs that the store held before.
        computed: Number of jobs that this call computed.
        failed: Error message of each failed job, by the job's name.
        rows: Number of rows in finished jobs.
        seconds: Wall time.
        complete: Whether all jobs are finished.
    """

    jobs: int
    kept: int
    computed: int
    failed: dict[str, str]
    rows: int
    seconds: float
    complete: bool


class Ran(NamedTuple):
    """Result of an executor.

    Attributes:
        jobs: The jobs of the sweep.
        kept: Number of jobs that the store held before.
        computed: Number of jobs that this call computed.
        complete: Whether no job was left out because of an interruption.
    """

    jobs: list[Job]
    kept: int
    computed: int
    complete: bool


class Executor(Protocol):
    """Interface of what runs the jobs of a sweep: `Here` or `RayExecutor`."""

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
        ...


def prepare(
    grid: Grid,
    store: SweepStore,
    given: Given,
    only: Iterable[str] = (),
    progress: SweepProgress | None = None,
) -> Plan:
    """Open data sets and models, train models where needed, and register the jobs in the store."""
    check_folder(store.folder)
    makes = [lambda model, data: trained(store.folder, model, data, given, progress)]
    if any(model.train is not None for model in grid.models):
        makes.insert(0, lambda model, data: untrained(store.folder, model, data, given))
    groups = make_plan(grid, given, *makes, only=only)
    jobs = store.register(
        groups, lambda group, cells: make_jobs(group, cells, grid.shard), grid.model_dump_json()
    )
    manifest = store.manifest
    cells = {
        fingerprint: Cell(fingerprint, about["epsilon"], about["seed"])
        for fingerprint, about in manifest["cells"].items()
    }
    planned = {  # lanes decide about the last bits: those of the first run
        group.fingerprint: dataclasses.replace(
            group, lanes=manifest["groups"][group.fingerprint]["lanes"]
        )
        for group in groups
    }
    return Plan(store, planned, cells, jobs, grid.images, {})


def run_sweep(
    grid: Grid | str | Path,
    store: str | Path,
    *,
    models: Mapping[str, Model] | None = None,
    data: Mapping[str, Dataset | Source] | None = None,
    only: Iterable[str] = (),
    retry_failed: bool = False,
    devices: Devices = None,
    executor: Executor | None = None,
    progress: SweepProgress | None = None,
) -> Summary:
    """Run every cell of a grid that the store does not hold yet.

    The file of a job is written whole or not at all, so a killed sweep loses at most the jobs that
    were running. Several processes can work on one store and divide its jobs among them; processes
    joined by `jax.distributed` each begin with their own part. Ctrl-C ends the sweep between two
    pieces of work, and the same call continues it.

    Args:
        grid: Path of a sweep file, or the grid that `read_grid` made of one.
        store: Folder of the results.
        models: Models by the names that the grid gives them in `given = "name"`.
        data: Data sets by their names in the grid; a `Source` is read job by job.
        only: Patterns of the titles of cells to run ("lenet / mnist5k / PGD*"); default: all.
        retry_failed: Whether to run jobs again that failed before.
        devices: Devices to run on; default: all local devices.
        executor: What runs the jobs; default: this process. A `RayExecutor` runs them on a cluster.
        progress: Callback with (title of what runs, rows done, their total, successes).

    Returns:
        The numbers of jobs and rows, and the failures.

    Raises:
        ValueError: The grid has a mistake, a model does not fit its data or its attacks, or `only`
            matches no cell.
        OSError: The store cannot be written to.

    Example:
        >>> import tempfile, jax.numpy as jnp, numpy as np, jaxadv as ja
        >>> from jaxadv.sweep import parse_grid
        >>> grid = parse_grid('''
        ... epsilons = {linf = [0.1, 0.6]}
        ... data = [{name = "corners"}]
        ... models = [{given = "eye"}]
        ... attacks = [{name = "FGSM"}]
        ... ''')
        >>> images, labels = np.eye(4, dtype=np.float32).reshape(4, 2, 2, 1), np.arange(4)
        >>> corners = ja.data.Dataset(images, labels, labels, "corners", tuple("abcd"))
        >>> eye = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, 2 * jnp.eye(4))
        >>> folder = tempfile.mkdtemp()
        >>> ja.run_sweep(grid, folder, models={"eye": eye}, data={"corners": corners}).rows
        8
        >>> rows = ja.SweepStore(folder).rows()
        >>> rows.group_by("epsilon").aggregate([("success", "sum")]).to_pydict()
        {'epsilon': [0.1, 0.6], 'success_sum': [0, 4]}
    """
    began = time.perf_counter()
    if not isinstance(grid, Grid):
        grid = read_grid(grid)
    results = SweepStore(store)
    given = Given(models or {}, data or {})
    executor = Here(devices) if executor is None else executor
    ran = executor.run(grid, results, given, tuple(only), retry_failed, progress)
    fingerprints = {job.fingerprint for job in ran.jobs}
    failed = {name: error for name, error in results.failures().items() if name in fingerprints}
    rows = sum(job.rows for job in ran.jobs if results.path(job).is_file())
    seconds = time.perf_counter() - began
    return Summary(
        len(ran.jobs), ran.kept, ran.computed, failed, rows, seconds, ran.complete and not failed
    )


def open_jobs(store: SweepStore, jobs: Sequence[Job], retry_failed: bool) -> list[Job]:
    """Return the jobs that the store does not hold; failed jobs only with `retry_failed`."""
    failed = {} if retry_failed else store.failures()
    return [job for job in jobs if job.fingerprint not in failed and store.load(job) is None]


@dataclasses.dataclass(frozen=True)
class Here:
    """Executor that runs the jobs in this process.

    Processes joined by `jax.distributed` each begin with their own part of the jobs and then help
    the others; nothing is sent between them, and the store brings the rows together.

    Attributes:
        devices: Devices to run on, or None for all local devices.
    """

    devices: Devices = None

    def run(
        self,
        grid: Grid,
        store: SweepStore,
        given: Given,
        only: tuple[str, ...],
        retry_failed: bool,
        progress: SweepProgress | None,
    ) -> Ran:
        plan = prepare(grid, store, given, only, progress)
        todo = open_jobs(store, plan.jobs, retry_failed)
        own = {job.fingerprint for job in plan.jobs[jax.process_index() :: jax.process_count()]}
        own_first = sorted(todo, key=lambda job: job.fingerprint not in own)
        complete, computed = run_jobs(plan, own_first, self.devices, progress)
        return Ran(plan.jobs, len(plan.jobs) - len(todo), computed, complete)


def run_jobs(
    plan: Plan, todo: Sequence[Job], devices: Devices = None, progress: SweepProgress | None = None
) -> tuple[bool, int]:
    """Run jobs in this process; return whether all are done and how many were done here."""
    chosen = choose_devices(tuple(jax.local_devices()) if devices is None else devices)
    total = sum(job.rows for job in plan.jobs)
    waiting, computed = list(todo), 0
    done = total - sum(job.rows for job in waiting)
    compiled: set[str] = set()  # the groups for which compilation has begun
    with interruptible() as interrupted:
        while waiting:
            left = []
            for place, job in enumerate(waiting):
                if interrupted():
                    return False, computed
                with plan.store.claimed(job) as claimed:
                    if not claimed:
                        left.append(job)
                        continue
                    if plan.store.path(job).is_file() and plan.store.load(job) is not None:
                        done += job.rows  # another process has finished it meanwhile
                        continue
                    compiled.add(job.group)

                    def report(
                        rows: int,
                        successes: int,
                        job: Job = job,
                        before: int = done,
                        following: Sequence[Job] = waiting[place + 1 :],
                    ) -> None:
                        if rows:  # this job is compiled
                            _compile_next(plan, following, chosen, compiled)
                        if progress is not None:
                            title = plan.groups[job.group].title()
                            progress(title, before + rows, total, successes)

                    if not _attempt(plan, job, chosen, report, interrupted):
                        return False, computed
                done, computed = done + job.rows, computed + 1
            if len(left) == len(waiting):
                time.sleep(WAIT_SECONDS)
            failed = plan.store.failures()
            waiting = [job for job in left if job.fingerprint not in failed]
    return True, computed


def _compile_next(
    plan: Plan, waiting: Sequence[Job], devices: tuple[Any, ...], compiled: set[str]
) -> None:
    """Begin to compile for the first waiting job of a group that is not among the `compiled`."""
    for job in waiting:
        if job.group not in compiled:
            compiled.add(job.group)
            with contextlib.suppress(Exception):  # which the job itself reports
                compile_job(plan, job, devices)
            return


def _attempt(
    plan: Plan,
    job: Job,
    devices: tuple[Any, ...],
    report: Callable[[int, int], None],
    interrupted: Callable[[], bool],
) -> bool:
    """Run one job and record its failure, if any; return False if it was interrupted."""
    report(0, 0)
    try:
        finished = run_job(plan, job, devices, report, interrupted)
    except OSError:
        raise  # the disk is full or gone, and every other job would fail too
    except Exception as error:
        plan.store.fail(job, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
        return True
    if finished:
        report(job.rows, 0)
    return finished
