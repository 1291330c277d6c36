"""The idx files in which MNIST and its relatives are published, gzipped or not."""

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np

from jaxadv.data.form import Dataset, make_dataset, numbered


def load_idx(
    images_path: str | os.PathLike[str], labels_path: str | os.PathLike[str], name: str = "idx"
) -> Dataset:
    """Load the images and labels of two idx files.

    Pixels are divided by 255; `ids` are the positions in the files.

    Args:
        images_path: The file of images, bytes [N, H, W].
        labels_path: The file of labels, bytes [N].
        name: The name of the data set.

    Returns:
        The data set, with images [N, H, W, 1].

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is damaged, has another form, or the lengths differ.

    >>> import numpy as np, tempfile
    >>> from jaxadv.data import load_idx
    >>> folder = tempfile.mkdtemp()
    >>> def write(file, magic, array):
    ...     header = np.array([magic, *array.shape], ">i4").tobytes()
    ...     open(f"{folder}/{file}", "wb").write(header + array.astype("u1").tobytes())
    >>> _ = write("images", 2051, np.full((2, 3, 3), 255)), write("labels", 2049, np.array([1, 0]))
    >>> load_idx(f"{folder}/images", f"{folder}/labels").images.shape
    (2, 3, 3, 1)
    """
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or labels.ndim != 1 or not 0 < len(images) == len(labels):
        raise ValueError(
            f"{images_path} of shape {images.shape} and {labels_path} of shape {labels.shape} do "
            "not fit together: pass images [N, H, W] and labels [N], one or more"
        )
    ids = np.arange(len(labels))
    return make_dataset(images[..., None], 255, labels, ids, name, numbered(labels))


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the array (uint8, any rank) of one idx file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: pass an idx file, gzipped or not")
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is a damaged gzip file ({error}): fetch it again") from None
    rank = content[3] if len(content) > 3 else 0
    header = 4 + 4 * rank
    if content[:3] != b"\0\0\x08" or rank == 0 or len(content) < header:
        raise ValueError(
            f"{path} is not an idx file of bytes: it must begin with 00 00 08 and rank"
        )
    shape = tuple(map(int, np.frombuffer(content, ">u4", rank, 4)))
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"{path} holds {len(content) - header} bytes where its header says {shape}: "
            "fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
