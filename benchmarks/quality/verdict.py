"""`python -m benchmarks.quality.verdict`: our verdicts on published networks, beside others'.

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

Any other model is a NAME too, as `jaxadv evaluate --model` takes it, such as the folder of a
published network, with `--data`, `--epsilon` and `--norm`.

With `--python PYTHON`, an interpreter that has torch and pyautoattack, its standard version attacks
the same images of the same networks in the same run (with `--hardest N` those that the cascade
attacked), channels last if all, one process a core, its draws from `--their-seed`. Our seconds
include compilation. With `--parts N` the images are cut into so many parts, which ours and theirs
attack in turn, for machines whose speed changes: the median of the ratios part by part is then
without compilation.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxadv as ja
from benchmarks.common import arguments, hand_over, ratio, show, torch_half
from benchmarks.quality.networks import HARD, SUBJECTS, Images, Subject, Verdict, load, verdict
from jaxadv.core.parse import parse_number
from jaxadv.engine.devices import cpu_cores
from jaxadv.engine.verify import predict
from jaxadv.protocols.evaluation import MISCLASSIFIED


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


def _which(ids: np.ndarray) -> str:
    """How many images, and which if they are few."""
    return f"{len(ids)}: {' '.join(map(str, ids))}" if 0 < len(ids) <= 8 else str(len(ids))


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


class Theirs(NamedTuple):
    """Which images are robust, passes spent on all, seconds."""

    robust: np.ndarray
    passes: float
    seconds: float


def peer(
    model: ja.Model,
    weights: dict[str, np.ndarray],
    data: Images,
    subject: Subject,
    options: argparse.Namespace,
) -> Theirs:
    """pyautoattack's answer."""
    parts = min(cpu_cores(), len(data.labels))
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        settings = {"norm": subject.norm.title(), "epsilon": subject.epsilon, "threads": 1}
        # Its check of gradients fails on few images with channels last.
        settings |= {"seed": options.their_seed, "channels_last": options.hardest is None}
        (folder / "settings.json").write_text(json.dumps(settings))
        hand_over(folder, weights, images=data.images, labels=data.labels)
        begin = [
            subprocess.Popen(
                **torch_half(options.python, "quality.verdict_torch", path, "standard", part, parts)
            )
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
    model, weights, data = load(name, subject.images, options.count, options)
    cascades = options.attacks.split(",")
    found: dict[str, list[Verdict]] = {cascade: [] for cascade in cascades}
    others = []
    for number in range(options.parts):
        part = data.part(number, options.parts)
        for cascade in cascades:
            store = options.store and Path(options.store) / Path(name).name / f"{cascade}-{number}"
            found[cascade].append(
                verdict(model, part, subject, cascade, options.seed, options.hardest, store)
            )
        if options.python:
            ours = found[cascades[0]][-1]
            hard = ours.attacked if options.hardest else np.ones_like(ours.attacked)
            theirs = peer(model, weights, part.where(hard), subject, options)
            robust = ours.robust.copy()  # ours says of images that it did not attack
            robust[hard] = theirs.robust
            others.append(theirs._replace(robust=robust))
    whole, rows = {}, []
    for cascade, parts in found.items():
        *arrays, stages, took = zip(*parts, strict=True)
        whole[cascade] = Verdict(*map(np.concatenate, arrays), max(stages), sum(took))
        if others:
            ours, robust = whole[cascade], np.concatenate([one.robust for one in others])
            ids = np.concatenate([data.part(n, options.parts).ids for n in range(options.parts)])
            seconds = [one.seconds for one in others]
            spent = (
                (ours.forward + ours.backward).mean(),
                sum(o.passes for o in others) / len(robust),
            )
            rows.append(
                [
                    Path(name).name,
                    cascade,
                    len(robust),
                    f"{100 * ours.robust.mean():.2f}",
                    f"{100 * robust.mean():.2f}",
                    _which(ids[robust & ~ours.robust]),
                    _which(ids[ours.robust & ~robust]),
                    f"{spent[0]:.0f}",
                    f"{spent[1]:.0f}",
                    f"{ours.seconds:.1f}",
                    f"{sum(seconds):.1f}",
                    f"{sum(seconds) / ours.seconds:.1f}",
                    f"{ratio(seconds, list(took)):.1f}",
                ]
            )
    return whole, rows


def subject_of(name: str, options: argparse.Namespace) -> Subject:
    """What the table says of a network, or the options of any other."""
    if options.data is None and name in SUBJECTS:
        if options.epsilon is not None or options.norm is not None:
            raise SystemExit(f"{name} has its own radius: leave --epsilon and --norm out")
        return SUBJECTS[name]
    if options.epsilon is None:
        raise SystemExit(
            f"{name} is not in the table: pass its --epsilon, and --data if it is yours"
        )
    return Subject(options.epsilon, "all", norm=options.norm or "linf")


def main() -> None:
    parser = arguments(
        __doc__,
        names=f"of {list(SUBJECTS)} (default: all)",
        count=10_000,
        python="torch and pyautoattack",
        own=True,
    )
    parser.add_argument("--epsilon", type=parse_number, help="of models that are not in the table")
    parser.add_argument("--norm", help="of these: linf (default), l2 or l1")
    parser.add_argument("--attacks", default="standard", help="cascades, with commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hardest", type=int, metavar="N", help="attack the N hardest only")
    parser.add_argument("--their-seed", type=int, default=0, help="of pyautoattack")
    parser.add_argument("--store", help="a folder in which finished parts of a run are kept")
    parser.add_argument("--parts", type=int, default=1, help="of the images, in turn")
    parser.add_argument("--hard", action="store_true", help="the hard instances instead")
    options = parser.parse_args()
    ja.use_cpu_cores()
    names = options.names or list(HARD if options.hard else SUBJECTS)
    rows, beside, wrong = [], [], []
    subjects = {name: subject_of(name, options) for name in names}
    for name, subject in subjects.items():
        if options.hard:
            subject = Subject(subject.epsilon, "hard_mip_unsafe", 0.0, None, "MIP, these")
        whole, others = compare(name, subject, options)
        beside += others
        for cascade, found in whole.items():
            rows.append(row_of(Path(name).name, subject, cascade, found))
            proved = subject.proved if options.count >= 10_000 else None
            if proved is not None and 100 * found.robust.mean() < proved - 1e-9:
                wrong.append(name)
    norms = ", ".join(sorted({subject.norm.title() for subject in subjects.values()}))
    show(
        f"Robust accuracy in {norms}, per cent, seed {options.seed}",
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
