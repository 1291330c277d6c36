"""`python -m benchmarks.quality.prove`: how many images of published networks are proved.

For each network: the share of the first images (of the verifiers' 200, where there is such a list)
that `ja.prove` proves at each effort, the share that is not broken, the margin's lower bound
(median), subproblems and CPU seconds an image of all threads, compilation included. Beside it what
others have published of all their images, with their budgets (beta-CROWN and BICCOS: a GPU and 200
seconds an image).

Needs the shared data (JAXADV_SHARED, or ../shared).
"""

import math
import os

import numpy as np

import jaxadv as ja
from benchmarks.common import SHARED, arguments, load_images, show
from jaxadv.models.published import load_published
from jaxadv.protocols.prover import EFFORTS

NETWORKS = {
    "mnist_cnn_a_adv": (0.3, "beta-CROWN 71.0, BICCOS 76.0; attacked 76.5"),
    "cifar_cnn_a_mix": (2 / 255, "beta-CROWN 42.0, BICCOS 48.0; attacked 53.0"),
    "cifar_cnn_a_adv": (2 / 255, "beta-CROWN 45.5, BICCOS 48.5; attacked 50.0"),
    "mnist_wong_kolter_linf0.1": (0.1, "certified 94.2; attacked 95.9"),
    "mnist_rsl18a_mlp_linf0.1": (0.1, "MIP 69.2; attacked 88.5"),
    "cifar10_resnet2b": (2 / 255, "CROWN 26.9; attacked 54.8"),
}


def first_images(name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels: of the verifiers' list, if there is one, else of the test set."""
    data = load_images(name)
    file = SHARED / "models" / name / "sdp200_test_index.txt"
    index = np.loadtxt(file, dtype=int) if file.is_file() else np.arange(len(data.labels))
    if name.startswith("cifar"):  # some test images are missing in the file
        with np.load(SHARED / "cifar10" / "cifar10_test.npz") as stored:
            place = {int(number): row for row, number in enumerate(stored["index"])}
        index = np.array([place[i] for i in index.tolist() if i in place])
    return data.images[index[:count]], data.labels[index[:count]]


def processor_seconds() -> float:
    """CPU seconds of all threads of this process so far."""
    times = os.times()
    return times.user + times.system


def main() -> None:
    parser = arguments(__doc__, names=f"of {list(NETWORKS)} (default: all)", count=20)
    parser.add_argument("--efforts", default=",".join(EFFORTS), help="with commas")
    parser.add_argument("--budget", type=int, help="subproblems an image")
    parser.add_argument("--seconds", type=float, default=math.inf, help="wall seconds of a row")
    parser.add_argument("--arithmetic", default="float32", help="float32 or real")
    parser.add_argument("--attacks", default="quick", help="a cascade, or none")
    options = parser.parse_args()
    ja.use_cpu_cores()
    for name in options.names or NETWORKS:
        epsilon, published = NETWORKS[name]
        model = load_published(SHARED / "models" / name)
        images, labels = first_images(name, options.count)
        rows = []
        for effort in options.efforts.split(","):
            begin = processor_seconds()
            proof = ja.prove(
                model,
                images,
                labels,
                epsilon,
                effort=effort,
                budget=options.budget,
                seconds=options.seconds,
                arithmetic=options.arithmetic,
                attacks={} if options.attacks == "none" else options.attacks,
            )
            spent = processor_seconds() - begin
            lower, upper = proof.accuracy
            rows.append(
                [
                    effort,
                    f"{100 * lower:.1f}",
                    f"{100 * upper:.1f}",
                    f"{np.median(proof.lower[np.isfinite(proof.lower)]):.3f}",
                    f"{proof.subproblems.mean():.0f}",
                    f"{spent / len(labels):.2f}",
                    "" if proof.complete else "seconds spent",
                ]
            )
        show(
            f"{name}, Linf {epsilon:.4g}, {len(labels)} images (published, %: {published})",
            ["effort", "proved %", "not broken %", "lower", "subproblems", "CPU s", ""],
            rows,
        )


if __name__ == "__main__":
    main()
