"""`python -m benchmarks.quality.published`: our attacks on networks with a history.

trades: TRADES' MNIST network at Linf 0.3 under 40 steps of 0.01 (published: clean 99.48 %, robust
96.07 %), from random starts (PGD) and from the image itself (BIM). From the far side of the ball 40
steps of 0.01 do not reach the near one, so the random start is the weaker attack here.

resnet2b: the CIFAR-10 ResNet of the verification competition at Linf 2/255 and 1/255 (published:
clean 69.25 %, under PGD 54.82 % and 62.24 % of 10,000 images). The file has 9,976 of them; the last
column counts the other 24 as robust, which is the worst case for the attack. fast: the cascade of
`ja.evaluate`, PGD from diverse starts; `--only fast` runs it alone.

norms: the norms of the layers of all these networks, after table 5 of Szegedy et al. (2013).

Needs the shared data (JAXADV_SHARED, or ../shared).
"""

import argparse
import itertools
import time

import jax
import numpy as np

import jaxadv as ja
from benchmarks.common import SHARED, arguments, load, show
from jaxadv.certification.lipschitz import spectrum
from jaxadv.models.published import PUBLISHED, load_published
from jaxadv.protocols.evaluation import SURVIVED
from jaxadv.report import print_study
from jaxadv.studies import Findings
from jaxadv.studies.layer_norms import spectra_table


def row(
    name: str,
    clean: float,
    broken: np.ndarray,
    forward: np.ndarray,
    backward: np.ndarray,
    seconds: float,
) -> list[str]:
    return [
        name,
        f"{100 * clean:.2f} %",
        f"{100 * (1 - broken.mean()):.2f} %",
        f"{forward.mean():.1f}",
        f"{backward.mean():.1f}",
        f"{seconds:.0f}",
    ]


def row_of(name: str, result: ja.Result) -> list[str]:
    clean = (result.status != ja.Status.MISCLASSIFIED).mean()
    seconds = result.cost.seconds
    return row(name, clean, result.success, result.forward, result.backward, seconds)


def trades(options: argparse.Namespace) -> None:
    model, _, data = load("mnist_smallcnn_trades_linf0.3", options.count)
    goal = ja.Untargeted(data.labels)
    rows, robust = [], []
    runs = [("PGD", ja.PGD(steps=40, step_size=0.01 / 0.3), seed) for seed in range(options.seeds)]
    for name, attack, seed in [*runs, ("BIM", ja.BIM(steps=40, step_size=0.01 / 0.3), 0)]:
        result = ja.run(attack, model, data.images, goal, 0.3, key=jax.random.key(seed))
        robust.append(100 * (1 - result.success.mean()))
        rows.append(row_of(f"{name}, seed {seed}", result))
    rows.append(["PGD, mean", "", f"{np.mean(robust[:-1]):.2f} %", "", "", ""])
    show(
        f"mnist_smallcnn_trades_linf0.3, Linf 0.3, 40 x 0.01, {len(data.labels)} images "
        "(published: clean 99.48 %, robust 96.07 %)",
        ["attack", "clean", "robust", "forward", "backward", "s"],
        rows,
    )


def resnet2b(options: argparse.Namespace) -> None:
    model, _, data = load("cifar10_resnet2b", min(options.count, 9976))
    goal, missing = ja.Untargeted(data.labels), 10_000 - 9_976

    def whole(broken: np.ndarray) -> str:
        left = (~broken).sum() + missing
        return f"{100 * left / 10_000:.2f} %" if len(broken) == 9976 else "-"

    for over, published in ((2, 54.82), (1, 62.24)):
        rows = []
        for loss, seed in itertools.product(("cross_entropy", "margin"), range(options.seeds)):
            if options.only not in ("", f"PGD {loss}"):
                continue
            attack = ja.PGD(steps=100, step_size=0.1, loss=loss, restarts=2)
            key = jax.random.key(seed)
            result = ja.run(attack, model, data.images, goal, over / 255, key=key)
            rows.append([*row_of(f"PGD {loss}, seed {seed}", result), whole(result.success)])
        if options.only in ("", "fast"):
            begin = time.perf_counter()
            report = ja.evaluate(
                model,
                data.images,
                data.labels,
                epsilons=[over / 255],
                attacks="fast",
                distances=False,
            )
            seconds, broken = time.perf_counter() - begin, report.broken_by[0] != SURVIVED
            cells = row("fast, seed 0", report.clean_accuracy, broken, *report.passes, seconds)
            rows.append([*cells, whole(broken)])
        show(
            f"cifar10_resnet2b, Linf {over}/255, PGD: 2 starts x 100 steps, {len(data.labels)} "
            f"images (published: clean 69.25 %, robust {published} %)",
            ["attack", "clean", "robust", "forward", "backward", "s", "robust of 10,000"],
            rows,
        )


def norms(options: argparse.Namespace) -> None:
    spectra = {}
    for name in PUBLISHED:
        shape = (28, 28, 1) if name.startswith("mnist") else (32, 32, 3)
        spectra[name] = spectrum(load_published(SHARED / "models" / name), shape, iterations=50)
    tables = [
        spectra_table(f"Norms of the layers of {name}", {name: found})
        for name, found in spectra.items()
    ]
    print_study([Findings("norms", "Norms of the layers of published networks", tables)])


NETWORKS = {"trades": trades, "resnet2b": resnet2b, "norms": norms}

if __name__ == "__main__":
    parser = arguments(__doc__, names=f"of {list(NETWORKS)} (default: all)", count=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="of resnet2b, the rows of this attack")
    options = parser.parse_args()
    ja.use_cpu_cores()
    for name in options.names or NETWORKS:
        NETWORKS[name](options)
