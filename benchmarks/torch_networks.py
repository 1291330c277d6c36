"""The compared networks in torch, from the same arrays; images [N, C, H, W]."""

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


def network(arrays: dict[str, np.ndarray]) -> nn.Module:
    """The network that the arrays belong to, for evaluation, its parameters without gradients."""
    model = ResNet32(arrays) if "layer1.0.conv1.weight" in arrays else plain(arrays)
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
