"""`python -m benchmarks.ablation [NAME ...]`: what each choice in attacks="fast" is worth.

Robust accuracy (per cent, mean and each seed) and passes per survivor of the cascade with one
choice changed at a time, on published networks (of each the 200 images that verification papers
use). Needs the shared data (JAXADV_SHARED, or ../shared).
"""

import argparse
from dataclasses import replace
from typing import Any

import jax
import numpy as np

import jaxadv as ja
from benchmarks.common import show
from benchmarks.verdict import HARD, SUBJECTS, load
from jaxadv.engine.cascades import fast

DIVERSE: Any
DIVERSE, TARGETED = fast("linf").values()
VARIANTS: dict[str, list[ja.Attack]] = {
    "fast": [DIVERSE, TARGETED],
    "without the targeted runs": [DIVERSE],
    "without the diverse runs": [TARGETED],
    "9 runs of 40 steps": [replace(DIVERSE, steps=40, restarts=9), TARGETED],
    "18 runs of 20 steps": [replace(DIVERSE, steps=20, restarts=18), TARGETED],
    "no random directions": [replace(DIVERSE, spread=0), TARGETED],
    "corners": [replace(DIVERSE, begin="corner"), TARGETED],
    "anywhere in the ball": [replace(DIVERSE, begin="ball"), TARGETED],
    "DLR": [replace(DIVERSE, loss="dlr"), TARGETED],
    "steps of 0.5 to 0.02": [replace(DIVERSE, first=0.5, final=0.02), TARGETED],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {list(HARD)} (default: all)")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    ja.use_cpu_cores()
    for name in options.names or HARD:
        subject = SUBJECTS[name]
        model, _, (ids, images, labels) = load(name, subject.images, 200)
        goal = ja.Untargeted(labels)
        found: dict[tuple[str, int], ja.Result] = {}  # each attack runs once a seed

        def run(attack: ja.Attack, seed: int) -> ja.Result:
            where = (repr(attack), seed)
            if where not in found:
                found[where] = ja.run(attack, model, images, goal, subject.epsilon,
                                      key=jax.random.key(seed), ids=ids)  # fmt: skip
            return found[where]

        rows = []
        for title, attacks in VARIANTS.items():
            shares, passes = [], 0.0
            for seed in range(options.seeds):
                results = [run(attack, seed) for attack in attacks]
                robust = ~np.any([result.success for result in results], 0)
                shares.append(100 * robust.mean())
                passes = sum((r.forward + r.backward)[robust].mean() for r in results)
            each = " ".join(f"{share:.1f}" for share in shares)
            rows.append([title, f"{np.mean(shares):.2f}", each, f"{passes:.0f}"])
        show(f"{name}, Linf {subject.epsilon:.4g}, {len(labels)} images",
             ["cascade", "robust %", "by seed", "passes of a survivor"], rows)  # fmt: skip


if __name__ == "__main__":
    main()
