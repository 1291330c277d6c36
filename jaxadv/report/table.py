"""A `Report` as plain data, and as tables on the console."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxadv.core.bounds import hull
from jaxadv.core.confidence import wilson
from jaxadv.core.result import Status

if TYPE_CHECKING:  # evaluate imports the whole engine
    from rich.console import Console
    from rich.table import Table

    from jaxadv.core.attack import Attack
    from jaxadv.core.typing import Numbers
    from jaxadv.protocols.evaluation import Report, Stage
    from jaxadv.protocols.prover import Prover

NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}
MISCLASSIFIED = "misclassified"
CONTROL = "noise"  # the stage that no attack may be weaker than
MEASURES = {  # of `ja.visibility`
    "distortion": "distortion",
    "ssim": "SSIM",
    "ciede2000": "CIEDE2000",
    "activations": "activations",
}
EXPLAINED = {
    "distortion": "Distortion is the root mean square of the change, in a range of 1.",
    "ssim": "SSIM is the structural similarity, 1 for equal images.",
    "ciede2000": "CIEDE2000 is the mean difference of colours; about 1 can just be seen.",
    "activations": "Activations are compared in the layers of this network, which the images are "
    "made to fool: the distance is not the published LPIPS.",
}


def epsilon_text(epsilon: "Numbers") -> str:
    """Return an epsilon as text.

    Args:
        epsilon: The epsilon, or one for each image.

    Returns:
        At most four digits, or a fraction of 255 where it is one; of several, the least and the
        largest.

    Example:
        >>> from jaxadv.report.table import epsilon_text
        >>> epsilon_text(0.1), epsilon_text(8 / 255), epsilon_text([0.2, 0.05, 0.1])
        ('0.1', '8/255', '0.05 to 0.2')
    """
    if np.ndim(epsilon):
        least, largest = epsilon_text(np.min(epsilon)), epsilon_text(np.max(epsilon))
        return least if least == largest else f"{least} to {largest}"
    epsilon = float(epsilon)  # type: ignore[arg-type]
    text, levels = f"{epsilon:.4g}", epsilon * 255
    whole = round(levels)
    if not math.isclose(float(text), epsilon) and whole and math.isclose(levels, whole):
        return f"{whole}/255"
    return text


def settings_of(attack: "Attack | Prover") -> dict[str, Any]:
    """Return the name and all settings of an attack, or of proofs, as values for JSON."""
    from jaxadv.core.attack import Attack

    settings: dict[str, Any] = {"name": attack.name}
    for field in dataclasses.fields(attack):  # type: ignore[arg-type]
        value = getattr(attack, field.name)
        if isinstance(value, Attack):
            value = settings_of(value)
        elif isinstance(value, np.floating):
            value = float(str(value))  # 0.1, not its float32 rounding
        elif not isinstance(value, str | int | float | bool | None):
            value = getattr(value, "__name__", None) or repr(value)
        settings[field.name] = value
    return settings


def as_data(report: "Report", total: int | None = None) -> dict[str, Any]:
    """Return all that is printed of a report, and the result of each image, for `json.dumps`.

    Accuracies are fractions of all images; intervals are Wilson's, 95 %; null stands for a distance
    where no adversarial image was found. `broken_by` has for each epsilon the attack's name,
    "misclassified" or null (survived); `margin` is the smallest margin under any attack (null: none
    was run there); `epsilons` are numbers, or with a radius for each image among them, a list of N
    each; `forward` and `backward` are an image's passes in all attacks together;
    `robust_bounds` are robust accuracy from both sides, proved and under attack, for each epsilon,
    and `proved` says of each image which epsilons (null: no proofs were asked for).
    `visibility` has for each epsilon the number of images broken by attacks and the medians of the
    measures of `ja.visibility` over them (null: not measured), and for each image its own. For a
    targeted goal, `target` is each image's, "misclassified" means classified as that from the
    start, and `robust_accuracy` is the fraction that no attack turned into its target.

    Args:
        report: The report.
        total: Number of images of the data set, if the report is about a sample of them.

    Returns:
        The data.
    """
    count = len(report.labels)
    forward, backward = report.passes
    margin = np.full((len(report.epsilons), count), np.inf)
    for stage in report.stages:
        if stage.attack.needs_epsilon:
            np.fmin.at(margin, (stage.level, stage.source), stage.result.margin)
    names = [stage.name for stage in report.stages]

    def who(number: int) -> str | None:
        return names[number] if number >= 0 else MISCLASSIFIED if number == -2 else None

    right, attacked = report.predictions == report.labels, report.attacked
    measures = {} if report.visibility is None else report.visibility._asdict()
    return {
        "norm": report.norm,
        "epsilons": report.epsilons.tolist(),
        "bounds": list(hull(report.bounds)),
        "examples": count,
        "total": count if total is None else int(total),
        "complete": report.complete,
        "targeted": report.targets is not None,
        "clean_accuracy": report.clean_accuracy,
        "clean_interval": wilson(right.sum(), count),
        "false_rejections": report.false_rejections,
        "attacked": float(attacked.mean()),
        "robust_accuracy": report.robust_accuracy.tolist(),
        "robust_interval": [wilson(s * count, count) for s in report.robust_accuracy],
        "noise_accuracy": _list(report.noise_accuracy()),
        "robust_bounds": _list(report.robust_bounds),
        "certified_accuracy": _list(report.certified_curve(report.epsilons)),
        "median_distance": _finite(
            np.median(report.distance[attacked]) if attacked.any() else np.inf
        ),
        "visibility": _visibility_data(report),
        "attacks": [_stage_data(report, number) for number in range(len(names))],
        "messages": list(report.messages),
        "images": [
            {
                "id": int(report.ids[i]),
                "label": int(report.labels[i]),
                "target": None if report.targets is None else int(report.targets[i]),
                "prediction": int(report.predictions[i]),
                "broken_by": [who(int(number)) for number in report.broken_by[:, i]],
                "distance": _finite(report.distance[i]),
                "proved": None if report.proved is None else report.proved[:, i].tolist(),
                "certified": None if report.certified is None else _finite(report.certified[i]),
                "margin": [_finite(value) for value in margin[:, i]],
                "forward": int(forward[i]),
                "backward": int(backward[i]),
                "visibility": None
                if report.visibility is None
                else [
                    {name: _finite(values[level, i]) for name, values in measures.items()}
                    for level in range(len(report.epsilons))
                ],
            }
            for i in range(count)
        ],
    }


def _visibility_data(report: "Report") -> list[dict[str, Any]] | None:
    """Return the number of images broken by attacks, and medians over them, for each epsilon."""
    if report.visibility is None:
        return None
    return [
        {
            "images": int(broken.sum()),
            **{
                name: _finite(np.median(values[level, broken])) if broken.any() else None
                for name, values in report.visibility._asdict().items()
            },
        }
        for level, broken in enumerate(report.broken_by >= 0)
    ]


def _stage_data(report: "Report", number: int) -> dict[str, Any]:
    stage: Stage = report.stages[number]
    result = stage.result
    distances = result.distance[result.success]
    return {
        "name": stage.name,
        "control": number == 0 and stage.name == CONTROL,
        "settings": settings_of(stage.attack),
        **report.cost(number),
        "successes": int(result.success.sum()),
        "median_distance": _finite(np.median(distances) if len(distances) else np.inf),
        "statuses": {
            s.name: int((result.status == s).sum()) for s in Status if (result.status == s).any()
        },
        "rejected": result.rejected,
        "accuracy_left": report.left_after(number).tolist(),
        "broken": (report.broken_by == number).mean(1).tolist(),
    }


def _finite(value: float | np.ndarray | np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None


def _list(values: np.ndarray | None) -> list[Any] | None:
    return None if values is None else values.tolist()


def percent(fraction: float) -> str:
    """Return a fraction in per cent.

    Args:
        fraction: The fraction.

    Returns:
        The percentage with one decimal.

    Example:
        >>> from jaxadv.report.table import percent
        >>> percent(0.875)
        '87.5'
    """
    return f"{100 * fraction:.1f}"


def number_text(value: float | None) -> str:
    """Return a distance or a count in at most four digits; a dash for None."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def refusals(data: Mapping[str, Any]) -> list[str]:
    """Return the results that verification rejected, a line for each attack."""
    return [
        f"{attack['name']}: "
        + ", ".join(f"{count} {reason}" for reason, count in attack["rejected"].items())
        for attack in data["attacks"]
        if attack["rejected"]
    ]


