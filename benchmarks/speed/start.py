"""`python -m benchmarks.speed.start`: how long a first answer takes, and what is compiled for it.

Each cell is a process of its own, without a compilation cache: the first call, the second one, the
number of programs, the seconds that the compiler reports (of all threads, so more than the wall
where it runs in several), and the peak of the memory. `--instructions` starts each cell once more
with XLA's dump and counts the instructions of all programs, and of the largest one, before
optimisation. With `--tree`, another checkout takes turns with this one, and its seconds stand after
a stroke. Networks of ours have random weights, and their labels are what they say, so that every
image is attacked, and falls soon; published networks of the shared data (mnist_cnn_a_adv) are
attacked on their first test images, and those that survive see every stage. 64 images, one epsilon,
one CPU device. `--command` times `jaxadv evaluate` instead, three starts: with an empty cache (the
network is trained), with its network and its programs kept, and with its results kept.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, SHARED, arguments, load_images, show

NETWORKS = {"FC": (28, 28, 1), "CNNA": (28, 28, 1), "ResNet18": (32, 32, 3)}
CALLS = ("quick", "fast", "standard", "minimal_distance")
COUNT, EPSILON = 64, 0.03

CHILD = """
import collections, json, resource, sys, time
import jax, jax.numpy as jnp, numpy as np
import jaxadv as ja
from jax import monitoring
network, shape, call, count, epsilon, given = json.loads(sys.argv[1])
totals = collections.Counter()
def note(name, seconds, **_):
    if name.endswith("backend_compile_duration"):
        totals["programs"] += 1
        totals["compiler"] += seconds
if given:
    from jaxadv.models.published import load_published
    model, data = load_published(network), np.load(given)
    images, labels = data["images"], data["labels"]
else:
    module = ja.models.get_definition(network)()
    images = np.random.default_rng(0).random((count, *shape), np.float32)
    model = ja.from_linen(module, jax.jit(module.init)(jax.random.key(0), images[:1]))
    labels = np.asarray(jax.jit(lambda model, images: model(images))(model, images)).argmax(1)
key = jax.random.key(0)
monitoring.register_event_duration_secs_listener(note)
seconds = []
for _ in range(int(sys.argv[2])):
    began = time.perf_counter()
    if call == "minimal_distance":
        ja.minimal_distance(model, images, labels, "linf", key=key)
    else:
        ja.evaluate(model, images, labels, epsilons=[epsilon], attacks=call, key=key)
    seconds.append(time.perf_counter() - began)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"seconds": seconds, "peak": peak, **totals}))
"""


def measure(tree: Path, network: str, call: str, calls: int = 2, flags: str = "") -> dict:
    """One process: seconds of each call, programs, seconds in the compiler, peak in GiB."""
    if network in NETWORKS:
        words = json.dumps((network, NETWORKS[network], call, COUNT, EPSILON, None))
        return _measure(tree, words, calls, flags)
    epsilon = 0.3 if network.startswith("mnist") else 2 / 255
    with tempfile.TemporaryDirectory() as folder:
        images, path = load_images(network, COUNT), Path(folder) / "images.npz"
        np.savez(path, images=images.images, labels=images.labels)
        named = str(SHARED / "models" / network), None, call, COUNT, epsilon, str(path)
        return _measure(tree, json.dumps(named), calls, flags)


def _measure(tree: Path, words: str, calls: int, flags: str) -> dict:
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONWARNINGS": "ignore"}
    environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, words, str(calls)],
        env=environment,
        cwd=tree,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def instructions(tree: Path, network: str, call: str) -> tuple[int, int]:
    """Instructions before optimisation: of all programs, and of the largest."""
    with tempfile.TemporaryDirectory() as folder:
        measure(tree, network, call, 1, f"--xla_dump_to={folder} --xla_dump_hlo_as_text")
        counts = [
            len(re.findall(r"^\s+(?:ROOT )?%?[\w.-]+ = ", file.read_text(), re.MULTILINE))
            for file in Path(folder).glob("*before_optimizations.txt")
        ]
    return sum(counts), max(counts)


def commands(trees: list[Path]) -> None:
    """Whole processes of `jaxadv evaluate`, with an empty cache and with what it keeps."""
    rows: list[list] = [["empty cache"], ["network and programs kept"], ["results kept"]]
    for tree in trees:
        with tempfile.TemporaryDirectory() as folder:
            for row in rows:
                if row is rows[1]:
                    shutil.rmtree(Path(folder) / "jaxadv-results")
                begun = time.perf_counter()
                subprocess.run(
                    [sys.executable, "-m", "jaxadv", "evaluate"],
                    env={**os.environ, "PYTHONPATH": str(tree), "JAXADV_CACHE": f"{folder}/cache"},
                    cwd=folder,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    check=True,
                )
                row.append(time.perf_counter() - begun)
    show("jaxadv evaluate", ["start", *(f"{tree.name} s" for tree in trees)], rows)


def main() -> None:
    parser = arguments(
        __doc__, names=f"networks, ours or published (default: {', '.join(NETWORKS)})"
    )
    parser.add_argument("--calls", nargs="+", default=CALLS, choices=CALLS, metavar="CALL")
    parser.add_argument("--rounds", type=int, default=1, help="processes of each cell (default: 1)")
    parser.add_argument("--instructions", action="store_true", help="count instructions, too")
    parser.add_argument("--tree", type=Path, help="another checkout to compare with")
    parser.add_argument("--command", action="store_true", help="time jaxadv evaluate instead")
    given = parser.parse_args()
    trees = [ROOT, *([given.tree] if given.tree else [])]
    if given.command:
        commands(trees)
        return
    rows = []
    for network in given.names or NETWORKS:
        for call in given.calls:
            cells: dict[Path, list[dict]] = {tree: [] for tree in trees}
            for _ in range(given.rounds):
                for tree in trees:
                    cells[tree].append(measure(tree, network, call))

            def told(pick, form: str, cells=cells) -> str:
                medians = (statistics.median(map(pick, each)) for each in cells.values())
                return " | ".join(format(value, form) for value in medians)

            row = [
                f"{network}, {call}",
                told(lambda one: one["seconds"][0], ".1f"),
                told(lambda one: one["seconds"][1], ".1f"),
                told(lambda one: one["programs"], ".0f"),
                told(lambda one: one["compiler"], ".1f"),
                told(lambda one: one["peak"], ".2f"),
            ]
            if given.instructions:
                counts = [instructions(tree, network, call) for tree in trees]
                row.append(" | ".join(f"{every:,}, {most:,}" for every, most in counts))
            rows.append(row)
            print(*row, sep="   ", flush=True)
    more = ["instructions, largest"] if given.instructions else []
    show(
        "A first answer",
        ["", "first call s", "second s", "programs", "compiler s", "peak GiB", *more],
        rows,
    )


if __name__ == "__main__":
    main()
