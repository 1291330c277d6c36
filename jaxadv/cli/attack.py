"""`jaxadv attack` and `jaxadv attacks`."""

import io
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxadv.cli.app import INTERRUPTED, app, say
from jaxadv.cli.options import (
    EXAMPLES,
    MOST,
    Json,
    Lanes,
    Output,
    grouped,
    option,
    parse_number,
)
from jaxadv.cli.progress import Bars
from jaxadv.cli.run import command
from jaxadv.cli.setting import check_outputs, console, write_json
from jaxadv.cli.subject import Subject, check_attack, goal_of

if TYPE_CHECKING:
    import numpy as np

    from jaxadv.core.attack import Attack
    from jaxadv.core.result import Result


@app.command()
@grouped
def attack(
    name: Annotated[str, typer.Argument(metavar="ATTACK", help="See `jaxadv attacks`.")],
    subject: Subject = Subject(examples=EXAMPLES),
    norm: Annotated[str | None, option("--norm", help="linf, l2, l1 or l0.")] = None,
    epsilon: Annotated[str | None, option("--epsilon", help="The radius: 0.1 or 8/255.")] = None,
    steps: Annotated[int | None, option("--steps", help="Gradient steps.", min=1, max=MOST)] = None,
    step_size: Annotated[
        str | None, option("--step-size", help="Step, as a fraction of epsilon.")
    ] = None,
    loss: Annotated[
        str | None, option("--loss", help="cross_entropy, margin, probability_margin or dlr.")
    ] = None,
    restarts: Annotated[
        int | None, option("--restarts", help="Independent starts.", min=1, max=MOST)
    ] = None,
    settings: Annotated[
        list[str] | None, option("--set", help="Any other setting: rotation=15. Repeatable.")
    ] = None,
    targeted: Annotated[bool, option("--targeted", help="Towards class label + 1.")] = False,
    *,
    output: Output = Path("jaxadv-results"),
    save: Annotated[Path | None, option("--save", help="Save the images as .npz.")] = None,
    json_file: Json = None,
    lanes: Lanes = None,
) -> None:
    """Run one attack and print its success rate, distances and passes."""
    radius = None if epsilon is None else parse_number(epsilon)
    options = {
        "norm": norm,
        "steps": steps,
        "loss": loss,
        "restarts": restarts,
        "step_size": None if step_size is None else parse_number(step_size, "--step-size"),
    }
    wanted = add_settings({k: v for k, v in options.items() if v is not None}, settings or [])
    folder = output if subject.is_trained_here else None
    with command(folder, json_file, save, pages=False) as run:
        import jaxadv as ja
        from jaxadv.attacks import build_attack

        chosen = build_attack(name, wanted)
        if radius is None and chosen.needs_epsilon:
            raise ValueError(f"{chosen.name} needs --epsilon, such as 0.1 or 8/255")
        loaded = run.load(subject, check_attack(chosen, radius, targeted))
        images, labels = loaded.data.images, loaded.data.labels
        with Bars() as bars:
            result = ja.run(
                chosen,
                loaded.model,
                images,
                goal_of(loaded.data, targeted),
                radius,
                key=loaded.key,
                ids=loaded.data.ids,
                lanes=lanes,
                progress=lambda *now: bars.attack(chosen.name, *now),
            )
    about = {**loaded.about, "targeted": targeted}
    data = {**about, **attack_data(chosen, result, radius, labels)}
    _print_attack(data)
    write_json(json_file, data)
    if save is not None:
        _save_images(save, result, images, labels)
        print(f"images: {save}")
    if not result.status.all():  # NOT_RUN is 0
        say("interrupted: the images not reached are marked NOT_RUN")
        sys.exit(INTERRUPTED)


