"""The README's Python runs as it stands."""

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme(number: int) -> None:
    exec(compile(BLOCKS[number], f"README block {number + 1}", "exec"), {})
