"""`python -m benchmarks.published [--count N] [--seeds 3]`: our attacks on networks with a history.

TRADES' MNIST network at Linf 0.3 under 40 steps of 0.01 (published: clean 99.48 %, robust 96.07 %),
from random starts (PGD) and from the image itself (BIM). From the far side of the ball 40 steps of
0.01 do not reach the near one, so the random start is the weaker attack here. Needs the shared data
(JAXADV_SHARED, or ../shared).
"""

import argparse
import os
from pathlib import Path

import jax
import numpy as np

import jaxadv as ja
from benchmarks.common import show
from jaxadv.models.published import load_published


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    ja.use_cpu_cores()
    shared = Path(os.environ.get("JAXADV_SHARED", Path(__file__).parents[2] / "shared")) / "data"
    model = load_published(shared / "models" / "mnist_smallcnn_trades_linf0.3")
    data = ja.load_data("mnist", "test", options.count, data_dir=shared / "mnist")
    goal = ja.Untargeted(data.labels)
    rows, robust = [], []
    runs = [("PGD", ja.PGD(steps=40, step_size=0.01 / 0.3), seed) for seed in range(options.seeds)]
    for name, attack, seed in [*runs, ("BIM", ja.BIM(steps=40, step_size=0.01 / 0.3), 0)]:
        result = ja.run(attack, model, data.images, goal, 0.3, key=jax.random.key(seed))
        clean = 100 * (result.status != ja.Status.MISCLASSIFIED).mean()
        robust.append(100 * (1 - result.success.mean()))
        rows.append([f"{name}, seed {seed}", f"{clean:.2f} %", f"{robust[-1]:.2f} %",
                     f"{result.forward.mean():.1f}", f"{result.backward.mean():.1f}",
                     f"{result.cost.seconds:.0f}"])  # fmt: skip
    rows.append(["PGD, mean", "", f"{np.mean(robust[:-1]):.2f} %", "", "", ""])
    show(f"mnist_smallcnn_trades_linf0.3, Linf 0.3, 40 x 0.01, {len(data.labels)} images "
         "(published: clean 99.48 %, robust 96.07 %)",
         ["attack", "clean", "robust", "forward", "backward", "s"], rows)  # fmt: skip


if __name__ == "__main__":
    main()
