"""The form in which every data set comes."""

from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """Images with their classes, on the host.

    images: float32 [N, H, W, C] in [0, 1]; labels: int32 [N]; ids: int32 [N], the images' positions
    in the original set, which name them in random keys and results; name: the set's; classes: the
    names of its K classes.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    name: str
    classes: tuple[str, ...]


def make_dataset(
    pixels: np.ndarray,
    top: int,
    labels: np.ndarray,
    ids: np.ndarray,
    name: str,
    classes: tuple[str, ...],
) -> Dataset:
    """A Dataset of integer pixels [N, H, W, C] from 0 to `top`."""
    images = pixels.astype(np.float32) / np.float32(top)
    return Dataset(images, labels.astype(np.int32), ids.astype(np.int32), name, classes)
