"""The options that several commands share, groups of options, and the parsing of their numbers."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from jaxadv.core.parse import parse_number

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

EXAMPLES = 200  # a first run of everything stays well below two minutes on two cores
MODEL, EPOCHS = "lenet", 8  # of the network trained if no model is given
MOST = 2**30 - 1  # largest number that counting options accept
EPSILONS = {  # for digits: from hardly any to nearly all images broken
    "linf": [0.02, 0.05, 0.1, 0.15],
    "l2": [0.5, 1.0, 1.5, 2.0],
    "l1": [2.0, 5.0, 10.0, 15.0],
    "l0": [2.0, 5.0, 10.0, 20.0],
}


def parse_epsilons(texts: list[str], name: str = "--epsilon") -> list[float]:
    """Return the numbers of a repeatable option whose texts may hold commas.

    Args:
        texts: The texts of the option, such as "8/255" or "0.1,0.2".
        name: Name of the option, for error messages.

    Returns:
        The numbers, ascending and without duplicates.

    Raises:
        ValueError: `texts` holds no number, or a text that is not one.

    Example:
        >>> from jaxadv.cli import parse_epsilons
        >>> parse_epsilons(["0.5", "51/255,0.1"])
        [0.1, 0.2, 0.5]
    """
    parts = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    if texts and not parts:
        raise ValueError(f"{name} {' '.join(texts)!r} is empty: pass one like 0.1 or 8/255")
    return sorted({parse_number(part, name) for part in parts})


def option(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, **more)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take groups of options: dataclasses whose annotated fields are the options.

    A parameter whose type is a dataclass is replaced by the options of its fields; its default, or
    else an instance made without arguments, holds theirs. Keyword-only fields stand after the
    command's own options, and before its keyword-only parameters. A field whose annotation has no
    option keeps its default.

    Args:
        command: The function of a command.

    Returns:
        The function with one parameter for each option, as Typer takes it.

    Example:
        >>> from dataclasses import dataclass
        >>> from jaxadv.cli.options import Seed, grouped
        >>> @dataclass
        ... class Draws:
        ...     seed: Seed = 0
        >>> @grouped
        ... def show(draws: Draws, *, fresh: bool = False) -> None:
        ...     print(draws, fresh)
        >>> show(seed=1, fresh=True)
        Draws(seed=1) True
    """
    given = inspect.signature(command).parameters.values()
    kinds: dict[str, Any] = {
        one.name: one.annotation for one in given if dataclasses.is_dataclass(one.annotation)
    }
    defaults = {one.name: one.default for one in given if one.default is not one.empty}
    groups = {name: defaults[name] if name in defaults else kinds[name]() for name in kinds}
    options = {name: _options_of(group) for name, group in groups.items()}
    flat = [
        each
        for one in given
        if one.kind is not one.KEYWORD_ONLY
        for each in options.get(one.name, [one])
        if each.kind is not one.KEYWORD_ONLY
    ]
    flat += [one for each in options.values() for one in each if one.kind is one.KEYWORD_ONLY]
    flat += [one for one in given if one.kind is one.KEYWORD_ONLY]

    def run(**values: Any) -> None:
        for name, group in groups.items():
            own = {one.name: values.pop(one.name) for one in options[name]}
            values[name] = dataclasses.replace(group, **own)
        command(**values)

    functools.update_wrapper(run, command)
    run.__annotations__ = {one.name: one.annotation for one in flat}
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [one.replace(kind=one.KEYWORD_ONLY) for one in flat]
    )
    return run


def _options_of(group: "DataclassInstance") -> list[inspect.Parameter]:
    """Return the options of a group as parameters, whose defaults are the values of the group."""
    hints = get_type_hints(type(group), include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY
            if field.kw_only
            else inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=getattr(group, field.name),
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group)
        if hasattr(hints[field.name], "__metadata__")
    ]


Data = Annotated[
    str, option("--data", help="mnist5k, digits, a set of tfds (cifar10:test[:100]), or a path.")
]
DataDir = Annotated[
    Path | None, option("--data-dir", help="Folder of idx files, or the cache of prepared data.")
]
ModelSpec = Annotated[
    str | None,
    option(
        "--model",
        help="A file (.safetensors, .onnx, .keras, .pt2), a published folder, file.py:name, or the "
        f"name of a network to train here: fc, ... ({MODEL}).",
    ),
]
ModelName = Annotated[str, option("--model", help="The network to train: fc, lenet, ...")]
Bounds = Annotated[
    str | None, option("--bounds", help="Least and largest value of an image (0,1).")
]
Mean = Annotated[
    str | None, option("--mean", help="Subtracted before your model, one number a channel: 0.5,...")
]
Std = Annotated[str | None, option("--std", help="What it is divided by then, one a channel.")]
LogitsOf = Annotated[
    str | None, option("--logits-of", help="Key or index of the logits in your model's output.")
]
Epochs = Annotated[
    int | None, option("--epochs", help=f"Epochs of its training ({EPOCHS}).", min=1, max=MOST)
]
NormName = Annotated[str, option("--norm", help="linf, l2, l1 or l0.")]
Examples = Annotated[int, option("--examples", help="How many test images, evenly chosen.", min=1)]
Effort = Annotated[
    str, option("--effort", help="fast, standard or strong: 400, 2,000, 40,000 passes.")
]
Seed = Annotated[int, option("--seed", help="Seed of training and attacks.", min=0, max=2**63 - 1)]
Output = Annotated[Path, option("--output", help="Folder of reports and of what is kept.")]
Json = Annotated[Path | None, option("--json", help="Write what is printed as data, too.")]
Fresh = Annotated[bool, option("--fresh", help="Start over, use nothing kept.")]
Lanes = Annotated[
    int | None, option("--lanes", help="Images in flight on each device.", min=1, max=MOST)
]


@dataclasses.dataclass(frozen=True)
class Proving:
    """The options that say how far a proof may go.

    Attributes:
        effort: "fast", "standard" or "strong".
        budget: The most subproblems an image, or None for the default.
        seconds: The most seconds of all images together, or None.
        arithmetic: "float32" or "real".
        attacks: The cascade that runs first.
    """

    effort: Annotated[
        str,
        option("--effort", help="fast (CROWN), standard (alpha-CROWN), strong (branch and bound)."),
    ] = "standard"
    budget: Annotated[
        int | None, option("--budget", help="Most subproblems an image (2,000).", min=1, max=MOST)
    ] = None
    seconds: Annotated[
        float | None, option("--seconds", help="Most seconds of all images together.")
    ] = None
    arithmetic: Annotated[
        str, option("--arithmetic", help="float32, or real: for exact arithmetic.")
    ] = "float32"
    attacks: Annotated[
        str, option("--attacks", help="The cascade that runs first: quick, fast, standard, strong.")
    ] = "quick"

    def __post_init__(self) -> None:
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"--seconds {self.seconds:g}: pass a number above 0")
