"""`python -m benchmarks.peers.universal`: one perturbation for all images.

Epochs, fooling rates and seconds of ours from the images given (300), of random signs of the same
size, and with `--python` (an interpreter
that has torch and ART) of ART's UniversalPerturbation and TargetedUniversalPerturbation, from the
same images of the same networks of the shared data (JAXADV_SHARED, or ../shared). Fooled: the
answer is not that to the clean image. Every perturbation is judged here, by one and the same code,
on 1,000 test images. Ours are timed twice: with and without compilation.
"""

import json
import time
from pathlib import Path

import jax
import numpy as np

import jaxadv as ja
from benchmarks.common import SHARED, Published, arguments, load, show, torch_results
from jaxadv.universal import judge
from jaxadv.universal.geometry import random_signs

EPSILON = {
    "mnist_smallcnn_ddn_l2": 0.3,
    "cifar10_resnet2b": 10 / 255,
    "cifar10_resnet32_standard": 10 / 255,
}
TARGET, DRAWS = 3, 5
COLUMNS = (
    "side",
    "images",
    "epochs",
    "s, first call",
    "s",
    "processor s",
    "given %",
    "held out %",
    f"to class {TARGET} %",
    "random signs %",
)


def training_images(name: str, count: int) -> np.ndarray:
    """The first `count` images that the network may have been trained on."""
    if name.startswith("mnist"):
        return ja.load_data("mnist", "train", count, data_dir=SHARED / "mnist").images
    return ja.load_data(SHARED / "cifar10" / "cifar10_train_batch1.npz", count=count).images


def ours(
    model: ja.Model, given: np.ndarray, epsilon: float, norm: str, batches: bool
) -> dict[str, dict]:
    """Perturbations of our methods, with passes and seconds, the second call's too."""
    sides = {
        "SGD-UAP": (ja.UniversalAscent(), None),
        "SGD-UAP, clip 9": (ja.UniversalAscent(clip=9.0), None),
        f"SGD-UAP to class {TARGET}": (ja.UniversalAscent(), TARGET),
    }
    if batches:
        sides["aggregation, in batches"] = (ja.UniversalAggregation(epochs=2), None)
        sides["aggregation, one by one"] = (ja.UniversalAggregation(batch_size=1, epochs=2), None)
    found = {}
    for name, (method, target) in sides.items():
        seconds = []
        for _ in range(2):
            wall, cpu = time.perf_counter(), time.process_time()
            made = ja.universal_perturbation(
                model, given, epsilon, norm, method, target=target, key=jax.random.key(0)
            )
            seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
        found[name] = {
            "perturbation": made.perturbation,
            "epochs": method.epochs,
            "forward": made.forward,
            "backward": made.backward,
            "first": seconds[0][0],
            "seconds": seconds[1][0],
            "processor": seconds[1][1],
        }
        print(f"{name}: {seconds[0][0]:.1f} s, again {seconds[1][0]:.1f} s", flush=True)
    return found


def theirs(name: str, network: Published, given: np.ndarray, rounds: int, python: str) -> dict:
    """ART's, in a process of its own."""
    words = (EPSILON[name], rounds, TARGET)
    arrays = {"images": given}
    results = torch_results(python, "peers.universal_torch", network, arrays, *words)
    return {f"ART's {attack}": one for (_, attack), one in results.items()}


def main() -> None:
    parser = arguments(__doc__, names=f"of {list(EPSILON)} (default: all)", python="torch and ART")
    parser.add_argument("--count", type=int, default=300, help="images given (default: 300)")
    parser.add_argument("--norm", choices=("linf", "l2"), default="linf", help="of ours (linf)")
    parser.add_argument("--rounds", type=int, default=2, help="ART's most rounds over them")
    parser.add_argument("--aggregation", action="store_true", help="the first algorithm too")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    ja.use_cpu_cores()
    kept = {}
    for name in options.names or EPSILON:
        network, given = load(name, 1000), training_images(name, options.count)
        model, held = network.model, network.data.images
        epsilon = EPSILON[name]
        if options.norm == "l2":  # as in `jaxadv.studies.universal_paper.radii`
            epsilon *= 15 * held[0].size ** 0.5 / 28
        found = ours(model, given, epsilon, options.norm, options.aggregation)
        if options.python and options.norm == "linf":
            found |= theirs(name, network, given, options.rounds, options.python)
        drawn = (random_signs(held.shape[1:], epsilon, options.norm, seed) for seed in range(DRAWS))
        signs = 100 * float(np.mean([judge(model, held, v).rate for v in drawn]))
        rows = []
        for side, one in found.items():
            v = np.asarray(one["perturbation"], np.float32)
            rates = [judge(model, some, v) for some in (given, held)]
            kept[f"{name}: {side}"] = figures = {
                "given": rates[0].rate,
                "held out": rates[1].rate,
                "to the target": rates[1].rate_to(TARGET),
                "length": float(np.abs(v).max()),
                **{key: float(one[key]) for key in ("forward", "backward", "seconds", "processor")},
                "first call": float(one.get("first", one["seconds"])),
            }
            rows.append(
                [
                    side,
                    str(len(given)),
                    str(one.get("epochs", options.rounds)),
                    *(f"{figures[key]:.1f}" for key in ("first call", "seconds", "processor")),
                    *(
                        f"{100 * figures[key]:.1f}"
                        for key in ("given", "held out", "to the target")
                    ),
                    f"{signs:.1f}",
                ]
            )
        show(f"{name}, {options.norm} {epsilon:.3g}, {len(held):,} held out", list(COLUMNS), rows)
    if options.json:
        options.json.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
