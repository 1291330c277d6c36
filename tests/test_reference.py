"""The reference pages: as the docstrings are now, with everything that a reader looks for."""

import re
from pathlib import Path

import jaxadv as ja
from jaxadv.attacks import ATTACKS
from jaxadv.report.reference import sources, write_reference

DOCS = Path(__file__).parent.parent / "docs" / "attacks"
UNPUBLISHED = {"BlendedNoise", "EachTarget", "GaussianNoise", "MinimalEpsilon", "UniformNoise"}


def test_the_pages_are_those_of_the_docstrings(tmp_path):
    written = {path.name: path.read_text() for path in write_reference(tmp_path)}
    kept = {path.name: path.read_text() for path in DOCS.glob("*.md")}
    assert written == kept, "run: jaxadv attacks --markdown docs/attacks"
    assert len(written) == len(ja.list_attacks()) + 1


def test_every_published_attack_names_its_paper():
    without = {name for name, kind in ATTACKS.items() if not sources(kind)}
    assert without <= UNPUBLISHED | {"SaltAndPepper"}
    assert sources(ja.PGD)[0] == "Madry et al. 2017, arXiv 1706.06083: " + (
        "<https://arxiv.org/abs/1706.06083>"
    )


def test_every_link_leads_to_a_page():
    links = re.findall(r"\]\((\w+\.md)\)", (DOCS / "README.md").read_text())
    assert sorted(links) == sorted(f"{name}.md" for name in ATTACKS)
    assert all((DOCS / link).is_file() for link in links)
