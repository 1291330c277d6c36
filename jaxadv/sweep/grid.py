"""Reads and checks the sweep file: a grid of models, data, attacks, norms, epsilons and seeds.

Settings that are lists are axes of the grid. Every mistake is one error that names the line.
"""

import itertools
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from jaxadv.core.norms import NORMS
from jaxadv.core.parse import parse_number
from jaxadv.core.python_objects import names_object
from jaxadv.models.definitions import get_definition
from jaxadv.models.named import name_of

Number = float | str  # a string may be a quotient such as "8/255"
SEEDS = 2**32  # `Work` holds them in 32 bits


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataEntry(_Strict):
    """One `[[data]]` entry of a sweep file.

    Attributes:
        name: Name as for `ja.load_data` ("cifar10:test[:100]"), or that of a data set handed in.
        data_dir: Folder of the data, or None.
        examples: Number of images, or None for the grid's.
    """

    name: str
    data_dir: Path | None = None
    examples: Annotated[int, Field(ge=1)] | None = None


class ModelEntry(_Strict):
    """One `[[models]]` entry of a sweep file: one of train, load and given.

    Attributes:
        train: Name of a definition that is trained, and kept in the store.
        epochs: Number of epochs of that training.
        train_seed: Seed of that training.
        load: A model as `ja.load_model` takes it: a file, a folder, "file.py:name", ...
        bounds: Least and largest value of an image, for `load`.
        mean: One number a channel that is subtracted before the model, for `load`.
        std: One number a channel by which it is divided then, for `load`.
        output: Key or index of the logits in the model's output, for `load`.
        given: Name of a model handed in.
        name: Name of the model in results, or None.
        data: Names of the data sets that the model is attacked on, or None for all.
        dtype: "bfloat16" searches in half precision, and the result is judged in float32.
    """

    train: str | None = None
    epochs: Annotated[int, Field(ge=1)] = 8
    train_seed: Annotated[int, Field(ge=0, lt=SEEDS)] = 0
    load: str | None = None
    bounds: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    output: str | int | None = None
    given: str | None = None
    name: str | None = None
    data: tuple[str, ...] | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _one(self) -> "ModelEntry":
        ways = ("train", "load", "given")
        if sum(getattr(self, way) is not None for way in ways) != 1:
            raise ValueError(f"pass one of {', '.join(ways)}")
        for name, value in self.form.items():
            if self.load is None and value is not None:
                raise ValueError(f"{name} is for load: leave it out")
        return self

    @property
    def form(self) -> dict[str, Any]:
        """What the entry says about a model that exists: arguments of `load_model`."""
        return {name: getattr(self, name) for name in ("bounds", "mean", "std", "output")}

    @property
    def title(self) -> str:
        """Name of the model in results."""
        return self.name or self.train or self.given or name_of(str(self.load))


class AttackEntry(BaseModel):
    """One `[[attacks]]` entry of a sweep file; further keys are settings of the attack.

    Attributes:
        name: An attack of the registry, a cascade ("standard", "fast", ...) or "minimal_distance".
        norm: Norm, or several norms as an axis.
        epsilons: Epsilons of this attack, or None for those of the norm.
        goal: "untargeted", or "next" for class label + 1.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    norm: str | tuple[str, ...] = "linf"
    epsilons: tuple[Number, ...] | None = None
    goal: Literal["untargeted", "next"] = "untargeted"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the attack; lists are axes of the grid."""
        return dict(self.model_extra or {})


class Grid(_Strict):
    """The contents of a sweep file.

    Attributes:
        seeds: Seeds of the attacks.
        examples: Number of images of each data set, or None for all.
        epsilons: Epsilons by norm.
        images: Adversarial images that are kept: "none", "float32" (exact) or "uint8" (rounded to 8
            bits, and judged again).
        shard: Rows in a file of the store.
        lanes: Number of lanes on each device, or None to choose it.
        data: The `[[data]]` entries.
        models: The `[[models]]` entries.
        attacks: The `[[attacks]]` entries.
    """

    seeds: tuple[Annotated[int, Field(ge=0, lt=SEEDS)], ...] = (0,)
    examples: Annotated[int, Field(ge=1)] | None = None
    epsilons: dict[str, tuple[Number, ...]] = {}
    images: Literal["none", "float32", "uint8"] = "float32"
    shard: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    lanes: Annotated[int, Field(ge=1)] | None = None
    data: Annotated[tuple[DataEntry, ...], Field(min_length=1)]
    models: Annotated[tuple[ModelEntry, ...], Field(min_length=1)]
    attacks: Annotated[tuple[AttackEntry, ...], Field(min_length=1)]


