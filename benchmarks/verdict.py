"""`python -m benchmarks.verdict [NAME ...]`: our verdicts on published networks, beside others'.

For each network of the shared data (JAXADV_SHARED, or ../shared) robust accuracy under a cascade of
`ja.evaluate`, beside the published figure under attack and the figure that verifiers proved, of the
same images: an attack below a proof is wrong (exit status 1). What an image costs is counted in
forward and backward passes, and per survivor. hard: images of which a mixed-integer solver found an
adversarial example and gradient attacks did not.

With `--hardest N` a short run of margin descent goes over all images first, twelve more over the
4 N of its survivors whose margin it left smallest, and the cascade over the N hardest of those that
are left; the others count as robust. An image's verdict does not depend on its company, so this is
an upper bound of what the three would say of all images, at a part of the cost. With
`--store FOLDER` a stopped run goes on where it was.

With `--python PYTHON`, an interpreter that has torch and pyautoattack, its standard version attacks
the same images of the same networks in the same run, channels last, one process a core. Our seconds
include compilation. With `--parts N` the images are cut into so many parts, which ours and theirs
attack in turn, for machines whose speed changes: the median of the ratios part by part is then
without compilation.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxadv as ja
from benchmarks.common import ratio, show, trained
from jaxadv.engine.devices import cpu_cores
from jaxadv.engine.verify import predict
from jaxadv.models.published import load_published
from jaxadv.models.weights import flatten
from jaxadv.protocols.cascades import Chosen, get_cascade
from jaxadv.protocols.evaluate import MISCLASSIFIED, SURVIVED

SHARED = Path(os.environ.get("JAXADV_SHARED", Path(__file__).parents[2] / "shared")) / "data"


class Subject(NamedTuple):
    """A published network: its epsilon in Linf, on which images, published and proved accuracy in
    per cent of them (a published one may be of another sample: see `of`)."""

    epsilon: float
    images: str  # "all", or the name of a list in its folder
    published: float | None = None
    proved: float | None = None
    of: str = ""


SUBJECTS = {
    "mnist_smallcnn_trades_linf0.3": Subject(0.3, "all", 92.81, None, "AutoAttack, 10,000"),
    "mnist_cnn_a_adv": Subject(0.3, "sdp200", 76.5, 76.0, "BaB, 200"),
    "mnist_rsl18a_mlp_linf0.1": Subject(0.1, "all", 85.61, 69.19, "measured, 10,000"),
    "mnist_wong_kolter_linf0.1": Subject(0.1, "all", 95.9, 94.2, "PGD, 10,000"),
    "cifar_cnn_a_adv": Subject(2 / 255, "sdp200", 50.0, 48.5, "attack, 200"),
    "cifar_cnn_a_mix": Subject(2 / 255, "sdp200", 53.0, 48.0, "attack, 200"),
    "cifar10_resnet2b": Subject(2 / 255, "all", 54.82, 26.88, "PGD, 10,000"),
    "cifar10_resnet32_linf8": Subject(8 / 255, "all"),
    "MadryCNN, standard-trained": Subject(0.1, "all"),
    "MadryCNN, standard-trained, 0.3": Subject(0.3, "all"),
}
HARD = ("mnist_cnn_a_adv", "cifar_cnn_a_adv", "cifar_cnn_a_mix")


class Images(NamedTuple):
    """ids [N], images [N, H, W, C], labels [N]."""

    ids: np.ndarray
    images: np.ndarray
    labels: np.ndarray

    def part(self, number: int, parts: int) -> "Images":
        return Images(*(rows[number::parts] for rows in self))


def load(name: str, which: str, count: int) -> tuple[ja.Model, dict[str, np.ndarray], Images]:
    """The model, its weights as torch reads them, and the images."""
    if name.startswith("MadryCNN"):
        model, images, labels = trained("MadryCNN")
        ids = np.arange(len(images))[-count:]
        return model, dict(flatten(model.params)), Images(ids, images[ids], labels[ids])
    folder = SHARED / "models" / name
    with np.load(folder / "weights.npz") as file:
        weights = dict(file)
    if name.startswith("mnist"):
        data = ja.load_data("mnist", "test", 10_000, data_dir=SHARED / "mnist")
    else:
        data = ja.load_data(str(SHARED / "cifar10" / "cifar10_test.npz"), count=9_976)
    rows = np.arange(min(count, len(data.labels)))
    if which != "all":
        wanted = np.loadtxt(folder / f"{which}_test_index.txt", dtype=int)
        place = {int(index): row for row, index in enumerate(data.ids)}
        rows = np.array([place[i] for i in wanted if i in place][:count])
    return (
        load_published(folder),
        weights,
        Images(*(values[rows] for values in (data.ids, data.images, data.labels))),
    )


class Verdict(NamedTuple):
    """One cascade's answer: which stage broke each image (as in a report), what was spent on it,
    how many stages there were, and seconds."""

    broken_by: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    stages: int
    seconds: float

    @property
    def robust(self) -> np.ndarray:
        return self.broken_by == SURVIVED


def verdict(
    model: ja.Model,
    data: Images,
    subject: Subject,
    cascade: Any,
    seed: int,
    hardest: int | None = None,
    store: Path | None = None,
) -> Verdict:
    """The answer of one of our cascades, by name or as entries."""
    attacks: Any = cascade
    if hardest is not None:
        more = ja.Diverse(steps=30, restarts=12)
        attacks = {
            name: ja.Hardest(entry.attack if isinstance(entry, Chosen) else entry, 0, hardest)
            for name, entry in get_cascade(cascade, "linf").items()
        }
        ranking = {"first": replace(more, restarts=1), "more": ja.Hardest(more, 0, 4 * hardest)}
        attacks = {**ranking, **attacks}
    begin = time.perf_counter()
    report = ja.evaluate(
        model,
        data.images,
        data.labels,
        epsilons=[subject.epsilon],
        attacks=attacks,
        ids=data.ids,
        key=jax.random.key(seed),
        distances=False,
        store=store,
    )
    attacking = sum(stage.result.cost.seconds for stage in report.stages)  # some in a run before
    seconds = max(time.perf_counter() - begin, attacking)
    return Verdict(report.broken_by[0], *report.passes, len(report.stages), seconds)


def row_of(name: str, subject: Subject, cascade: str, found: Verdict) -> list[Any]:
    """A row of the first table."""
    by, robust, spent = found.broken_by, found.robust, found.forward + found.backward
    left = [100 * (robust | (by > stage)).mean() for stage in range(found.stages)]
    survivor = spent[robust].mean() if robust.any() else 0.0
    return [
        name,
        cascade,
        len(by),
        f"{100 * (by != MISCLASSIFIED).mean():.2f}",
        " ".join(f"{share:.2f}" for share in left),
        f"{100 * robust.mean():.2f}",
        f"{_text(subject.published)} {subject.of}",
        _text(subject.proved),
        f"{found.forward.mean():.0f} + {found.backward.mean():.0f}",
        f"{survivor:.0f}",
        f"{found.seconds:.1f}",
    ]


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


class Theirs(NamedTuple):
    """Which images are robust, passes spent on all, seconds."""

    robust: np.ndarray
    passes: float
    seconds: float


def peer(
    model: ja.Model, weights: dict[str, np.ndarray], data: Images, epsilon: float, python: str
) -> Theirs:
    """pyautoattack's answer."""
    parts = cpu_cores()
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        settings = {"norm": "Linf", "epsilon": epsilon, "threads": 1}
        (folder / "settings.json").write_text(json.dumps(settings))
        np.savez(folder / "weights.npz", **weights)  # type: ignore[arg-type]
        np.savez(folder / "data.npz", images=data.images, labels=data.labels)
        script = str(Path(__file__).with_name("verdict_torch.py"))
        begin = [
            subprocess.Popen([python, script, path, "standard", str(part), str(parts)])
            for part in range(parts)
        ]
        if any(process.wait() for process in begin):
            raise SystemExit("pyautoattack's side failed; its error is above")
        answers = [json.loads((folder / f"verdict-{p}.json").read_text()) for p in range(parts)]
    robust = np.zeros(len(data.labels), bool)
    for part, answer in enumerate(answers):
        robust[part::parts] = answer["robust"]
        own = predict(model, data.part(part, parts).images[:8], tuple(jax.local_devices()))
        np.testing.assert_allclose(answer["logits"], own, atol=1e-3)
    passes = sum(answer["forward"] + answer["backward"] for answer in answers)
    return Theirs(robust, passes, max(answer["seconds"] for answer in answers))


