"""The code in the README and in the documentation runs as it stands, and its commands exist."""

import functools
import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

import jaxadv as ja
from jaxadv.cli import app

ROOT = Path(__file__).parents[1]
ATTACKS = ROOT / "docs" / "attacks"  # made of docstrings, whose examples run there
PAGES = [ROOT / "README.md"]
PAGES += [page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent != ATTACKS]
BLOCK = re.compile(
    r"(?:<!-- (not run|needs): ([^\n]+) -->\n)?^```(\w+)[^\n]*\n(.*?)^```$", re.M | re.S
)
AFTER = re.compile(r"<!-- after: (\S+) -->")
NOT_RUN = 4  # blocks that no test can run, each with its reason


class Block(NamedTuple):
    """A block of code. reason: why it is not run, or None; needs: the package without which it is
    left out, or None; line: where its code begins."""

    language: str
    code: str
    reason: str | None
    needs: str | None
    line: int


def blocks(page: Path, language: str) -> list[Block]:
    """The blocks of one language on a page, in order."""
    text = page.read_text()
    found = (
        Block(
            match[3],
            match[4],
            match[2] if match[1] == "not run" else None,
            match[2] if match[1] == "needs" else None,
            text.count("\n", 0, match.start(4)),
        )
        for match in BLOCK.finditer(text)
    )
    return [block for block in found if block.language == language]


def execute(page: Path, block: Block, names: dict[str, Any]) -> None:
    """Run one block; an error names the line of the page. An attack that it registers is undone."""
    registered = dict(ja.attacks.ATTACKS)
    try:
        exec(compile("\n" * block.line + block.code, str(page), "exec"), names)
    finally:
        ja.attacks.ATTACKS.clear()
        ja.attacks.ATTACKS.update(registered)


@functools.cache
def first_block(page: Path) -> dict[str, Any]:
    """The names that the first block of a page leaves: other pages begin there."""
    names: dict[str, Any] = {}
    execute(page, blocks(page, "python")[0], names)
    return names


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


RUNNING = [page for page in PAGES if any(not b.reason for b in blocks(page, "python"))]
COMMANDS = [page for page in PAGES if blocks(page, "sh")]


@pytest.mark.parametrize("page", RUNNING, ids=named)
def test_the_code_of_a_page_runs_in_its_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    after = AFTER.search(page.read_text())
    names = dict(first_block(page.parent / after[1])) if after else {}
    absent = set()
    for block in blocks(page, "python"):
        if block.needs and importlib.util.find_spec(block.needs) is None:
            absent.add(block.needs)
        elif block.reason is None:
            execute(page, block, names)
    if absent:
        pytest.skip(f"the other blocks ran; some need {', '.join(absent)}")


def test_few_blocks_are_not_run_and_each_says_why():
    everything = [(named(page), b) for page in PAGES for b in blocks(page, "python")]
    skipped = [(page, b.line) for page, b in everything if b.reason]
    assert len(skipped) == NOT_RUN, skipped
    for _, block in everything:
        compile(block.code, "a block that is not run", "exec")


def commands(page: Path) -> list[list[str]]:
    """The command lines of a page, as words; what stands before the program is left out."""
    found = []
    for block in blocks(page, "sh"):
        for line in block.code.replace("\\\n", " ").splitlines():
            for part in line.split("#")[0].split("&&"):
                words = shlex.split(part)
                for program in ("jaxadv", "python"):
                    if program in words:
                        found.append(words[words.index(program) :])
                        break
    return found


def test_every_command_is_recognised():
    assert sum(len(commands(page)) for page in COMMANDS) > 40


@pytest.mark.parametrize("page", COMMANDS, ids=named)
def test_commands_of_a_page_have_the_options_that_they_use(page):
    group: Any = typer.main.get_command(app)
    for program, *words in commands(page):
        if program == "jaxadv":
            name = words[0]
            if name.startswith("-"):
                continue
            command = group.commands[name]
            if "--help" not in words:
                command.make_context(name, words[1:])
        elif words[:1] == ["-m"] and words[1].startswith("benchmarks."):
            source = (ROOT / (words[1].replace(".", "/") + ".py")).read_text()
            for option in (word for word in words[2:] if word.startswith("--")):
                common = rf"arguments\(.*{option[2:]}="  # an option that `arguments` knows
                known = option in source or re.search(common, source, re.DOTALL)
                assert known, f"{words[1]} has no {option}"
