"""`python -m benchmarks.quality.ablation`: what each choice in attacks="fast" is worth.

Robust accuracy (per cent, mean and each seed) and passes per survivor of the cascade with one
choice changed at a time, on published networks (by default on the 200 images that verification
papers use). Needs the shared data (JAXADV_SHARED, or ../shared).
"""

from dataclasses import replace
from typing import Any

import numpy as np

import jaxadv as ja
from benchmarks.common import arguments, show
from benchmarks.quality.networks import HARD, SUBJECTS, load, verdict
from jaxadv.protocols.cached_run import attack_of
from jaxadv.protocols.cascades import fast

FAST: dict[str, Any] = fast("linf")
FIRST, TARGETED, NEAR, REFINING, SQUARE, AGAIN = FAST


def without(*names: str) -> dict[str, Any]:
    return {name: entry for name, entry in FAST.items() if name not in names}


def runs(**settings: Any) -> dict[str, Any]:
    """The cascade with other settings of all the diverse runs."""
    near = FAST[NEAR]
    return FAST | {
        FIRST: replace(FAST[FIRST], **settings),
        NEAR: near._replace(attack=replace(near.attack, **settings)),
    }


def changed(name: str, **settings: Any) -> dict[str, Any]:
    return FAST | {name: FAST[name]._replace(**settings)}


def afresh(name: str) -> dict[str, Any]:
    """The cascade in which this attack does not begin at the best image so far."""
    return changed(name, attack=attack_of(FAST[name]))


VARIANTS: dict[str, dict[str, Any]] = {
    "fast": FAST,
    "without the targeted runs": without(TARGETED),
    "without more for the near": without(NEAR),
    "without refining": without(REFINING, SQUARE, AGAIN),
    "without refining by gradients": without(REFINING, AGAIN),
    "without refining by squares": without(SQUARE, AGAIN),
    "refining once": without(AGAIN),
    "the first two alone": without(NEAR, REFINING, SQUARE, AGAIN),
    "near: 0.2 of the margin left": changed(NEAR, left=0.2),
    "near: 0.8 of the margin left": changed(NEAR, left=0.8),
    "APGD afresh, not refining": afresh(REFINING),
    "squares afresh, not refining": afresh(SQUARE),
    "steps down to 0.1": runs(final=0.1),
    "no random directions": runs(spread=0),
    "from stripes alone": runs(begin="stripes"),
    "from anywhere in the ball": runs(begin="ball"),
    "DLR": runs(loss="dlr"),
}


def main() -> None:
    parser = arguments(__doc__, names=f"of {list(SUBJECTS)} (default: {list(HARD)})", count=200)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    ja.use_cpu_cores()
    for name in options.names or HARD:
        subject = SUBJECTS[name]
        model, _, data = load(name, subject.images, options.count)
        rows = []
        for title, cascade in VARIANTS.items():
            shares, passes = [], []
            for seed in range(options.seeds):
                found = verdict(model, data, subject, cascade, seed)
                shares.append(100 * found.robust.mean())
                passes.append((found.forward + found.backward)[found.robust].mean())
            each = " ".join(f"{share:.1f}" for share in shares)
            rows.append([title, f"{np.mean(shares):.2f}", each, f"{np.mean(passes):.0f}"])
        show(
            f"{name}, Linf {subject.epsilon:.4g}, {len(data.labels)} images",
            ["cascade", "robust %", "by seed", "passes of a survivor"],
            rows,
        )


if __name__ == "__main__":
    main()
