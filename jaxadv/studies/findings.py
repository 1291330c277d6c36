"""What a study found, as data: tables, pictures and curves, with the published figures beside ours.

Studies make these and know nothing of pages; `jaxadv.report` shows them.
"""

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxadv.core.files import write_atomically


@dataclasses.dataclass(frozen=True)
class Table:
    """Numbers [rows, columns], float64, nan for an empty cell.

    spread: the standard deviation over seeds, of the same shape; published: the paper's figures, of
    the same shape, nan where there is none; formats: how values are written, one for each column
    (or one for all), such as ".1f"; heat: also worth a heat map, with the "high" or the "low"
    values hot.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: np.ndarray
    spread: np.ndarray | None = None
    published: np.ndarray | None = None
    formats: str | tuple[str, ...] = ".3g"
    heat: bool = False
    hot: str = "high"
    note: str = ""

    def __post_init__(self) -> None:
        shape = (len(self.rows), len(self.columns))
        for name in ("values", "spread", "published"):
            value = getattr(self, name)
            if value is not None:
                value = np.asarray(value, np.float64)
                if value.shape != shape:
                    raise ValueError(
                        f"{name} has shape {value.shape}, but the rows and columns {shape}"
                    )
                object.__setattr__(self, name, value)

    def format_of(self, column: int) -> str:
        return self.formats if isinstance(self.formats, str) else self.formats[column]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Images [rows, columns, H, W, C] in [0, 1] (a blank: nan), with names of rows and columns.

    captions: a text below each image, [rows][columns], or none at all.
    """

    title: str
    images: np.ndarray
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    captions: tuple[tuple[str, ...], ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        shape = np.shape(self.images)
        if len(shape) != 5:
            raise ValueError(f"images have shape {shape}: pass [rows, columns, H, W, C]")
        captions = tuple(map(len, self.captions))
        for name, given, wanted in (
            ("rows", len(self.rows), shape[0]), ("columns", len(self.columns), shape[1]),
            ("captions", captions, (shape[1],) * shape[0]),
        ):  # fmt: skip
            if given and given != wanted:
                raise ValueError(f"{name} have length {given}, but the images need {wanted}")


@dataclasses.dataclass(frozen=True)
class Curves:
    """Lines by name, each [2, n]: x, then y; x, y: what the axes mean; log: "", "x", "y" or "xy".

    dashed: the names of controls; points: lines that are drawn as points.
    """

    title: str
    x: str
    y: str
    lines: Mapping[str, np.ndarray]
    log: str = ""
    dashed: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        for name, line in self.lines.items():
            if np.ndim(line) != 2 or len(line) != 2:
                raise ValueError(f"line {name!r} has shape {np.shape(line)}: pass [2, n], x and y")


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph: what was found in words, or why it differs from what was published."""

    text: str


Part = Table | Gallery | Curves | Text


@dataclasses.dataclass(frozen=True)
class Findings:
    """One study: name (szegedy.transfer), title, its parts in order, and seconds that it took."""

    name: str
    title: str
    parts: Sequence[Part]
    seconds: float = 0.0


def as_data(findings: Findings) -> dict[str, Any]:
    """The findings for JSON: all but the pictures; an empty cell is null.

    >>> from jaxadv.studies.findings import Findings, Table, as_data
    >>> table = Table("errors", ("FC",), ("train", "test"), [[0.0, float("nan")]])
    >>> as_data(Findings("demo", "A demonstration", [table]))["parts"][0]["values"]
    [[0.0, None]]
    """
    parts = []
    for part in findings.parts:
        fields = _fields(part)
        if isinstance(part, Gallery):
            fields["images"] = list(np.shape(part.images))
        parts.append({"kind": type(part).__name__.lower(), **_plain(fields)})
    return {"name": findings.name, "title": findings.title, "parts": parts,
            "seconds": findings.seconds}  # fmt: skip


def _fields(part: Part) -> dict[str, Any]:
    return {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def save(findings: Findings, path: str | Path, mark: str) -> Path:
    """Keep findings whole, pictures too, as one npz file under the fingerprint `mark`."""
    arrays: dict[str, np.ndarray] = {}

    def leave_out(value: Any) -> Any:
        """json of the value, arrays replaced by their names."""
        if isinstance(value, np.ndarray):
            arrays[f"array{len(arrays)}"] = value
            return {"array": f"array{len(arrays) - 1}"}
        if isinstance(value, Mapping):
            return {"mapping": [[key, leave_out(item)] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            return [leave_out(item) for item in value]
        return value

    parts = [[type(part).__name__, leave_out(_fields(part))] for part in findings.parts]
    head = {"mark": mark, "name": findings.name, "title": findings.title, "parts": parts,
            "seconds": findings.seconds}  # fmt: skip
    out = io.BytesIO()
    np.savez_compressed(out, head=np.str_(json.dumps(head)), **arrays)  # type: ignore[arg-type]
    return write_atomically(path, out.getvalue())


def load(path: str | Path, mark: str) -> Findings | None:
    """What `save` kept; None where there is nothing, nothing readable, or another fingerprint."""
    kinds = {kind.__name__: kind for kind in (Table, Gallery, Curves, Text)}

    try:
        with np.load(path, allow_pickle=False) as file:

            def restore(value: Any) -> Any:
                if isinstance(value, dict):
                    if "array" in value:
                        return file[value["array"]]
                    return {key: restore(item) for key, item in value["mapping"]}
                return tuple(map(restore, value)) if isinstance(value, list) else value

            head = json.loads(str(file["head"]))
            if head["mark"] != mark:
                return None
            parts = [kinds[kind](**restore(fields)) for kind, fields in head["parts"]]
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return Findings(head["name"], head["title"], parts, head["seconds"])
