"""Run notebooks and keep what they print and draw.

    python tools/notebooks.py [NAME ...]

NAME: notebooks without their ending, such as verdict (default: all of the folder notebooks). Needs
nbclient and ipykernel, and the extras demo and sweep.
"""

import copy
import sys
from pathlib import Path

import nbclient
import nbformat

FOLDER = Path(__file__).parents[1] / "notebooks"


def run(path: Path) -> None:
    """Execute a notebook in its folder, without what differs from one machine to another."""
    book = nbformat.read(path, as_version=4)
    kept = copy.deepcopy(book.metadata)
    nbclient.NotebookClient(
        book, kernel_name="python3", record_timing=False, coalesce_streams=True
    ).execute(cwd=str(FOLDER))
    book.metadata = kept
    nbformat.write(book, path)


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb")):
        run(FOLDER / f"{name}.ipynb")
        print(f"notebooks/{name}.ipynb", flush=True)
