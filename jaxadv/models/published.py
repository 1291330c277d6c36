"""Published networks with known robustness: torch arrays onto our Flax definitions.

A folder holds weights.npz: convolutions O, I, H, W, dense layers (out, in), inputs flattened in
C, H, W order, batch normalisation as weight, bias, running_mean, running_var.
"""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxadv.core.model import Model
from jaxadv.models.adapters import from_linen, normalized
from jaxadv.models.definitions import get_definition
from jaxadv.models.weights import unflatten


class Published(NamedTuple):
    """Which definition a published file fits, how its layers are called, how it normalises."""

    definition: str
    settings: Mapping[str, Any] = {}
    layers: Mapping[str, str] = {}  # the file's name of a layer: ours, where they differ
    mean: tuple[float, ...] = ()  # per channel, of pixels in [0, 1]; empty: no normalisation
    std: tuple[float, ...] = ()


_A = {"0": "conv1", "2": "conv2", "5": "fc1", "7": "fc2"}
_SDP = (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)
_RESNET32 = Published("ResNet32", {}, {}, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

PUBLISHED: dict[str, Published] = {
    "mnist_cnn_a_adv": Published("CNNA", {}, _A),
    "mnist_wong_kolter_linf0.1": Published("CNNA", {}, _A),
    "mnist_rsl18a_mlp_linf0.1": Published("FC", {"widths": (500,)}, {"1": "fc1", "3": "fc2"}),
    "mnist_smallcnn_trades_linf0.3": Published("SmallCNN"),
    "mnist_smallcnn_ddn_l2": Published("SmallCNN"),
    "cifar_cnn_a_adv": Published("CNNA", {}, _A, *_SDP),
    "cifar_cnn_a_mix": Published("CNNA", {}, _A, *_SDP),
    "cifar10_resnet2b": Published(
        "ResNet2b", {}, {}, (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
    ),
    "cifar10_resnet32_standard": _RESNET32,
    "cifar10_resnet32_linf8": _RESNET32,
    "cifar10_resnet32_stadv": _RESNET32,
}


def load_published(folder: str | os.PathLike[str]) -> Model:
    """The published network in a folder, for images [N, H, W, C] float32 in [0, 1].

    folder: its last part is a name of `PUBLISHED`; it holds weights.npz. Normalisation is part of
    the model, so epsilon stays in pixels. Raises ValueError for other names, FileNotFoundError for
    missing files.

    >>> model = load_published("models/mnist_smallcnn_trades_linf0.3")  # doctest: +SKIP
    """
    folder = Path(folder)
    if folder.name not in PUBLISHED:
        raise ValueError(f"folder={folder.name!r} is not known: pass one of {sorted(PUBLISHED)}")
    file = folder / "weights.npz"
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: pass the folder that holds weights.npz")
    published = PUBLISHED[folder.name]
    with np.load(file) as arrays:
        variables = from_torch(dict(arrays), published.layers)
    model = from_linen(get_definition(published.definition)(**published.settings), variables)
    return normalized(model, published.mean, published.std) if published.mean else model


def from_torch(arrays: Mapping[str, np.ndarray], layers: Mapping[str, str] = {}) -> dict[str, Any]:
    """Variables of a linen network (NHWC) from a torch state dict in the order of the layers.

    arrays: {"layer1.0.conv1.weight": array, ...} float32; layers: renamed layers. "a.0" becomes
    "a_0". The first dense layer after the convolutions is permuted from C, H, W to H, W, C.

    >>> import numpy as np
    >>> from jaxadv.models.published import from_torch
    >>> from_torch({"conv1.weight": np.zeros((8, 3, 5, 5))})["params"]["conv1"]["kernel"].shape
    (5, 5, 3, 8)
    """
    flat: dict[str, Any] = {}
    channels: int | None = 1  # of what is flattened; None once that is done
    for key, array in arrays.items():
        layer, kind = key.rsplit(".", 1)
        layer = re.sub(r"\.(\d+)", r"_\1", layers.get(layer, layer)).replace(".", "/")
        collection, name = "params", kind
        if kind.startswith("running_"):
            collection, name = "batch_stats", kind.removeprefix("running_")
        elif array.ndim == 4:
            name, channels = "kernel", len(array)
            array = array.transpose(2, 3, 1, 0)
        elif array.ndim == 2:
            name = "kernel"
            if channels is not None:
                array = _channels_last(array, channels)
            array, channels = array.T, None
        elif kind == "weight":
            name = "scale"
        flat[f"{collection}/{layer}/{name}"] = jnp.asarray(array)
    return unflatten(flat)


def _channels_last(weight: np.ndarray, channels: int) -> np.ndarray:
    """Columns of a dense weight (out, C * side * side) from C, H, W to H, W, C order."""
    side = math.isqrt(weight.shape[1] // channels)
    image = weight.reshape(len(weight), channels, side, side)
    return image.transpose(0, 2, 3, 1).reshape(weight.shape)
