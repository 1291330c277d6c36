"""`python -m benchmarks.verdict [NAME ...]`: our verdicts on published networks, beside others'.

For each network of the shared data (JAXADV_SHARED, or ../shared) robust accuracy under a cascade of
`ja.evaluate`, beside the published figure under attack and the figure that verifiers proved, of the
same images: an attack below a proof is wrong (exit status 1). What an image costs is counted in
forward and backward passes, and per survivor. hard: images of which a mixed-integer solver found an
adversarial example and gradient attacks did not.

With `--hardest N` a short run of margin descent goes over all images first, and the cascade over
the N of its survivors whose margin it left smallest; the others count as robust. An image's
verdict does not depend on its company, so this is an upper bound of what the cascade would say of
all images, at a part of the cost.

With `--python PYTHON`, an interpreter that has torch and pyautoattack, its standard version attacks
the same images of the same networks in the same run, channels last, one process a core.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxadv as ja
from benchmarks.common import show, trained
from jaxadv.engine.cascades import get_cascade
from jaxadv.engine.devices import cpu_cores
from jaxadv.engine.evaluate import SURVIVED
from jaxadv.engine.stage import attack_of
from jaxadv.engine.verify import predict
from jaxadv.models.published import load_published
from jaxadv.models.weights import flatten

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
}
HARD = ("mnist_cnn_a_adv", "cifar_cnn_a_adv", "cifar_cnn_a_mix")


def load(name: str, which: str, count: int) -> tuple[ja.Model, dict[str, np.ndarray], Any]:
    """The model, its weights as torch reads them, and (ids, images, labels)."""
    if name.startswith("MadryCNN"):
        model, images, labels = trained("MadryCNN")
        ids = np.arange(len(images))[-count:]
        return model, dict(flatten(model.params)), (ids, images[ids], labels[ids])
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
    return load_published(folder), weights, (data.ids[rows], data.images[rows], data.labels[rows])


def verdict(
    name: str, subject: Subject, cascade: str, count: int, seed: int, hardest: int | None
) -> tuple[list[Any], float, np.ndarray]:
    """A row of the table, robust accuracy in per cent, and which images are robust."""
    model, _, (ids, images, labels) = load(name, subject.images, count)
    attacks: Any = cascade
    if hardest is not None:
        first = {"first": ja.Diverse(steps=30, restarts=1)}
        attacks = {name: ja.Hardest(attack_of(entry), 0, hardest)
                   for name, entry in get_cascade(cascade, "linf").items()}  # fmt: skip
        attacks = {**first, **attacks}
    begin = time.perf_counter()
    report = ja.evaluate(
        model, images, labels, epsilons=[subject.epsilon], attacks=attacks, ids=ids,
        key=jax.random.key(seed), distances=False,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    forward, backward = report.passes
    robust = report.broken_by[0] == SURVIVED
    steps = [f"{100 * report.left_after(n)[0]:.2f}" for n in range(len(report.stages))]
    share = 100 * float(robust.mean())
    spent = (forward + backward)[robust].mean() if robust.any() else 0.0
    row = [name, len(labels), f"{100 * report.clean_accuracy:.2f}", " ".join(steps),
           f"{share:.2f}", _text(subject.published), _text(subject.proved), subject.of,
           f"{forward.mean():.0f} + {backward.mean():.0f}", f"{spent:.0f}",
           f"{seconds:.1f}"]  # fmt: skip
    return row, share, robust


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def peer(name: str, subject: Subject, count: int, python: str) -> tuple[np.ndarray, float, float]:
    """pyautoattack on the same images: which are robust, passes per image, seconds."""
    model, weights, (_, images, labels) = load(name, subject.images, count)
    parts = cpu_cores()
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        settings = {"norm": "Linf", "epsilon": subject.epsilon, "threads": 1}
        (folder / "settings.json").write_text(json.dumps(settings))
        np.savez(folder / "weights.npz", **weights)  # type: ignore[arg-type]
        np.savez(folder / "data.npz", images=images, labels=labels)
        script = str(Path(__file__).with_name("verdict_torch.py"))
        begin = [
            subprocess.Popen([python, script, path, "standard", str(part), str(parts)])
            for part in range(parts)
        ]
        if any(process.wait() for process in begin):
            raise SystemExit("pyautoattack's side failed; its error is above")
        answers = [json.loads((folder / f"verdict-{p}.json").read_text()) for p in range(parts)]
    robust = np.zeros(len(labels), bool)
    for part, answer in enumerate(answers):
        robust[part::parts] = answer["robust"]
        own = predict(model, images[part::parts][:8], tuple(jax.local_devices()))
        np.testing.assert_allclose(answer["logits"], own, atol=1e-3)
    passes = sum(answer["forward"] + answer["backward"] for answer in answers) / len(labels)
    return robust, passes, max(answer["seconds"] for answer in answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {list(SUBJECTS)} (default: all)")
    parser.add_argument("--attacks", default="standard", help="a cascade of ja.evaluate")
    parser.add_argument("--count", type=int, default=10_000, help="images of each network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hardest", type=int, metavar="N", help="attack the N hardest only")
    parser.add_argument("--python", help="an interpreter with torch and pyautoattack")
    parser.add_argument("--hard", action="store_true", help="the hard instances instead")
    options = parser.parse_args()
    ja.use_cpu_cores()
    names = options.names or list(HARD if options.hard else SUBJECTS)
    rows, beside, wrong = [], [], []
    for name in names:
        subject = SUBJECTS[name]
        if options.hard:
            subject = Subject(subject.epsilon, "hard_mip_unsafe", 0.0, None, "MIP, these")
        row, share, robust = verdict(
            name, subject, options.attacks, options.count, options.seed, options.hardest
        )
        rows.append(row)
        whole = subject.proved is not None and options.count >= 10_000
        if whole and share < subject.proved - 1e-9:  # type: ignore[operator]
            wrong.append(name)
        if options.python:
            theirs, passes, seconds = peer(name, subject, options.count, options.python)
            beside.append([name, len(robust), f"{100 * robust.mean():.2f}",
                           f"{100 * theirs.mean():.2f}", int((theirs & ~robust).sum()),
                           int((robust & ~theirs).sum()), f"{passes:.0f}", f"{seconds:.1f}",
                           f"{seconds / float(row[-1]):.1f}"])  # fmt: skip
    show(f"Robust accuracy in Linf, attacks={options.attacks!r}, per cent, seed {options.seed}",
         ["network", "images", "clean", "after each attack", "robust", "published", "proved",
          "published: by, of", "passes an image", "a survivor", "s"], rows)  # fmt: skip
    if beside:
        show("The same images under pyautoattack, standard",
             ["network", "images", "ours", "theirs", "only we broke", "only they broke",
              "their passes", "their s", "over ours"], beside)  # fmt: skip
    if wrong:
        sys.exit(f"below what was proved: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
