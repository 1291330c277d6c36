"""What the torch halves share: the compared networks, from the same arrays; counting of passes.

Images are [N, C, H, W]. It imports nothing of jaxadv.
"""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Flatten(nn.Module):
    """Channels last, as the Flax networks flatten, so that the same weights serve."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def plain(arrays: dict[str, np.ndarray]) -> nn.Module:
    """The network whose layers the arrays name: conv1, ... (SAME, then pooling), then fc1, ...."""
    names = sorted({name.rsplit("/", 1)[0] for name in arrays})
    layers: list[nn.Module] = []
    for name in [n for n in names if "conv" in n]:
        kernel = torch.tensor(arrays[f"{name}/kernel"].transpose(3, 2, 0, 1)).contiguous()
        layer = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2], padding="same")
        layer.weight.data, layer.bias.data = kernel, torch.tensor(arrays[f"{name}/bias"])
        layers += [layer, nn.ReLU(), nn.MaxPool2d(2)]
    layers.append(Flatten())
    for name in [n for n in names if "fc" in n]:
        kernel = torch.tensor(arrays[f"{name}/kernel"].T).contiguous()
        layer = nn.Linear(kernel.shape[1], kernel.shape[0])
        layer.weight.data, layer.bias.data = kernel, torch.tensor(arrays[f"{name}/bias"])
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Block(nn.Module):
    """A basic block with a shortcut of option A."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.stride = 1 if before == channels else 2
        self.conv1 = nn.Conv2d(before, channels, 3, self.stride, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.more = channels - before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.more:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more // 2, self.more // 2))
        return F.relu(x + y)


class ResNet32(nn.Module):
    """The published CIFAR-10 networks; they normalise the pixels themselves."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for stage, (before, channels) in enumerate([(16, 16), (16, 32), (32, 64)], 1):
            blocks = [Block(before if i == 0 else channels, channels) for i in range(5)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)
        state = {name: torch.tensor(array) for name, array in arrays.items()}
        lacking = self.load_state_dict(state, strict=False)
        assert not lacking.unexpected_keys
        assert all(name.endswith("num_batches_tracked") for name in lacking.missing_keys)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1((x - self.mean) / self.std)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class Normalize(nn.Module):
    """Per channel, in the scale of pixels in [0, 1]."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


def sequential(arrays: dict[str, np.ndarray]) -> nn.Module:
    """The published networks without shortcuts: convolutions, then dense layers, in their order."""
    names = [name.rsplit(".", 1)[0] for name in arrays if name.endswith("weight")]
    strided = "0" in names  # "CNN-A"; the other, TRADES' SmallCNN, has strides 1 and pooling
    layers: list[nn.Module] = []
    if arrays[f"{names[0]}.weight"].ndim == 4 and arrays[f"{names[0]}.weight"].shape[1] == 3:
        layers.append(
            Normalize([125.3 / 255, 123 / 255, 113.9 / 255], [63 / 255, 62.1 / 255, 66.7 / 255])
        )
    for number, name in enumerate(names):
        weight = torch.tensor(arrays[f"{name}.weight"])
        if weight.ndim == 4:
            out, into, size, _ = weight.shape
            layer: nn.Module = nn.Conv2d(into, out, size, 2 if strided else 1, 1 if strided else 0)
        else:
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            if not any(isinstance(earlier, nn.Linear) for earlier in layers):
                layers.append(nn.Flatten())
        layer.weight.data, layer.bias.data = weight, torch.tensor(arrays[f"{name}.bias"])
        layers += [layer, nn.ReLU()]
        if weight.ndim == 4 and not strided and number % 2:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers[:-1])


class ResNet2b(nn.Module):
    """The two-block ResNet of the verification competition."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.w = {name: torch.tensor(array) for name, array in arrays.items()}
        self.normalize = Normalize([0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616])

    def conv(self, x: torch.Tensor, name: str, stride: int, padding: int) -> torch.Tensor:
        return F.conv2d(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], stride, padding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv(self.normalize(x), "conv1", 2, 1))
        for block, stride in (("layer1.0", 2), ("layer1.1", 1)):
            y = F.relu(self.conv(x, f"{block}.conv1", stride, 1))
            y = self.conv(y, f"{block}.conv2", 1, 1)
            short = self.conv(x, f"{block}.shortcut.0", stride, 0) if stride > 1 else x
            x = F.relu(y + short)
        x = F.relu(F.linear(x.flatten(1), self.w["linear1.weight"], self.w["linear1.bias"]))
        return F.linear(x, self.w["linear2.weight"], self.w["linear2.bias"])


def network(arrays: dict[str, np.ndarray]) -> nn.Module:
    """The network that the arrays belong to, for evaluation, its parameters without gradients."""
    if "linear1.weight" in arrays:
        model: nn.Module = ResNet2b(arrays)
    elif "layer1.0.conv1.weight" in arrays:
        model = ResNet32(arrays)
    elif any(name.endswith(".weight") for name in arrays):
        model = sequential(arrays)
    else:
        model = plain(arrays)
    return model.eval().requires_grad_(False)


class _Count(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, counted):  # type: ignore[override]
        ctx.counted = counted
        counted["forward"] += len(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[override]
        ctx.counted["backward"] += len(gradient)
        return gradient, None


class Counting(nn.Module):
    """A model that counts the images of its forward and backward passes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.counted = model, {"forward": 0, "backward": 0}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(_Count.apply(x, self.counted))


def load(folder: Path, rows: slice = slice(None)) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The network, images and labels that the other half has written into the folder."""
    with np.load(folder / "weights.npz") as file:
        model = network(dict(file))
    with np.load(folder / "data.npz") as file:
        images, labels = file["images"][rows], file["labels"][rows]
    x = torch.tensor(images).permute(0, 3, 1, 2).contiguous()
    return model, x, torch.tensor(labels).long()


class _StandIn(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _StandIn(name)


def stand_in(*names: str) -> None:
    """Empty modules for packages that a library imports and these attacks do not use."""
    for name in names:
        sys.modules.setdefault(name, _StandIn(name))
