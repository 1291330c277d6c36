"""The peers' side of `benchmarks.peers.queries`: black-box attacks of Foolbox, ART, pyautoattack.

Run by an interpreter that has torch and the libraries; it imports nothing of jaxadv.
usage: python -m benchmarks.peers.queries_torch FOLDER NORM BUDGETS EPSILON ATTACKS (empty: all);
FOLDER has weights.npz and data.npz.
Writes FOLDER/LIBRARY-ATTACK.npz for each: the least distance of an adversarial image asked within
each budget [budgets, N], the queries it took, and the seconds.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.torch_common import load

Peer = Callable[[Any, torch.Tensor, torch.Tensor], Any]


class Spent(Exception):
    """The last budget is used up."""


class Watched(nn.Module):
    """Answers, and remembers the least adversarial distance asked within each budget.

    A call with as many rows as there are images is one query of each; with one image, every row is.
    """

    def __init__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        norm: str,
        budgets: list[int],
    ) -> None:
        super().__init__()
        self.model, self.images, self.labels, self.budgets = model, images, labels, budgets
        self.order = {"l2": 2, "linf": torch.inf, "l0": 0}[norm]
        self.asked, self.seconds, self.began = 0, [0.0] * len(budgets), time.perf_counter()
        self.distance = torch.full((len(budgets), len(images)), torch.inf, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) == 0:
            return self.model(x.float())
        if self.asked >= self.budgets[-1]:
            raise Spent
        logits = self.model(x.float())
        before, rows = self.asked, len(x)
        images, labels = self.images, self.labels
        if len(images) == 1:
            number = before + 1 + torch.arange(rows)
            images, labels = images.expand_as(x), labels.expand(rows)
        else:
            assert rows == len(images), rows
            number = torch.full((rows,), before + 1)
        self.asked = int(number[-1])
        change = (x.double() - images.double()).flatten(1)
        found = (logits.argmax(1) != labels) & ((x >= 0) & (x <= 1)).flatten(1).all(1)
        distance = torch.where(found, change.norm(self.order, dim=1), torch.inf)
        for row, budget in enumerate(self.budgets):
            within = torch.where(number <= budget, distance, torch.inf)
            least = within.min().reshape(1) if len(self.images) == 1 else within
            self.distance[row] = torch.minimum(self.distance[row], least)
            if before < budget:
                self.seconds[row] = time.perf_counter() - self.began
        return logits


def foolbox(norm: str, budget: int, epsilon: float) -> dict[str, Peer]:
    """Foolbox's attacks by labels; all images at a time."""
    from foolbox import PyTorchModel
    from foolbox import attacks as a

    def of(attack: Any) -> Peer:
        return lambda m, x, y: attack(PyTorchModel(m, bounds=(0, 1)), x, y, epsilons=None)

    if norm == "l0":
        return {"Pointwise": of(a.PointwiseAttack())}
    found = {"HopSkipJump": of(a.HopSkipJumpAttack(constraint=norm, steps=10_000))}
    if norm == "l2":
        found["Boundary"] = of(a.BoundaryAttack(steps=budget))
    return found


def art(norm: str, budget: int, epsilon: float) -> dict[str, Peer]:
    """ART's attacks by labels; one image at a time, as it works itself."""
    from art.attacks.evasion import BoundaryAttack, HopSkipJump, SignOPTAttack, SquareAttack
    from art.estimators.classification import PyTorchClassifier

    if norm == "l0":
        return {}
    order = {"l2": 2, "linf": np.inf}[norm]

    def of(attack: Any, **settings: Any) -> Peer:
        def run(m: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
            model = PyTorchClassifier(
                m, nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, clip_values=(0.0, 1.0)
            )
            return attack(model, verbose=False, **settings).generate(x.numpy(), y.numpy())

        return run

    found = {
        "HopSkipJump": of(HopSkipJump, norm=order, max_iter=10_000, targeted=False),
        "Square": of(SquareAttack, norm=order, eps=epsilon, max_iter=budget),
    }
    if norm == "l2":
        found["Boundary"] = of(BoundaryAttack, targeted=False, max_iter=budget)
        found["SignOPT"] = of(SignOPTAttack, targeted=False, query_limit=budget)
    return found


def pyautoattack(norm: str, budget: int, epsilon: float) -> dict[str, Peer]:
    """pyautoattack's Square; one image at a time, so that its queries can be counted."""
    from pyautoattack.square import SquareAttack

    if norm == "l0":
        return {}

    def run(m: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
        named = {"l2": "L2", "linf": "Linf"}[norm]
        attack = SquareAttack(
            m, norm=named, eps=epsilon, n_queries=budget, n_restarts=1, seed=0, device="cpu"
        )
        return attack.perturb(x, y)

    return {"Square": run}


def main() -> None:
    folder, norm = Path(sys.argv[1]), sys.argv[2]
    budgets = [int(budget) for budget in sys.argv[3].split(",")]
    epsilon, only = float(sys.argv[4]), set(filter(None, sys.argv[5].split(",")))
    model, x, y = load(folder)
    libraries = (
        ("foolbox", foolbox, True),
        ("art", art, False),
        ("pyautoattack", pyautoattack, False),
    )
    for library, make, together in libraries:
        for name, attack in make(norm, budgets[-1], epsilon).items():
            if only and name not in only:
                continue
            parts = [slice(None)] if together else [slice(i, i + 1) for i in range(len(x))]
            distances, seconds = [], np.zeros(len(budgets))
            for part in parts:
                torch.manual_seed(0)
                np.random.seed(0)  # noqa: NPY002  (ART draws from it)
                watched = Watched(model, x[part], y[part], norm, budgets).eval()
                try:
                    attack(watched, x[part], y[part])
                except Spent:
                    pass
                except Exception as error:
                    print(f"{library} {name} {norm} failed: {error!r}", flush=True)
                    break
                distances.append(watched.distance.numpy())
                seconds += watched.seconds
            else:
                np.savez(
                    folder / f"{library}-{name}.npz",
                    distance=np.concatenate(distances, 1),
                    seconds=seconds,
                    logits=model(x[:8]).numpy(),
                )
                print(f"{library} {name}: {seconds[-1]:.0f} s", flush=True)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
