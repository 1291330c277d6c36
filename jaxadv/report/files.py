"""Files that others are to read."""

import os
from pathlib import Path

from jaxadv.engine.store import write_atomically


def write_file(path: str | Path, content: str | bytes) -> Path:
    """Write a file atomically, with the permissions of any other new file; returns its path.

    >>> import tempfile
    >>> from jaxadv.report.files import write_file
    >>> write_file(tempfile.mkdtemp() + "/a.txt", "text").read_text()
    'text'
    """
    path = Path(path)
    write_atomically(path, content.encode() if isinstance(content, str) else content)
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
    return path
