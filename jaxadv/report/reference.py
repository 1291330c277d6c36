"""The list of all attacks, and a page for each, made from the docstrings and the registries."""

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxadv.attacks import ATTACKS
from jaxadv.core.attack import Attack
from jaxadv.core.files import write_atomically
from jaxadv.fooling import fooling_images
from jaxadv.protocols import portfolios
from jaxadv.protocols.cascades import CASCADES
from jaxadv.universal import data_free_perturbation, universal_patch
from jaxadv.universal.perturbation import METHODS

SOURCE = re.compile(  # authors, year, arXiv or doi
    r"((?:[A-Z][^\W\d]+(?:-[A-Z]\w+)?(?:,| and| et al\.)? ?)+) ?(\d{4}), "
    r"(arXiv|doi) ([\w./-]*\w)"
)
SECTION = re.compile(
    r"^(Attributes|Args|Returns|Raises):\n((?:    .*\n|\n(?=    ))+)", re.MULTILINE
)
ENTRY = re.compile(r"^(\w+): (.*(?:\n[ \n].*)*)", re.MULTILINE)
WHERE = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}
INTRODUCTION = (
    "All attacks, grouped by what the attacker sees of the model. "
    "`jaxadv attacks --markdown docs/attacks` writes these pages from the docstrings."
)
INSIDE = "as the attack inside"
HEADINGS = {
    "gradients": "White-box: the attacker has gradients",
    "scores": "Score-based: the attacker sees scores",
    "labels": "Decision-based: the attacker sees labels only",
    INSIDE: "Around another attack",
}
RETURNS = {
    "first": "the first success",
    "distance": "the nearest success",
    "loss": "the highest loss",
    "last": "the last image",
}


def summary(kind: Callable[..., object]) -> str:
    """Return the first paragraph of the docstring of a class or function, on one line."""
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def knows(kind: type[Attack]) -> str:
    """Return what the attack needs of the model: gradients, scores or labels."""
    if not isinstance(kind.pullbacks, int):  # a property: it depends on the settings
        return INSIDE
    if kind.label_only:
        return "labels"
    return "gradients" if kind.pullbacks else "scores"


def radius(kind: type[Attack]) -> str:
    """Return whether the attack needs an epsilon, or what bounds it instead."""
    if isinstance(kind.bounded_by, str) and kind.bounded_by:
        return f"none: its own bounds, of {kind.bounded_by}"
    if not isinstance(kind.needs_epsilon, bool):
        return _depends(kind)
    if kind.needs_epsilon:
        return "epsilon"
    return "none" if kind.keep == "first" else "none: it seeks the nearest"


def _depends(kind: type[Attack]) -> str:
    return INSIDE if knows(kind) == INSIDE else "by its settings"


def sources(kind: type[Attack]) -> list[str]:
    """Return the attack's papers with their addresses, in the order of the docstring."""
    text = " ".join((inspect.getdoc(kind) or "").split())
    return list(
        dict.fromkeys(
            f"{who.strip()} {year}, {where} {number}: <{WHERE[where]}{number}>"
            for who, year, where, number in SOURCE.findall(text)
        )
    )


def section(document: str, name: str) -> dict[str, str]:
    """The entries of a section of a docstring, each on one line, with `|` escaped for tables."""
    found = dict(SECTION.findall(document)).get(name, "")
    return {
        entry: " ".join(text.split()).replace("|", "\\|")
        for entry, text in ENTRY.findall(textwrap.dedent(found))
    }


def described(kind: type[Attack]) -> dict[str, str]:
    """What each setting means, also of those that an attack inherits."""
    settings: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        if "__doc__" in vars(parent) and parent.__doc__:
            settings |= section(inspect.cleandoc(parent.__doc__) + "\n", "Attributes")
    return settings


