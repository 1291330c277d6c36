"""The peers' side of `benchmarks.peers`: a process that attacks once for every line it is sent.

Run by the interpreter that has the peers installed; it imports nothing of jaxadv.
usage: peers_torch.py SIDE FOLDER THREADS PART PARTS, the settings in FOLDER/settings.json.
"""

import importlib.metadata
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch
from torch import nn


class Flatten(nn.Module):
    """Channels last, as the Flax networks flatten, so that the same weights serve."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def network(arrays: dict[str, np.ndarray]) -> nn.Sequential:
    """The network whose layers the arrays name: conv1, ... (SAME, then pooling), then fc1, ...."""
    names = sorted({name.rsplit("/", 1)[0] for name in arrays})
    layers: list[nn.Module] = []
    for name in [n for n in names if "conv" in n]:
        kernel = torch.tensor(arrays[f"{name}/kernel"].transpose(3, 2, 0, 1))
        layer = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2], padding="same")
        layer.weight.data, layer.bias.data = (
            kernel.contiguous(),
            torch.tensor(arrays[f"{name}/bias"]),
        )
        layers += [layer, nn.ReLU(), nn.MaxPool2d(2)]
    layers.append(Flatten())
    for name in [n for n in names if "fc" in n]:
        kernel = torch.tensor(arrays[f"{name}/kernel"].T)
        layer = nn.Linear(kernel.shape[1], kernel.shape[0])
        layer.weight.data, layer.bias.data = (
            kernel.contiguous(),
            torch.tensor(arrays[f"{name}/bias"]),
        )
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def bare(model, images, labels, s):
    """A plain loop over torch's own gradients."""
    x = images.clone()
    for _ in range(s["steps"]):
        x.requires_grad_()
        loss = nn.functional.cross_entropy(model(x), labels, reduction="sum")
        (g,) = torch.autograd.grad(loss, x)
        with torch.no_grad():
            x = x + s["step"] * g.sign()
            x = torch.min(torch.max(x, images - s["epsilon"]), images + s["epsilon"]).clamp(0, 1)
    return x.detach()


def foolbox_pgd(model, images, labels, s):
    import foolbox

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    attack = foolbox.attacks.LinfPGD(abs_stepsize=s["step"], steps=s["steps"])
    return attack.run(wrapped, images, labels, epsilon=s["epsilon"])


def torchattacks_pgd(model, images, labels, s):
    try:
        import torchattacks
    except ImportError:  # it asks for packages that PGD does not use
        for name in ("torchvision", "torchvision.transforms", "requests", "tqdm"):
            sys.modules.setdefault(name, types.ModuleType(name))
        import torchattacks
    return torchattacks.PGD(model, eps=s["epsilon"], alpha=s["step"], steps=s["steps"])(
        images, labels
    )


SIDES = {"torch loop": bare, "foolbox": foolbox_pgd, "torchattacks": torchattacks_pgd}


def main() -> None:
    name, folder, threads, part, parts = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    settings = json.loads((Path(folder) / "settings.json").read_text())
    with np.load(Path(folder) / "weights.npz") as file:
        model = network(dict(file))
    with np.load(Path(folder) / "data.npz") as file:
        images, labels = (
            file["images"][int(part) :: int(parts)],
            file["labels"][int(part) :: int(parts)],
        )
    x, y = torch.tensor(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels).long()
    side, _, layout = name.partition(", ")
    if layout == "channels last":
        model, x = (
            model.to(memory_format=torch.channels_last),
            x.to(memory_format=torch.channels_last),
        )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    batches = list(zip(x.split(settings["batch"]), y.split(settings["batch"]), strict=True))
    logits = model(x[:8]).detach().numpy().tolist()
    package = side if side != "torch loop" else "torch"
    version = importlib.metadata.version(package)
    print(json.dumps({"version": version, "logits": logits}), flush=True)
    for line in sys.stdin:
        out = [SIDES[side](model, a, b, settings) for a, b in batches]
        if line.strip() == "save":
            found = torch.cat(out).permute(0, 2, 3, 1).contiguous().numpy()
            np.savez(Path(folder) / f"{abs(hash(name))}-{part}.npz", images=found)
            print(json.dumps({"saved": f"{abs(hash(name))}-{part}.npz"}), flush=True)
        else:
            print(json.dumps({}), flush=True)


if __name__ == "__main__":
    main()
