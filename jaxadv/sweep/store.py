"""Stores a sweep in a folder of Parquet files, one row for each image, with the images beside them.

    STORE/rows/JOB.parquet    rows of one job, whole or absent; any reader can read the folder
    STORE/images/JOB.npz      their adversarial images (`rows`: the rows they belong to)
    STORE/originals/          the clean images, labels and ids, 256 of a data set to a file, if
                              adversarial images are kept
    STORE/manifest.json       the jobs, their groups and cells, and the sweep file
    STORE/failed/JOB.json     the error of a job that failed
    STORE/models/             models that the sweep trained
    STORE/locks/              jobs that a process is running; the operating system frees the locks
                              when the process ends

Every file is written under another name and renamed, rows after their images. Rows carry a checksum
of their values and one of their images; rows that do not match are not counted but computed again.
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from jaxadv.core.files import write_atomically
from jaxadv.sweep.names import Job, data_of, job_of

if TYPE_CHECKING:
    from jaxadv.data.form import Source
    from jaxadv.sweep.plan import Group

PlanJobs = Callable[["Group", tuple[str, ...]], Sequence[Job]]
FORMAT = 1
MAGIC = b"PAR1"  # first bytes of a Parquet file
ORIGINALS = 256  # clean images in a file
TEXT, REAL, COUNT = pa.string(), pa.float64(), pa.int32()
SCHEMA = pa.schema(
    [
        ("cell", TEXT),
        ("model", TEXT),
        ("data", TEXT),
        ("attack", TEXT),
        ("norm", TEXT),
        ("goal", TEXT),
        ("epsilon", REAL),
        ("seed", pa.int64()),
        ("id", pa.int64()),
        ("label", COUNT),
        ("target", COUNT),
        ("prediction", COUNT),
        ("success", pa.bool_()),
        ("status", TEXT),
        ("broken_by", TEXT),
        ("distance", REAL),
        ("linf", REAL),
        ("l2", REAL),
        ("l1", REAL),
        ("l0", REAL),
        ("margin", pa.float32()),
        ("success_8bit", pa.bool_()),
        ("forward", COUNT),
        ("backward", COUNT),
        ("queries", COUNT),
        ("seconds", REAL),
        ("lanes", COUNT),
        ("model_hash", TEXT),
        ("data_hash", TEXT),
        ("attack_hash", TEXT),
        ("software_hash", TEXT),
        ("software", TEXT),
    ]
)
"""cell to seed: what was run (epsilon: empty for minimum-norm attacks); id to prediction: the
image, the target (empty: untargeted), the class of the clean image; success to success_8bit: the
outcome (distance in the attack's norm; the four distances, empty without success; success_8bit: of
the image rounded to 8 bits, where such are kept); forward to lanes: what it cost (seconds: the
job's, shared equally); then who computed it, on what."""

TIMED = ("seconds",)  # columns in which two runs of one sweep may differ


def checksum(table: pa.Table) -> str:
    """Return a hash of all values of a table and of the metadata of its file."""
    digest = hashlib.sha256()
    for name in table.column_names:
        column = table.column(name)
        digest.update(f"{name} {column.type} {column.null_count}".encode())
        if pa.types.is_string(column.type):
            digest.update(json.dumps(column.to_pylist()).encode())
        else:
            digest.update(np.ascontiguousarray(column.is_null().to_numpy()).tobytes())
            zero = False if pa.types.is_boolean(column.type) else 0
            digest.update(column.fill_null(zero).to_numpy().tobytes())
    metadata = table.schema.metadata or {}
    for name in (b"job", b"images"):
        digest.update(metadata.get(name, b""))
    return digest.hexdigest()


class SweepStore:
    """The folder of a sweep; it is created if it does not exist.

    Attributes:
        folder: Path of the folder.

    Example:
        >>> import tempfile
        >>> from jaxadv.sweep import SweepStore
        >>> SweepStore(tempfile.mkdtemp()).rows().num_rows
        0
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"store={str(folder)!r} is a file: pass a folder")

    # the manifest

    @property
    def manifest(self) -> dict[str, Any]:
        """What the sweeps of this store have planned; ValueError if it cannot be read."""
        path = self.folder / "manifest.json"
        empty = {"format": FORMAT, "groups": {}, "cells": {}, "jobs": {}, "sweeps": []}
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            return empty
        except (ValueError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read ({error}): restore or remove it") from None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"{path} is not a manifest of format {FORMAT}: pass another store")
        return {**empty, **found}

    def register(self, groups: "Sequence[Group]", plan_jobs: PlanJobs, text: str) -> list[Job]:
        """Register the jobs of some groups in the manifest.

        Args:
            groups: The groups.
            plan_jobs: Function of a group and its new cells that returns their jobs.
            text: Text of the sweep file.

        Returns:
            The jobs planned before, and the new ones for new cells.
        """
        wanted = {cell.fingerprint for group in groups for cell in group.cells}
        with self._lock("manifest"):
            manifest = self.manifest
            before = json.dumps(manifest, sort_keys=True)
            jobs = {
                fingerprint: job_of(fingerprint, data)
                for fingerprint, data in manifest["jobs"].items()
            }
            planned = {cell for job in jobs.values() for cell in job.cells}
            for group in groups:
                new = tuple(
                    cell.fingerprint for cell in group.cells if cell.fingerprint not in planned
                )
                jobs |= {job.fingerprint: job for job in plan_jobs(group, new)}
                about = {"lanes": group.lanes, "bounds": list(map(float, group.bounds))}
                manifest["groups"].setdefault(group.fingerprint, {**group.about, **about})
                for cell in group.cells:
                    about = {"group": group.fingerprint, "epsilon": cell.epsilon, "seed": cell.seed}
                    manifest["cells"].setdefault(cell.fingerprint, about)
            manifest["jobs"] = {fingerprint: data_of(job) for fingerprint, job in jobs.items()}
            if text not in manifest["sweeps"]:
                manifest["sweeps"].append(text)
            if json.dumps(manifest, sort_keys=True) != before:
                self._write(self.folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
        return [job for job in jobs.values() if wanted.intersection(job.cells)]

    # rows

    def path(self, job: Job | str) -> Path:
        """Return the file of a job's rows."""
        return self.folder / "rows" / f"{job if isinstance(job, str) else job.fingerprint}.parquet"

    def load(self, job: Job | str) -> pa.Table | None:
        """Return a job's rows; None if they are absent, torn or altered."""
        fingerprint = job if isinstance(job, str) else job.fingerprint
        try:
            with self.path(fingerprint).open("rb") as file:
                if file.read(len(MAGIC)) != MAGIC:  # which the reader does not check
                    return None
            table = pq.ParquetFile(self.path(fingerprint)).read()
            metadata = table.schema.metadata or {}
            if metadata.get(b"job") != fingerprint.encode():
                return None
            if metadata[b"checksum"].decode() != checksum(table):
                return None
            images = metadata[b"images"].decode()
            if images and _crc32(self.folder / "images" / f"{fingerprint}.npz") != images:
                return None
            return table.replace_schema_metadata(None).cast(SCHEMA)
        except (OSError, KeyError, ValueError, pa.ArrowException, UnicodeDecodeError):
            return None

    def save(
        self, job: Job, columns: Mapping[str, Any], images: Mapping[str, Any] | None = None
    ) -> None:
        """Save a job's rows and images, all or none."""
        digest = ""
        if images is not None:
            out = io.BytesIO()
            integers = images["images"].dtype == np.uint8  # last bits of floats do not compress
            (np.savez_compressed if integers else np.savez)(out, **images)
            path = self.folder / "images" / f"{job.fingerprint}.npz"
            self._write(path, out.getbuffer())
            digest = f"{zlib.crc32(out.getbuffer()):08x}"
        table = pa.table(dict(columns), schema=SCHEMA)
        metadata = {"job": job.fingerprint, "images": digest}
        metadata["checksum"] = checksum(table.replace_schema_metadata(metadata))
        sink = pa.BufferOutputStream()
        # No statistics: a reader would trust them, and no checksum covers them.
        pq.write_table(
            table.replace_schema_metadata(metadata),
            sink,
            compression="zstd",
            write_statistics=False,
        )
        self._write(self.path(job), sink.getvalue())
        (self.folder / "failed" / f"{job.fingerprint}.json").unlink(missing_ok=True)

    def rows(self) -> pa.Table:
        """Return the rows of all finished jobs, in the order of the manifest."""
        tables = [table for job in self.manifest["jobs"] if (table := self.load(job)) is not None]
        return pa.concat_tables(tables) if tables else SCHEMA.empty_table()

    def images(self, job: Job | str) -> dict[str, np.ndarray] | None:
        """Return a job's `images` and the `rows` they belong to, or None if there are none."""
        return _arrays(
            self.folder / "images" / f"{job if isinstance(job, str) else job.fingerprint}.npz"
        )

    def keep_originals(self, data_hash: str, rows: range, source: "Source") -> None:
        """Save the clean images of those rows of a data set, unless they are saved already.

        They are saved in files of `ORIGINALS` images.
        """
        for number in range(rows.start // ORIGINALS, -(-rows.stop // ORIGINALS)):
            path = self._originals(data_hash, number)
            if path.is_file():
                continue
            begin = number * ORIGINALS
            part = source.read(range(begin, min(begin + ORIGINALS, source.count)))
            out = io.BytesIO()
            np.savez(
                out,
                images=part.images,
                labels=part.labels,
                ids=part.ids,
                classes=np.array(part.classes, str),
            )
            self._write(path, out.getbuffer())

    def originals(self, data_hash: str, number: int) -> dict[str, np.ndarray] | None:
        """Return the clean images from `number * ORIGINALS` on, or None if they are not saved.

        The arrays are the images, their `labels` and `ids`, and the names of all `classes`.
        """
        return _arrays(self._originals(data_hash, number))

    def _originals(self, data_hash: str, number: int) -> Path:
        return self.folder / "originals" / f"{data_hash}-{number}.npz"

    # failures, locks

    def fail(self, job: Job, message: str) -> None:
        """Record that a job failed; it is run again only on request."""
        path = self.folder / "failed" / f"{job.fingerprint}.json"
        self._write(path, json.dumps({"job": job.fingerprint, "error": message}) + "\n")

    def failures(self) -> dict[str, str]:
        """Return the error messages of failed jobs."""
        found = {}
        for path in sorted((self.folder / "failed").glob("*.json")):
            try:
                found[path.stem] = str(json.loads(path.read_text())["error"])
            except (ValueError, KeyError, TypeError, OSError):
                found[path.stem] = "unknown"
        return found

    @contextmanager
    def claimed(self, job: Job) -> Iterator[bool]:
        """Lock a job while the context lasts; yield whether this process holds the lock."""
        lock = self._lock(job.fingerprint)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _lock(self, name: str) -> FileLock:
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{name}.lock")

    def _write(self, path: Path, content: str | bytes | memoryview) -> None:
        try:
            write_atomically(path, content)
        except OSError as error:
            raise OSError(
                f"{path} cannot be written ({error.strerror or error}): the store is as it was; "
                "make room, then the same command goes on"
            ) from error


def _arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Return the contents of an npz file; None if it is absent or cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            return {name: saved[name] for name in saved.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _crc32(path: Path) -> str:
    """Return the CRC-32 of images: several times as fast as SHA-256, and it detects torn files."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            value = zlib.crc32(block, value)
    return f"{value:08x}"