class GridError(ValueError):
    """Error for a mistake in a sweep file, with its line."""


def read_grid(path: str | Path) -> Grid:
    """Read a sweep file (TOML).

    Args:
        path: The file; paths in it are relative to its folder.

    Returns:
        The grid that the file describes.

    Raises:
        FileNotFoundError: There is no such file.
        GridError: The file has a mistake; the message names the line of the first. It is a
            ValueError.

    Example:
        >>> import pathlib, tempfile
        >>> from jaxadv.sweep import read_grid
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "sweep.toml"
        >>> _ = path.write_text('''
        ... epsilons = {linf = [0.1, "51/255"]}
        ... [[data]]
        ... name = "digits"
        ... [[models]]
        ... train = "fc"
        ... [[attacks]]
        ... name = "PGD"
        ... steps = [10, 40]
        ... ''')
        >>> read_grid(path).attacks[0].settings
        {'steps': [10, 40]}
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: pass a sweep file (TOML)")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise GridError(f"{path}: not UTF-8 text ({error.reason}); pass a sweep file") from None
    return parse_grid(text, str(path), path.parent)


def parse_grid(text: str, name: str = "sweep file", folder: Path | None = None) -> Grid:
    """Parse the text of a sweep file, as `read_grid` does."""
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        said = str(error or "nested too deep")
        last = len(text.splitlines())
        raise GridError(
            f"{name}: {said.replace('end of document', f'the end, line {last}')}"
        ) from None
    try:
        grid = Grid.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = [part for part in first["loc"] if part in _keys(raw) or isinstance(part, int)]
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = "is not known here"
        raise GridError(_at(name, text, where, message)) from None
    _check(grid, name, text)
    return grid if folder is None else placed_in(grid, folder)


def _keys(raw: Any) -> set[str]:
    """Return all keys of nested tables."""
    if isinstance(raw, Mapping):
        return set(raw).union(*map(_keys, raw.values()))
    return set().union(*map(_keys, raw)) if isinstance(raw, list) else set()


def placed_in(grid: Grid, folder: Path) -> Grid:
    """Return the grid with its relative paths taken from that folder."""

    def with_model(entry: ModelEntry) -> ModelEntry:
        load = entry.load
        if load is None or (names_object(load) and ".py:" not in load):
            return entry
        return entry.model_copy(update={"load": str(folder / load)})

    def with_data(entry: DataEntry) -> DataEntry:
        if entry.data_dir is None:
            return entry
        return entry.model_copy(update={"data_dir": folder / entry.data_dir})

    return grid.model_copy(
        update={
            "models": tuple(map(with_model, grid.models)),
            "data": tuple(map(with_data, grid.data)),
        }
    )


def _at(name: str, text: str, where: Sequence[str | int], message: str) -> str:
    dotted = ".".join(part for part in where if isinstance(part, str))
    return f"{name}, line {line_of(text, where)}: {dotted + ': ' if dotted else ''}{message}"


def line_of(text: str, where: Sequence[str | int]) -> int:
    """Return the line (from 1) of a key of a TOML text, or of the table that it belongs in.

    Args:
        text: The TOML text.
        where: Path of the key: names of tables and keys, and indices of arrays.

    Returns:
        The number of the line.

    Example:
        >>> from jaxadv.sweep.grid import line_of
        >>> line_of("[[models]]\\n\\n[[models]]\\nepochs = 0\\n", ["models", 1, "epochs"])
        4
    """
    table, number = "", -1
    seen: dict[str, int] = {}
    best, depth = 1, 0
    wanted = [part for part in where if isinstance(part, str)]
    place = next((part for part in where if isinstance(part, int)), None)
    for row, line in enumerate(text.splitlines(), 1):
        if found := re.match(r"\s*\[+\s*([\w.\"'-]+)\s*\]", line):
            table = found[1].strip("\"'")
            number = seen[table] = seen.get(table, -1) + 1
            path: list[str] = [table]
        elif found := re.match(r"\s*([\w\"'.-]+)\s*=", line):
            path = [*([table] if table else []), found[1].strip("\"'")]
        else:
            continue
        inside = place is None or number == place or path[0] != wanted[0] or table == ""
        if inside and path == wanted[: len(path)] and len(path) > depth:
            best, depth = row, len(path)
    return best


def _check(grid: Grid, name: str, text: str) -> None:
    """Check what pydantic cannot: names of data sets, attacks and norms, numbers and settings."""
    from jaxadv.sweep.runners import build_entry

    def refuse(where: Sequence[str | int], message: str) -> None:
        raise GridError(_at(name, text, where, message)) from None

    if not grid.seeds:
        refuse(["seeds"], "is empty: pass one or more")
    known = [data.name for data in grid.data]
    if len(set(known)) < len(known):
        refuse(["data"], f"has {known}: give each data set once")
    for i, model in enumerate(grid.models):
        if model.train is not None:
            try:
                get_definition(model.train)
            except ValueError as error:
                refuse(["models", i, "train"], str(error))
        for other in model.data or ():
            if other not in known:
                refuse(["models", i, "data"], f"{other!r} is not among the data sets {known}")
    titles = [(model.title, model.dtype) for model in grid.models]
    if len(set(titles)) < len(titles):
        refuse(["models"], "two are called the same: give each a name of its own")
    for norm, values in grid.epsilons.items():
        if norm not in NORMS:
            refuse(["epsilons", norm], f"norm {norm!r} is not known: pass one of {list(NORMS)}")
        try:
            [parse_number(str(value), "epsilon") for value in values]
        except ValueError as error:
            refuse(["epsilons", norm], str(error))
    used = set()
    for i, attack in enumerate(grid.attacks):
        at = ["attacks", i]
        try:
            for settings in expand(attack):
                entry = build_entry(attack.name, settings)
                used.add(settings["norm"])
                values = epsilons_of(grid, attack, str(settings["norm"]))
                if entry.prover is not None and attack.goal != "untargeted":
                    refuse([*at, "prove"], f"is for untargeted attacks, not for {attack.goal!r}")
                if attack.epsilons is not None and not entry.needs_epsilon:
                    refuse([*at, "epsilons"], f"{attack.name} takes none: leave them out")
                if entry.needs_epsilon and not values:
                    refuse(
                        [*at, "norm"],
                        f"{attack.name} needs epsilons of {settings['norm']}: "
                        "pass epsilons here or for the norm",
                    )
        except (ValueError, TypeError) as error:
            if isinstance(error, GridError):
                raise
            refuse(at, str(error))
    for norm in grid.epsilons:
        if norm not in used:
            refuse(
                ["epsilons", norm],
                f"no attack runs in {norm}: give one the norm, or leave these epsilons out",
            )


def expand(attack: AttackEntry) -> list[dict[str, Any]]:
    """Return every combination of an attack's settings, with its norm among them."""
    axes = {"norm": attack.norm, **attack.settings}
    lists = [list(v) if isinstance(v, list | tuple) else [v] for v in axes.values()]
    for axis, values in zip(axes, lists, strict=True):
        if not values:
            raise ValueError(f"{axis} is empty: pass one value or more")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*lists)]


def epsilons_of(grid: Grid, attack: AttackEntry, norm: str) -> list[float]:
    """Return the distinct epsilons of one attack in one norm, in ascending order."""
    values = grid.epsilons.get(norm, ()) if attack.epsilons is None else attack.epsilons
    return sorted({parse_number(str(value), "epsilon") for value in values})
