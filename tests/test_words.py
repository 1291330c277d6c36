"""`tools/words.py`: a word of the list is found in docstrings, comments, messages and pages."""

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[1] / "tools" / "words.py"
BAD = '''"""The cure of
a program."""

LIMIT = 3  # so many steps
flight = LIMIT  # names of variables are not read


def check(images):
    """Images are kept whatever their
    company."""
    raise ValueError(f"{images} cannot be meant so")
'''


def words(path: Path) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, TOOL, path], capture_output=True, text=True)
    return done.returncode, done.stdout.replace(f"{path}:", "").splitlines()


def test_words_of_our_own_fail_with_their_lines_and_terms(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(BAD)
    status, lines = words(tmp_path / "bad.py")
    assert status == 1
    assert sorted(lines, key=lambda line: int(line.split(":")[0])) == [
        "1: 'cure' (say: CPU rewrite, rewritten)",
        "4: 'so many' (say: the quantity's name)",
        "9: 'whatever their company' (say: regardless of the batch)",
        "11: 'cannot be meant so' (say: the condition that is violated)",
    ]


def test_pages_are_read_and_plain_words_pass(tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("Secure and obscure; as many steps as images, not so far.\n")
    assert words(tmp_path) == (0, [])
    (tmp_path / "bad.md").write_text("One line.\nWhat needs a gradient is hungry.\n")
    assert words(tmp_path)[1] == [f"{tmp_path}/bad.md:2: 'hungry' (say: needs a gradient)"]
