"""Words of our own where the field has a term: a list, and the lines in which they stand.

    python tools/words.py [PATH ...]

PATH: Python files (their docstrings, comments and string literals are read, among them all
messages), Markdown files and folders of both (default: jaxadv, docs and README.md). Prints
"path:line: word (say: term)" for each word, and fails if there is one. Standard library only.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

WORDS = {  # a regular expression: the field's term
    r"so (many|much)(?! (as|that)\b)": "the quantity's name",
    r"(whatever|in any) (its |their |the )?company": "regardless of the batch",
    r"cannot be meant( so)?": "the condition that is violated",
    r"(un)?cured?|cures|curing": "CPU rewrite, rewritten",
    r"(?<!in )flights?|take[- ]?off": "loop state, init_lanes",
    r"hungry|hunger": "needs a gradient",
    r"hears?|(ask|asks|asking) (the|a) (model|network)": "queries, receives",
    r"(the|a) (model|network) (is asked|answers)": "is queried, outputs",
    r"by a hair": "the amount",
    r"mean less than (they|it) seems?": "may be unreliable",
    r"finds? (its|their) way": "the concrete condition",
    r"worth a try|as long as it takes": "the bound or condition",
    r"would have been asked": "would have been queried",
    r"all that is under way": "the loop's state",
    r"what (it|this|that) is about": "the concrete subject",
    r"how sure": "confidence",
    r"can be seen to be": "is",
}
PATTERN = re.compile("|".join(rf"(?P<w{i}>\b(?:{word})\b)" for i, word in enumerate(WORDS)), re.I)
TERMS = list(WORDS.values())


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The first line and the text of each docstring, string and comment, or of a whole page."""
    source = path.read_text()
    if path.suffix == ".md":
        yield 1, source
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def matches(path: Path) -> Iterator[str]:
    """A line "path:line: word (say: term)" for each word of the list."""
    for first, text in texts(path):
        flat = re.sub(r"\n[ #]*", "\n", text)  # a phrase may go on in the next line
        for match in PATTERN.finditer(flat.replace("\n", " ")):
            line = first + flat.count("\n", 0, match.start())
            term = TERMS[int((match.lastgroup or "w0")[1:])]
            yield f"{path}:{line}: {match.group()!r} (say: {term})"


def files(paths: list[Path]) -> Iterator[Path]:
    """The Python and Markdown files among the paths and below them."""
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in inside if file.suffix in (".py", ".md"))


if __name__ == "__main__":
    root = Path(__file__).resolve().parent.parent
    given = [Path(word) for word in sys.argv[1:]]
    lines = [
        line
        for path in files(given or [root / "jaxadv", root / "docs", root / "README.md"])
        for line in sorted(matches(path))
    ]
    print(*lines, sep="\n", end="\n" * bool(lines))
    sys.exit(bool(lines))
