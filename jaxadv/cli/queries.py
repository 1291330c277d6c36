"""`jaxadv queries`."""

from pathlib import Path
from typing import Annotated, Any

from jaxadv.cli.app import app
from jaxadv.cli.options import (
    MOST,
    Data,
    DataDir,
    Epochs,
    Examples,
    Fresh,
    Json,
    Lanes,
    ModelName,
    NormName,
    Output,
    Published,
    Seed,
    Weights,
    option,
    parse_number,
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
from jaxadv.cli.subject import find_subject, goal_of

ATTACKS = {  # compared by default
    "linf": ["Square", "SimBA", "NES", "SPSA"],
    "l2": ["Square", "SimBA", "NES"],
    "l1": ["Square"],
    "l0": ["SparseRS", "OnePixel"],
}
EPSILONS = {"linf": "0.15", "l2": "2", "l1": "15", "l0": "20"}  # for digits


@app.command()
def queries(
    data: Data = "mnist5k",
    data_dir: DataDir = None,
    weights: Weights = None,
    published: Published = None,
    model: ModelName = None,
    epochs: Epochs = None,
    attack: Annotated[
        list[str] | None, option("--attack", help="One without gradients; repeatable.")
    ] = None,
    norm: NormName = "linf",
    epsilon: Annotated[str | None, option("--epsilon", help="The radius: 0.1 or 8/255.")] = None,
    budget: Annotated[
        int, option("--budget", help="Queries for an image.", min=1, max=MOST)
    ] = 5000,
    targeted: Annotated[bool, option("--targeted", help="Towards class label + 1.")] = False,
    examples: Examples = 100,
    seed: Seed = 0,
    output: Output = Path("jaxadv-results/queries"),
    json_file: Json = None,
    lanes: Lanes = None,
    fresh: Fresh = False,
) -> None:
    """Measure how many queries attacks without gradients need: success rate against queries.

    Writes OUTPUT/report.html and report.json. After Ctrl-C, the same command continues where it
    stopped.
    """
    check_outputs(json_file, folder=output)
    state = output / "state"
    with plain_messages():
        check_page()
        prepare_jax()
        import jax

        import jaxadv as ja
        from jaxadv.attacks import build_attack
        from jaxadv.core.norms import get_norm
        from jaxadv.protocols.query_curves import fit_attacks
        from jaxadv.report import Page
        from jaxadv.report.queries import print_queries, queries_data, write_queries

        get_norm(norm)
        radius = parse_number(epsilon if epsilon is not None else EPSILONS[norm])
        names = [one.strip() for given in attack or ATTACKS[norm] for one in given.split(",")]
        built = [build_attack(name, {"norm": norm}) for name in names]
        attacks = {one.name: one for one in built}
        if fresh:
            forget(state)

        def check(network: Any, images: Any, classes: int) -> None:
            goal, shape = goal_of(images, targeted), images.images.shape[1:]
            fit_attacks(attacks, network, goal, classes, radius, shape, budget)

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
            check,
        )
        images, goal = subject.data, goal_of(subject.data, targeted)
        with Bars() as bars:
            asked = ja.compare_queries(
                subject.model,
                images.images,
                goal,
                attacks,
                radius,
                budget=budget,
                key=jax.random.key(seed),
                ids=images.ids,
                lanes=lanes,
                store=state,
                progress=bars.attack,
            )
            if asked.complete:
                bars.interrupts.check()
        about = {
            "model": subject.name,
            "data": images.name,
            "seed": seed,
            "targeted": targeted,
        }
        written = {**about, **queries_data(asked, subject.total)}
        out = console()
        out.print(f"\n[bold]{subject.name}[/] on {images.name}, seed {seed}\n", highlight=False)
        print_queries(written, out)
        write_json(output / "report.json", written)
        write_json(json_file, written)
        write_queries(
            asked,
            output / "report.html",
            Page(
                f"How many questions until {subject.name} is wrong on {images.name}?",
                images.classes,
                about,
                subject.total,
            ),
            bounds=subject.model.bounds,
        )
    conclude(out, output, bars.worked, written["complete"])
