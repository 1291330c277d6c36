"""The peer's side of `benchmarks.peers.universal`: ART's universal perturbations.

Run by an interpreter that has torch and ART; it imports nothing of jaxadv.
usage: python -m benchmarks.peers.universal_torch FOLDER EPSILON ROUNDS TARGET; weights.npz and
data.npz are in FOLDER.
Writes FOLDER/art-NAME.npz: the perturbation [H, W, C], passes, wall and processor seconds.
"""

import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from art.attacks import evasion
from art.estimators.classification import PyTorchClassifier

from benchmarks.torch_common import Counting, network


def main() -> None:
    folder, epsilon = Path(sys.argv[1]), float(sys.argv[2])
    rounds, target = int(sys.argv[3]), int(sys.argv[4])
    with np.load(folder / "weights.npz") as file:
        model = Counting(network(dict(file))).eval()
    with np.load(folder / "data.npz") as file:
        x = np.ascontiguousarray(file["images"].transpose(0, 3, 1, 2))
    torch.manual_seed(0)
    random.seed(0)
    classes = model(torch.tensor(x[:1])).shape[1]
    classifier = PyTorchClassifier(
        model,
        torch.nn.CrossEntropyLoss(),
        x.shape[1:],
        classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    aims = np.eye(classes, dtype=np.float32)[np.full(len(x), target)]
    settings = {"eps": epsilon, "norm": np.inf, "max_iter": rounds}
    sides = {
        "UniversalPerturbation": (
            evasion.UniversalPerturbation(
                classifier, "deepfool", {"verbose": False}, verbose=False, **settings
            ),
            None,
        ),
        "TargetedUniversalPerturbation": (
            evasion.TargetedUniversalPerturbation(
                classifier, "fgsm", {"eps": epsilon / 10, "targeted": True}, **settings
            ),
            aims,
        ),
    }
    for name, (attack, y) in sides.items():
        model.counted.update(forward=0, backward=0)
        wall, cpu = time.perf_counter(), time.process_time()
        attack.generate(x, y)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        np.savez(
            folder / f"art-{name}.npz",
            seconds=wall,
            processor=cpu,
            **model.counted,
            logits=model(torch.tensor(x[:8])),
            perturbation=np.asarray(attack.noise)[0].transpose(1, 2, 0),
        )
        print(f"ART {name}: {wall:.0f} s", flush=True)


if __name__ == "__main__":
    main()