def print_report(
    report: "Report | Mapping[str, Any]", console: "Console | None" = None, total: int | None = None
) -> None:
    """Print a `Report` (or its `as_data`) as tables: accuracy by attack and epsilon, and cost.

    Args:
        report: The report.
        console: Console of rich (None: the standard output).
        total: Number of images of the data set; accuracies of a sample come with a 95 % interval.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> from jaxadv.report import print_report
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, 2 * jnp.eye(4))
        >>> images, labels = jnp.eye(4).reshape(4, 2, 2, 1), jnp.arange(4)
        >>> attacks = {"FGSM": ja.FGSM()}
        >>> report = ja.evaluate(model, images, labels, attacks=attacks, distances=False)
        >>> print_report(report)  # doctest: +SKIP
    """
    from rich.console import Console

    console = console or Console()
    data = report if isinstance(report, Mapping) else as_data(report, total)
    console.print(_accuracy_table(data))
    if data["examples"] < data["total"]:
        console.print(
            f"a sample of {data['total']:,} images; clean accuracy "
            f"{percent(data['clean_accuracy'])} ({interval_text(data['clean_interval'])})\n",
            highlight=False,
        )
    if data["false_rejections"] is not None:
        console.print(
            "adversarial: misclassified and accepted; clean images refused, which count as "
            f"misclassified: {percent(data['false_rejections'])}\n",
            highlight=False,
        )
    if any(level["images"] for level in data.get("visibility") or ()):
        console.print(_visibility_table(data))
        console.print(measures_text(data) + "\n", highlight=False)
    console.print(_cost_table(data))
    console.print(
        f"median smallest distance ({data['norm']}): "
        f"[bold]{number_text(data['median_distance'])}[/], over images {attacked_text(data)}"
    )
    if data.get("targeted"):
        console.print(
            "robust accuracy: images that no attack turned into their target; clean accuracy "
            f"{percent(data['clean_accuracy'])}",
            highlight=False,
        )
    if data["robust_bounds"] is not None:
        console.print(
            "the true robust accuracy lies between proved and robust accuracy", highlight=False
        )
    for message in data["messages"]:
        console.print(f"[yellow]check:[/] {message}", highlight=False)
    for line in refusals(data):
        console.print(f"[yellow]refused by verification:[/] {line}", highlight=False)
    if not data["complete"]:
        console.print("[bold yellow]incomplete: the evaluation was interrupted[/]")


