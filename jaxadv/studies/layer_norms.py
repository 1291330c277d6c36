"""Tables of the norms of layers: Table 5 of Szegedy et al. (2013, arXiv 1312.6199) and ours."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from jaxadv.certification.lipschitz import Spectrum, spectrum
from jaxadv.certification.operator_norms import circular_norm, matrix_norm
from jaxadv.models.adapters import normalized
from jaxadv.models.torch_arrays import from_torch_arrays
from jaxadv.studies.findings import Table

# Table 5: rectified layers of the authors' AlexNet, and the upper bounds of their norms.
PUBLISHED = {
    "conv1 (3x11x11x96, stride 4)": 2.75,
    "conv2 (96x5x5x256)": 10.0,
    "conv3 (256x3x3x384)": 7.0,
    "conv4 (384x3x3x384)": 7.5,
    "conv5 (384x3x3x256)": 11.0,
    "fc1 (9216x4096)": 3.12,
    "fc2 (4096x4096)": 4.0,
    "fc3 (4096x1000)": 4.0,
}
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def spectra_table(title: str, spectra: Mapping[str, Spectrum], note: str = "") -> Table:
    """Return a table of the layers' norms.

    Args:
        title: Title of the table.
        spectra: For each network by name, the result of `spectrum`.
        note: Text below the table.

    Returns:
        The table.
    """
    rows, values = [], []
    for network, bounds in spectra.items():
        for layer in bounds.layers:
            rows.append(f"{network} {layer.name} ({layer.size or layer.kind})")
            values.append([layer.lower, layer.norm, layer.through])
        rows.append(f"{network}: all layers")
        values.append([math.nan, math.nan, bounds.constant])
    columns = ("power iteration", "upper bound", "from the image on")
    return Table(title, tuple(rows), columns, np.array(values), formats=".4g", note=note)


def table_5(
    weights: str | os.PathLike[str] | Mapping[str, Any] | None, module: str | nn.Module = "AlexNet"
) -> Table:
    """Return Table 5: the published bounds beside those of an AlexNet with given weights.

    Args:
        weights: torchvision's state dict of `AlexNet` (a .safetensors or .npz file, or a mapping);
            None leaves our columns empty.
        module: The definition, such as AlexNet(channels=(96, 256, 384, 384, 256)) for the widths of
            the paper.

    Returns:
        The table.

    Raises:
        ValueError: The arrays do not fit the definition; see `from_torch_arrays`.
        FileNotFoundError: The file does not exist.
    """
    bounds = lower = [math.nan] * len(PUBLISHED)
    sizes = tuple(PUBLISHED)
    note = (
        "No weights of an AlexNet were given: put torchvision's state dict into the folder as "
        "alexnet.safetensors."
    )
    if weights is not None:
        model = from_torch_arrays(module, weights, image_shape=(224, 224, 3))
        computed = spectrum(normalized(model, *_IMAGENET), (224, 224, 3), 100)
        weighted = [row for row in computed.layers if row.kind in ("dense", "convolution")]
        bounds, lower = [row.norm for row in weighted], [row.lower for row in weighted]
        where = "the given arrays" if isinstance(weights, Mapping) else Path(weights).name
        note = (
            f"Ours: {where}, in torchvision's layout: {'; '.join(row.size for row in weighted)}. "
            "The product of all steps, with pooling (2 where windows of 3 overlap at stride 2) and "
            f"the normalisation of the pixels: {computed.constant:.3g}; of the published figures: "
            f"{math.prod(PUBLISHED.values()):.3g}."
        )
    published = np.array([[math.nan, bound] for bound in PUBLISHED.values()])
    return Table(
        "Norms of AlexNet's layers (Table 5)",
        sizes,
        ("power iteration", "upper bound"),
        np.array([lower, bounds]).T,
        published=published,
        note=note,
    )


def factor_table() -> Table:
    """Compare the Fourier formula with the whole matrix's singular values, kernel [5, 5, 3, 4]."""
    kernel = np.random.default_rng(0).standard_normal((5, 5, 3, 4))
    values = []
    for stride in (1, 2, 4):
        ours = circular_norm(kernel, (8, 8), stride)
        values.append([matrix_norm(_circular_matrix(kernel, 8, stride)), ours, ours / stride])
    return Table(
        "Norm of a convolution that wraps around (8 x 8 pixels, 5 x 5 x 3 x 4)",
        ("stride 1", "stride 2", "stride 4"),
        ("singular values", "formula, s^-1", "paper, s^-2"),
        np.array(values),
        formats=".4f",
    )


def _circular_matrix(kernel: np.ndarray, size: int, stride: int) -> np.ndarray:
    """Return the convolution as a matrix, entry by entry: [pixels out * D, pixels * C]."""
    reach, _, channels, wide = kernel.shape
    matrix = np.zeros((size // stride, size // stride, wide, size, size, channels))
    for row, column in np.ndindex(size // stride, size // stride):
        for i, j in np.ndindex(reach, reach):
            y, x = (row * stride + i) % size, (column * stride + j) % size
            matrix[row, column, :, y, x] += kernel[i, j].T
    return matrix.reshape((size // stride) ** 2 * wide, -1)
