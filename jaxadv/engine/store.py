"""Results on disk: what was computed is kept, and what was computed for something else is not used.

One npz file (plain arrays, never pickles) for each stage of an evaluation, written atomically.
"""

import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxadv.core.files import write_atomically
from jaxadv.core.result import Cost, Result


def fingerprint(*parts: Any) -> str:
    """A hash of arrays (pytrees of them) and of what json can write."""
    digest = hashlib.sha256()
    for part in parts:
        if dataclasses.is_dataclass(part):  # of a goal the kind, and the class that rejects
            fixed = [f for f in dataclasses.fields(part) if f.metadata.get("static")]
            digest.update(
                repr((type(part).__name__, [getattr(part, f.name) for f in fixed])).encode()
            )
        for leaf in jax.tree.leaves(part):
            if hasattr(leaf, "shape"):
                leaf = np.ascontiguousarray(leaf)
                digest.update(f"{leaf.dtype}{leaf.shape}".encode())
                digest.update(leaf.tobytes())
            else:
                digest.update(json.dumps(leaf, default=repr).encode())
    return digest.hexdigest()[:32]


class Store:
    """A folder of results, each under a name and valid for one fingerprint."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @classmethod
    def or_none(cls, folder: str | Path | None) -> "Store | None":
        """The store in that folder; None where there is none."""
        return None if folder is None else cls(folder)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"

    def load_arrays(self, name: str, mark: str) -> dict[str, np.ndarray] | None:
        """What was saved under this name and fingerprint; None if nothing, or it cannot be read."""
        try:
            with np.load(self._path(name), allow_pickle=False) as saved:
                if str(saved["fingerprint"]) != mark:
                    return None
                return {field: saved[field] for field in saved.files if field != "fingerprint"}
        except (OSError, ValueError, KeyError, EOFError):
            return None

    def save_arrays(self, name: str, mark: str, **arrays: Any) -> None:
        """Keep arrays under this name and fingerprint, in place of what was there."""
        with tempfile.TemporaryFile() as file:
            np.savez(file, fingerprint=np.str_(mark), **arrays)
            file.seek(0)
            write_atomically(self._path(name), file.read())

    def load(self, name: str, mark: str) -> Result | None:
        """The result that was saved under this name and fingerprint, as `load_arrays`."""
        arrays = self.load_arrays(name, mark)
        if arrays is None or set(arrays) != set(Result._fields):
            return None
        ticks, seconds = arrays.pop("cost")
        return Result(**arrays, cost=Cost(int(ticks), float(seconds)))

    def save(self, name: str, mark: str, result: Result) -> None:
        """Keep a result, complete or not."""
        cost = np.asarray(result.cost, np.float64)
        self.save_arrays(name, mark, **{**result._asdict(), "cost": cost})
