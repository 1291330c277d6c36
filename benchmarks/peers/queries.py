"""`python -m benchmarks.peers.queries`: who comes nearest by asking alone.

Networks of the shared data (JAXADV_SHARED, or ../shared). HopSkipJump, the boundary attack,
Sign-OPT and, in L0, the pointwise attack: the median distance of the nearest adversarial image that
was asked within 1,000, 5,000 and 25,000 answers per image; Square: the share of images broken at
epsilon within them. With `--python` (an interpreter that has torch, Foolbox, ART and pyautoattack)
theirs on the same weights and images.
Seconds are to the last budget; ours are of a second run, the first one's surplus (mostly
compilation) is a column of its own. ART's work on one image at a time, as they are made.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

import jaxadv as ja
from benchmarks.common import Published, arguments, load, show, torch_results


class QueryComparison(NamedTuple):
    """distance [budgets, N] (infinite: none), seconds to each budget, and of compilation."""

    distance: np.ndarray
    seconds: np.ndarray
    compiling: float | None = None


def ours(
    network: Published, norm: str, budgets: list[int], epsilon: float, only: set[str]
) -> dict[str, QueryComparison]:
    """Our attacks; a budget is known to the attack by labels, so that each is a run."""
    model, images = network.model, network.data.images
    goal = ja.Untargeted(network.data.labels)
    lanes = -(-len(images) // jax.local_device_count())

    def timed(attack: ja.Attack, epsilon: float | None, key: int) -> tuple[ja.Result, float]:
        begin = time.perf_counter()
        result = ja.run(attack, model, images, goal, epsilon, key=jax.random.key(key), lanes=lanes)
        return result, time.perf_counter() - begin

    found = {}
    makers: dict[str, Callable[[int], ja.Attack]] = {
        "HopSkipJump": lambda n: ja.HopSkipJump(norm=norm, budget=n)
    }
    if norm == "l2":
        makers["Boundary"] = lambda n: ja.Boundary(budget=n)
        makers["SignOPT"] = lambda n: ja.SignOPT(budget=n)
    if norm == "l0":
        makers = {"Pointwise": lambda n: ja.Pointwise(budget=n)}
    for name, make in makers.items():
        if only and name not in only:
            continue
        distances, seconds, compiling = [], [], 0.0
        for budget in budgets:
            first = timed(make(budget), None, 0)[1]
            result, second = timed(make(budget), None, 0)
            assert (result.queries <= budget).all()
            distances.append(np.where(result.success, result.distance, np.inf))
            seconds.append(second)
            compiling = first - second
        found[name] = QueryComparison(np.array(distances), np.array(seconds), compiling)
    if norm != "l0" and (not only or "Square" in only):
        attack = ja.Square(norm=norm, steps=budgets[-1] - 1)
        first = timed(attack, epsilon, 0)[1]
        result, second = timed(attack, epsilon, 0)
        within = result.success & (result.queries <= np.array(budgets)[:, None])
        distance = np.where(within, result.distance, np.inf)
        found["Square"] = QueryComparison(distance, np.full(len(budgets), second), first - second)
    return found


def theirs(
    network: Published,
    norm: str,
    budgets: list[int],
    epsilon: float,
    only: set[str],
    python: str,
) -> dict[str, QueryComparison]:
    """The peers' attacks, in a process of their own."""
    words = (norm, ",".join(map(str, budgets)), epsilon, ",".join(only))
    arrays = {"images": network.data.images, "labels": network.data.labels}
    results = torch_results(python, "peers.queries_torch", network, arrays, *words)
    return {
        f"{name} ({library})": QueryComparison(one["distance"], one["seconds"])
        for (library, name), one in results.items()
    }


def main() -> None:
    parser = arguments(
        __doc__,
        names="networks of the shared data (default: mnist_cnn_a_adv)",
        count=20,
        python="torch and the peers",
    )
    parser.add_argument("--norm", action="append", help="l2, linf or l0 (default: l2, linf)")
    parser.add_argument("--budgets", default="1000,5000,25000")
    parser.add_argument("--epsilon", type=float, help="of Square (default: L2 1.5, Linf 0.3)")
    parser.add_argument("--only", default="", help="HopSkipJump, SignOPT, ..., with commas")
    options = parser.parse_args()
    ja.use_cpu_cores()
    budgets = [int(budget) for budget in options.budgets.split(",")]
    only = set(filter(None, options.only.split(",")))
    for name in options.names or ["mnist_cnn_a_adv"]:
        network = load(name, options.count)
        for norm in options.norm or ("l2", "linf"):
            epsilon = options.epsilon or {"l2": 1.5, "linf": 0.3, "l0": 0.0}[norm]
            found = ours(network, norm, budgets, epsilon, only)
            if options.python:
                found |= theirs(network, norm, budgets, epsilon, only, options.python)
            rows = []
            for attack in sorted(found):
                one, square = found[attack], attack.startswith("Square")
                values = (
                    [f"{100 * (d <= epsilon * (1 + 1e-6)).mean():.0f} %" for d in one.distance]
                    if square
                    else [f"{np.median(d):.4g}" for d in one.distance]
                )
                compiling = "" if one.compiling is None else f"{one.compiling:.1f}"
                rows.append([attack, *values, *(f"{s:.1f}" for s in one.seconds), compiling])
            show(
                f"{name}, {norm}, {len(network.data.labels)} images; median distance (Square: "
                f"broken at {epsilon:g}) within so many answers",
                [
                    "attack",
                    *(f"{b:,}" for b in budgets),
                    *(f"s at {b:,}" for b in budgets),
                    "compiling s",
                ],
                rows,
            )


if __name__ == "__main__":
    main()
