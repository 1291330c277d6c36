"""`jaxadv safety`."""

from pathlib import Path
from typing import Annotated

from jaxadv.cli.app import app
from jaxadv.cli.options import (
    MOST,
    Data,
    DataDir,
    Effort,
    Epochs,
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
from jaxadv.cli.subject import find_subject


@app.command()
def safety(
    data: Data = "mnist5k",
    data_dir: DataDir = None,
    weights: Weights = None,
    published: Published = None,
    model: ModelName = None,
    epochs: Epochs = None,
    norm: NormName = "l2",
    effort: Effort = "fast",
    each: Annotated[
        int,
        option(
            "--each", help="Images of every class, aimed at every other class.", min=1, max=MOST
        ),
    ] = 3,
    seed: Seed = 0,
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
    check_outputs(json_file, folder=output)
    state = output / "state"
    with plain_messages():
        check_page()
        prepare_jax()
        import jax

        from jaxadv.protocols.class_pairs import class_pairs
        from jaxadv.protocols.portfolios import get_portfolio
        from jaxadv.report import print_study, write_study
        from jaxadv.studies import as_data
        from jaxadv.studies.safety import safety as examine

        get_portfolio(effort, norm, targeted=True)  # refuses unknown names before any work
        if fresh:
            forget(state)
        subject = find_subject(
            data,
            data_dir,
            None,
            weights,
            published,
            model,
            epochs,
            seed,
            lambda name: state / f"{name}.safetensors",
        )
        images = subject.data
        with Bars() as bars:
            pairs = class_pairs(
                subject.model,
                images.images,
                images.labels,
                norm,
                each=each,
                effort=effort,
                key=jax.random.key(seed),
                ids=images.ids,
                lanes=lanes,
                store=state / norm,
                progress=bars.attack,
            )
            if pairs.complete:
                bars.interrupts.check()
        findings = examine(subject.model, images, norm, pairs=pairs)
        about = {
            "model": subject.name,
            "data": images.name,
            "norm": norm,
            "seed": seed,
            "effort": effort,
            "each": each,
        }
        written = {**about, "complete": pairs.complete, **as_data(findings)}
        out = console()
        out.print(f"\n[bold]{subject.name}[/] on {images.name}, seed {seed}\n", highlight=False)
        print_study(findings, out)
        write_json(output / "report.json", written)
        write_json(json_file, written)
        write_study([findings], output / "report.html", f"{subject.name}: {findings.title}", about)
    conclude(out, output, bars.worked, pairs.complete)
