"""The findings of a study as data: tables, pictures and curves, with published figures.

Studies make them and know nothing of pages; `jaxadv.report` renders them.
"""

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxadv.core.files import write_atomically


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of numbers [rows, columns], float64, nan for an empty cell.

    Attributes:
        title: Title of the table.
        rows: Names of the rows.
        columns: Names of the columns.
        values: The numbers.
        spread: Standard deviations over seeds, of the same shape.
        published: The paper's figures, of the same shape, nan where there is none.
        formats: Format of the values, such as ".1f", one for each column or one for all.
        heat: Whether a heat map is shown too.
        hot: Which values the heat map emphasises, "high" or "low".
        note: Text below the table.

    Raises:
        ValueError: An array has another shape than the rows and columns.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Float[np.ndarray, "R C"]
    spread: Float[np.ndarray, "R C"] | None = None
    published: Float[np.ndarray, "R C"] | None = None
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
    """Images [rows, columns, H, W, C] in [0, 1].

    Attributes:
        title: Title of the gallery.
        images: The images; nan for a blank.
        rows: Names of the rows, or none.
        columns: Names of the columns, or none.
        captions: Text below each image, [rows][columns], or none.
        note: Text below the gallery.

    Raises:
        ValueError: The images do not have five axes, or the names do not fit them.
    """

    title: str
    images: Float[np.ndarray, "R C H W D"]
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    captions: tuple[tuple[str, ...], ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        shape = np.shape(self.images)
        if len(shape) != 5:
            raise ValueError(f"images have shape {shape}: pass [rows, columns, H, W, C]")
        captions = tuple(map(len, self.captions))
        for name, length, needed in (
            ("rows", len(self.rows), shape[0]),
            ("columns", len(self.columns), shape[1]),
            ("captions", captions, (shape[1],) * shape[0]),
        ):
            if length and length != needed:
                raise ValueError(f"{name} have length {length}, but the images need {needed}")


@dataclasses.dataclass(frozen=True)
class Curves:
    """Lines in one plot.

    Attributes:
        title: Title of the plot.
        x: Label of the x axis.
        y: Label of the y axis.
        lines: Lines by name, each [2, n]: x, then y.
        log: Logarithmic axes: "", "x", "y" or "xy".
        dashed: Names of lines that are drawn dashed (controls).
        points: Names of lines that are drawn as points.
        note: Text below the plot.

    Raises:
        ValueError: A line does not have shape [2, n].
    """

    title: str
    x: str
    y: str
    lines: Mapping[str, Float[np.ndarray, "2 n"]]
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
    """A paragraph: the findings in words, or why they differ from the published ones."""

    text: str


Part = Table | Gallery | Curves | Text


@dataclasses.dataclass(frozen=True)
class Findings:
    """The findings of one study.

    Attributes:
        name: Name of the study, such as szegedy.transfer.
        title: Title of the page.
        parts: Tables, galleries, curves and texts in order.
        seconds: Seconds that the study took.
    """

    name: str
    title: str
    parts: Sequence[Part]
    seconds: float = 0.0


def spread(values: Float[np.ndarray, "S ..."]) -> Float[np.ndarray, "..."] | None:
    """Return the standard deviations over seeds, the first axis; None of one seed.

    Example:
        >>> import numpy as np
        >>> from jaxadv.studies.findings import spread
        >>> spread(np.array([[1.0, 2.0], [3.0, 2.0]])), spread(np.ones((1, 2)))
        (array([1., 0.]), None)
    """
    return values.std(0) if len(values) > 1 else None


def as_data(findings: Findings) -> dict[str, Any]:
    """Return the findings as data for JSON, without the pictures.

    Args:
        findings: The findings.

    Returns:
        The data; an empty cell is null.

    Example:
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
    return {
        "name": findings.name,
        "title": findings.title,
        "parts": parts,
        "seconds": findings.seconds,
    }


def _fields(part: Part) -> dict[str, Any]:
    return {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}


def _plain(value: object) -> Any:
    """Return a value as JSON data: lists, dicts, strings, numbers and None."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def save(findings: Findings, path: str | Path, digest: str) -> Path:
    """Store findings, pictures included, as one npz file.

    Args:
        findings: The findings.
        path: Path of the file.
        digest: Fingerprint of all that the findings depend on.

    Returns:
        The path.
    """
    arrays: dict[str, np.ndarray] = {}

    def leave_out(value: object) -> Any:
        """Return the value for JSON, with arrays replaced by their names."""
        if isinstance(value, np.ndarray):
            arrays[f"array{len(arrays)}"] = value
            return {"array": f"array{len(arrays) - 1}"}
        if isinstance(value, Mapping):
            return {"mapping": [[key, leave_out(item)] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            return [leave_out(item) for item in value]
        return value

    parts = [[type(part).__name__, leave_out(_fields(part))] for part in findings.parts]
    head = {
        "mark": digest,
        "name": findings.name,
        "title": findings.title,
        "parts": parts,
        "seconds": findings.seconds,
    }
    out = io.BytesIO()
    np.savez_compressed(out, head=np.str_(json.dumps(head)), **arrays)  # type: ignore[arg-type]
    return write_atomically(path, out.getvalue())


def load(path: str | Path, digest: str) -> Findings | None:
    """Load findings that `save` stored.

    Args:
        path: Path of the file.
        digest: Fingerprint of all that the findings depend on.

    Returns:
        The findings; None if the file is missing or unreadable, or has another fingerprint.
    """
    kinds = {kind.__name__: kind for kind in (Table, Gallery, Curves, Text)}

    try:
        with np.load(path, allow_pickle=False) as file:

            def restore(value: object) -> Any:
                if isinstance(value, dict):
                    if "array" in value:
                        return file[value["array"]]
                    return {key: restore(item) for key, item in value["mapping"]}
                return tuple(map(restore, value)) if isinstance(value, list) else value

            head = json.loads(str(file["head"]))
            if head["mark"] != digest:
                return None
            parts = [kinds[kind](**restore(fields)) for kind, fields in head["parts"]]
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return Findings(head["name"], head["title"], parts, head["seconds"])
