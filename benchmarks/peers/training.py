"""`python -m benchmarks.peers.training`: adversarial training, here and in torch.

Madry's CNN on MNIST digits, PGD-7 at Linf 0.3 inside each step of Adam, batches of 64: steps per
second here (`models.train`, every core a device) and of the same loop in torch (channels
last, all threads), in processes that take turns. Compilation and the first step are not counted.
"""

import os
import statistics
import subprocess
import sys
import time

import jax
import numpy as np

import jaxadv as ja
from benchmarks.common import arguments, show, torch_half
from jaxadv.data import Dataset
from jaxadv.engine.devices import cpu_cores
from jaxadv.models import get_definition
from jaxadv.models.train import train

BATCH, EPSILON, STEPS = 64, 0.3, 7


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--python", default=sys.executable, help="interpreter that has torch")
    parser.add_argument("--batches", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    ja.use_cpu_cores()
    count = BATCH * options.batches
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, count)
    names = tuple(map(str, range(10)))
    data = Dataset(rng.random((count, 28, 28, 1), np.float32), labels, labels, "noise", names)
    module, attack = get_definition("MadryCNN")(), ja.PGD(steps=STEPS, step_size=0.25)

    def ours() -> float:
        marks: list[float] = []
        train(
            module,
            data,
            epochs=2,
            batch_size=BATCH,
            attack=attack,
            epsilon=EPSILON,
            key=jax.random.key(0),
            progress=lambda done, loss: marks.append(time.perf_counter()),
        )
        return marks[1] - marks[0]  # the second epoch: nothing is compiled in it

    threads = os.environ.get("OMP_NUM_THREADS", str(cpu_cores()))
    torch = subprocess.Popen(
        **torch_half(options.python, "peers.training_torch", options.batches, threads),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert torch.stdin is not None
    assert torch.stdout is not None
    version = torch.stdout.readline().split()[-1]

    def theirs() -> float:
        torch.stdin.write("go\n")
        torch.stdin.flush()
        return float(torch.stdout.readline())

    ours()
    seconds = [(ours(), theirs()) for _ in range(options.rounds)]
    torch.stdin.close()
    torch.wait()
    rate = [options.batches / statistics.median(side) for side in zip(*seconds, strict=True)]
    show(
        f"adversarial training, Madry CNN, PGD-{STEPS}, batches of {BATCH}, {threads} cores",
        ["side", "version", "steps per second"],
        [["jaxadv", ja.__version__, rate[0]], ["torch, channels last", version, rate[1]]],
    )
    times = statistics.median(b / a for a, b in seconds)
    print(f"jaxadv is {times:.2f} times as fast; 60,000 images are {60_000 // BATCH:,} steps")


if __name__ == "__main__":
    main()
