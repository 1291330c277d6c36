"""`python -m benchmarks.speed.sweep_overhead`: the time of a sweep over that of `ja.run`.

Both for the same rows: PGD-40, all of it as a user would run it. The sweep opens its data (hashed),
plans, attacks, verifies and writes its store, pictures included, in a new folder each time;
`ja.run` only attacks and verifies. In one process, taking turns, after one call of each; the median
of the ratios.
"""

import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np

import jaxadv as ja
from benchmarks.common import alternate, arguments, ratio, show, trained
from jaxadv.sweep import parse_grid

GRID = """
seeds = {seeds}
shard = {shard}
lanes = {lanes}
epsilons = {{linf = [0.1]}}
images = "{images}"
data = [{{name = "digits", examples = {count}}}]
models = [{{given = "network"}}]
attacks = [{{name = "PGD", steps = 40, step_size = 0.05}}]
"""
ROUNDS = 5


def compare(name: str, count: int, cells: int, shard: int, images: str) -> list[object]:
    """One row: a network, `cells` cells of `count` images."""
    model, pixels, labels = trained(name)
    pixels, labels = pixels[-count:], labels[-count:].astype(np.int32)
    ids = np.arange(count, dtype=np.int32)
    data = ja.data.Dataset(pixels, labels, ids, "digits", tuple(map(str, range(10))))
    lanes = min(128, count)
    grid = parse_grid(
        GRID.format(seeds=list(range(cells)), shard=shard, lanes=lanes, images=images, count=count)
    )
    attack, goal = ja.PGD(steps=40, step_size=0.05), ja.Untargeted(labels)

    def sweep() -> int:
        folder = Path(tempfile.mkdtemp())
        try:
            return ja.run_sweep(grid, folder, models={"network": model}, data={"digits": data}).rows
        finally:
            shutil.rmtree(folder)

    def bare() -> int:
        for seed in range(cells):
            ja.run(attack, model, pixels, goal, 0.1, key=jax.random.key(seed), ids=ids, lanes=lanes)
        return cells * count

    seconds = alternate({"sweep": sweep, "run": bare}, ROUNDS)
    return [
        f"{name}, {cells} x {count}, {shard} a file, {images}",
        *(float(np.median(s)) for s in seconds.values()),
        ratio(seconds["sweep"], seconds["run"]),
    ]


if __name__ == "__main__":
    counts = {"FC": 2000, "LeNet": 400}  # a pass of LeNet costs some twenty times as much
    options = arguments(__doc__, names=f"of {list(counts)} (default: all)").parse_args()
    ja.use_cpu_cores()
    rows = [
        compare(name, *case)
        for name in options.names or counts
        for case in [
            (counts[name], 1, 4096, "float32"),
            (counts[name], 1, 4096, "none"),
            (20, counts[name] // 20, 4096, "float32"),
            (20, counts[name] // 20, 20, "float32"),
        ]
    ]
    show(
        "run_sweep over ja.run for the same rows, PGD-40",
        ["cells x images", "sweep s", "run s", "ratio"],
        rows,
    )
