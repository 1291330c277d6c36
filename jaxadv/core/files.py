"""Files that are there whole, or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def whole_file(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file to write to, which takes its place at `path` when the context ends well.

    Whenever the program is killed, what was there before, or all that was written, is found.
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
        os.chmod(temporary, 0o666 & ~mask)  # those of any new file, not of a temporary one
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_atomically(path: str | Path, content: Any) -> Path:
    """All of `content` (text, or any buffer) or nothing is found at `path`, whenever the program is
    killed."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return Path(path)


def check_file(path: str | Path) -> None:
    """Complain before the work of what writing this file would complain of after it.

    Raises ValueError where a folder has its name, and what `check_folder` raises.
    """
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder: pass the name of a file")
    check_folder(Path(path).parent)


def check_folder(path: str | Path) -> None:
    """Complain before the work of what writing into this folder would complain of after it.

    A folder that does not exist yet is made when something is written. Raises NotADirectoryError
    where a file stands in its place or in that of a folder above it, and PermissionError.
    """
    there = next(place for place in (Path(path), *Path(path).absolute().parents) if place.exists())
    if not there.is_dir():
        inside = "" if there == Path(path) else f", so there can be no {path}"
        raise NotADirectoryError(f"{there} is a file{inside}: pass another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{there} cannot be written to: pass another folder than {path}")
