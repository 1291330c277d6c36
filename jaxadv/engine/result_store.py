"""Results on disk, each used again only for the same model, images, settings and key.

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
from jaxtyping import PyTree

from jaxadv.core.files import write_atomically
from jaxadv.core.result import Cost, Result


def fingerprint(*parts: PyTree) -> str:
    """Return a hash of pytrees of arrays and of values that JSON can hold."""
    digest = hashlib.sha256()
    for part in parts:
        if dataclasses.is_dataclass(part):  # of a goal: its kind and its static fields
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
    """A folder of results, each under a name and valid for one fingerprint.

    Attributes:
        folder: The folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @classmethod
    def or_none(cls, folder: str | Path | None) -> "Store | None":
        """The store in that folder; None where there is none."""
        return None if folder is None else cls(folder)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"

    def holds(self, name: str) -> bool:
        """Return whether anything is saved under this name."""
        return self._path(name).exists()

    def load_arrays(self, name: str, fingerprint: str) -> dict[str, np.ndarray] | None:
        """Return the arrays saved under this name and fingerprint.

        Args:
            name: Name of the result.
            fingerprint: Its fingerprint.

        Returns:
            The arrays by name; None if there are none, the fingerprint differs or the file is
            unreadable.
        """
        try:
            with np.load(self._path(name), allow_pickle=False) as saved:
                if str(saved["fingerprint"]) != fingerprint:
                    return None
                return {field: saved[field] for field in saved.files if field != "fingerprint"}
        except (OSError, ValueError, KeyError, EOFError):
            return None

    def save_arrays(self, name: str, fingerprint: str, **arrays: Any) -> None:
        """Save arrays under this name and fingerprint, replacing any others of that name.

        Args:
            name: Name of the result.
            fingerprint: Its fingerprint.
            **arrays: The arrays.
        """
        with tempfile.TemporaryFile() as file:
            np.savez(file, fingerprint=np.str_(fingerprint), **arrays)
            file.seek(0)
            write_atomically(self._path(name), file.read())

    def load(self, name: str, fingerprint: str) -> Result | None:
        """Return the result saved under this name and fingerprint, or None, as `load_arrays`."""
        arrays = self.load_arrays(name, fingerprint)
        if arrays is None or set(arrays) != set(Result._fields):
            return None
        ticks, seconds = arrays.pop("cost")
        return Result(**arrays, cost=Cost(int(ticks), float(seconds)))

    def save(self, name: str, fingerprint: str, result: Result) -> None:
        """Save a result, complete or not."""
        cost = np.asarray(result.cost, np.float64)
        self.save_arrays(name, fingerprint, **{**result._asdict(), "cost": cost})