def compare(
    name: str, subject: Subject, options: argparse.Namespace
) -> tuple[dict[str, Verdict], list[list[Any]]]:
    """Our verdict under each cascade, and rows of the second table, beside pyautoattack's."""
    model, weights, data = load(name, subject.images, options.count)
    cascades = options.attacks.split(",")
    found: dict[str, list[Verdict]] = {cascade: [] for cascade in cascades}
    others = []
    for number in range(options.parts):
        part = data.part(number, options.parts)
        for cascade in cascades:
            store = options.store and Path(options.store) / name / f"{cascade}-{number}"
            found[cascade].append(
                verdict(model, part, subject, cascade, options.seed, options.hardest, store)
            )
        if options.python:
            others.append(peer(model, weights, part, subject.epsilon, options.python))
    whole, rows = {}, []
    for cascade, parts in found.items():
        *arrays, stages, took = zip(*parts, strict=True)
        by, forward, backward = map(np.concatenate, arrays)
        whole[cascade] = Verdict(by, forward, backward, max(stages), sum(took))
        if others:
            ours, robust = whole[cascade], np.concatenate([one.robust for one in others])
            seconds = [one.seconds for one in others]
            spent = (
                (ours.forward + ours.backward).mean(),
                sum(o.passes for o in others) / len(robust),
            )
            rows.append(
                [
                    name,
                    cascade,
                    len(robust),
                    f"{100 * ours.robust.mean():.2f}",
                    f"{100 * robust.mean():.2f}",
                    int((robust & ~ours.robust).sum()),
                    int((ours.robust & ~robust).sum()),
                    f"{spent[0]:.0f}",
                    f"{spent[1]:.0f}",
                    f"{ours.seconds:.1f}",
                    f"{sum(seconds):.1f}",
                    f"{sum(seconds) / ours.seconds:.1f}",
                    f"{ratio(seconds, list(took)):.1f}",
                ]
            )
    return whole, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {list(SUBJECTS)} (default: all)")
    parser.add_argument("--attacks", default="standard", help="cascades, with commas")
    parser.add_argument("--count", type=int, default=10_000, help="images of each network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hardest", type=int, metavar="N", help="attack the N hardest only")
    parser.add_argument("--store", help="a folder in which finished parts of a run are kept")
    parser.add_argument("--python", help="an interpreter with torch and pyautoattack")
    parser.add_argument("--parts", type=int, default=1, help="of the images, in turn")
    parser.add_argument("--hard", action="store_true", help="the hard instances instead")
    options = parser.parse_args()
    ja.use_cpu_cores()
    names = options.names or list(HARD if options.hard else SUBJECTS)
    rows, beside, wrong = [], [], []
    for name in names:
        subject = SUBJECTS[name]
        if options.hard:
            subject = Subject(subject.epsilon, "hard_mip_unsafe", 0.0, None, "MIP, these")
        whole, others = compare(name, subject, options)
        beside += others
        for cascade, found in whole.items():
            rows.append(row_of(name, subject, cascade, found))
            proved = subject.proved if options.count >= 10_000 else None
            if proved is not None and 100 * found.robust.mean() < proved - 1e-9:
                wrong.append(name)
    show(
        f"Robust accuracy in Linf, per cent, seed {options.seed}",
        [
            "network",
            "attacks",
            "images",
            "clean",
            "after each attack",
            "robust",
            "published: by, of",
            "proved",
            "passes an image",
            "a survivor",
            "s",
        ],
        rows,
    )
    if beside:
        show(
            "The same images under pyautoattack, standard",
            [
                "network",
                "ours",
                "images",
                "ours %",
                "theirs %",
                "only we broke",
                "only they broke",
                "our passes",
                "theirs",
                "our s",
                "their s",
                "over ours",
                "median part",
            ],
            beside,
        )
    if wrong:
        sys.exit(f"below what was proved: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
