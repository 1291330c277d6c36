"""`python -m benchmarks.peers.minimum`: who comes nearest at equal cost.

AttackBench's measure (Cina et al. 2024, arXiv 2404.19460) on the networks of the shared data
(JAXADV_SHARED, or ../shared): every minimum-norm attack, attacks of fixed epsilon with a search
around them, `ja.minimal_distance`, and with `--python` (an interpreter that has torch, adv-lib and
Foolbox) theirs on the same weights and images. Each has 2,000 forward and backward passes an image,
and the least adversarial distance of all that it ever asked counts. Robust accuracy against
epsilon is a curve; the per-image best of all makes the lowest. An attack's local optimality is 1
less its curve's excess over the lowest one, as a share of that of no attack at all (100 %: nowhere
beaten); global: the mean over the networks. Our seconds include compilation; with `--warm` every
search of ours runs twice, and compilation stands apart. With `--data`, a NAME is any model that
`jaxadv evaluate --model` takes, such as the folder of a published network.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import jaxadv as ja
from benchmarks.common import (
    Published,
    arguments,
    load,
    load_own,
    minimum_norm_attacks,
    show,
    torch_results,
)

NETWORKS = (
    "mnist_smallcnn_ddn_l2",
    "mnist_cnn_a_adv",
    "mnist_smallcnn_trades_linf0.3",
    "cifar10_resnet2b",
    "cifar_cnn_a_mix",
)


class Found(NamedTuple):
    """Distances [N] (infinite: none), mean passes, seconds, and those of the first run more."""

    distance: np.ndarray
    passes: float
    seconds: float
    compiling: float = 0.0


def optimality(found: dict[str, Found], right: np.ndarray) -> dict[str, float]:
    """Local optimality of each, in per cent, over the images [N] that are classified right.

    A curve that ends at the largest of the best distances encloses the mean of the distances cut
    off there; no attack at all encloses everything.
    """
    distances = {name: np.where(right, one.distance, 0.0) for name, one in found.items()}
    best = np.min(list(distances.values()), 0)
    reach = best[np.isfinite(best)].max()
    area = {name: np.minimum(d, reach).mean() for name, d in distances.items()}
    lowest, whole = np.minimum(best, reach).mean(), right.mean() * reach
    return {name: 100 * (1 - (a - lowest) / (whole - lowest)) for name, a in area.items()}


def wanted(name: str, only: set[str]) -> bool:
    """Whether an attack of this name is to be run."""
    return not only or name in only


def ours(
    network: Published, norm: str, passes: int, only: set[str], warm: bool
) -> dict[str, Found]:
    """Every attack of ours, and minimal_distance at a fifth of the passes and at all of them."""
    model, images = network.model, network.data.images
    goal, key = ja.Untargeted(network.data.labels), jax.random.key(0)
    found = {}

    def watch(name: str, search: Callable[[], ja.Result | ja.MinimalDistances]) -> None:
        seconds = 0.0
        for _ in range(1 + warm):
            begin = time.perf_counter()
            one = search()
            before, seconds = seconds, time.perf_counter() - begin
        distance = np.where(one.success, one.distance, np.inf)
        spent = float((one.forward + one.backward).mean())
        found[name] = Found(distance, spent, seconds, max(before - seconds, 0.0))

    for name, attack in minimum_norm_attacks(norm, passes).items():
        if wanted(name, only):
            watch(name, lambda attack=attack: ja.run(attack, model, images, goal, key=key))
    for effort, most in (("fast", passes // 5), ("standard", passes)):
        name = f"minimal_distance, {effort}"
        if wanted(name, only) or "minimal_distance" in only:
            watch(
                name,
                lambda effort=effort, most=most: ja.minimal_distance(
                    model, images, goal, norm, effort=effort, passes=most, key=key
                ),
            )
    return found


def theirs(
    network: Published, norm: str, passes: int, only: set[str], python: str
) -> dict[str, Found]:
    """The attacks of adv-lib and Foolbox, in a process of their own."""
    words = (norm, passes, *([";".join(only)] if only else []))
    arrays = {"images": network.data.images, "labels": network.data.labels}
    results = torch_results(python, "peers.minimum_torch", network, arrays, *words)
    return {
        f"{name} ({library})": Found(one["distance"], float(one["passes"]), float(one["seconds"]))
        for (library, name), one in results.items()
    }


def main() -> None:
    parser = arguments(
        __doc__,
        names=f"of {list(NETWORKS)} (default: all)",
        count=100,
        python="torch, adv-lib and Foolbox",
        own=True,
    )
    parser.add_argument("--norm", action="append", help="of these norms only")
    parser.add_argument("--passes", type=int, default=2_000)
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="attacks of this name alone, whoever's, or as a table names it: 'DDN (adv-lib)'",
    )
    parser.add_argument("--warm", action="store_true", help="time the second of two runs of ours")
    parser.add_argument("--json", type=Path, help="write the distances of each image here")
    options = parser.parse_args()
    ja.use_cpu_cores()
    only, names, kept = set(options.only), options.names or NETWORKS, {}
    for norm in options.norm or ("linf", "l2", "l1", "l0"):
        whole: dict[str, list[float]] = {}
        for name in names:
            own = options.data is not None
            network = load_own(name, options, options.count) if own else load(name, options.count)
            images, labels = network.data.images, network.data.labels
            found = ours(network, norm, options.passes, only, options.warm)
            if options.python:
                found |= theirs(network, norm, options.passes, only, options.python)
            if not found:
                known = ", ".join(minimum_norm_attacks(norm, options.passes))
                raise SystemExit(
                    f"--only: no attack of the names {', '.join(sorted(only))} in {norm}; pass "
                    f"minimal_distance or one of {known} (or a peer's, with --python)"
                )
            right = np.asarray(network.model(images)).argmax(1) == labels
            scores = optimality(found, right)
            rows = []
            for attack in sorted(found, key=lambda key: -scores[key]):
                one = found[attack]
                median = np.quantile(one.distance[right], 0.5, method="inverted_cdf")
                rows.append(
                    [
                        attack,
                        f"{scores[attack]:.2f}",
                        f"{median:.4g}",
                        int((~np.isfinite(one.distance[right])).sum()),
                        f"{one.passes:.0f}",
                        f"{one.seconds:.3g}",
                        f"{one.compiling:.1f}" if one.compiling else "",
                    ]
                )
                whole.setdefault(attack, []).append(scores[attack])
            show(
                f"{Path(name).name}, {norm}, {len(labels)} images, {options.passes} passes each",
                ["attack", "optimality %", "median", "failed", "passes", "s", "+ compiling"],
                rows,
            )
            kept[f"{name} {norm}"] = {key: one.distance.tolist() for key, one in found.items()}
        if len(names) > 1:
            rows = [
                [attack, f"{np.mean(values):.2f}"]
                for attack, values in sorted(whole.items(), key=lambda item: -np.mean(item[1]))
                if len(values) == len(names)
            ]
            show(f"global optimality, {norm}", ["attack", "%"], rows)
    if options.json:
        options.json.write_text(json.dumps(kept))


if __name__ == "__main__":
    main()
