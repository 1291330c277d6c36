"""`python -m benchmarks.kills [kills]`: a sweep that is killed again and again (default 100 times).

1,000 cells, a job each, in a process that SIGKILL ends at a random instant and that is started
again until the sweep is done; where it is done before the kills are, another sweep is begun. Held
against a sweep that nobody disturbed: the same rows (all columns but the seconds); no finished file
is ever written again; no more jobs are begun than there are, and one for each kill.
"""

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxadv as ja
from benchmarks.common import show
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
    """The sweep; each reading of the images is a line of FOLDER.log."""
    model = ja.Model(
        lambda w, x: jnp.tanh(x.reshape(len(x), -1) - 0.5) @ w,
        jax.random.normal(jax.random.key(3), (16, 4)),
    )
    images = np.asarray(jax.random.uniform(jax.random.key(1), (IMAGES, 4, 4, 1)))
    labels = np.asarray(model(images).argmax(-1)).astype(np.int32)
    whole = ja.data.Dataset(images, labels, np.arange(IMAGES), "noise", tuple("abcd"))

    def read(rows: range) -> ja.data.Dataset:
        with folder.with_suffix(".log").open("a") as log:
            log.write("read\n")
        return whole.take(rows)

    grid = parse_grid(GRID.format(seeds=list(range(cells // 4))))
    data = {"noise": Source(IMAGES, read)}
    return ja.run_sweep(grid, folder, models={"smooth": model}, data=data)


class Outcome(NamedTuple):
    """jobs: in the sweep; kills: that came in time; started: processes; begun: jobs, each count of
    it; rewritten: finished files that were written again; equal: rows as without any kill."""

    jobs: int
    kills: int
    started: int
    begun: int
    rewritten: int
    equal: bool


def disturbed(folder: Path, cells: int, kills: int, longest: float, reference: Any) -> Outcome:
    """Run a sweep to its end, killed up to `kills` times, each within `longest` seconds."""
    command = [sys.executable, "-m", "benchmarks.kills", "--sweep", str(folder), str(cells)]
    store, finished = SweepStore(folder), dict[str, tuple[int, int]]()
    came, started, rewritten = 0, 0, 0
    while True:
        process = subprocess.Popen(command)
        started += 1
        try:
            code = process.wait(random.uniform(0, longest) if came < kills else None)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        came += code != 0
        for job in store.manifest["jobs"]:
            if store.load(job) is not None:
                about = store.path(job).stat()
                now = about.st_ino, about.st_mtime_ns
                rewritten += finished.setdefault(job, now) != now
        if code == 0:
            break
    begun = len(folder.with_suffix(".log").read_text().splitlines()) - started
    return Outcome(len(store.manifest["jobs"]), came, started, begun, rewritten,
                   rows_of(folder).equals(reference))  # fmt: skip


def rows_of(folder: Path) -> Any:
    """All rows of a store in one order, without the times."""
    rows = SweepStore(folder).rows().drop_columns(list(TIMED))
    return rows.sort_by([("cell", "ascending"), ("id", "ascending")])


def main(kills: int, cells: int = 1000) -> None:
    """Kill, until it has been done so often, and print what came of it."""
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        sweep(Path(folder) / "whole", cells)
        reference, longest = rows_of(Path(folder) / "whole"), time.perf_counter() - began
        outcomes: list[Outcome] = []
        while (left := kills - sum(outcome.kills for outcome in outcomes)) > 0:
            name = f"sweep{len(outcomes)}"
            outcomes.append(disturbed(Path(folder) / name, cells, left, longest, reference))
    show(f"{kills} kills of sweeps of {cells:,} cells (undisturbed: {longest:.0f} s)",
         ["sweep", *Outcome._fields], [[i, *o] for i, o in enumerate(outcomes)])  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--sweep"]:
        sweep(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
