"""`jaxadv prove`."""

import math
from pathlib import Path
from typing import Annotated, Any

from jaxadv.cli.app import INTERRUPTED, app
from jaxadv.cli.options import EXAMPLES, MOST, Json, NormName, Output, grouped, option
from jaxadv.cli.progress import Bars
from jaxadv.cli.run import command
from jaxadv.cli.subject import Subject, check_entries
from jaxadv.core.parse import parse_number


@app.command()
@grouped
def prove(
    subject: Subject = Subject(examples=EXAMPLES),
    norm: NormName = "linf",
    epsilon: Annotated[str, option("--epsilon", help="The radius: 0.1 or 8/255.")] = "0.02",
    effort: Annotated[
        str,
        option("--effort", help="fast (CROWN), standard (alpha-CROWN), strong (branch and bound)."),
    ] = "standard",
    budget: Annotated[
        int | None, option("--budget", help="Most subproblems an image (2,000).", min=1, max=MOST)
    ] = None,
    seconds: Annotated[
        float | None, option("--seconds", help="Most seconds of all images together.")
    ] = None,
    arithmetic: Annotated[
        str, option("--arithmetic", help="float32, or real: for exact arithmetic.")
    ] = "float32",
    attacks: Annotated[
        str, option("--attacks", help="The cascade that runs first: quick, fast, standard, strong.")
    ] = "quick",
    *,
    output: Output = Path("jaxadv-results/prove"),
    json_file: Json = None,
) -> None:
    """Prove for each image that none within epsilon is adversarial, or find one that is.

    Writes OUTPUT/report.json. Ctrl-C ends the command with what is known.
    """
    radius = parse_number(epsilon, "--epsilon")
    with command(output, json_file, pages=False) as run:
        from rich.table import Table

        import jaxadv as ja
        from jaxadv.protocols.cascades import get_cascade

        loaded = run.load(subject, check_entries(get_cascade(attacks, norm).values(), [radius]))
        images = loaded.data
        with Bars() as bars:
            proof = ja.prove(
                loaded.model,
                images.images,
                images.labels,
                radius,
                norm,
                effort=effort,
                budget=budget,
                seconds=math.inf if seconds is None else seconds,
                arithmetic=arithmetic,
                attacks=attacks,
                key=loaded.key,
                ids=images.ids,
                progress=bars.attack,
            )
        about = {
            "norm": norm,
            "epsilon": radius,
            "effort": effort,
            "arithmetic": arithmetic,
            "attacks": attacks,
        }
        run.print_title(loaded)
        data: dict[str, Any] = {**loaded.about, **about, **as_data(proof)}
        table = Table(title=f"Robust accuracy at {norm} {radius:g}, from both sides")
        for heading in ("", "images", "%"):
            table.add_column(heading, justify="left" if heading == "" else "right")
        for name, count in data["images_by_verdict"].items():
            table.add_row(name.lower(), str(count), f"{100 * count / len(proof.status):.1f}")
        run.console.print(table)
        run.print(
            f"between {100 * data['proved']:.1f} % (proved) and {100 * data['not_broken']:.1f} % "
            f"(not broken); {data['seconds']:.0f} s"
        )
        run.write(data)
        run.print(f"data: {output / 'report.json'}")
        if not proof.complete:
            import typer

            raise typer.Exit(INTERRUPTED)


def as_data(proof: Any) -> dict[str, Any]:
    """Return proofs as JSON: totals, and what is known of every image."""
    import numpy as np

    from jaxadv.protocols.verdicts import Verdict

    proved, not_broken = proof.accuracy
    columns = zip(
        proof.ids,
        proof.labels,
        proof.status,
        proof.lower,
        proof.upper,
        proof.subproblems,
        proof.forward,
        proof.backward,
        strict=True,
    )
    return {
        "proved": proved,
        "not_broken": not_broken,
        "complete": proof.complete,
        "seconds": proof.cost.seconds,
        "images_by_verdict": {
            verdict.name: int((proof.status == verdict).sum())
            for verdict in Verdict
            if (proof.status == verdict).any()
        },
        "images": [
            {
                "id": int(number),
                "label": int(label),
                "verdict": Verdict(status).name,
                "lower": float(lower) if np.isfinite(lower) else None,
                "upper": float(upper) if np.isfinite(upper) else None,
                "subproblems": int(subproblems),
                "forward": int(forward),
                "backward": int(backward),
            }
            for number, label, status, lower, upper, subproblems, forward, backward in columns
        ],
    }
