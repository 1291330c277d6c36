"""`jaxadv evaluate`."""

import dataclasses
from pathlib import Path
from typing import Annotated

from jaxadv.cli.app import app
from jaxadv.cli.options import (
    EPSILONS,
    EXAMPLES,
    Fresh,
    Json,
    Lanes,
    NormName,
    Output,
    grouped,
    option,
    parse_epsilons,
)
from jaxadv.cli.progress import Bars
from jaxadv.cli.run import command
from jaxadv.cli.subject import Subject, check_entries, check_proof, goal_of


@app.command()
@grouped
def evaluate(
    subject: Subject = Subject(examples=EXAMPLES),
    norm: NormName = "linf",
    epsilon: Annotated[
        list[str] | None,
        option("--epsilon", help="0.1 or 8/255; repeatable, or with commas."),
    ] = None,
    attacks: Annotated[
        str, option("--attacks", help="quick, fast, standard (AutoAttack), plus, rand, strong.")
    ] = "quick",
    prove: Annotated[
        str | None,
        option("--prove", help="Prove what no attack breaks: fast, standard or strong."),
    ] = None,
    targeted: Annotated[bool, option("--targeted", help="Towards class label + 1.")] = False,
    *,
    output: Output = Path("jaxadv-results"),
    json_file: Json = None,
    fresh: Fresh = False,
    lanes: Lanes = None,
) -> None:
    """Measure a classifier's robust accuracy; without options, train a small network and attack it.

    Writes OUTPUT/report.html, report.json, report.csv, robustbench.json and a page for every image
    in OUTPUT/images. After Ctrl-C, the same command continues where it stopped.
    """
    if norm not in EPSILONS:
        raise ValueError(f"--norm {norm!r} is not known: pass one of {list(EPSILONS)}")
    epsilons = parse_epsilons(epsilon) if epsilon else EPSILONS[norm]
    with command(output, json_file, fresh=fresh) as run:
        import jaxadv as ja
        from jaxadv.protocols.cascades import get_cascade
        from jaxadv.protocols.visibility import report_visibility
        from jaxadv.report import (
            Page,
            as_data,
            print_report,
            write_csv,
            write_html,
            write_pages,
            write_robustbench,
        )

        cascade = get_cascade(attacks, norm)
        attacking = check_entries(cascade.values(), epsilons)
        loaded = run.load(subject, attacking, check_proof(prove, norm))
        images = loaded.data
        with Bars() as bars:
            report = ja.evaluate(
                loaded.model,
                images.images,
                goal_of(images, targeted),
                norm,
                epsilons,
                attacks,
                key=loaded.key,
                ids=images.ids,
                lanes=lanes,
                prove=prove,
                store=run.state / f"evaluate-{norm}",
                progress=bars.attack,
            )
            if report.complete:
                bars.interrupts.check()
        report = dataclasses.replace(report, visibility=report_visibility(report, loaded.model))
        about = {"model": loaded.name, "data": images.name, "attacks": attacks, "seed": loaded.seed}
        if prove is not None:
            about["prove"] = prove
        if targeted:
            about["goal"] = "class label + 1"
        data = {**about, **as_data(report, loaded.total)}
        run.print_title(loaded)
        print_report(data, run.console)
        run.write(data)
        write_csv(report, output / "report.csv")
        robustbench = output / "robustbench.json"
        robustbench.unlink(missing_ok=True)
        if not targeted:
            write_robustbench(report, robustbench, name=loaded.name, dataset=images.name)
        write_pages(report, output / "images", images.classes, images.features or None)
        write_html(
            report,
            output / "report.html",
            Page(
                f"How robust is {loaded.name} on {images.name}?",
                images.classes,
                about,
                loaded.total,
                images.features or None,
            ),
            model=loaded.model,
            pages="images/index.html",
        )
        pages = output / "images" / "index.html"
        run.conclude(
            bars,
            report.complete,
            f", report.csv{', robustbench.json' if not targeted else ''}\nimages: {pages}",
        )
