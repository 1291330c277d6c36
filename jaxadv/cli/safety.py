"""`jaxadv safety`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from jaxadv.cli.app import app
from jaxadv.cli.options import MOST, Effort, Fresh, Json, Lanes, NormName, Output, grouped, option
from jaxadv.cli.progress import Bars
from jaxadv.cli.run import command
from jaxadv.cli.subject import Subject


@dataclass(frozen=True, kw_only=True)
class WholeTestSet(Subject):
    """The options of a `Subject` whose test images are all used."""

    examples: None = None


@app.command()
@grouped
def safety(
    subject: WholeTestSet,
    norm: NormName = "l2",
    effort: Effort = "fast",
    each: Annotated[
        int,
        option(
            "--each", help="Images of every class, aimed at every other class.", min=1, max=MOST
        ),
    ] = 3,
    *,
    output: Output = Path("jaxadv-results/safety"),
    json_file: Json = None,
    lanes: Lanes = None,
    fresh: Fresh = False,
) -> None:
    """Measure the distances between classes, and a network's accuracy around single images.

    A matrix of targeted minimal distances between classes, and the accuracy at random and at
    worst-case points around correctly classified images. Writes OUTPUT/report.html and report.json.
    After Ctrl-C, the same command continues where it stopped.
    """
    with command(output, json_file, fresh=fresh) as run:
        from jaxadv.protocols.class_pairs import class_pairs
        from jaxadv.protocols.portfolios import get_portfolio
        from jaxadv.report import print_study, write_study
        from jaxadv.studies import as_data
        from jaxadv.studies.safety import safety as examine

        get_portfolio(effort, norm, targeted=True)  # refuses unknown names before any work
        loaded = run.load(subject)
        images = loaded.data
        with Bars() as bars:
            pairs = class_pairs(
                loaded.model,
                images.images,
                images.labels,
                norm,
                each=each,
                effort=effort,
                key=loaded.key,
                ids=images.ids,
                lanes=lanes,
                store=run.state / norm,
                progress=bars.attack,
            )
            if pairs.complete:
                bars.interrupts.check()
        findings = examine(loaded.model, images, norm, pairs=pairs)
        about = {
            "model": loaded.name,
            "data": images.name,
            "norm": norm,
            "seed": loaded.seed,
            "effort": effort,
            "each": each,
        }
        run.print_title(loaded)
        print_study(findings, run.console)
        run.write({**about, "complete": pairs.complete, **as_data(findings)})
        write_study([findings], output / "report.html", f"{loaded.name}: {findings.title}", about)
        run.conclude(bars, pairs.complete)
