"""`jaxadv distance`."""

import math
from pathlib import Path
from typing import Annotated, Any

from jaxadv.cli.app import app
from jaxadv.cli.options import (
    MOST,
    Data,
    DataDir,
    Effort,
    Epochs,
    Examples,
    Fresh,
    Json,
    Lanes,
    ModelName,
    Output,
    Published,
    Seed,
    Weights,
    option,
)
from jaxadv.cli.progress import Bars
from jaxadv.cli.setting import (
    check_outputs,
    check_page,
    conclude,
    console,
    forget,
    plain_messages,
    prepare_jax,
    write_json,
)
from jaxadv.cli.subject import attacks_check, find_subject


@app.command()
def distance(
    data: Data = "mnist5k",
    data_dir: DataDir = None,
    weights: Weights = None,
    published: Published = None,
    model: ModelName = None,
    epochs: Epochs = None,
    norm: Annotated[
        list[str] | None, option("--norm", help="linf, l2, l1 or l0; repeatable (default: l2).")
    ] = None,
    effort: Effort = "standard",
    passes: Annotated[
        int | None,
        option("--passes", help="Another budget, forward and backward.", min=1, max=MOST),
    ] = None,
    examples: Examples = 100,
    seed: Seed = 0,
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
    check_outputs(json_file, folder=output)
    state = output / "state"
    with plain_messages():
        check_page()
        prepare_jax()
        import jax

        import jaxadv as ja
        from jaxadv.protocols.portfolios import get_portfolio
        from jaxadv.report import Page
        from jaxadv.report.distance import distance_data, print_distances, write_distances

        searches = {
            one if len(efforts) == 1 else f"{one} {much}": (one, much)
            for one in norms
            for much in efforts
        }
        members = {  # refuses unknown names before any work
            title: get_portfolio(much, one, targeted=False)[0]
            for title, (one, much) in searches.items()
        }
        if fresh:
            forget(state)
        subject = find_subject(
            data,
            data_dir,
            examples,
            weights,
            published,
            model,
            epochs,
            seed,
            lambda name: state / f"{name}.safetensors",
            attacks_check([one for each in members.values() for one in each.values()], math.inf),
        )
        images = subject.data
        found: dict[str, Any] = {}
        with Bars() as bars:
            for title, (one, much) in searches.items():

                def progress(name: str, *now: int, title: str = title) -> None:
                    bars.attack(f"{title} {name}", *now)

                found[title] = ja.minimal_distance(
                    subject.model,
                    images.images,
                    images.labels,
                    one,
                    effort=much,
                    passes=passes,
                    key=jax.random.key(seed),
                    ids=images.ids,
                    lanes=lanes,
                    store=state / title.replace(" ", "-"),
                    progress=progress,
                )
                if not found[title].complete:
                    break
            else:
                bars.interrupts.check()
        about = {"model": subject.name, "data": images.name, "seed": seed, "effort": effort}
        written = {**about, **distance_data(found, subject.total)}
        out = console()
        out.print(f"\n[bold]{subject.name}[/] on {images.name}, seed {seed}\n", highlight=False)
        print_distances(written, out)
        write_json(output / "report.json", written)
        write_json(json_file, written)
        write_distances(
            found,
            output / "report.html",
            Page(
                f"How far is the nearest mistake of {subject.name} on {images.name}?",
                images.classes,
                about,
                subject.total,
            ),
            bounds=subject.model.bounds,
        )
    conclude(out, output, bars.worked, written["complete"])
