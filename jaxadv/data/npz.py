"""Images and labels in one npz file of plain arrays."""

import os
import zipfile
from pathlib import Path

import numpy as np

from jaxadv.data.form import Dataset, make_dataset, numbered

LAYOUTS = ("NHWC", "NCHW")
_CHANNELS = (1, 3, 4)


def load_npz(path: str | os.PathLike[str], layout: str | None = None) -> Dataset:
    """The images and labels of an npz file.

    It holds `x` or `images`, [N, H, W], [N, H, W, C] or [N, C, H, W], bytes or floats in [0, 1];
    `y` or `labels`, [N] integers; if it likes `index`, the images' positions in the original set
    (else they are 0 to N - 1), and `classes`, their names. layout: "NHWC" or "NCHW", needed where
    the shape does not tell (exactly one of the axes has 1, 3 or 4 entries).

    Raises FileNotFoundError, and ValueError for arrays that are missing or of another form.

    >>> import numpy as np, tempfile
    >>> from jaxadv.data import load_npz
    >>> path = tempfile.mkdtemp() + "/two.npz"
    >>> np.savez(path, x=np.zeros((2, 3, 8, 8), "uint8"), y=[0, 1])
    >>> load_npz(path).images.shape
    (2, 8, 8, 3)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: pass an npz file")
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged or holds no plain arrays ({error})") from None
    images, labels = (
        next((arrays[name] for name in names if name in arrays), None)
        for names in (("x", "images"), ("y", "labels"))
    )
    if images is None or labels is None:
        raise ValueError(
            f"{path} holds {sorted(arrays)}: name the images x or images, the labels y or labels"
        )
    images = _channels_last(path, images, layout)
    labels = labels.reshape(-1) if labels.shape == (len(images), 1) else labels
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{path}: labels of shape {labels.shape} and dtype {labels.dtype} for {len(images)} "
            "images: pass one integer for each"
        )
    least, greatest = float(images.min(initial=0)), float(images.max(initial=0))
    top = 255 if np.issubdtype(images.dtype, np.integer) else 1
    if not (least >= 0 and greatest <= top):
        raise ValueError(
            f"{path}: {images.dtype} images reach from {least:g} to {greatest:g}: pass bytes, or "
            "floats in [0, 1] (normalisation belongs into the model)"
        )
    ids = arrays.get("index", np.arange(len(labels)))
    classes = tuple(map(str, arrays["classes"])) if "classes" in arrays else numbered(labels)
    return make_dataset(images, top, labels, ids, path.stem, classes)


def _channels_last(path: Path, images: np.ndarray, layout: str | None) -> np.ndarray:
    if layout not in (None, *LAYOUTS):
        raise ValueError(f"layout={layout!r}: pass 'NHWC' or 'NCHW'")
    if images.ndim == 3:
        return images[..., None]
    if images.ndim != 4:
        raise ValueError(f"{path}: images of shape {images.shape}: pass [N, H, W, C]")
    if layout is None:
        fits = [images.shape[axis] in _CHANNELS for axis in (3, 1)]
        if fits[0] == fits[1]:
            raise ValueError(
                f"{path}: images of shape {images.shape} may be NHWC or NCHW: pass layout"
            )
        layout = LAYOUTS[fits.index(True)]
    return images if layout == "NHWC" else images.transpose(0, 2, 3, 1)
