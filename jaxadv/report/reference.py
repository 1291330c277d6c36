"""A reference page for every attack, made from its docstring and the registry."""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

from jaxadv.attacks import ATTACKS
from jaxadv.core.attack import Attack
from jaxadv.core.files import write_atomically

SOURCE = re.compile(  # authors, year, arXiv or doi
    r"((?:[A-Z][^\W\d]+(?:-[A-Z]\w+)?(?:,| and| et al\.)? ?)+) ?(\d{4}), "
    r"(arXiv|doi) ([\w./-]*\w)"
)
WHERE = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}
INSIDE = "as the attack inside"
RETURNS = {"first": "the first success", "distance": "the nearest success",
           "loss": "the highest loss", "last": "the last image"}  # fmt: skip


def summary(kind: type[Attack]) -> str:
    """Return the first paragraph of an attack's docstring, on one line."""
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
    return list(dict.fromkeys(
        f"{who.strip()} {year}, {where} {number}: <{WHERE[where]}{number}>"
        for who, year, where, number in SOURCE.findall(text)
    ))  # fmt: skip


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
    parts = (inspect.getdoc(kind) or "").split("\n\n")
    example = [part for part in parts if part.startswith(">>>")]
    text = [part for part in parts[1:] if not part.startswith(">>>")]
    facts = {
        "Told": knows(kind),
        "Norms": ", ".join(kind.norms),
        "Radius": radius(kind),
        "Returns": RETURNS.get(str(kind.keep)) or _depends(kind),
        "In Python": f"`ja.{kind.__name__}`",
        "On the command line": f"`jaxadv attack {kind.__name__}`",
    }  # fmt: skip
    lines = [f"# {kind.__name__}", "", summary(kind), "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += ["", "## What it does", "", *"\n\n".join(map(_as_markdown, text)).splitlines()]
    lines += ["", "## Settings", "", "| setting | default |", "|---|---|"]
    lines += [
        f"| `{field.name}` | `{_default(field)}` |"
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
    ]
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


def attack_index() -> str:
    """Return the list of all attacks, grouped by what they need of the model, in Markdown."""
    lines = ["# The attacks", "", "Written by `jaxadv attacks --markdown docs/attacks`."]
    groups: dict[str, list[str]] = {}
    for name, kind in sorted(ATTACKS.items(), key=lambda item: item[0].lower()):
        groups.setdefault(knows(kind), []).append(name)
    for told in ("gradients", "scores", "labels", INSIDE):
        if told in groups:
            heading = f"## Told {told}" if told != INSIDE else "## Around another attack"
            lines += ["", heading, "", "| attack | norms | radius | |", "|---|---|---|---|"]
        for name in groups.get(told, []):
            kind = ATTACKS[name]
            link = f"[{name}]({name}.md)"
            lines.append(f"| {link} | {', '.join(kind.norms)} | {radius(kind)} | {summary(kind)} |")
    return "\n".join(lines) + "\n"


def write_reference(folder: str | Path) -> list[Path]:
    """Write the index (README.md) and a page for each attack into a folder; return the files."""
    folder = Path(folder)
    pages = {"README": attack_index()}
    pages |= {name: attack_page(kind) for name, kind in ATTACKS.items()}
    return [write_atomically(folder / f"{name}.md", text) for name, text in pages.items()]
