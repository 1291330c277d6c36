"""`python -m benchmarks.peers [--python PEERS_PYTHON]`: PGD in jaxadv and in the torch libraries.

Same weights, same images, same steps, all of them (no early stop on either side); every side is a
process of its own, they take turns, and all answers are scored by one common re-evaluation.
Needs the extra `peers`, or the path of another interpreter that has torch and the libraries.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxadv as ja
from benchmarks.common import show, trained
from jaxadv.core.norms import distance64
from jaxadv.engine.devices import cpu_cores
from jaxadv.engine.verify import margins, predict
from jaxadv.models.weights import flatten

SCRIPT = Path(__file__).with_name("peers_torch.py")
SIDES = ("torch loop", "torch loop, channels last", "foolbox", "torchattacks",
         "torchattacks, channels last")  # fmt: skip


class Side:
    """One or several processes that attack together each time they are asked."""

    def __init__(self, python: str, name: str, folder: str, threads: int, processes: int) -> None:
        self.processes = [
            subprocess.Popen(
                [python, str(SCRIPT), name, folder, str(threads), str(part), str(processes)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for part in range(processes)
        ]  # fmt: skip
        self.facts = self._read()[0]

    def _read(self) -> list[dict[str, Any]]:
        lines = [process.stdout.readline() for process in self.processes]
        if not all(lines):
            raise RuntimeError("a peer's process died; its error is above")
        return [json.loads(line) for line in lines]

    def attack(self, word: str = "go") -> list[dict[str, Any]]:
        """One attack of all images; returns when every process has answered."""
        for process in self.processes:
            process.stdin.write(word + "\n")
            process.stdin.flush()
        return self._read()

    def close(self) -> None:
        for process in self.processes:
            process.stdin.close()
            process.wait()


def compare(network: str, count: int, epsilon: float, rounds: int, python: str) -> None:
    """One table: PGD-40 on one network."""
    model, images, labels = trained(network)
    images, labels = images[-count:], labels[-count:]
    steps, share, batch = 40, 0.025, 250
    cores = cpu_cores()
    attack, goal = ja.PGD(steps=steps, step_size=share), ja.Untargeted(labels)

    def ours(**settings: Any) -> Any:
        return ja.run(
            attack, model, images, goal, epsilon, key=jax.random.key(0), keep="last", **settings
        )

    with tempfile.TemporaryDirectory() as folder:
        settings = {"steps": steps, "step": share * epsilon, "epsilon": epsilon, "batch": batch}
        (Path(folder) / "settings.json").write_text(json.dumps(settings))
        np.savez(Path(folder) / "weights.npz", **flatten(model.params))
        np.savez(Path(folder) / "data.npz", images=images, labels=labels)
        sides: dict[str, Side] = {}
        for name in SIDES:
            sides[f"{name}, {cores} threads"] = Side(python, name, folder, cores, 1)
        for name in ("torchattacks", "torchattacks, channels last"):
            sides[f"{name}, {cores} processes of 1 thread"] = Side(python, name, folder, 1, cores)
        reference = predict(model, images[:8], tuple(jax.local_devices()))
        for name, side in sides.items():
            if len(side.processes) == 1:
                np.testing.assert_allclose(side.facts["logits"], reference, atol=1e-3, err_msg=name)

        seconds: dict[str, list[float]] = {
            name: [] for name in ("jaxadv", "jaxadv, stopping early", *sides)
        }
        first = ours()
        ja.run(attack, model, images, goal, epsilon, key=jax.random.key(0))
        for side in sides.values():
            side.attack()
        for _ in range(rounds):
            for name in seconds:
                begin = time.perf_counter()
                if name == "jaxadv":
                    ours()
                elif name in sides:
                    sides[name].attack()
                else:
                    ja.run(attack, model, images, goal, epsilon, key=jax.random.key(0))
                seconds[name].append(time.perf_counter() - begin)

        def score(found: np.ndarray) -> tuple[str, float]:
            near = distance64("linf", found, images) <= epsilon + 1e-6
            logits = predict(model, np.clip(found, 0, 1), tuple(jax.local_devices()))
            return f"{100 * ((margins(goal, logits) < 0) & near).mean():.1f} %", len(found)

        rows = []
        for name, times in seconds.items():
            if name in sides:
                side = sides[name]
                saved = [answer["saved"] for answer in side.attack("save")]
                found = np.empty_like(images)
                for part, path in enumerate(saved):
                    found[part :: len(saved)] = np.load(Path(folder) / path)["images"]
                version = side.facts["version"]
                side.close()
            else:
                found, version = first.images, ja.__version__
                if "early" in name:
                    found = ja.run(
                        attack, model, images, goal, epsilon, key=jax.random.key(0)
                    ).images
            pairs = zip(times, seconds["jaxadv"], strict=True)
            rows.append([name, version, score(found)[0], statistics.median(times),
                         statistics.median(a / b for a, b in pairs)])  # fmt: skip
        fastest = min(row[4] for row in rows if row[0] in sides)
    show(f"PGD-{steps} Linf {epsilon}, {network}, {count} images, {cores} cores, "
         f"jax {jax.__version__}",
         ["side", "version", "success", "wall s (median)", "times ours"], rows)  # fmt: skip
    print(f"{network}: jaxadv is {fastest:.2f} times as fast as the fastest peer\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="interpreter with the peers")
    parser.add_argument("--count", type=int, help="images (default: 1,000 for FC, else 500)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="*", default=["FC", "MadryCNN"])
    options = parser.parse_args()
    ja.use_cpu_cores()
    for chosen in options.networks:
        if chosen == "FC":
            compare("FC", options.count or 1000, 0.05, 3 * options.rounds, options.python)
        else:
            compare(chosen, options.count or 500, 0.1, options.rounds, options.python)
