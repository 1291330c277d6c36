"""Reads a store cell by cell, with the rows of only one cell and one job in memory."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jaxadv.sweep.names import Job, job_of
from jaxadv.sweep.store import SweepStore

KEY = ("model", "data", "attack", "norm", "goal", "epsilon", "seed")
HASHES = ("model_hash", "data_hash", "attack_hash", "software_hash")
CONSTANT = ("cell", *KEY, *HASHES, "software")  # columns that are constant over a cell


class Part(NamedTuple):
    """The rows of a cell in one job.

    Attributes:
        job: Name of the job.
        first: Number of the cell's first row in the job.
        begin: Index of its first image in the data set.
        rows: The rows.
    """

    job: str
    first: int
    begin: int
    rows: pa.Table


class CellRows(NamedTuple):
    """One cell of a store.

    Attributes:
        fingerprint: Name of the cell.
        about: Columns of `CONSTANT`, and the bounds of the images.
        expected: Number of rows when all jobs are done.
        jobs: Names of the jobs.
        parts: Rows that the store holds, by job.
    """

    fingerprint: str
    about: Mapping[str, Any]
    expected: int
    jobs: tuple[str, ...]
    parts: tuple[Part, ...]

    @property
    def count(self) -> int:
        """Number of rows that the store holds."""
        return sum(part.rows.num_rows for part in self.parts)

    def column(self, name: str) -> np.ndarray:
        """Return a column of all rows; empty numbers are NaN."""
        columns = [part.rows[name] for part in self.parts]
        if not columns:
            return np.zeros(0)
        whole = pa.chunked_array(
            [chunk for column in columns for chunk in column.chunks], type=columns[0].type
        )
        return whole.to_numpy()


class CellReader:
    """The cells of a store, in the order of its manifest.

    Attributes:
        about: Constant columns of each cell by its name, as in `CellRows`.

    Raises:
        ValueError: The manifest cannot be read, or does not describe a cell.
    """

    def __init__(self, store: SweepStore) -> None:
        manifest = store.manifest
        self.store = store
        self.jobs: dict[str, list[Job]] = {}
        for fingerprint, data in manifest["jobs"].items():
            for cell in data["cells"]:
                self.jobs.setdefault(cell, []).append(job_of(fingerprint, data))
        try:
            self.about = {fingerprint: _about(manifest, fingerprint) for fingerprint in self.jobs}
        except (KeyError, TypeError):
            raise ValueError(
                f"{store.folder / 'manifest.json'} does not say what all its cells are: restore it"
            ) from None
        self._load = functools.lru_cache(maxsize=2)(
            store.load
        )  # cells of one job follow each other

    def read(self, fingerprint: str) -> CellRows:
        """Return one cell with the rows that the store holds and that pass the checksum."""
        jobs = self.jobs[fingerprint]
        parts = [_part(self._load(job.fingerprint), job, fingerprint) for job in jobs]
        return CellRows(
            fingerprint,
            self.about[fingerprint],
            sum(job.end - job.begin for job in jobs),
            tuple(job.fingerprint for job in jobs),
            tuple(part for part in parts if part is not None),
        )


def _about(manifest: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    cell = manifest["cells"][fingerprint]
    group = {"bounds": (0.0, 1.0), **manifest["groups"][cell["group"]]}
    about = {**group, "cell": fingerprint, "epsilon": cell["epsilon"], "seed": cell["seed"]}
    return {name: about[name] for name in (*CONSTANT, "bounds")}


def read_cells(
    store: SweepStore, progress: Callable[[int, int], None] | None = None
) -> Iterator[CellRows]:
    """Yield every planned cell of a store, one after the other.

    Args:
        store: The store.
        progress: Callback with (cells read, their total).

    Yields:
        The cells.

    Raises:
        ValueError: The manifest cannot be read, or does not describe a cell.

    Example:
        >>> import tempfile
        >>> from jaxadv.sweep import SweepStore, read_cells
        >>> list(read_cells(SweepStore(tempfile.mkdtemp())))
        []
    """
    reader = CellReader(store)
    for number, fingerprint in enumerate(reader.about, 1):
        yield reader.read(fingerprint)
        if progress is not None:
            progress(number, len(reader.about))


def _part(table: pa.Table | None, job: Job, fingerprint: str) -> Part | None:
    if table is None:
        return None
    count = job.end - job.begin
    first = job.cells.index(fingerprint) * count
    rows = table.slice(first, count)
    if rows.num_rows != count or rows["cell"].unique().to_pylist() != [fingerprint]:
        return None  # not the rows that the manifest describes
    return Part(job.fingerprint, first, job.begin, rows.drop_columns(list(CONSTANT)))