def attacked_text(data: Mapping[str, Any]) -> str:
    """Return which images were attacked."""
    return "not in their target class" if data.get("targeted") else "classified right"


def grid(title: str, first: str, columns: Sequence[str]) -> "Table":
    """Return an empty table for the console: names on the left, numbers on the right."""
    from rich.text import Text

    from jaxadv.report.fitted import Fitted

    return Fitted(first, *columns, title=Text(title, "bold"))


def _accuracy_table(data: Mapping[str, Any]) -> "Table":
    count, norm = data["examples"], data["norm"]
    what = "Images not in their target class in %," if data.get("targeted") else "Accuracy in %"
    table = grid(
        f"{what} on {count:,} images, and what each attack broke ({norm})",
        "after",
        [f"ε = {epsilon_text(e)}" for e in data["epsilons"]],
    )
    wide = len(data["epsilons"])
    table.add_row("no attack", *[percent(data.get("attacked", data["clean_accuracy"]))] * wide)
    for attack in data["attacks"]:
        cells = [
            f"{percent(left)} [dim]{'-' + percent(broken) if broken else '·':>6}[/]"
            for left, broken in zip(attack["accuracy_left"], attack["broken"], strict=True)
        ]
        control = attack["control"]
        name = f"{attack['name']} (control)" if control else attack["name"]
        table.add_row(name, *cells, style="dim" if control else None)
    table.add_section()
    robust = [f"[bold]{percent(rate)}[/]" + " " * 7 for rate in data["robust_accuracy"]]
    table.add_row("[bold]robust accuracy[/]", *robust)
    if data["robust_bounds"] is not None:
        table.add_row("proved", *[percent(low) + " " * 7 for low, _ in data["robust_bounds"]])
    elif data["certified_accuracy"] is not None:
        table.add_row("certified", *[percent(s) + " " * 7 for s in data["certified_accuracy"]])
    if count < data["total"]:
        table.add_row("95 % interval", *map(interval_text, data["robust_interval"]), style="dim")
    return table


def shown_measures(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the measures of visibility that a report has, and what their columns are called."""
    levels = data.get("visibility") or ()
    return {
        name: title
        for name, title in MEASURES.items()
        if any(level[name] is not None for level in levels)
    }


def measures_text(data: Mapping[str, Any]) -> str:
    """Return what the measures of visibility that a report has are."""
    return " ".join(EXPLAINED[name] for name in shown_measures(data))


def visibility_text(report: "Report", level: int, row: int) -> str:
    """Return how visible the adversarial image of one row is, in words; "" if not measured."""
    measures = {} if report.visibility is None else report.visibility._asdict()
    return ", ".join(
        f"{MEASURES[name]} {number_text(values[level, row])}"
        for name, values in measures.items()
        if np.isfinite(values[level, row])
    )


def _visibility_table(data: Mapping[str, Any]) -> "Table":
    shown = shown_measures(data)
    table = grid(
        "How visible the adversarial images are (medians over those that attacks found)",
        "",
        ["images", *shown.values()],
    )
    for epsilon, level in zip(data["epsilons"], data["visibility"], strict=True):
        cells = [number_text(level[name]) for name in shown]
        table.add_row(f"ε = {epsilon_text(epsilon)}", f"{level['images']:,}", *cells)
    return table


def interval_text(interval: Sequence[float]) -> str:
    """Return two fractions as a range in per cent."""
    low, high = interval
    return f"{percent(low)}-{percent(high)}"


def _cost_table(data: Mapping[str, Any]) -> "Table":
    table = grid(
        "Cost (one run is one image at one epsilon; passes are means per run)",
        "attack",
        ["runs", "broke", "median distance", "forward", "backward", "s"],
    )
    for attack in data["attacks"]:
        table.add_row(
            attack["name"],
            f"{attack['rows']:,}",
            f"{attack['successes']:,}",
            number_text(attack["median_distance"]),
            number_text(attack["forward"]),
            number_text(attack["backward"]),
            f"{attack['seconds']:.1f}",
        )
    return table
