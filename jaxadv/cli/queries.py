"""`jaxadv queries`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from jaxadv.cli.app import app
from jaxadv.cli.options import (
    MOST,
    Fresh,
    Json,
    Lanes,
    NormName,
    Output,
    grouped,
    option,
    parse_number,
)
from jaxadv.cli.progress import Bars
from jaxadv.cli.run import command
from jaxadv.cli.subject import Subject, goal_of

if TYPE_CHECKING:
    from jaxadv.core.model import Model
    from jaxadv.data import Dataset

ATTACKS = {  # compared by default
    "linf": ["Square", "SimBA", "NES", "SPSA"],
    "l2": ["Square", "SimBA", "NES"],
    "l1": ["Square"],
    "l0": ["SparseRS", "OnePixel"],
}
EPSILONS = {"linf": "0.15", "l2": "2", "l1": "15", "l0": "20"}  # for digits


@app.command()
@grouped
def queries(
    subject: Subject,
    attack: Annotated[
        list[str] | None, option("--attack", help="One without gradients; repeatable.")
    ] = None,
    norm: NormName = "linf",
    epsilon: Annotated[str | None, option("--epsilon", help="The radius: 0.1 or 8/255.")] = None,
    budget: Annotated[
        int, option("--budget", help="Queries for an image.", min=1, max=MOST)
    ] = 5000,
    targeted: Annotated[bool, option("--targeted", help="Towards class label + 1.")] = False,
    *,
    output: Output = Path("jaxadv-results/queries"),
    json_file: Json = None,
    lanes: Lanes = None,
    fresh: Fresh = False,
) -> None:
    """Measure how many queries attacks without gradients need: success rate against queries.

    Writes OUTPUT/report.html and report.json. After Ctrl-C, the same command continues where it
    stopped.
    """
    with command(output, json_file, fresh=fresh) as run:
        import jaxadv as ja
        from jaxadv.attacks import build_attack
        from jaxadv.core.norms import get_norm
        from jaxadv.protocols.query_curves import fit_attacks
        from jaxadv.report import Page
        from jaxadv.report.queries import print_queries, queries_data, write_queries

        get_norm(norm)
        radius = parse_number(epsilon if epsilon is not None else EPSILONS[norm])
        names = [name.strip() for given in attack or ATTACKS[norm] for name in given.split(",")]
        built = [build_attack(name, {"norm": norm}) for name in names]
        attacks = {one.name: one for one in built}

        def check(model: "Model", data: "Dataset", classes: int) -> None:
            goal, shape = goal_of(data, targeted), data.images.shape[1:]
            fit_attacks(attacks, model, goal, classes, radius, shape, budget)

        loaded = run.load(subject, check)
        images = loaded.data
        with Bars() as bars:
            curves = ja.compare_queries(
                loaded.model,
                images.images,
                goal_of(images, targeted),
                attacks,
                radius,
                budget=budget,
                key=loaded.key,
                ids=images.ids,
                lanes=lanes,
                store=run.state,
                progress=bars.attack,
            )
            if curves.complete:
                bars.interrupts.check()
        about = {**loaded.about, "targeted": targeted}
        data = {**about, **queries_data(curves, loaded.total)}
        run.print_title(loaded)
        print_queries(data, run.console)
        run.write(data)
        write_queries(
            curves,
            output / "report.html",
            Page(
                f"How many questions until {loaded.name} is wrong on {images.name}?",
                images.classes,
                about,
                loaded.total,
                images.features or None,
            ),
            bounds=loaded.model.bounds,
        )
        run.conclude(bars, data["complete"])
