"""`jaxadv prove`."""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from jaxadv.cli.app import app
from jaxadv.cli.options import (
    EXAMPLES,
    Fresh,
    Json,
    NormName,
    Output,
    Proving,
    grouped,
    option,
    parse_epsilons,
)
from jaxadv.cli.progress import Bars
from jaxadv.cli.property import decide
from jaxadv.cli.run import command, while_complete
from jaxadv.cli.subject import Subject, check_entries, check_proof


@app.command()
@grouped
def prove(
    subject: Subject = Subject(examples=EXAMPLES),
    norm: NormName = "linf",
    epsilon: Annotated[
        list[str] | None,
        option("--epsilon", help="The radius: 0.1 or 8/255; repeatable, or with commas (0.02)."),
    ] = None,
    proving: Proving = Proving(),
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="NET.onnx PROPERTY.vnnlib",
            help="As --model NET.onnx --property PROPERTY.vnnlib.",
            show_default=False,
        ),
    ] = None,
    property_file: Annotated[
        Path | None,
        option("--property", help="Instead, decide a property (.vnnlib) of --model net.onnx."),
    ] = None,
    *,
    output: Output = Path("jaxadv-results/prove"),
    json_file: Json = None,
    fresh: Fresh = False,
) -> None:
    """Prove for each image that none within epsilon is adversarial, or find one that is.

    With --property, answer sat (with a witness), unsat or unknown, as the verification competition
    asks for, in OUTPUT/result.txt. Else writes OUTPUT/report.html and report.json. After
    Ctrl-C, the same command continues where it stopped.
    """
    if files:
        if len(files) != 2 or subject.model or property_file:
            given = " ".join(map(str, files))
            raise ValueError(f"{given!r}: pass NET.onnx PROPERTY.vnnlib, or options and no files")
        subject, property_file = replace(subject, model=str(files[0])), files[1]
    radii = parse_epsilons(epsilon) if epsilon else [0.02]
    if property_file is not None:
        if epsilon:
            raise ValueError("--property states its own box: leave --epsilon out")
        decide(subject, property_file, proving, output, json_file, fresh)
        return
    seconds = math.inf if proving.seconds is None else proving.seconds
    until = time.monotonic() + seconds
    with command(output, json_file, fresh=fresh) as run:
        import jaxadv as ja
        from jaxadv.protocols.cascades import get_cascade
        from jaxadv.report import Page, print_proofs, proofs_data, write_proofs

        cascade = get_cascade(proving.attacks, norm)
        attacking = check_entries(cascade.values(), radii)
        loaded = run.load(subject, attacking, check_proof(proving.effort, norm))
        images = loaded.data
        with Bars() as bars:
            found = while_complete(
                ja.prove(
                    loaded.model,
                    images.images,
                    images.labels,
                    radius,
                    norm,
                    effort=proving.effort,
                    budget=proving.budget,
                    seconds=max(until - time.monotonic(), 1e-3),
                    arithmetic=proving.arithmetic,
                    attacks=proving.attacks,
                    key=loaded.key,
                    ids=images.ids,
                    store=run.state / f"prove-{norm}-{radius:g}",
                    progress=bars.attack,
                )
                for radius in radii
            )
            if found[-1].complete:
                bars.interrupts.check()
        settings = {"effort": proving.effort, "attacks": proving.attacks}
        data = {**loaded.about, **settings, **proofs_data(found, loaded.total)}
        run.print_title(loaded)
        print_proofs(data, run.console)
        run.write(data)
        write_proofs(
            found,
            output / "report.html",
            Page(
                f"How robust is {loaded.name} on {images.name}, with certainty?",
                images.classes,
                {**loaded.about, **settings},
                loaded.total,
                images.features or None,
            ),
            bounds=loaded.model.bounds,
        )
        run.conclude(bars, data["complete"])