def add_settings(options: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Return the settings of the options and of --set; ValueError if one is given twice."""
    settings = dict(options)
    for name, value in map(parse_setting, texts):
        if name in settings:
            raise ValueError(f"--set {name}={value}: {name} is given twice; pass it once")
        settings[name] = value
    return settings


def parse_setting(text: str) -> tuple[str, int | float | str]:
    """Parse NAME=VALUE into a name and a number, a bool or a word.

    Args:
        text: The text of a --set option.

    Returns:
        The name, and the value as int, float, bool or str.

    Raises:
        ValueError: `text` lacks a name, "=" or a value, or the value is NaN.

    Example:
        >>> from jaxadv.cli.attack import parse_setting
        >>> parse_setting("draws=10"), parse_setting("bound=1/20"), parse_setting("space=rgb")
        (('draws', 10), ('bound', 0.05), ('space', 'rgb'))
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise ValueError(f"--set {text!r} is no setting: pass one like rotation=15")
    if value.lower() == "nan":
        raise ValueError(f"--set {text!r} is no setting: pass a number, or a word")
    for parse in (int, float, parse_number):
        with suppress(ValueError):
            return name, parse(value)
    return name, {"true": True, "false": False}.get(value, value)


def attack_data(
    attack: "Attack", result: "Result", epsilon: float | None, labels: "np.ndarray"
) -> dict[str, Any]:
    """Return what `jaxadv attack` prints, and the outcome for each image, as JSON data."""
    import numpy as np

    from jaxadv.core.result import Status
    from jaxadv.report.table import settings_of

    ran = result.status != Status.NOT_RUN
    attacked = ran & (result.status != Status.MISCLASSIFIED)
    success = attacked & result.success

    def mean(values: np.ndarray) -> float:
        return float(values[attacked].mean()) if attacked.any() else 0.0

    return {
        "attack": attack.name,
        "settings": settings_of(attack),
        "norm": attack.norm,
        "bounded_by": attack.bounded_by,
        "epsilon": epsilon,
        "examples": len(labels),
        "attacked": int(attacked.sum()),
        "success": float(success.sum() / max(attacked.sum(), 1)),
        "median_distance": float(np.median(result.distance[success])) if success.any() else None,
        "forward": mean(result.forward),
        "backward": mean(result.backward),
        "seconds": result.cost.seconds,
        "statuses": {
            s.name: int((result.status == s).sum()) for s in Status if (result.status == s).any()
        },
        "images": [
            {
                "id": int(result.ids[i]),
                "label": int(labels[i]),
                "status": Status(result.status[i]).name,
                "success": bool(result.success[i]),
                "distance": float(result.distance[i]) if result.success[i] else None,
                "forward": int(result.forward[i]),
                "backward": int(result.backward[i]),
            }
            for i in range(len(labels))
        ],
    }


def _print_attack(data: Mapping[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    from jaxadv.report.table import epsilon_text, number_text

    at = "" if data["epsilon"] is None else f", ε = {epsilon_text(data['epsilon'])}"
    kind = "targeted" if data["targeted"] else "untargeted"
    ball = f"by {data['bounded_by']}" if data["bounded_by"] else f"{data['norm']}{at}"
    table = Table(
        title=f"{data['attack']} ({ball}, {kind}) against {data['model']} on {data['data']}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_header=False,
    )
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    statuses = ", ".join(f"{count} {name}" for name, count in data["statuses"].items())
    for row in (
        ("images attacked", f"{data['attacked']:,} of {data['examples']:,}"),
        ("success", f"[bold]{100 * data['success']:.1f} %[/]"),
        (f"median {data['norm']} distance of successes", number_text(data["median_distance"])),
        ("forward passes per image", number_text(data["forward"])),
        ("backward passes per image", number_text(data["backward"])),
        ("seconds", f"{data['seconds']:.1f}"),
        ("statuses", statuses),
    ):
        table.add_row(*row)
    console().print(table)


def _save_images(
    path: Path, result: "Result", originals: "np.ndarray", labels: "np.ndarray"
) -> None:
    import numpy as np

    from jaxadv.core.files import write_atomically

    out = io.BytesIO()
    fields = {k: v for k, v in result._asdict().items() if k != "cost"}
    np.savez_compressed(out, originals=originals, labels=labels, **fields)
    write_atomically(path, out.getvalue())


@app.command()
def attacks(
    markdown: Annotated[
        Path | None, option("--markdown", help="Write a reference page for each into this folder.")
    ] = None,
    json_file: Json = None,
) -> None:
    """List the attacks, one line each."""
    check_outputs(json_file, folder=markdown)
    from jaxadv.report.reference import grouped_attacks, protocols, summary, write_reference

    sections = {
        f"{heading} (jaxadv attack NAME)": {kind.__name__: summary(kind) for kind in kinds}
        for heading, kinds in grouped_attacks().items()
    } | protocols()
    if markdown is None:
        print("\n\n".join(_as_text(heading, lines) for heading, lines in sections.items()))
    else:
        print(f"{len(write_reference(markdown))} pages in {markdown}")
    write_json(
        json_file, {name: line for lines in sections.values() for name, line in lines.items()}
    )


def _as_text(heading: str, lines: Mapping[str, str]) -> str:
    """Return a section of the list of attacks: the heading, and a line for each entry."""
    width = max(map(len, lines))
    return "\n".join([heading, *(f"  {name:<{width}}  {line}" for name, line in lines.items())])
