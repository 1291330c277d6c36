"""`python -m benchmarks.quality.onnx_networks`: does `from_onnx` read what PyTorch exports?

Networks with random weights are exported by both of PyTorch's exporters, with a free batch axis,
for one image and for two, in several opsets; the logits of three images are compared with torch's.
A cell is the largest difference over the largest logit; "-" where the exporter itself refuses. It
needs torch, onnxscript and timm.
"""

import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

import jaxadv as ja
from benchmarks.common import arguments, show
from benchmarks.speed.from_torch import ResNet18

SIDE = 32
WAYS = [(False, 13), (False, 17), (False, 20), (True, 18), (True, 20)]  # the newer exporter, opset


class Attention(nn.Module):
    """Patches, a block of multi-head attention, and a mean over them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = y + self.attention(y, y, y, need_weights=False)[0]
        return self.head(self.norm(y).mean(1))


def convolutions() -> nn.Module:
    """Two convolutions, normalised and pooled."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def of_timm(name: str, **settings: Any) -> Callable[[], nn.Module]:
    """A network of timm with ten classes."""

    def build() -> nn.Module:
        import timm

        return timm.create_model(name, num_classes=10, **settings)

    return build


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": convolutions,
    "MultiheadAttention": Attention,
    "ResNet18": ResNet18,
    "ViT": of_timm("vit_tiny_patch16_224", img_size=SIDE, patch_size=8, depth=2),
    "Swin": of_timm(
        "swin_tiny_patch4_window7_224",
        img_size=SIDE,
        window_size=4,
        depths=(1, 1),
        num_heads=(2, 4),
        embed_dim=32,
    ),
    "ConvNeXt": of_timm("convnext_atto"),
}


@contextmanager
def silenced():
    """The exporters print to the process's own output."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)


def export(network: nn.Module, newer: bool, opset: int, batch: int | None, file: Path) -> None:
    """Write a network for `batch` images (None: any number)."""
    more: dict[str, Any] = {}
    if batch is None and newer:
        more["dynamic_shapes"] = ({0: torch.export.Dim("n", min=1, max=64)},)
    elif batch is None:
        more["dynamic_axes"] = {"x": {0: "n"}, "y": {0: "n"}}
    images = (torch.rand(batch or 2, 3, SIDE, SIDE),)
    names = {"input_names": ["x"], "output_names": ["y"]}
    with silenced():
        torch.onnx.export(
            network, images, str(file), **names, opset_version=opset, dynamo=newer, **more
        )


def cell(network: nn.Module, newer: bool, opset: int, batch: int | None) -> str:
    """The difference of the logits of three images, or what went wrong."""
    images = np.random.default_rng(0).random((3, SIDE, SIDE, 3), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.onnx"
        try:
            export(network, newer, opset, batch, file)
        except Exception:
            return "-"
        try:
            logits = np.asarray(ja.from_onnx(file)(jnp.asarray(images)))
        except ValueError as error:
            print(error, file=sys.stderr)
            return "refused"
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    return f"{np.abs(logits - expected).max() / np.abs(expected).max():.0e}"


def main() -> None:
    options = arguments(__doc__, names=f"of {list(NETWORKS)} (default: all)").parse_args()
    warnings.filterwarnings("ignore")
    rows = []
    for name in options.names or NETWORKS:
        torch.manual_seed(0)
        network = NETWORKS[name]().eval()
        for batch in (None, 1, 2):
            cells = [cell(network, newer, opset, batch) for newer, opset in WAYS]
            rows.append([f"{name}, {'any batch' if batch is None else batch}", *cells])
            print(*rows[-1], sep="   ", flush=True)
    header = [f"{'newer' if newer else 'older'}, {opset}" for newer, opset in WAYS]
    show("Difference of the logits, by exporter and opset", ["network, batch", *header], rows)


if __name__ == "__main__":
    main()
