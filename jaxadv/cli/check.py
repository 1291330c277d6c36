"""`jaxadv check`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxadv.cli.app import app
from jaxadv.cli.options import EPSILONS, Json, NormName, Output, grouped, option, parse_number
from jaxadv.cli.run import command
from jaxadv.cli.setting import console, write_json
from jaxadv.cli.subject import Subject, check_entries

if TYPE_CHECKING:
    from jaxadv.engine.diagnose import Finding


@app.command()
@grouped
def check(
    subject: Subject,
    norm: NormName = "linf",
    epsilon: Annotated[str | None, option("--epsilon", help="The radius: 0.1 or 8/255.")] = None,
    *,
    output: Output = Path("jaxadv-results"),
    json_file: Json = None,
) -> None:
    """Check for what makes a model seem more robust than it is. Exit 1 if a check fails."""
    if norm not in EPSILONS:
        raise ValueError(f"--norm {norm!r} is not known: pass one of {list(EPSILONS)}")
    radius = EPSILONS[norm][1] if epsilon is None else parse_number(epsilon)
    with command(output if subject.is_trained_here else None, json_file, pages=False) as run:
        import jaxadv as ja

        loaded = run.load(subject, check_entries([ja.PGD(norm=norm)], radius))
        images = loaded.data
        findings = ja.check(
            loaded.model,
            images.images,
            images.labels,
            epsilon=radius,
            norm=norm,
            key=loaded.key,
        )
    count = len(images.labels)
    _print(findings, f"{loaded.name} on {count} images of {images.name}, {norm} {radius:g}")
    about = {"model": loaded.name, "data": images.name, "examples": count}
    results = [finding._asdict() for finding in findings]
    attacked = {"norm": norm, "epsilon": radius, "seed": loaded.seed}
    write_json(json_file, {**about, **attacked, "findings": results})
    if not all(finding.passed for finding in findings):
        raise typer.Exit(1)


def _print(findings: "Sequence[Finding]", title: str) -> None:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in ("check", "", "what to do"):
        table.add_column(column)
    for finding in findings:
        mark = "[green]passed[/]" if finding.passed else "[bold red]FAILED[/]"
        table.add_row(finding.name, mark, finding.message)
    console().print(table)
    passed = sum(finding.passed for finding in findings)
    print(f"{passed} of {len(findings)} checks passed")
