"""Compares two stores image by image."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from jaxadv.sweep.names import title_of
from jaxadv.sweep.read import HASHES, KEY, CellReader, CellRows
from jaxadv.sweep.store import SweepStore

DIFFERENCES = ("gained", "lost", "nearer", "farther", "relabelled", "only_a", "only_b")
COLUMNS = ("cell", *KEY, *HASHES, "software")  # columns that a pattern can name


class CellChanges(NamedTuple):
    """A cell of store A beside the same cell of store B.

    Attributes:
        about: Columns that are constant over the cell's rows, in A.
        other: The same columns in B.
        both: Number of images in both stores.
        gained: Ids of the images broken in B alone.
        lost: Ids of the images broken in A alone.
        nearer: Ids of the images broken in both, at a smaller distance in B.
        farther: Ids of the images broken in both, at a larger distance in B.
        relabelled: Ids of the images whose label, target or clean prediction differs.
        only_a: Ids of the images in A alone.
        only_b: Ids of the images in B alone.
        ratio: Median of B's distance over A's, for images broken in both and classified correctly
            when clean; None without any.
        passes: Median passes in A and in B, for images in both; None where not counted.
    """

    about: Mapping[str, Any]
    other: Mapping[str, Any]
    both: int
    gained: Int[np.ndarray, "some"]
    lost: Int[np.ndarray, "some"]
    nearer: Int[np.ndarray, "some"]
    farther: Int[np.ndarray, "some"]
    relabelled: Int[np.ndarray, "some"]
    only_a: Int[np.ndarray, "some"]
    only_b: Int[np.ndarray, "some"]
    ratio: float | None
    passes: tuple[float | None, float | None]

    @property
    def title(self) -> str:
        """Title of the cell, as in A."""
        return title_of(self.about)

    @property
    def hashes(self) -> tuple[str, ...]:
        """Names of the fingerprints that differ."""
        return tuple(name for name in HASHES if self.about[name] != self.other[name])

    @property
    def images(self) -> dict[str, list[int]]:
        """Ids of the images that differ, by kind of difference."""
        return {name: getattr(self, name).tolist() for name in DIFFERENCES}

    @property
    def equal(self) -> bool:
        """Whether no image differs."""
        return not any(self.images.values())


class Changes(NamedTuple):
    """Result of `compare_stores`.

    Attributes:
        cells: The cells in both stores.
        only_a: Constant columns of each cell in A alone.
        only_b: Constant columns of each cell in B alone.
    """

    cells: list[CellChanges]
    only_a: list[Mapping[str, Any]]
    only_b: list[Mapping[str, Any]]

    @property
    def equal(self) -> bool:
        """Whether both stores hold the same cells and images, broken alike at equal distances."""
        return not self.only_a and not self.only_b and all(cell.equal for cell in self.cells)


def compare_stores(
    a: SweepStore,
    b: SweepStore,
    *,
    where: Mapping[str, str] | None = None,
    left: Mapping[str, str] | None = None,
    right: Mapping[str, str] | None = None,
    tolerance: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> Changes:
    """Compare the cells that both stores have, and in each the images that both have.

    Cells are the same if model, data, attack (by their titles), norm, goal, epsilon and seed are
    equal; images are the same if their ids are. Passes, seconds and hashes do not count as changes;
    `CellChanges.hashes` names the hashes that differ.

    Args:
        a: Store A.
        b: Store B.
        where: Patterns by column ("attack": "PGD*") that all cells must match.
        left: Patterns that the cells of A must match ("software_hash": "3f*").
        right: Patterns that the cells of B must match. A column that both `left` and `right` name
            may differ, so that one store can be compared with itself.
        tolerance: Relative difference of distances that does not count as a change.
        progress: Callback with (cells compared, cells of A).

    Returns:
        The cells in both stores with what differs, and the cells in one store alone.

    Raises:
        ValueError: A pattern is for an unknown column, or several cells of one store have the same
            name.

    Example:
        >>> import tempfile, jaxadv as ja
        >>> store = ja.SweepStore(tempfile.mkdtemp())
        >>> ja.compare_stores(store, store).equal
        True
    """
    where, left, right = where or {}, left or {}, right or {}
    check_columns(where, left, right)
    key = [name for name in KEY if not (name in left and name in right)]
    reader_a, reader_b = CellReader(a), CellReader(b)
    cells_a = _named(reader_a, {**where, **left}, key, a)
    cells_b = _named(reader_b, {**where, **right}, key, b)
    cells = []
    for number, (name, fingerprint) in enumerate(cells_a.items(), 1):
        if name in cells_b:
            cells.append(
                _compare(reader_a.read(fingerprint), reader_b.read(cells_b[name]), tolerance)
            )
        if progress is not None:
            progress(number, len(cells_a))
    return Changes(
        cells,
        [
            reader_a.about[fingerprint]
            for name, fingerprint in cells_a.items()
            if name not in cells_b
        ],
        [
            reader_b.about[fingerprint]
            for name, fingerprint in cells_b.items()
            if name not in cells_a
        ],
    )


def check_columns(*patterns: Mapping[str, str]) -> None:
    """Raise ValueError if a pattern is for a column that cells do not have."""
    for column in sorted(set().union(*patterns) - set(COLUMNS)):
        raise ValueError(f"column {column!r} is not known: pass one of {', '.join(COLUMNS)}")


def _named(
    reader: CellReader, patterns: Mapping[str, str], key: list[str], store: SweepStore
) -> dict[tuple[Any, ...], str]:
    """Return the cells that match the patterns, by the values of their key columns."""
    named: dict[tuple[Any, ...], str] = {}
    for fingerprint, about in reader.about.items():
        if all(fnmatchcase(_text(about[c]), pattern) for c, pattern in patterns.items()):
            name = tuple(about[column] for column in key)
            if name in named:
                differs = [c for c in COLUMNS[1:] if about[c] != reader.about[named[name]][c]]
                raise ValueError(
                    f"{store.folder} has two cells {title_of(about)!r} that differ in "
                    f"{', '.join(differs)}: choose one, as in {differs[0]}="
                    f"{_text(about[differs[0]])[:60]}"
                )
            named[name] = fingerprint
    return named


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _compare(a: CellRows, b: CellRows, tolerance: float) -> CellChanges:
    ids_a, ids_b = _ids(a), _ids(b)
    both, rows_a, rows_b = np.intersect1d(ids_a, ids_b, assume_unique=True, return_indices=True)

    def column(name: str) -> tuple[np.ndarray, np.ndarray]:
        return a.column(name)[rows_a], b.column(name)[rows_b]

    won_a, won_b = (won.astype(bool) for won in column("success"))
    near_a, near_b = column("distance")
    broken = won_a & won_b
    slack = tolerance * np.where(broken, near_a, 0)
    moved = np.zeros(len(both), bool)
    for name in ("label", "prediction", "target"):
        before, after = column(name)
        moved |= (before != after) & ~((before != before) & (after != after))  # empty is NaN
    away = broken & (near_a > 0) & (near_b > 0)
    return CellChanges(
        a.about,
        b.about,
        len(both),
        both[won_b & ~won_a],
        both[won_a & ~won_b],
        both[broken & (near_b < near_a - slack)],
        both[broken & (near_b > near_a + slack)],
        both[moved],
        np.setdiff1d(ids_a, ids_b),
        np.setdiff1d(ids_b, ids_a),
        float(np.median(near_b[away] / near_a[away])) if away.any() else None,
        (_median_passes(a, rows_a), _median_passes(b, rows_b)),
    )


def _ids(cell: CellRows) -> np.ndarray:
    ids = cell.column("id").astype(np.int64)
    if len(np.unique(ids)) < len(ids):
        raise ValueError(f"{title_of(cell.about)}: images share an id, so none can be told apart")
    return ids


def _median_passes(cell: CellRows, rows: np.ndarray) -> float | None:
    values = (cell.column("forward") + cell.column("backward"))[rows]
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None
