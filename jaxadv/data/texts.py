"""Texts with labels: a folder of text files for each class, a table, or documentation."""

import csv
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

SUFFIXES = (".csv", ".tsv")
DOCUMENTATION = "documentation:"
FORMS = (
    "a folder with a folder of .txt files for each class, a .csv or .tsv file whose first line has "
    'the columns "label" and "text", or documentation:numpy,scipy (any installed packages)'
)
WORD = re.compile(r"[^\W\d_]{3,}")
LEAST = 25  # words of a paragraph that counts as a text


class Texts(NamedTuple):
    """Texts with the numbers of their classes.

    Attributes:
        texts: The texts, N.
        labels: int32 [N].
        classes: Names of the classes.
        name: What the texts are, for reports.
    """

    texts: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str


def is_text(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is one of texts, in one of the forms of `load_texts`."""
    if str(path).startswith(DOCUMENTATION):
        return True
    path = Path(path)
    return path.suffix.lower() in SUFFIXES or any(path.glob("*/*.txt"))


def load_texts(path: str | os.PathLike[str]) -> Texts:
    """Read texts and their labels, in UTF-8.

    Args:
        path: A folder with a folder of .txt files for each class; or a .csv or .tsv file whose
            first line has the columns "label" and "text" (and maybe others); or
            "documentation:numpy,scipy", the docstrings of these installed packages.

    Returns:
        The texts, classes in the order of their names.

    Raises:
        ValueError: There are no texts in one of these forms, a text is not UTF-8, or a package is
            not installed.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from jaxadv.data.texts import load_texts
        >>> file = Path(tempfile.mkdtemp()) / "mails.tsv"
        >>> _ = file.write_text("label\\ttext\\nspam\\tWin a prize\\nham\\tSee you at six\\n")
        >>> found = load_texts(file)
        >>> found.texts, found.labels.tolist(), found.classes
        (('Win a prize', 'See you at six'), [1, 0], ('ham', 'spam'))
    """
    if str(path).startswith(DOCUMENTATION):
        return documentation(str(path).removeprefix(DOCUMENTATION).split(","))
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist: pass {FORMS}")
    try:
        pairs = list(_rows(path) if path.suffix.lower() in SUFFIXES else _files(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} has text that is not UTF-8 ({error.reason})") from None
    pairs = [(label.strip(), text.strip()) for label, text in pairs if text.strip()]
    if not pairs:
        raise ValueError(f"{path} has no texts: pass {FORMS}")
    return _labelled(pairs, path.absolute().name)


def _labelled(pairs: Iterable[tuple[str, str]], name: str) -> Texts:
    labels, texts = zip(*pairs, strict=True)
    classes = tuple(sorted(set(labels)))
    return Texts(texts, np.array([classes.index(x) for x in labels], np.int32), classes, name)


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        reader = csv.DictReader(file, delimiter=separator)
        columns = list(reader.fieldnames or ())
        if not {"label", "text"} <= set(columns):
            raise ValueError(f"{path} has the columns {columns}: pass {FORMS}")
        for row in reader:
            yield row["label"] or "", row["text"] or ""


def _files(path: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(path.glob("*/*.txt")):
        yield file.parent.name, file.read_text(encoding="utf-8")


def paragraphs(texts: Iterable[str]) -> list[str]:
    """Return the paragraphs of texts that have 25 words of three letters or more, each once."""
    parts = (part for text in texts for part in re.split(r"\n\s*\n", text))
    return [part for part in dict.fromkeys(parts) if len(WORD.findall(part)) >= LEAST]


def documentation(packages: Iterable[str]) -> Texts:
    """Return the paragraphs of the docstrings of installed packages, with the package as the class.

    Args:
        packages: Names of packages; their public modules and what is defined in them are read.

    Returns:
        The texts; a paragraph that two packages share counts for the first.

    Raises:
        ValueError: A package is not installed, or is a single module.
    """
    packages = tuple(packages)
    for package in packages:
        found = importlib.util.find_spec(package) if package.isidentifier() else None
        if found is None or found.submodule_search_locations is None:
            raise ValueError(f"{DOCUMENTATION}{package}: no such package is installed")
    seen: set[str] = set()
    pairs = []
    for package in packages:
        for text in paragraphs(_docstrings(package)):
            if text not in seen:
                seen.add(text)
                pairs.append((package, text))
    return _labelled(pairs, f"documentation of {', '.join(packages)}")


def _docstrings(package: str) -> Iterator[str]:
    """Yield the docstrings of a package's public modules, functions, classes and methods."""
    for name in (package, *_modules(package)):
        try:
            module = importlib.import_module(name)
        except ImportError:  # of an optional dependency
            continue
        for thing in (module, *_public(module)):
            members = _public(thing) if inspect.isclass(thing) else ()
            for each in (thing, *members):
                if text := inspect.getdoc(each):
                    yield text


def _modules(package: str) -> Iterator[str]:
    folder = importlib.import_module(package).__path__
    for module in pkgutil.iter_modules(folder, f"{package}."):
        last = module.name.rpartition(".")[2]
        if (
            module.ispkg
            and not last.startswith("_")
            and last not in ("tests", "testing", "conftest")
        ):
            yield module.name


def _public(thing: object) -> list[object]:
    names = [name for name in dir(thing) if not name.startswith("_")]
    return [each for name in names if callable(each := getattr(thing, name, None))]
