"""`python -m benchmarks.reliability.memory`: peak memory of a sweep whose images come in parts.

FGSM on a linear model for images of 8 x 8 x 1 that are made from their numbers, no pictures kept:
the peak of the resident memory for 1,000,000 images over that for 10,000, each in a process of its
own that compiles nothing (2,000 images a file).
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np

import jaxadv as ja
from benchmarks.common import arguments, show
from jaxadv.data.form import Source
from jaxadv.sweep import parse_grid

GRID = """
epsilons = {linf = [0.05]}
lanes = 512
shard = 2000
images = "none"
data = [{name = "numbers"}]
models = [{given = "linear"}]
attacks = [{name = "FGSM"}]
"""


def read(rows: range) -> ja.data.Dataset:
    """Images that are a hash of their number and of the pixel's: made where they are asked for."""
    numbers = np.asarray(rows, np.uint32)[:, None] * np.uint32(64) + np.arange(64, dtype=np.uint32)
    numbers = (numbers ^ (numbers >> 16)) * np.uint32(0x45D9F3B)
    numbers = (numbers ^ (numbers >> 16)) * np.uint32(0x45D9F3B)
    images = ((numbers >> 8) / np.float32(2**24)).astype(np.float32).reshape(-1, 8, 8, 1)
    labels = np.asarray(rows, np.int32) % 4
    return ja.data.Dataset(images, labels, np.asarray(rows, np.int32), "numbers", tuple("abcd"))


def sweep(folder: str, count: int) -> Any:
    """The sweep of that many images."""
    weights = jax.random.normal(jax.random.key(0), (64, 4))
    model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, weights)
    data = {"numbers": Source(count, read)}
    return ja.run_sweep(parse_grid(GRID), folder, models={"linear": model}, data=data)


def peak(count: int) -> tuple[float, float]:
    """Peak resident memory in MiB, and seconds, of a process that sweeps so many images."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.reliability.memory", "--sweep", str(count)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return float(said.split()[-1]) / 1024, time.perf_counter() - began


if __name__ == "__main__":
    parser = arguments(__doc__)
    default = [10_000, 1_000_000]
    parser.add_argument("counts", nargs="*", type=int, metavar="COUNT", help=f"images {default}")
    parser.add_argument("--sweep", type=int, metavar="COUNT", help="sweep here, print the peak")
    options = parser.parse_args()
    if options.sweep is not None:
        with tempfile.TemporaryDirectory() as folder:
            assert sweep(folder, options.sweep).complete
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    else:
        counts = options.counts or default
        with tempfile.TemporaryDirectory() as cache:  # compiling takes memory of its own: once
            os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
            os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
            peak(counts[0])
            rows = [[f"{count:,}", *peak(count)] for count in counts]
        show("peak resident memory of a sweep", ["images", "MiB", "s"], rows)
        print(f"the last over the first: {rows[-1][1] / rows[0][1]:.3f}")
