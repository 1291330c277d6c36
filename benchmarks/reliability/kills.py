"""`python -m benchmarks.reliability.kills`: a sweep that is killed again and again.

1,000 cells, a job each, in a process that SIGKILL ends at a random instant of the first seconds
after its start, or every third time after its first job (default: of all that an undisturbed sweep
takes), and that is started again until the sweep is done; where it is done before the kills are
(default 100), another sweep is begun. Held against a sweep that nobody disturbed: the same rows
(all columns but the seconds); no finished file is ever written again; no more jobs are begun than
there are, and one for each kill.
"""

import multiprocessing
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxadv as ja
from benchmarks.common import arguments, show
from jaxadv.data.form import Source
from jaxadv.sweep import SweepStore, parse_grid
from jaxadv.sweep.store import TIMED

IMAGES = 4
GRID = """
seeds = {seeds}
shard = 4
lanes = 4
epsilons = {{linf = [0.02, 0.05, 0.1, 0.2]}}
images = "float32"
data = [{{name = "noise"}}]
models = [{{given = "smooth"}}]
attacks = [{{name = "PGD", steps = 2}}]
"""


def sweep(folder: Path, cells: int) -> Any:
    """The sweep; each reading of the images is a line of FOLDER.log: for the plan, then a job's,
    and once, after that of a first job, to keep the originals."""
    model = ja.Model(
        lambda w, x: jnp.tanh(x.reshape(len(x), -1) - 0.5) @ w,
        jax.random.normal(jax.random.key(3), (16, 4)),
    )
    images = np.asarray(jax.random.uniform(jax.random.key(1), (IMAGES, 4, 4, 1)))
    labels = np.asarray(model(images).argmax(-1)).astype(np.int32)
    whole = ja.data.Dataset(images, labels, np.arange(IMAGES), "noise", tuple("abcd"))

    at_work: list[bool] = []  # what is read before any progress is for the plan
    lines: list[str] = []  # of this process

    def read(rows: range) -> ja.data.Dataset:
        line = "job" if at_work else "plan"
        if "job" in lines and not any((folder / "originals").glob("*.npz")):
            line = "originals"
        lines.append(line)
        with folder.with_suffix(".log").open("a") as log:
            log.write(line + "\n")
        return whole.take(rows)

    grid = parse_grid(GRID.format(seeds=list(range(cells // 4))))
    data = {"noise": Source(IMAGES, read)}
    return ja.run_sweep(
        grid, folder, models={"smooth": model}, data=data, progress=lambda *_: at_work.append(True)
    )


class Outcome(NamedTuple):
    """jobs: in the sweep; kills: that came in time; working: those between two of its jobs, or in
    one; begun: jobs, as often as each was; rewritten: finished files that were written again;
    equal: rows as without any kill."""

    jobs: int
    kills: int
    working: int
    begun: int
    rewritten: int
    equal: bool


def disturbed(folder: Path, cells: int, kills: int, longest: float, reference: Any) -> Outcome:
    """Run a sweep to its end, killed up to `kills` times, each within `longest` seconds: of its
    start, or every third time of its first job."""
    fork = multiprocessing.get_context("forkserver")  # of a process that has imported, not begun
    fork.set_forkserver_preload(["benchmarks.reliability.kills"])
    store, finished = SweepStore(folder), dict[str, tuple[int, int]]()
    came, working, rewritten, log = 0, 0, 0, folder.with_suffix(".log")
    log.touch()

    def log_jobs() -> int:
        return log.read_text().count("job")

    while True:
        before = log_jobs()
        process = fork.Process(target=sweep, args=(folder, cells))
        process.start()
        while process.is_alive() and came < kills and came % 3 == 0 and log_jobs() == before:
            time.sleep(0.02)
        process.join(random.uniform(0, longest) if came < kills else None)
        process.kill()
        process.join()
        killed = process.exitcode == -signal.SIGKILL
        assert killed or process.exitcode == 0
        came += killed
        working += killed and log_jobs() > before
        for path in (folder / "rows").glob("*.parquet"):
            about = path.stat()
            now = about.st_ino, about.st_mtime_ns
            assert path.stem in finished or store.load(path.stem) is not None  # never torn
            rewritten += finished.setdefault(path.stem, now) != now
        if not killed:
            break
    equal = rows_of(folder).equals(reference)
    return Outcome(len(store.manifest["jobs"]), came, working, log_jobs(), rewritten, equal)


def rows_of(folder: Path) -> Any:
    """All rows of a store in one order, without the times."""
    rows = SweepStore(folder).rows().drop_columns(list(TIMED))
    return rows.sort_by([("cell", "ascending"), ("id", "ascending")])


def main(kills: int, longest: float | None, cells: int = 1000) -> None:
    """Kill, until it has been done so often, and print what came of it."""
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        sweep(Path(folder) / "whole", cells)
        reference, seconds = rows_of(Path(folder) / "whole"), time.perf_counter() - began
        outcomes: list[Outcome] = []
        while (left := kills - sum(outcome.kills for outcome in outcomes)) > 0:
            name = f"sweep{len(outcomes)}"
            outcomes.append(
                disturbed(Path(folder) / name, cells, left, longest or seconds, reference)
            )
    show(
        f"{kills} kills of sweeps of {cells:,} cells (undisturbed: {seconds:.0f} s)",
        ["sweep", *Outcome._fields],
        [[i, *o] for i, o in enumerate(outcomes)],
    )


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("kills", nargs="?", type=int, default=100, help="default: 100")
    parser.add_argument("seconds", nargs="?", type=float, help="the latest instant of a kill")
    options = parser.parse_args()
    main(options.kills, options.seconds)
