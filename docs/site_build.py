"""What mkdocs does not do by itself: notebooks and the changelog as pages, examples as code blocks,
and the promise that no page loads anything from outside."""

import base64
import importlib
import json
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

from griffe import Extension, Module, Object
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
DOCTEST = re.compile(r"^( *)>>> .*(?:\n(?! *$).+)*", re.MULTILINE)
LOADED = re.compile(r"""<(?:script|img|iframe|source)[^>]+src=["']?(?:https?:)?//|
                        <link[^>]+rel=["']?(?:stylesheet|preconnect|preload|icon)[^>]*
                        href=["']?(?:https?:)?//""", re.VERBOSE)  # fmt: skip


def fenced(text: str, language: str = "") -> str:
    """A code block."""
    return f"```{language}\n{text.rstrip()}\n```\n"


def outputs(cell: dict[str, Any], name: str, number: int, pictures: dict[str, bytes]) -> list[str]:
    """What a notebook's cell printed and drew, as Markdown; its pictures go into `pictures`."""
    printed, lines = "", []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if "image/png" in data:
            picture = f"{name}_{number}.png"
            pictures[picture] = base64.b64decode("".join(data["image/png"]))
            lines.append(f"![Figure drawn by the cell above]({picture})\n")
        else:
            printed += "".join(output.get("text") or data.get("text/plain", ""))
    return [fenced(printed, "text"), *lines] if printed else lines


def notebook_page(path: Path, pictures: dict[str, bytes]) -> str:
    """A notebook as a page of Markdown."""
    lines = []
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        source = "".join(cell["source"])
        lines.append(source + "\n" if cell["cell_type"] == "markdown" else fenced(source, "python"))
        lines += outputs(cell, path.stem, number, pictures)
        if number == 0:
            lines.append(f"The notebook itself is `notebooks/{path.name}` in the repository.\n")
    return "\n".join(lines)


def on_config(config: Any) -> Any:
    """Put a page for each attack into the navigation."""
    names = sorted((path.stem for path in (ROOT / "docs/attacks").glob("*.md")), key=str.lower)
    pages = [f"attacks/{name}.md" for name in names if name != "README"]
    for section in config.nav:
        for entry in section.get("Reference", []):
            if "Attacks" in entry:
                entry["Attacks"] += pages
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from other files of the repository."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    files.append(File.generated(config, "changelog.md", content=changelog))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        pictures: dict[str, bytes] = {}
        page = notebook_page(path, pictures)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=picture))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leave out the marks that are for the tests."""
    return re.sub(r"<!-- not run: .*? -->\n", "", markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that would load anything from outside."""
    found = LOADED.search(output)
    if found:
        raise PluginError(f"{page.file.src_uri} loads from outside: {found.group()}")
    return output


class PublicNames(Extension):
    """The public names, wherever they live, with the examples of their docstrings shown as code."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        package = importlib.import_module(pkg.name)
        for name in package.__all__:
            where = getattr(getattr(package, name), "__module__", None)
            if where and name in pkg.members and pkg.members[name].is_alias:
                alias: Any = pkg.members[name]
                alias.target_path = f"{where}.{name}"

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring and ">>> " in obj.docstring.value:
            obj.docstring.value = DOCTEST.sub(
                lambda found: fenced(dedent(found.group()), "pycon"), obj.docstring.value
            ).replace("\nExample:\n", "\n**Example:**\n\n")
