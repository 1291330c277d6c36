"""`python -m benchmarks.peers.pgd`: jaxadv and the torch libraries, side by side.

FGSM, PGD, PGD-L2 and MI-FGSM of foolbox, torchattacks, the Adversarial Robustness Toolbox, adv-lib
and cleverhans, and a plain torch loop: same weights, images, steps and step size. (pyautoattack has
none of these four.) Every side is a process of its own, they take turns, and all answers are scored
by one re-evaluation here. The plain loop is tried in each arrangement of memory layout, threads and
processes, and it and the libraries run in its fastest. "jaxadv" does all steps for all images, as
they do; "stopping early" is `ja.run` as it is by default: the same verdict, no step after success.

Needs the extra `peers`, or the path of another interpreter that has torch and the libraries; sides
that are not installed are left out and named. The network cifar10_resnet32_linf8 needs the shared
data (JAXADV_SHARED, or ../shared).
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxadv as ja
from benchmarks.common import arguments, hand_over, load, show, torch_half, trained
from jaxadv.core.norms import distance64
from jaxadv.engine.devices import cpu_cores
from jaxadv.engine.verify import margins, predict
from jaxadv.models.weights import flatten

STEP = 0.025  # of epsilon
ATTACKS: dict[str, tuple[int, ja.Attack]] = {
    "FGSM": (1, ja.FGSM()),
    "PGD": (40, ja.PGD(steps=40, step_size=STEP)),
    "PGD-L2": (40, ja.PGD(norm="l2", steps=40, step_size=STEP)),
    "MI-FGSM": (40, ja.MIFGSM(steps=40, step_size=STEP)),
}
LIBRARIES = {
    "foolbox": list(ATTACKS),
    "torchattacks": list(ATTACKS),
    "adversarial-robustness-toolbox": list(ATTACKS),
    "adv-lib": ["PGD"],
    "cleverhans": ["FGSM", "PGD", "PGD-L2"],
}


class Subject(NamedTuple):
    """A network with its images, its weights as torch reads them, and the epsilons in use."""

    model: ja.Model
    images: np.ndarray
    labels: np.ndarray
    weights: dict[str, np.ndarray]
    linf: float
    l2: float


def subject(name: str, count: int) -> Subject:
    """The last `count` embedded digits, or the first CIFAR-10 test images."""
    if name != "cifar10_resnet32_linf8":
        model, images, labels = trained(name)
        linf, l2 = (0.05, 0.5) if name == "FC" else (0.1, 1.5)
        images, labels = images[-count:], labels[-count:]
        return Subject(model, images, labels, dict(flatten(model.params)), linf, l2)
    model, weights, data = load(name, count)
    return Subject(model, data.images, data.labels, weights, 8 / 255, 0.5)


class Arrangement(NamedTuple):
    """How torch is run: memory layout, processes that share the images, threads of each."""

    layout: str
    processes: int
    threads: int

    def __str__(self) -> str:
        return f"{self.layout}, {self.processes} x {self.threads}"


class Side:
    """One or several processes that attack together each time they are asked."""

    def __init__(self, python: str, name: str, folder: str, how: Arrangement) -> None:
        words = (name, how.layout, folder, how.threads)
        self.processes = [
            subprocess.Popen(
                **torch_half(python, "peers.pgd_torch", *words, part, how.processes),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for part in range(how.processes)
        ]
        self.facts = self._read()[0]
        begin = time.perf_counter()
        self.attack()
        self.first = time.perf_counter() - begin

    def _read(self) -> list[dict[str, Any]]:
        lines = [process.stdout.readline() for process in self.processes]  # type: ignore[union-attr]
        if not all(lines):
            raise RuntimeError("a peer's process died; its error is above")
        return [json.loads(line) for line in lines]

    def attack(self, word: str = "go") -> list[dict[str, Any]]:
        """One attack of all images; returns when every process has answered."""
        for process in self.processes:
            process.stdin.write(word + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        return self._read()

    def close(self) -> None:
        for process in self.processes:
            process.stdin.close()  # type: ignore[union-attr]
            process.wait()


def installed(python: str) -> list[str]:
    """The libraries that the other interpreter has."""
    code = (
        "import sys, importlib.metadata as m\n"
        "have = {d.metadata['Name'].lower() for d in m.distributions()}\n"
        "print(*[name for name in sys.argv[1:] if name in have])"
    )
    asked = subprocess.run(
        [python, "-c", code, "torch", *LIBRARIES], capture_output=True, text=True
    )
    have = asked.stdout.split()
    if "torch" not in have:
        raise SystemExit(f"{python} has no torch: install the extra 'peers' or pass --python")
    lacking = [name for name in LIBRARIES if name not in have]
    if lacking:
        print("not installed, left out:", ", ".join(lacking))
    return [name for name in LIBRARIES if name in have]


def compare(
    network: str, name: str, count: int, rounds: int, python: str, libraries: list[str]
) -> None:
    """One table: one attack on one network."""
    model, images, labels, weights, linf, l2 = subject(network, count)
    steps, attack = ATTACKS[name]
    epsilon = l2 if attack.norm == "l2" else linf
    cores, goal = cpu_cores(), ja.Untargeted(labels)
    devices = tuple(jax.local_devices())

    def ours(keep: str) -> ja.Result:
        return ja.run(attack, model, images, goal, epsilon, key=jax.random.key(0), keep=keep)

    mine = {"jaxadv": "last", "jaxadv, stopping early": "first"}
    with tempfile.TemporaryDirectory() as folder:
        step = epsilon if steps == 1 else STEP * epsilon
        settings = {"attack": name, "steps": steps, "step": step, "epsilon": epsilon, "batch": 250}
        (Path(folder) / "settings.json").write_text(json.dumps(settings))
        hand_over(Path(folder), weights, images=images, labels=labels)
        layouts = ["NCHW"] if network == "FC" else ["NCHW", "NHWC"]
        shares = [(1, cores)] if cores == 1 else [(1, cores), (cores, 1)]
        sides: dict[str, tuple[str, Arrangement, Side]] = {}
        for how in [Arrangement(layout, *share) for layout in layouts for share in shares]:
            sides[f"torch loop, {how}"] = ("torch", how, Side(python, "torch", folder, how))
        tried: dict[str, float] = {}
        for key, (_, _, side) in sides.items():
            begin = time.perf_counter()
            side.attack()
            tried[key] = time.perf_counter() - begin
        fastest = min(tried, key=lambda key: tried[key])
        print("; ".join(f"{key}: {spent:.2f} s" for key, spent in tried.items()))
        for key in set(sides) - {fastest}:
            sides.pop(key)[2].close()
        best = sides[fastest][1]
        for library in libraries:
            if name in LIBRARIES[library]:
                sides[f"{library}, {best}"] = (library, best, Side(python, library, folder, best))
        for key, (_, how, side) in sides.items():
            reference = predict(model, images[:: how.processes][:8], devices)
            np.testing.assert_allclose(side.facts["logits"], reference, atol=1e-3, err_msg=key)

        first: dict[str, float] = {key: side.first for key, (_, _, side) in sides.items()}
        answers: dict[str, ja.Result] = {}
        seconds: dict[str, list[float]] = {key: [] for key in (*mine, *sides)}
        for key, keep in mine.items():
            begin = time.perf_counter()
            ours(keep)
            first[key] = time.perf_counter() - begin
        for _ in range(rounds):
            for key in seconds:
                begin = time.perf_counter()
                if key in mine:
                    answers[key] = ours(mine[key])
                else:
                    sides[key][2].attack()
                seconds[key].append(time.perf_counter() - begin)

        def score(found: np.ndarray) -> list[str]:
            away = distance64(attack.norm, found, images)
            logits = predict(model, np.clip(found, 0, 1), devices)
            success = (margins(goal, logits) < 0) & (away <= epsilon * (1 + 1e-5) + 1e-6)
            return [f"{100 * success.mean():.1f}", f"{np.median(away[success]):.4f}"]

        rows = []
        for key, times in seconds.items():
            if key in mine:
                result, version = answers[key], ja.__version__
                scored = score(result.images)
                passes = [result.forward.mean(), result.backward.mean()]
            else:
                side, version = sides[key][2], sides[key][2].facts["version"]
                saved = side.attack("save")
                found = np.empty_like(images)
                for part, answer in enumerate(saved):
                    with np.load(answer["saved"]) as file:
                        found[part :: len(saved)] = file["images"]
                scored = score(found)
                passes = [sum(a[k] for a in saved) / count for k in ("forward", "backward")]
                side.close()
            pairs = zip(times, seconds["jaxadv"], strict=True)
            median = statistics.median(times)
            rows.append(
                [
                    key,
                    version,
                    *scored,
                    *(f"{p:.1f}" for p in passes),
                    f"{max(first[key] - median, 0):.1f}",
                    f"{median:.3f}",
                    f"{statistics.median(a / b for a, b in pairs):.2f}",
                ]
            )
    show(
        f"{name}, {steps} steps, {attack.norm} {epsilon:.4g}, {network}, {count} images, "
        f"{cores} cores, jax {jax.__version__}, {rounds} rounds",
        [
            "side, processes x threads",
            "version",
            "success %",
            "distance",
            "forward",
            "backward",
            "first call +s",
            "wall s",
            "over ours",
        ],
        rows,
    )
    ratio = min(float(row[-1]) for row in rows if row[0] in sides)
    early = statistics.median(seconds["jaxadv"]) / statistics.median(
        seconds["jaxadv, stopping early"]
    )
    print(
        f"{name} on {network}: {ratio:.2f} times as fast as the fastest of the others, "
        f"stopping early {ratio * early:.2f} times\n"
    )


COUNTS = {"FC": 1000, "MadryCNN": 250, "cifar10_resnet32_linf8": 64}

if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--python", default=sys.executable, help="interpreter with the peers")
    parser.add_argument("--count", type=int, help=f"images (default: {COUNTS})")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="*", default=list(COUNTS))
    parser.add_argument("--attacks", nargs="*", default=list(ATTACKS), choices=list(ATTACKS))
    options = parser.parse_args()
    ja.use_cpu_cores()
    have = installed(options.python)
    for network in options.networks:
        for name in options.attacks:
            count = options.count or COUNTS[network]
            compare(network, name, count, options.rounds, options.python, have)
