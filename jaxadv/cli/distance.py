"""`jaxadv distance`."""

import math
from pathlib import Path
from typing import Annotated

from jaxadv.cli.app import app
from jaxadv.cli.options import MOST, Effort, Fresh, Json, Lanes, Output, grouped, option
from jaxadv.cli.progress import Bars
from jaxadv.cli.run import command, while_complete
from jaxadv.cli.subject import Subject, check_entries


@app.command()
@grouped
def distance(
    subject: Subject,
    norm: Annotated[
        list[str] | None, option("--norm", help="linf, l2, l1 or l0; repeatable (default: l2).")
    ] = None,
    effort: Effort = "standard",
    passes: Annotated[
        int | None,
        option("--passes", help="Another budget, forward and backward.", min=1, max=MOST),
    ] = None,
    *,
    output: Output = Path("jaxadv-results/distance"),
    json_file: Json = None,
    lanes: Lanes = None,
    fresh: Fresh = False,
) -> None:
    """Find the minimal adversarial distance of each image, and so the accuracy at every epsilon.

    Several efforts, separated by commas, are compared. Writes OUTPUT/report.html and report.json.
    After Ctrl-C, the same command continues where it stopped.
    """
    norms = [one for given in norm or ["l2"] for one in given.split(",")]
    efforts = effort.split(",")
    with command(output, json_file, fresh=fresh) as run:
        import jaxadv as ja
        from jaxadv.protocols.portfolios import get_portfolio, members_of
        from jaxadv.report import Page
        from jaxadv.report.distance import distance_data, print_distances, write_distances

        searches = {
            norm if len(efforts) == 1 else f"{norm} {effort}": (norm, effort)
            for norm in norms
            for effort in efforts
        }
        members = [  # refuses unknown names before any work
            member
            for norm, effort in searches.values()
            for member in members_of(get_portfolio(effort, norm, targeted=False)).values()
        ]
        loaded = run.load(subject, check_entries(members, math.inf))
        images = loaded.data
        with Bars() as bars:
            results = while_complete(
                ja.minimal_distance(
                    loaded.model,
                    images.images,
                    images.labels,
                    norm,
                    effort=effort,
                    passes=passes,
                    key=loaded.key,
                    ids=images.ids,
                    lanes=lanes,
                    store=run.state / title.replace(" ", "-"),
                    progress=lambda name, *now: bars.attack(f"{title} {name}", *now),
                )
                for title, (norm, effort) in searches.items()
            )
            if results[-1].complete:
                bars.interrupts.check()
        distances = dict(zip(searches, results, strict=False))
        about = {**loaded.about, "effort": effort}
        data = {**about, **distance_data(distances, loaded.total)}
        run.print_title(loaded)
        print_distances(data, run.console)
        run.write(data)
        write_distances(
            distances,
            output / "report.html",
            Page(
                f"How far is the nearest mistake of {loaded.name} on {images.name}?",
                images.classes,
                about,
                loaded.total,
                images.features or None,
            ),
            bounds=loaded.model.bounds,
        )
        run.conclude(bars, data["complete"])