def attack_page(kind: type[Attack]) -> str:
    """Return the page of one attack, in Markdown.

    Args:
        kind: The attack's class.

    Returns:
        The text.

    Example:
        >>> import jaxadv as ja
        >>> from jaxadv.report.reference import attack_page
        >>> print(attack_page(ja.FGSM).splitlines()[0])
        # FGSM
    """
    document = (inspect.getdoc(kind) or "") + "\n"
    parts = re.split(r"\n{2,}", SECTION.sub("", document).strip())
    example = [part for part in parts if part.startswith(">>>")]
    text = [part for part in parts[1:] if not part.startswith(">>>")]
    meanings, errors = described(kind), section(document, "Raises")
    facts = {
        "Access": knows(kind),
        "Norms": ", ".join(kind.norms),
        "Radius": radius(kind),
        "Returns": RETURNS.get(str(kind.keep)) or _depends(kind),
        "In Python": f"`ja.{kind.__name__}`",
        "On the command line": f"`jaxadv attack {kind.__name__}`",
    }
    lines = [f"# {kind.__name__}", "", summary(kind), "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    if text:
        what = "\n\n".join(map(_as_markdown, text))
        lines += ["", "## What it does", "", *what.splitlines()]
    lines += ["", "## Settings", "", "| setting | default | meaning |", "|---|---|---|"]
    lines += [
        f"| `{field.name}` | `{_default(field)}` | {meanings.get(field.name, '')} |"
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
    ]
    if errors:
        lines += ["", "## Errors", "", *(f"- `{name}`: {when}" for name, when in errors.items())]
    if example:
        lines += ["", "## Example", "", "```python", *"\n".join(example).splitlines(), "```"]
    if papers := sources(kind):
        lines += ["", "## Source", "", *(f"- {paper}" for paper in papers)]
    return "\n".join(lines) + "\n"


def _as_markdown(part: str) -> str:
    """Return a paragraph unchanged, and indented lines as a code block."""
    if not part.startswith("    "):
        return part
    return "\n".join(["```python", inspect.cleandoc(part), "```"])


def _default(field: Any) -> str:
    if field.default is dataclasses.MISSING:
        return "to be given"
    return getattr(field.default, "__name__", None) or repr(field.default)


def grouped_attacks() -> dict[str, list[type[Attack]]]:
    """Return all attacks in alphabetical order, under the headings of what they need."""
    groups: dict[str, list[type[Attack]]] = {heading: [] for heading in HEADINGS.values()}
    for _, kind in sorted(ATTACKS.items(), key=lambda item: item[0].lower()):
        groups[HEADINGS[knows(kind)]].append(kind)
    return groups


def protocols() -> dict[str, dict[str, str]]:
    """Return what is made of several attacks or attacks several images, under headings.

    Returns:
        For each heading one line on each entry, under the command or function that runs it.
    """

    def line(function: Callable[..., object]) -> str:
        text = summary(function)
        for verb in ("Return ", "Compute "):
            text = text.removeprefix(verb)
        return text[0].upper() + text[1:]

    efforts = portfolios.EFFORTS.items()
    return {
        "Cascades: several attacks, each on the images that survive those before it": {
            f"jaxadv evaluate --attacks {name}": line(make) for name, make in CASCADES.items()
        },
        "Portfolios: several attacks that look for the minimal distance": {
            f"jaxadv distance --effort {name}": f"{line(getattr(portfolios, name))} "
            f"{passes:,} passes per image."
            for name, passes in efforts
        },
        "Universal perturbations: one change for all images": {
            **{f"jaxadv universal --method {name}": line(kind) for name, kind in METHODS.items()},
            "ja.data_free_perturbation": line(data_free_perturbation),
            "ja.universal_patch": line(universal_patch),
        },
        "Fooling images: meaningless images that the model classifies with confidence": {
            "ja.fooling_images": line(fooling_images),
        },
    }


def attack_index() -> str:
    """Return the list of all attacks and protocols in Markdown."""
    lines = ["# The attacks", "", INTRODUCTION]
    for heading, kinds in grouped_attacks().items():
        lines += ["", f"## {heading}", "", "| attack | norms | radius | what it does |"]
        lines.append("|---|---|---|---|")
        for kind in kinds:
            name, text = kind.__name__, summary(kind).replace("|", "\\|")
            norms = ", ".join(kind.norms)
            lines.append(f"| [{name}]({name}.md) | {norms} | {radius(kind)} | {text} |")
    for heading, entries in protocols().items():
        lines += ["", f"## {heading}", "", "| call | what it does |", "|---|---|"]
        lines += [f"| `{call}` | {text} |" for call, text in entries.items()]
    return "\n".join(lines) + "\n"


def write_reference(folder: str | Path) -> list[Path]:
    """Write the index (README.md) and a page for each attack into a folder; return the files."""
    folder = Path(folder)
    pages = {"README": attack_index()}
    pages |= {name: attack_page(kind) for name, kind in ATTACKS.items()}
    return [write_atomically(folder / f"{name}.md", text) for name, text in pages.items()]
