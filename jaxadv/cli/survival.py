"""`jaxadv survival`."""

from pathlib import Path
from typing import Annotated

from jaxadv.cli.app import app
from jaxadv.cli.options import (
    Data,
    DataDir,
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
from jaxadv.cli.subject import attacks_check, find_subject


@app.command()
def survival(
    data: Data = "mnist5k",
    data_dir: DataDir = None,
    weights: Weights = None,
    published: Published = None,
    model: ModelName = None,
    epochs: Epochs = None,
    attack: Annotated[
        str, option("--attack", help="Attacks, with commas: see `jaxadv attacks`.")
    ] = "PGD,DDN",
    epsilon: Annotated[
        str, option("--epsilon", help="For attacks that take one: 0.1 or 8/255.")
    ] = "0.1",
    transform: Annotated[
        str | None, option("--transform", help="Kinds, with commas: JPEG, blur, noise, ... (all).")
    ] = None,
    examples: Examples = 100,
    seed: Seed = 0,
    output: Output = Path("jaxadv-results/survival"),
    json_file: Json = None,
    lanes: Lanes = None,
    fresh: Fresh = False,
) -> None:
    """Measure whether adversarial images survive JPEG, blur, noise, light, scaling and cropping.

    Also measures clean accuracy, and the same attack made through each transform. Writes
    OUTPUT/report.html and report.json. After Ctrl-C, the same command continues where it stopped.
    """
    radius = parse_number(epsilon)
    check_outputs(json_file, folder=output)
    state = output / "state"
    with plain_messages():
        check_page()
        prepare_jax()
        import jax

        from jaxadv.attacks import build_attack
        from jaxadv.protocols.survival import USUAL
        from jaxadv.protocols.survival import survival as examine
        from jaxadv.report import print_study, write_study
        from jaxadv.studies import as_data
        from jaxadv.studies.survival import survival_findings

        attacks = {name: build_attack(name, {}) for name in attack.split(",")}
        kinds = USUAL if transform is None else _chosen(transform.split(","), USUAL)
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
            attacks_check(attacks.values(), radius),
        )
        images = subject.data
        with Bars() as bars:

            def progress(stage: str, done: int, total: int, _: int) -> None:
                for other in set(bars.tasks) - {stage}:
                    bars.drop(other)
                bars.show(stage, done, total, "")
                bars.interrupts.check()

            found = examine(
                subject.model,
                images.images,
                images.labels,
                attacks,
                radius,
                transforms=kinds,
                key=jax.random.key(seed),
                ids=images.ids,
                lanes=lanes,
                store=state / subject.name / "runs",
                progress=progress,
            )
        findings = survival_findings(found, images.images, radius, subject.model.bounds)
        about = {
            "model": subject.name,
            "data": images.name,
            "seed": seed,
            "epsilon": radius,
            "examples": len(images.labels),
        }
        written = {**about, **as_data(findings)}
        out = console()
        out.print(f"\n[bold]{subject.name}[/] on {images.name}, seed {seed}\n", highlight=False)
        print_study([findings], out)
        write_json(output / "report.json", written)
        write_json(json_file, written)
        title = f"{subject.name}: {findings.title}"
        write_study([findings], output / "report.html", title, about)
    conclude(out, output, worked=True, complete=True)


def _chosen(names: list[str], known: dict) -> dict:
    """Return the kinds that begin with one of the names; ValueError if a name matches none."""
    wanted = [name.strip().lower() for name in names]
    for name in wanted:
        if not name or not any(kind.lower().startswith(name) for kind in known):
            kinds = ", ".join(kind.split(",")[0] for kind in known)
            raise ValueError(f"--transform {name!r} is not known: pass some of {kinds}")
    return {kind: each for kind, each in known.items() if kind.lower().startswith(tuple(wanted))}
