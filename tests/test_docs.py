"""The documentation names everything that is public, and its links lead somewhere."""

import re
import types
from pathlib import Path

import pytest

import jaxadv as ja
from jaxadv.attacks import ATTACKS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MADE = {"changelog.md", *(f"notebooks/{p.stem}.md" for p in (ROOT / "notebooks").glob("*.ipynb"))}
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the site makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    words = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"[\s-]+", "-", text) for text in words}


def test_every_public_name_is_in_the_reference():
    text = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    shown = re.findall(r"^::: jaxadv\.([\w.]+)$", text, re.MULTILINE)
    public = {name for name in ja.__all__ if not isinstance(getattr(ja, name), types.ModuleType)}
    missing = sorted(public - set(ATTACKS) - {name.split(".")[-1] for name in shown})
    assert not missing, f"add `::: jaxadv.NAME` to a page in docs/api for {missing}"
    gone = sorted({name for name in shown if "." not in name} - public)
    assert not gone, f"docs/api shows what is public no longer: {gone}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target, anchor in LINK.findall(text):
        if target.startswith("http"):
            continue
        there = (page.parent / target).resolve()
        assert there.is_file() or str(there.relative_to(DOCS)) in MADE, target
        if anchor and there.is_file():
            assert anchor in anchors(there), f"{target} has no heading for #{anchor}"


def test_every_page_is_in_the_navigation():
    navigation = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text().split("nav:")[-1]))
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} | MADE
    hidden = {page for page in pages if page.startswith("attacks/")} - {"attacks/README.md"}
    assert navigation == pages - hidden


def test_a_tool_draws_each_picture_of_an_experiment_and_the_page_shows_it():
    pictures = list((DOCS / "assets" / "papers").iterdir())
    tool, page = (ROOT / "tools" / "pictures.py").read_text(), (DOCS / "papers.md").read_text()
    drawn = set(re.findall(r'^    "([\w.]+)": \w+\(', tool, re.MULTILINE))
    shown = set(re.findall(r"\]\(assets/papers/([\w.]+)\.(?:svg|png)\)", page))
    assert {picture.stem for picture in pictures} == drawn == shown
    assert max(picture.stat().st_size for picture in pictures) < 80_000


def test_the_readme_is_short():
    assert 5_000 < len((ROOT / "README.md").read_bytes()) < 8_192
