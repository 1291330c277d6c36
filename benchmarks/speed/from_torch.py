"""`python -m benchmarks.speed.from_torch`: is a converted PyTorch network as fast as our own?

A ResNet-18 of CIFAR's size and timm's ViT-S/16 on images of 64 x 64, with random weights: converted
by `ja.from_torch`, and our Flax definitions with the same weights. Both take turns at PGD of 10
steps by `ja.run`, every step for every image; seconds are medians, the ratio is the median over the
rounds. It needs torch, and timm for the second.
"""

import itertools
import statistics

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import jaxadv as ja
from benchmarks.common import alternate, arguments, ratio, show


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if before != channels:
            projection = nn.Conv2d(before, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet18(nn.Module):
    """The network of `ja.models.get_definition("ResNet18")`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        widths = (64, 64, 128, 256, 512)
        for stage, (before, channels) in enumerate(itertools.pairwise(widths), 1):
            stride = 1 if stage == 1 else 2
            blocks = Block(before, channels, stride), Block(channels, channels, 1)
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(512, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(x.mean((2, 3)))


def residual() -> tuple[nn.Module, str, tuple[int, int, int]]:
    """The network, the name of our definition, and the shape of an image."""
    return ResNet18(), "ResNet18", (32, 32, 3)


def transformer() -> tuple[nn.Module, str, tuple[int, int, int]]:
    """The same of a vision transformer, ViT-S/16, for small images."""
    import timm

    return timm.create_model("vit_small_patch16_224", img_size=64), "ViT", (64, 64, 3)


NETWORKS = {"ResNet18": residual, "ViT-S": transformer}


def compare(name: str, count: int, rounds: int) -> list[list]:
    """The rows of a network's table."""
    torch.manual_seed(0)
    module, definition, shape = NETWORKS[name]()
    module = module.eval()
    models = {
        "Flax": ja.from_torch_arrays(definition, module.state_dict(), image_shape=shape),
        "from_torch": ja.from_torch(module, shape),
    }
    images = np.random.default_rng(0).random((count, *shape), np.float32)
    labels = np.asarray(models["Flax"](images).argmax(1))

    def attack(model: ja.Model) -> jax.Array:
        goal, key = ja.Untargeted(labels), jax.random.key(0)
        return ja.run(ja.PGD(steps=10), model, images, goal, 8 / 255, key=key, keep="last").images

    sides = {side: lambda model=model: attack(model) for side, model in models.items()}
    seconds = alternate(sides, rounds)
    return [
        [f"{name}, {side}", statistics.median(taken), ratio(taken, seconds["Flax"])]
        for side, taken in seconds.items()
    ]


def main() -> None:
    parser = arguments(__doc__, names=f"of {list(NETWORKS)} (default: all)", count=32)
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default: 7)")
    options = parser.parse_args()
    rows = []
    for name in options.names or NETWORKS:
        rows += compare(name, options.count, options.rounds)
    show(f"PGD, 10 steps, {options.count} images", ["network", "seconds", "of Flax"], rows)


if __name__ == "__main__":
    main()
