"""The form of every data set, and the splits in which it is read."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

FORMS = (
    "an npz file, or a folder with a folder of pictures for each class, with npz files of splits, "
    "with idx files, or with a prepared set of tensorflow-datasets"
)
SPLITS = ("train", "test", "val")
_SYNONYMS = {
    "training": "train",
    "testing": "test",
    "valid": "val",
    "validation": "val",
    "dev": "val",
}


class Dataset(NamedTuple):
    """Images, or rows of a table or series, with their classes, on the host.

    Attributes:
        images: float32 [N, H, W, C] in [0, 1]; or rows [N, D] or series [N, T, C] within the bounds
            of the model.
        labels: int32 [N], the class numbers.
        ids: int32 [N], the positions of the images in the original set, which identify them in
            random keys and results.
        name: The name of the set.
        classes: The names of its K classes.
        features: The names of the D features or C channels, for reports; empty for their numbers.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    name: str
    classes: tuple[str, ...]
    features: tuple[str, ...] = ()

    def take(self, rows: Sequence[int] | np.ndarray | slice) -> "Dataset":
        """Return the images at these positions of this data set."""
        return self._replace(images=self.images[rows], labels=self.labels[rows], ids=self.ids[rows])


class Source(NamedTuple):
    """One split before its images are read.

    Attributes:
        count: The number of its images.
        read: A function that reads a range of its rows.
        options: The options of `load_data` that apply to it.
    """

    count: int
    read: Callable[[range], Dataset]
    options: tuple[str, ...] = ()


def make_dataset(
    pixels: np.ndarray,
    top: int,
    labels: np.ndarray,
    ids: np.ndarray,
    name: str,
    classes: tuple[str, ...],
) -> Dataset:
    """Make a Dataset of integer pixels, which are divided by `top`.

    Args:
        pixels: Integers [N, H, W, C] from 0 to `top`.
        top: The largest value of a pixel.
        labels: The class numbers [N].
        ids: The positions in the original set [N].
        name: The name of the set.
        classes: The names of the classes.

    Returns:
        The data set, with images in [0, 1].
    """
    images = pixels.astype(np.float32) / np.float32(top)
    return Dataset(images, labels.astype(np.int32), ids.astype(np.int32), name, classes)


def numbered(labels: np.ndarray) -> tuple[str, ...]:
    """Return names for classes that have none: "0", "1", ..."""
    return tuple(map(str, range(int(labels.max(initial=0)) + 1)))


def turn_in_class(labels: np.ndarray) -> np.ndarray:
    """Return for each image the number of earlier images of its class, for balanced subsets.

    Args:
        labels: The class numbers [N].

    Returns:
        Integers [N].

    >>> import numpy as np
    >>> from jaxadv.data.form import turn_in_class
    >>> turn_in_class(np.array([3, 3, 1, 3, 1])).tolist()
    [0, 1, 0, 2, 1]
    """
    turn = np.zeros(len(labels), int)
    for label in np.unique(labels):
        turn[labels == label] = np.arange((labels == label).sum())
    return turn


def part_of_name(name: str) -> tuple[str, str | None]:
    """Return the name or path of a data set, and the split that follows it after a colon.

    Args:
        name: The name, such as "cifar10:test[:100]" or "file.py:images:train".

    Returns:
        The name alone, and the split or None.

    >>> from jaxadv.data.form import part_of_name
    >>> part_of_name("cifar10:test[:100]"), part_of_name("file.py:digits")
    (('cifar10', 'test[:100]'), ('file.py:digits', None))
    """
    match = re.fullmatch(r"(.+):([A-Za-z_]\w*(?:\[.*\])?)", name)
    if match is None or match[1].endswith(".py"):
        return name, None
    return match[1], match[2]


class Split(NamedTuple):
    """A split, or a slice of it, as tensorflow-datasets writes it: "test[:100]", "train[10%:20%]".

    Attributes:
        name: The name of the split.
        begin: The first row or percentage ("10%") as text; None for the start.
        end: The row or percentage after the last; None for the end.

    >>> from jaxadv.data.form import parse_split
    >>> parse_split("test[-20%:]").rows(50)
    range(40, 50)
    """

    name: str
    begin: str | None
    end: str | None

    def rows(self, count: int) -> range:
        """Return the rows of this slice of `count` images; raise ValueError if there are none."""
        begin, end = self._row(self.begin, 0, count), self._row(self.end, count, count)
        if not 0 <= begin < end <= count:
            raise ValueError(
                f"split={self.name}[{self.begin or ''}:{self.end or ''}] takes rows {begin} to "
                f"{end} of {count}: pass a slice of what is there"
            )
        return range(begin, end)

    @staticmethod
    def _row(text: str | None, default: int, count: int) -> int:
        if text is None:
            return default
        row = round(int(text[:-1]) * count / 100) if text.endswith("%") else int(text)
        return row + count if row < 0 else row


def parse_split(text: str) -> Split:
    """Parse the name of a split or of a slice of it; raise ValueError for any other text."""
    bound = r"(-?\d+%?)?"
    match = re.fullmatch(rf"([\w.-]+)(?:\[{bound}:{bound}\])?", str(text))
    if match is None:
        raise ValueError(
            f"split={text!r}: pass a name such as 'test', or a slice of it, 'test[:1000]', "
            "'test[10%:20%]'"
        )
    return Split(*match.groups())


def usual_name(name: str) -> str:
    """Return the name of a split in lower case, with synonyms replaced by the usual name.

    Args:
        name: The name of a split.

    Returns:
        The usual name, such as "val" for "Validation".

    >>> from jaxadv.data.form import usual_name
    >>> usual_name("Test"), usual_name("validation"), usual_name("extra")
    ('test', 'val', 'extra')
    """
    return _SYNONYMS.get(name.lower(), name.lower())


def find_split(split: Split, known: Sequence[str], there: str = "") -> str:
    """Return which split of a data set is meant: by its name, in another case, or by a synonym.

    Args:
        split: The requested split.
        known: The names of the data set's splits.
        there: What the error message adds about the contents of the data set.

    Returns:
        One of `known`.

    Raises:
        ValueError: If no split has this name, or several may be meant.
    """
    if split.name in known:
        return split.name
    same = [name for name in known if usual_name(name) == usual_name(split.name)]
    if len(same) == 1:
        return same[0]
    raise ValueError(
        f"split={split.name!r} is {'not clear' if same else 'not known'}"
        f"{there and f' ({there})'}: pass one of {sorted(known)}"
    )
