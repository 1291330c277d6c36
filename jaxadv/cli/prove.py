"""`jaxadv prove`."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from jaxadv.cli.app import app
from jaxadv.cli.options import (
    EXAMPLES,
    MOST,
    Fresh,
    Json,
    NormName,
    Output,
    grouped,
    option,
    parse_epsilons,
)
from jaxadv.cli.progress import Bars
from jaxadv.cli.run import command, while_complete
from jaxadv.cli.subject import Subject, check_entries, check_proof


@dataclass(frozen=True)
class Proving:
    """The options that say how far a proof may go.

    Attributes:
        effort: "fast", "standard" or "strong".
        budget: The most subproblems an image, or None for the default.
        seconds: The most seconds of all images together, or None.
        arithmetic: "float32" or "real".
        attacks: The cascade that runs first.
    """

    effort: Annotated[
        str,
        option("--effort", help="fast (CROWN), standard (alpha-CROWN), strong (branch and bound)."),
    ] = "standard"
    budget: Annotated[
        int | None, option("--budget", help="Most subproblems an image (2,000).", min=1, max=MOST)
    ] = None
    seconds: Annotated[
        float | None, option("--seconds", help="Most seconds of all images together.")
    ] = None
    arithmetic: Annotated[
        str, option("--arithmetic", help="float32, or real: for exact arithmetic.")
    ] = "float32"
    attacks: Annotated[
        str, option("--attacks", help="The cascade that runs first: quick, fast, standard, strong.")
    ] = "quick"


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
    *,
    output: Output = Path("jaxadv-results/prove"),
    json_file: Json = None,
    fresh: Fresh = False,
) -> None:
    """Prove for each image that none within epsilon is adversarial, or find one that is.

    Writes OUTPUT/report.html and report.json. After Ctrl-C, the same command continues where it
    stopped.
    """
    radii = parse_epsilons(epsilon) if epsilon else [0.02]
    seconds = math.inf if proving.seconds is None else proving.seconds
    if not seconds > 0:
        raise ValueError(f"--seconds {seconds:g}: pass a number above 0")
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
            ),
            bounds=loaded.model.bounds,
        )
        run.conclude(bars, data["complete"])
