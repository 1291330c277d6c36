"""`jaxadv check`."""

from pathlib import Path
from typing import Annotated

import typer

from jaxadv.cli.app import app
from jaxadv.cli.options import (
    EPSILONS,
    Data,
    DataDir,
    Epochs,
    Examples,
    Json,
    ModelName,
    NormName,
    Output,
    Published,
    Seed,
    Weights,
    option,
    parse_number,
)
from jaxadv.cli.setting import check_outputs, console, plain_messages, prepare_jax, write_json
from jaxadv.cli.subject import attacks_check, find_subject


@app.command()
def check(
    data: Data = "mnist5k",
    data_dir: DataDir = None,
    weights: Weights = None,
    published: Published = None,
    model: ModelName = None,
    epochs: Epochs = None,
    norm: NormName = "linf",
    epsilon: Annotated[str | None, option("--epsilon", help="The radius: 0.1 or 8/255.")] = None,
    examples: Examples = 100,
    seed: Seed = 0,
    output: Output = Path("jaxadv-results"),
    json_file: Json = None,
) -> None:
    """Check for what makes a model seem more robust than it is. Exit 1 if a check fails."""
    if norm not in EPSILONS:
        raise ValueError(f"--norm {norm!r} is not known: pass one of {list(EPSILONS)}")
    radius = EPSILONS[norm][1] if epsilon is None else parse_number(epsilon)
    made_here = weights is None and published is None
    check_outputs(json_file, folder=output / "state" if made_here else None)
    with plain_messages():
        prepare_jax()
        import jax
        from rich import box
        from rich.table import Table

        import jaxadv as ja

        subject = find_subject(
            data,
            data_dir,
            examples,
            weights,
            published,
            model,
            epochs,
            seed,
            lambda name: output / "state" / f"{name}.safetensors",
            attacks_check([ja.PGD(norm=norm)], radius),
        )
        images = subject.data
        found = ja.check(
            subject.model,
            images.images,
            images.labels,
            epsilon=radius,
            norm=norm,
            key=jax.random.key(seed),
        )
    table = Table(
        title=f"{subject.name} on {len(images.labels)} images of {images.name}, {norm} {radius:g}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
    )
    for column in ("check", "", "what to do"):
        table.add_column(column)
    for finding in found:
        mark = "[green]passed[/]" if finding.passed else "[bold red]FAILED[/]"
        table.add_row(finding.name, mark, finding.message)
    console().print(table)
    failed = sum(not finding.passed for finding in found)
    print(f"{len(found) - failed} of {len(found)} checks passed")
    write_json(
        json_file,
        {
            "model": subject.name,
            "data": images.name,
            "examples": len(images.labels),
            "norm": norm,
            "epsilon": radius,
            "seed": seed,
            "findings": [finding._asdict() for finding in found],
        },
    )
    if failed:
        raise typer.Exit(1)
