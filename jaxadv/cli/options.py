"""The options that several commands share, and the parsing of their numbers."""

from pathlib import Path
from typing import Annotated, Any

import typer

from jaxadv.core.parse import parse_number

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
    return typer.Option(*names, help=help, show_default=more.pop("show_default", True), **more)


Data = Annotated[
    str, option("--data", help="mnist5k, digits, a set of tfds (cifar10:test[:100]), or a path.")
]
DataDir = Annotated[
    Path | None, option("--data-dir", help="Folder of idx files, or the cache of prepared data.")
]
Weights = Annotated[
    Path | None, option("--weights", help="A .safetensors file that `jaxadv train` wrote.")
]
Published = Annotated[
    Path | None, option("--published", help="Folder of a published network (weights.npz).")
]
ModelName = Annotated[
    str | None,
    option("--model", help=f"The network to train here, if none is given: fc, ... ({MODEL})."),
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
