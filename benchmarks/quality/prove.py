"""`python -m benchmarks.quality.prove`: how many images of published networks are proved.

For each network: the share of the first images (of the verifiers' 200, where there is such a list)
that `ja.prove` proves at each effort, the share that is not broken, the margin's lower bound
(median), subproblems and CPU seconds an image of all threads, compilation included. Beside it what
others have published of all their images, with their budgets (beta-CROWN and BICCOS: a GPU and 200
seconds an image). hard: images of which a mixed-integer solver found an adversarial image, and
gradient attacks did not.

Needs the shared data (JAXADV_SHARED, or ../shared).
"""

import math

import numpy as np

import jaxadv as ja
from benchmarks.common import arguments, processor_seconds, show
from benchmarks.quality.networks import HARD, SUBJECTS, load
from jaxadv.protocols.prover import EFFORTS

NETWORKS = {
    "mnist_cnn_a_adv": (0.3, "beta-CROWN 71.0, BICCOS 76.0; attacked 76.5"),
    "cifar_cnn_a_mix": (2 / 255, "beta-CROWN 42.0, BICCOS 48.0; attacked 53.0"),
    "cifar_cnn_a_adv": (2 / 255, "beta-CROWN 45.5, BICCOS 48.5; attacked 50.0"),
    "mnist_wong_kolter_linf0.1": (0.1, "certified 94.2; attacked 95.9"),
    "mnist_rsl18a_mlp_linf0.1": (0.1, "MIP 69.2; attacked 88.5"),
    "cifar10_resnet2b": (2 / 255, "CROWN 26.9; attacked 54.8"),
}


def main() -> None:
    parser = arguments(__doc__, names=f"of {list(NETWORKS)} (default: all)", count=20)
    parser.add_argument("--efforts", default=",".join(EFFORTS), help="with commas")
    parser.add_argument("--budget", type=int, help="subproblems an image")
    parser.add_argument("--seconds", type=float, default=math.inf, help="wall seconds of a row")
    parser.add_argument("--arithmetic", default="float32", help="float32 or real")
    parser.add_argument("--hard", action="store_true", help="images that only a MIP solver broke")
    parser.add_argument("--attacks", default="quick", help="a cascade, or none")
    options = parser.parse_args()
    ja.use_cpu_cores()
    for name in options.names or (HARD if options.hard else NETWORKS):
        epsilon, published = NETWORKS[name]
        which = "hard_mip_unsafe" if options.hard else SUBJECTS[name].images
        model, _, (_, images, labels) = load(name, which, options.count)
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
            f"{name}, Linf {epsilon:.4g}, {len(labels)} images"
            + (" that a MIP broke" if options.hard else f" (published, %: {published})"),
            ["effort", "proved %", "not broken %", "lower", "subproblems", "CPU s", ""],
            rows,
        )


if __name__ == "__main__":
    main()
