"""`jaxadv survival`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from jaxadv.cli.app import app
from jaxadv.cli.options import Fresh, Json, Lanes, Output, grouped, option, parse_number
from jaxadv.cli.progress import Bars
from jaxadv.cli.run import command
from jaxadv.cli.subject import Subject, check_attack

if TYPE_CHECKING:
    from jaxadv.core.transforms import Transform


@app.command()
@grouped
def survival(
    subject: Subject,
    attack: Annotated[
        str, option("--attack", help="Attacks, with commas: see `jaxadv attacks`.")
    ] = "PGD,DDN",
    epsilon: Annotated[
        str, option("--epsilon", help="For attacks that take one: 0.1 or 8/255.")
    ] = "0.1",
    transform: Annotated[
        str | None, option("--transform", help="Kinds, with commas: JPEG, blur, noise, ... (all).")
    ] = None,
    *,
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
    with command(output, json_file, fresh=fresh) as run:
        from jaxadv.attacks import build_attack
        from jaxadv.core.bounds import hull
        from jaxadv.protocols.survival import USUAL
        from jaxadv.protocols.survival import survival as examine
        from jaxadv.report import print_study, write_study
        from jaxadv.studies import as_data
        from jaxadv.studies.survival import survival_findings

        attacks = {name: build_attack(name, {}) for name in attack.split(",")}
        kinds = USUAL if transform is None else _chosen(transform.split(","), USUAL)
        checks = [
            check_attack(each, radius if each.needs_epsilon else None) for each in attacks.values()
        ]
        loaded = run.load(subject, *checks)
        images = loaded.data
        with Bars() as bars:
            outcomes = examine(
                loaded.model,
                images.images,
                images.labels,
                attacks,
                radius,
                transforms=kinds,
                key=loaded.key,
                ids=images.ids,
                lanes=lanes,
                store=run.state / loaded.name / "runs",
                progress=lambda stage, done, total, _: bars.show_alone(stage, done, total),
            )
        findings = survival_findings(outcomes, images.images, radius, hull(loaded.model.bounds))
        about = {**loaded.about, "epsilon": radius, "examples": len(images.labels)}
        run.print_title(loaded)
        print_study([findings], run.console)
        run.write({**about, **as_data(findings)})
        write_study([findings], output / "report.html", f"{loaded.name}: {findings.title}", about)
        run.conclude(None)


def _chosen(
    names: list[str], known: "Mapping[str, dict[float, Transform]]"
) -> "dict[str, dict[float, Transform]]":
    """Return the kinds that begin with one of the names; ValueError if a name matches none."""
    wanted = [name.strip().lower() for name in names]
    for name in wanted:
        if not name or not any(kind.lower().startswith(name) for kind in known):
            kinds = ", ".join(kind.split(",")[0] for kind in known)
            raise ValueError(f"--transform {name!r} is not known: pass some of {kinds}")
    return {kind: each for kind, each in known.items() if kind.lower().startswith(tuple(wanted))}
