"""The peers' side of `benchmarks.peers.minimum`: minimum-norm attacks of adv-lib and Foolbox.

Run by an interpreter that has torch and the libraries; it imports nothing of jaxadv.
usage: python -m benchmarks.peers.minimum_torch FOLDER NORM PASSES [NAME;NAME...];
weights.npz and data.npz are in FOLDER. Writes FOLDER/LIBRARY-ATTACK.npz for each: the least
distance of an adversarial image among those queried within the first PASSES forward and backward
passes of each image, the passes, and the seconds.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.torch_common import Counting, load, stand_in

Peer = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]


class Watched(Counting):
    """Counts passes, and remembers the least distance at which each image was answered wrong."""

    def __init__(
        self, model: Any, images: torch.Tensor, labels: torch.Tensor, norm: str, most: int
    ):
        super().__init__(model)
        self.images, self.labels, self.norm, self.most = images, labels, norm, most
        self.distance = torch.full((len(images),), torch.inf, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        if len(x) == len(self.images) and sum(self.counted.values()) <= self.most * len(x):
            self.look(x.detach(), logits.detach())
        return logits

    def look(self, x: torch.Tensor, logits: torch.Tensor) -> None:
        """Take in what was asked of all images at once."""
        change = (x.double() - self.images.double()).flatten(1)
        if self.norm == "l0":
            distance = (change != 0).sum(1).double()
        else:
            order = {"linf": torch.inf, "l2": 2, "l1": 1}[self.norm]
            distance = change.norm(order, dim=1)
        boxed = ((x >= 0) & (x <= 1)).flatten(1).all(1)
        found = (logits.argmax(1) != self.labels) & boxed
        self.distance = torch.where(found & (distance < self.distance), distance, self.distance)


def adv_lib(norm: str, steps: int) -> dict[str, Peer]:
    """adv-lib's attacks of a norm, with so many gradients each."""
    stand_in("visdom", "torchvision", "torchvision.models")
    from adv_lib import attacks as a

    p = {"linf": float("inf"), "l2": 2.0, "l1": 1.0, "l0": 0.0}[norm]
    found: dict[str, Peer] = {"FMN": lambda m, x, y: a.fmn(m, x, y, norm=p, steps=steps)}
    found["PDPGD"] = lambda m, x, y: a.pdpgd(m, x, y, norm=p, num_steps=steps)
    if norm == "l2":
        found["DDN"] = lambda m, x, y: a.ddn(m, x, y, steps=steps, levels=None)
        found["PDGD"] = lambda m, x, y: a.pdgd(m, x, y, num_steps=steps)
        found["CW"] = lambda m, x, y: a.carlini_wagner_l2(m, x, y, max_iterations=steps // 9)
        found["SuperDeepFool"] = lambda m, x, y: a.sdf(m, x, y)
    if norm in ("l2", "l1"):
        found["ALMA"] = lambda m, x, y: a.alma(
            m,
            x,
            y,
            num_steps=steps,
            distance=norm,
            init_lr_distance={"l2": 0.1, "l1": 0.5}[norm],
            α=0.9 if steps > 100 else 0.5,
        )
    if norm in ("l2", "linf"):
        found["DeepFool"] = lambda m, x, y: a.df(m, x, y, norm=p)
        found["TrustRegion"] = lambda m, x, y: a.tr(m, x, y, p=p, adaptive=True)
    if norm in ("linf", "l2", "l1"):
        found["FAB"] = lambda m, x, y: a.fab(
            m, x, y, norm=p, n_iter=max(steps // 10, 10), targeted_restarts=True
        )
    if norm == "l0":
        found["SigmaZero"] = lambda m, x, y: a.sigma_zero(m, x, y, num_steps=steps)
        found["VFGA"] = lambda m, x, y: a.vfga(m, x, y, targeted=False)
    return found


def foolbox(norm: str, steps: int) -> dict[str, Peer]:
    """Foolbox's attacks of a norm, with so many gradients each."""
    from foolbox import PyTorchModel
    from foolbox import attacks as a

    def of(name: str, **settings: Any) -> Peer:
        def run(m: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            attack = getattr(a, name)(**settings)  # some need packages that may not be there
            return attack(PyTorchModel(m, bounds=(0, 1)), x, y, epsilons=None)[0]

        return run

    named = {"linf": "LInf", "l2": "L2", "l1": "L1", "l0": "L0"}[norm]
    bethge = {"linf": "Linfinity", "l2": "L2", "l1": "L1", "l0": "L0"}[norm]
    found = {
        "FMN": of(f"{named}FMNAttack", steps=steps),
        "BrendelBethge": of(f"{bethge}BrendelBethgeAttack", steps=steps),
    }
    if norm == "l2":
        found["DDN"] = of("DDNAttack", steps=steps)
        found["CW"] = of("L2CarliniWagnerAttack", steps=steps // 9)
        found["DeepFool"] = of("L2DeepFoolAttack")
    if norm == "linf":
        found["DeepFool"] = of("LinfDeepFoolAttack")
    if norm == "l1":
        found["EAD"] = of("EADAttack", steps=steps // 18, decision_rule="L1")
    return found


def main() -> None:
    folder, norm, passes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    only = set(sys.argv[4].split(";")) if len(sys.argv) > 4 else set()
    model, x, y = load(folder)
    for library, attacks in (("adv-lib", adv_lib), ("foolbox", foolbox)):
        for name, attack in attacks(norm, passes // 2).items():
            if only and not only & {name, f"{name} ({library})"}:
                continue
            torch.manual_seed(0)
            watched = Watched(model, x, y, norm, passes).eval()
            begin = time.perf_counter()
            try:
                last = attack(watched, x.clone(), y).detach()  # some ask for its gradient
            except Exception as error:
                print(f"{library} {name} {norm} failed: {error}", flush=True)
                continue
            seconds = time.perf_counter() - begin
            spent = sum(watched.counted.values()) / len(x)
            if spent <= passes:
                watched.look(last, model(last))
            np.savez(
                folder / f"{library}-{name}.npz",
                distance=watched.distance.numpy(),
                passes=spent,
                seconds=seconds,
                logits=model(x[:8]).numpy(),
            )
            print(f"{library} {name}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
