"""`jaxadv evaluate`."""

from pathlib import Path
from typing import Annotated

from jaxadv.cli.app import app
from jaxadv.cli.options import (
    EPSILONS,
    EXAMPLES,
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
    parse_epsilons,
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
def evaluate(
    data: Data = "mnist5k",
    data_dir: DataDir = None,
    weights: Weights = None,
    published: Published = None,
    model: ModelName = None,
    epochs: Epochs = None,
    norm: NormName = "linf",
    epsilon: Annotated[
        list[str] | None,
        option("--epsilon", help="0.1 or 8/255; repeatable, or with commas."),
    ] = None,
    attacks: Annotated[
        str, option("--attacks", help="quick, fast, standard (AutoAttack), plus, rand, strong.")
    ] = "quick",
    examples: Examples = EXAMPLES,
    seed: Seed = 0,
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
    check_outputs(json_file, folder=output)
    state = output / "state"
    store = state / f"evaluate-{norm}"
    with plain_messages():
        check_page()
        prepare_jax()
        import jax

        import jaxadv as ja
        from jaxadv.protocols.cascades import get_cascade
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
            attacks_check(cascade.values(), epsilons),
        )
        images = subject.data
        with Bars() as bars:
            report = ja.evaluate(
                subject.model,
                images.images,
                images.labels,
                norm,
                epsilons,
                attacks,
                key=jax.random.key(seed),
                ids=images.ids,
                lanes=lanes,
                store=store,
                progress=bars.attack,
            )
            if report.complete:
                bars.interrupts.check()
        about = {"model": subject.name, "data": images.name, "attacks": attacks, "seed": seed}
        written = {**about, **as_data(report, subject.total)}
        out = console()
        out.print(f"\n[bold]{subject.name}[/] on {images.name}, seed {seed}\n", highlight=False)
        print_report(written, out)
        write_json(output / "report.json", written)
        write_json(json_file, written)
        write_csv(report, output / "report.csv")
        write_robustbench(
            report, output / "robustbench.json", name=subject.name, dataset=images.name
        )
        write_pages(report, output / "images", images.classes)
        write_html(
            report,
            output / "report.html",
            Page(
                f"How robust is {subject.name} on {images.name}?",
                images.classes,
                about,
                subject.total,
            ),
            model=subject.model,
            pages="images/index.html",
        )
    more = f", report.csv, robustbench.json\nimages: {output / 'images' / 'index.html'}"
    conclude(out, output, bars.worked, report.complete, more)
