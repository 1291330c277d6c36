"""Atomic writes: a file is there completely, or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def slug(name: str) -> str:
    """A name that a file can have: letters and digits, and a dash for all else."""
    return "".join(c if c.isalnum() else "-" for c in name)


def cache_dir() -> Path:
    """Return the cache directory: the environment's JAXADV_CACHE, else that of the user."""
    if os.environ.get("JAXADV_CACHE"):
        return Path(os.environ["JAXADV_CACHE"])
    import platformdirs

    return Path(platformdirs.user_cache_dir("jaxadv"))


@contextmanager
def whole_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a temporary binary file that replaces `path` when the context ends without an exception.

    If the program is killed at any time, `path` holds either its former content or all of the new.
    """
    path = Path(path)
    mask = os.umask(0)  # the only way to read it
    os.umask(mask)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~mask)  # the permissions of a new file, not of a temporary one
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_atomically(path: str | Path, content: str | Any) -> Path:
    """Write `content` (text or any buffer) so that all of it or nothing is found at `path`.

    Args:
        path: Name of the file; missing folders are made.
        content: A string, written as UTF-8, or any buffer of bytes.

    Returns:
        The path.
    """
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return Path(path)


def check_file(path: str | Path) -> None:
    """Check, before any work, that this file can be written later.

    Args:
        path: The file; its folders need not exist yet.

    Raises:
        ValueError: If `path` is a folder.
        NotADirectoryError: If a file stands where one of its folders should be.
        PermissionError: If its folder cannot be written to.
    """
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder: pass the name of a file")
    check_folder(Path(path).parent)


def check_folder(path: str | Path) -> None:
    """Check, before any work, that files can be written into this folder later.

    Args:
        path: The folder; where it does not exist yet, it is made when something is written.

    Raises:
        NotADirectoryError: If a file stands in its place, or in that of a folder above it.
        PermissionError: If the folder, or the one above it that exists, cannot be written to.
    """
    there = next(place for place in (Path(path), *Path(path).absolute().parents) if place.exists())
    if not there.is_dir():
        inside = "" if there == Path(path) else f", so there can be no {path}"
        raise NotADirectoryError(f"{there} is a file{inside}: pass another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{there} cannot be written to: pass another folder than {path}")
