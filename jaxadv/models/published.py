"""Published networks of known robustness, each a folder with torch arrays in weights.npz."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxadv.core.model import Model
from jaxadv.models.adapters import normalized
from jaxadv.models.definitions import get_definition
from jaxadv.models.torch_arrays import from_torch_arrays


class Published(NamedTuple):
    """How a published file is read.

    Attributes:
        definition: Name of the definition that the arrays fit.
        settings: Fields of the definition.
        layers: {layer in the file: layer of the definition}, where the names differ.
        mean: Mean per channel of pixels in [0, 1]; empty: no normalisation.
        std: Standard deviation per channel.
    """

    definition: str
    settings: Mapping[str, Any] = {}
    layers: Mapping[str, str] = {}
    mean: tuple[float, ...] = ()
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
    """Load a published network from its folder.

    Normalisation is part of the model, so epsilon is in the scale of the pixels.

    Args:
        folder: Its last part is a name of `PUBLISHED`; it contains weights.npz.

    Returns:
        The model, for images [N, H, W, C] float32 in [0, 1].

    Raises:
        ValueError: If the folder's name is not in `PUBLISHED`.
        FileNotFoundError: If the folder contains no weights.npz.

    >>> model = load_published("models/mnist_smallcnn_trades_linf0.3")  # doctest: +SKIP
    """
    folder = Path(folder)
    if folder.name not in PUBLISHED:
        raise ValueError(f"folder={folder.name!r} is not known: pass one of {sorted(PUBLISHED)}")
    file = folder / "weights.npz"
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: pass the folder that holds weights.npz")
    published = PUBLISHED[folder.name]
    module = get_definition(published.definition)(**published.settings)
    shape = (28, 28, 1) if folder.name.startswith("mnist") else (32, 32, 3)
    model = from_torch_arrays(module, file, image_shape=shape, names=published.layers)
    return normalized(model, published.mean, published.std) if published.mean else model
