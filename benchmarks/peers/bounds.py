"""`python -m benchmarks.peers.bounds`: bounds of margins, beside auto_LiRPA's.

CROWN and alpha-CROWN of the margins to all other classes, for the first correctly classified test
images, with equally many steps for the slopes of every layer: the median and the worst difference
from auto_LiRPA's bounds (above 0: ours are tighter) in parts of the clean margin, how many images
each side proves, and processor seconds an image. Theirs runs on one thread, with one image or all
images at a time, whichever is faster; ours with all images, without the time that compilation
takes. Needs the shared data (JAXADV_SHARED, or ../shared).
"""

import time

import jax
import numpy as np

import jaxadv as ja
from benchmarks.common import (
    Published,
    arguments,
    load,
    processor_seconds,
    show,
    torch_results,
)
from jaxadv.proofs.network import Network
from jaxadv.proofs.programs import mesh_of
from jaxadv.proofs.roots import balls, refine
from jaxadv.proofs.slopes import Entries, Settings, bound_all

EPSILON = {
    "mnist_cnn_a_adv": 0.3,
    "mnist_wong_kolter_linf0.1": 0.1,
    "cifar_cnn_a_mix": 2 / 255,
}


def ours(model: ja.Model, images: np.ndarray, labels: np.ndarray, epsilon: float, steps: int):
    """Lower bounds [N, K - 1] of the margins, and processor seconds an image."""
    network, count = Network.of(model, images.shape[1:]), len(images)
    ball = balls(images, np.full(count, epsilon), model.bounds)
    others = network.classes - 1
    targets = (labels[:, None] + np.arange(1, others + 1)) % (others + 1)
    rows = Entries(np.repeat(np.arange(count), others), np.repeat(labels, others), targets.ravel())
    active = np.ones(count, bool)
    for _ in range(2):  # the first call compiles
        begun = processor_seconds()
        start = None
        for number in sorted({0, steps}):
            settings = Settings("linf", number, 0.0, mesh_of())
            roots = refine(model, network, ball, settings, active, start)
            start = roots.regions
        found = bound_all(model, roots.regions, rows, None, settings)
        spent = (processor_seconds() - begun) / count
    return found.bound.reshape(count, others), spent


def compare(name: str, network: Published, count: int, steps: int, python: str | None) -> None:
    """Print the table of one network."""
    data, model, epsilon = network.data, network.model, EPSILON[name]
    logits = np.asarray(model(data.images[: 3 * count]))
    rows_of = np.flatnonzero(logits.argmax(1) == data.labels[: 3 * count])[:count]
    images, labels = data.images[rows_of], data.labels[rows_of]
    own = np.sort(logits[rows_of], 1)
    clean = own[:, -1] - own[:, -2]
    found = {
        title: ours(model, images, labels, epsilon, number)
        for title, number in (("CROWN", 0), ("optimised", steps))
    }
    theirs = {}
    if python is not None:
        arrays = {"images": images, "labels": labels}
        results = torch_results(python, "peers.bounds_torch", network, arrays, epsilon, steps)
        theirs = {title: one for (_, title), one in results.items()}
    rows = []
    for title, (lower, seconds) in found.items():
        rows.append(["jaxadv", title, f"{(lower.min(1) > 0).sum()}", "", "", f"{seconds:.2f}"])
        if title in theirs:
            one = theirs[title]
            gain = (lower.min(1) - one["lower"].min(1)) / clean
            rows.append(
                [
                    "auto_LiRPA",
                    title,
                    f"{(one['lower'].min(1) > 0).sum()}",
                    f"{np.median(gain):+.3f}",
                    f"{gain.min():+.3f}",
                    f"{float(one['seconds']):.2f}",
                ]
            )
    show(
        f"{name}, Linf {epsilon:.4g}, {len(images)} images, {steps} steps",
        ["", "bounds", "proved", "ours less theirs (median)", "least", "CPU s an image"],
        rows,
    )


def main() -> None:
    parser = arguments(
        __doc__, names=f"of {list(EPSILON)} (default: all)", count=8, python="auto_LiRPA"
    )
    parser.add_argument("--steps", type=int, default=20, help="of the slopes of every layer")
    options = parser.parse_args()
    ja.use_cpu_cores()
    begun = time.perf_counter()
    for name in options.names or EPSILON:
        compare(name, load(name, 3 * options.count), options.count, options.steps, options.python)
    print(f"{time.perf_counter() - begun:.0f} s in all, on {jax.default_backend()}")


if __name__ == "__main__":
    main()
