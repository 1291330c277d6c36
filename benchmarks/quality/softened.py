"""`python -m benchmarks.quality.softened`: what a softened derivative at ReLUs breaks.

The images are the hard ones of published networks: a mixed-integer solver found an adversarial
example of each and gradient attacks did not. Each attack climbs the margin with the derivative of
the network as it is, then with `ja.softened` of several widths. In each of `--rounds` rounds, all
with other starts, the images left to a round's runs are refined: short steps with the derivative as
it is, from the best image of this round. The last row of an attack counts the images that one width
or another broke. Passes are forward and backward ones, a mean over the images. Every success is
verified on the network itself. Needs the shared data (JAXADV_SHARED, or ../shared).
"""

import time
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxadv as ja
from benchmarks.common import arguments, show
from benchmarks.quality.networks import HARD, SUBJECTS, Images, load

REFINING = ja.Diverse(steps=100, restarts=1, first=0.2, final=0.01)


def attacks(restarts: int) -> dict[str, ja.Attack]:
    """The attacks by name, with as many restarts a round, and APGD of about equal passes."""
    apgd = ja.APGD(loss="margin", steps=100, restarts=max(1, 3 * restarts // 10))
    return {
        "diverse": ja.Diverse(steps=30, restarts=restarts, begin="corner", first=0.5, final=0.02),
        "APGD": apgd,
        "APGD targeted": replace(apgd, steps=max(10, 10 * restarts // 3), targets=9, restarts=1),
    }


class Found(NamedTuple):
    """first, refined [N]: whether a run of the attack, or a refining one, broke each image;
    margin [N]: the least margin; passes: of an image; seconds."""

    first: np.ndarray
    refined: np.ndarray
    margin: np.ndarray
    passes: float
    seconds: float


def measure(
    attack: ja.Attack, model: ja.Model, width: float | None, data: Images, epsilon: float, keys: Any
) -> Found:
    """What an attack breaks with this width (None: the derivative as it is), a round for a key."""
    begin, count = time.perf_counter(), len(data.labels)
    climbed = model if width is None else ja.softened(model, width)
    broken, margin = np.zeros((2, count), bool), np.full(count, np.inf)
    passes = 0
    for key in keys:
        start = None
        for stage, (one, through) in enumerate(((attack, climbed), (REFINING, model))):
            left = ~broken.any(0)
            if not left.any():
                break
            goal = ja.Untargeted(data.labels[left])
            result = ja.run(
                one,
                through,
                data.images[left],
                goal,
                epsilon,
                key=key,
                ids=data.ids[left],
                judge=model,
                start=start if start is None else start[left],
            )
            start = np.array(data.images)
            start[left] = result.images
            broken[stage, left] = result.success
            margin[left] = np.minimum(margin[left], result.margin)
            passes += (result.forward + result.backward).sum()
    seconds = time.perf_counter() - begin
    return Found(broken[0], broken[1], margin, passes / count, seconds)


def row(title: list[str], found: Found) -> list[str]:
    """A row of the table."""
    return [
        *title,
        f"{(found.first | found.refined).sum()}",
        f"{found.refined.sum()}",
        f"{np.median(found.margin):.4f}",
        f"{found.passes:.0f}",
        f"{found.seconds:.0f}",
    ]


def union(found: list[Found]) -> Found:
    """What one of several broke, at the cost of all."""
    return Found(
        np.any([one.first for one in found], 0),
        np.any([one.refined for one in found], 0),
        np.min([one.margin for one in found], 0),
        sum(one.passes for one in found),
        sum(one.seconds for one in found),
    )


def main() -> None:
    parser = arguments(__doc__, names=f"of {list(HARD)} (default: {HARD[0]})", count=100)
    parser.add_argument("--attacks", default=",".join(attacks(1)), help="with commas")
    parser.add_argument("--widths", default="0.25,0.5,1.0", help="with commas")
    parser.add_argument("--restarts", type=int, default=10, help="of diverse; others in proportion")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    ja.use_cpu_cores()
    keys = jax.random.split(jax.random.key(options.seed), options.rounds)
    widths = [float(width) for width in options.widths.split(",")]
    for name in options.names or HARD[:1]:
        epsilon = SUBJECTS[name].epsilon
        model, _, data = load(name, "hard_mip_unsafe", options.count)
        rows = []
        for title in options.attacks.split(","):
            attack, every = attacks(options.restarts)[title], []
            for width in (None, *widths):
                found = measure(attack, model, width, data, epsilon, keys)
                rows.append(row([title, "as it is" if width is None else f"{width:g}"], found))
                every += [] if width is None else [found]
            rows.append(row([title, "one of these widths"], union(every)))
        show(
            f"{name}, Linf {epsilon:.4g}, {len(data.labels)} hard images, seed {options.seed}",
            ["attack", "width", "broken", "by refining", "median margin", "passes", "s"],
            rows,
        )


if __name__ == "__main__":
    main()
