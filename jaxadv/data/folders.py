"""Folders of pictures: one folder per class, in one folder per split if there are several."""

import functools
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from jaxadv.data.form import (
    FORMS,
    SPLITS,
    Dataset,
    Source,
    Split,
    find_split,
    make_dataset,
    usual_name,
)
from jaxadv.data.pictures import decode, is_grey, stack
from jaxadv.engine.checks import CheckWarning

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")


def find_folder(folder: str | os.PathLike[str], split: Split, size: int | None) -> Source:
    """Find the pictures of one split of a folder, in the order of their classes and file names.

    A folder with the name of a split ("train", "Training", "val", "dev", ...) is a split, and holds
    one folder per class; without such folders, the folders are the classes and everything is
    "test". A class may have the name of a split ("train", the vehicle): if there are other folders,
    too, those with names of splits are splits only if at least one of them holds folders, and then
    the other folders are not read.

    Classes are numbered in the order of their names as text ("10" before "2"), across all splits: a
    class without pictures, or without a folder in one split, keeps its number. Images are grey if
    all pictures of the split are grey, regardless of which of them are read.

    Args:
        folder: The folder of pictures, in files that end in one of SUFFIXES; names that begin with
            a dot are skipped.
        split: The split, or slice of it, to read.
        size: The side of the images (see `decode`); None leaves the pictures as they are.

    Returns:
        The split, not yet read. Reading raises ValueError for a picture that cannot be read, and
        for pictures of several shapes without `size`; it raises ImportError without Pillow.

    Raises:
        ValueError: If the split does not exist or has no images.
    """
    root = Path(folder)
    splits = _splits(root)
    parts = splits or {"test": root}
    there = f"{root} has the folders {_shown(_names(root))}{'' if splits else ', no splits'}"
    part = parts[find_split(split, list(parts), there)]
    classes = sorted({name for each in parts.values() for name in _names(each)})
    files = [(path, label) for label, name in enumerate(classes) for path in _files(part / name)]
    if not files:
        loose = sum(path.suffix.lower() in SUFFIXES for path in part.iterdir())
        raise ValueError(
            f"{part} has no images in folders of classes ({loose} lie beside them): pass {FORMS}"
        )
    for doubt in _doubts(root, splits, classes):
        warnings.warn(doubt, CheckWarning, stacklevel=5)  # points to the caller of load_data

    @functools.cache
    def grey() -> bool:
        return all(is_grey(path) for path, _ in files)

    def read(rows: range) -> Dataset:
        chosen = [files[row] for row in rows]
        pixels = stack([decode(path, size, grey(), str(path)) for path, _ in chosen])
        labels = np.array([label for _, label in chosen])
        return make_dataset(
            pixels, 255, labels, np.array(rows), root.absolute().name, tuple(classes)
        )

    return Source(len(files), read, ("size",))


def _splits(root: Path) -> dict[str, Path]:
    """Return the folders that are splits, by name; empty where the folders are classes."""
    folders = _folders(root)
    splits = {each.name: each for each in folders if usual_name(each.name) in SPLITS}
    alone = len(splits) == len(folders)
    return splits if alone or any(map(_folders, splits.values())) else {}


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def _names(root: Path) -> list[str]:
    return [each.name for each in _folders(root)]


def _files(folder: Path) -> list[Path]:
    """Return the pictures in a folder and below it; none where the folder does not exist."""
    return sorted(
        path
        for path in (folder.rglob("*") if folder.is_dir() else ())
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not path.is_dir()
    )


def _doubts(root: Path, splits: Mapping[str, Path], classes: list[str]) -> Iterator[str]:
    """Yield the reasons for which the labels may not be the intended ones."""
    if len(classes) == 1:
        yield f"{root} has one class, the folder {classes[0]!r}: pass a folder with all classes"
    if all(name.isdecimal() for name in classes) and sorted(classes, key=int) != classes:
        yield (
            f"{root} has numbers as names of classes, and numbers them in the order of text, so "
            f"that label 2 is the folder {classes[2]!r}: for a model that takes the names as "
            f"labels write them equally long, as in '{2:0{max(map(len, classes))}}'"
        )
    for name, part in splits.items():
        own = _names(part)
        others = {each for other in splits if other != name for each in _names(splits[other])}
        if len(own) == 1 and others and own[0] not in others:
            yield (
                f"{part} has one folder, {own[0]!r}, that is in no other split, and counts as a "
                "class in all of them: move its pictures into the folders of their classes"
            )
    if splits:
        return
    within = [set(_names(root / name)) for name in classes]
    shared = sorted(set.intersection(*within))
    if len(classes) > 1 and len(shared) > 1:
        yield (
            f"{root} has the classes {_shown(classes)}, each with the folders {_shown(shared)}: "
            f"if they are splits, name them as {', '.join(SPLITS)}"
        )
    root = root.resolve()
    if usual_name(root.name) not in SPLITS:
        return
    for sibling in _folders(root.parent):
        theirs = set(_names(sibling)) if usual_name(sibling.name) in SPLITS else set()
        if theirs & set(classes) and theirs - set(classes):
            yield (
                f"{root} is numbered by its own folders, but {sibling.name} beside it has other "
                f"classes, too: pass {root.parent} and split={root.name!r}, which number alike"
            )


def _shown(names: list[str]) -> str:
    """Return the first few of a list of names, as text."""
    return str(names[:5])[:-1] + (", ...]" if len(names) > 5 else "]")
