"""The peers' side of `benchmarks.peers.pgd`: a process that attacks once for every line it is sent.

Run by the interpreter that has the peers installed; it imports nothing of jaxadv.
usage: python -m benchmarks.peers.pgd_torch SIDE LAYOUT FOLDER THREADS PART PARTS; settings.json,
weights.npz and data.npz are in FOLDER.
"""

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.torch_common import Counting, load, stand_in

ATTACKS: dict[str, dict[str, Any]] = {"FGSM": {}, "PGD": {}, "PGD-L2": {}, "MI-FGSM": {}}


def attack(side: str, *names: str) -> Any:
    """Enter a function (model, images, labels, settings) -> images under a side and its attacks."""

    def enter(function: Any) -> Any:
        for name in names:
            ATTACKS[name][side] = function
        return function

    return enter


@attack("torch", "FGSM", "PGD", "PGD-L2", "MI-FGSM")
def bare(model, images, labels, s):
    """A plain loop over torch's own gradients."""
    x, momentum = images.clone(), torch.zeros_like(images)

    def length(vectors):
        return vectors.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)

    if s["attack"] == "PGD":
        x = (x + torch.empty_like(x).uniform_(-s["epsilon"], s["epsilon"])).clamp(0, 1)
    if s["attack"] == "PGD-L2":
        away = torch.randn_like(x)
        radius = torch.rand(len(x), 1, 1, 1) ** (1 / x[0].numel())
        x = (x + s["epsilon"] * radius * away / length(away)).clamp(0, 1)
    for _ in range(s["steps"]):
        x.requires_grad_()
        loss = nn.functional.cross_entropy(model(x), labels, reduction="sum")
        (g,) = torch.autograd.grad(loss, x)
        with torch.no_grad():
            if s["attack"] == "MI-FGSM":
                g = momentum = momentum + g / g.abs().flatten(1).sum(1).view(-1, 1, 1, 1)
            if s["attack"] == "PGD-L2":
                r = x + s["step"] * g / length(g) - images
                x = (images + r * (s["epsilon"] / length(r)).clamp_max(1)).clamp(0, 1)
            else:
                x = x + s["step"] * g.sign()
                x = torch.min(torch.max(x, images - s["epsilon"]), images + s["epsilon"])
                x = x.clamp(0, 1)
    return x.detach()


@attack("foolbox", "FGSM", "PGD", "PGD-L2", "MI-FGSM")
def foolbox(model, images, labels, s):
    from foolbox import PyTorchModel, attacks

    # `run` returns what the attack made; a call would ask the model once more
    schedule = {"abs_stepsize": s["step"], "steps": s["steps"]}
    chosen = {
        "FGSM": lambda: attacks.LinfFastGradientAttack(),
        "PGD": lambda: attacks.LinfPGD(**schedule),
        "PGD-L2": lambda: attacks.L2PGD(**schedule),
        "MI-FGSM": lambda: attacks.LinfMomentumIterativeFastGradientMethod(**schedule),
    }[s["attack"]]()
    return chosen.run(PyTorchModel(model, bounds=(0, 1)), images, labels, epsilon=s["epsilon"])


@attack("torchattacks", "FGSM", "PGD", "PGD-L2", "MI-FGSM")
def torchattacks(model, images, labels, s):
    stand_in("torchvision", "torchvision.transforms", "requests", "tqdm")
    import torchattacks as library

    schedule = {"eps": s["epsilon"], "alpha": s["step"], "steps": s["steps"]}
    chosen = {
        "FGSM": lambda: library.FGSM(model, eps=s["epsilon"]),
        "PGD": lambda: library.PGD(model, **schedule),
        "PGD-L2": lambda: library.PGDL2(model, **schedule),
        "MI-FGSM": lambda: library.MIFGSM(model, **schedule),
    }[s["attack"]]()
    return chosen(images, labels)


@attack("adversarial-robustness-toolbox", "FGSM", "PGD", "PGD-L2", "MI-FGSM")
def art(model, images, labels, s):
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        tuple(images.shape[1:]),
        10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    shared = {"eps": s["epsilon"], "batch_size": len(images)}
    schedule = {**shared, "eps_step": s["step"], "max_iter": s["steps"], "verbose": False}
    chosen = {
        "FGSM": lambda: evasion.FastGradientMethod(classifier, **shared),
        "PGD": lambda: evasion.ProjectedGradientDescentPyTorch(
            classifier, num_random_init=1, **schedule
        ),
        "PGD-L2": lambda: evasion.ProjectedGradientDescentPyTorch(
            classifier, norm=2, num_random_init=1, **schedule
        ),
        "MI-FGSM": lambda: evasion.MomentumIterativeMethod(classifier, **schedule),
    }[s["attack"]]()
    return torch.tensor(chosen.generate(images.numpy(), labels.numpy()))


@attack("adv-lib", "PGD")
def adv_lib(model, images, labels, s):
    stand_in("visdom", "torchvision", "torchvision.models")
    from adv_lib.attacks import pgd_linf

    return pgd_linf(
        model, images, labels, s["epsilon"], steps=s["steps"], absolute_step_size=s["step"]
    )


@attack("cleverhans", "FGSM", "PGD", "PGD-L2")
def cleverhans(model, images, labels, s):
    from cleverhans.torch.attacks.fast_gradient_method import fast_gradient_method
    from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

    norm, bounds = (2 if s["attack"] == "PGD-L2" else np.inf), {"clip_min": 0, "clip_max": 1}
    if s["attack"] == "FGSM":
        return fast_gradient_method(model, images, s["epsilon"], norm, y=labels, **bounds)
    found = projected_gradient_descent(
        model,
        images,
        s["epsilon"],
        s["step"],
        s["steps"],
        norm,
        y=labels,
        sanity_checks=False,
        **bounds,
    )
    return found.detach()


def main() -> None:
    side, layout, folder, threads, part, parts = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    settings = json.loads((Path(folder) / "settings.json").read_text())
    model, x, y = load(Path(folder), slice(int(part), None, int(parts)))
    if layout == "NHWC":
        model = model.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    batches = list(zip(x.split(settings["batch"]), y.split(settings["batch"]), strict=True))
    function = ATTACKS[settings["attack"]][side]
    logits = model(x[:8]).detach().numpy().tolist()
    version = importlib.metadata.version(side)
    print(json.dumps({"version": version, "logits": logits}), flush=True)
    for line in sys.stdin:
        if line.strip() != "save":
            for a, b in batches:
                function(model, a, b, settings)
            print(json.dumps({}), flush=True)
            continue
        counting = Counting(model).eval()
        out = [function(counting, a, b, settings).detach() for a, b in batches]
        found = torch.cat(out).permute(0, 2, 3, 1).contiguous().numpy()
        file = Path(folder) / f"{side}-{part}.npz"
        np.savez(file, images=found)
        print(json.dumps({"saved": str(file), **counting.counted}), flush=True)


if __name__ == "__main__":
    main()
