"""Files that are there whole, or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def slug(name: str) -> str:
    """A name that a file can have: letters and digits, and a dash for all else."""
    return "".join(c if c.isalnum() else "-" for c in name)


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
