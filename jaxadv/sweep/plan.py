"""Makes cells, groups and jobs from a grid.

A cell is one model, data set, attack (with all settings), epsilon and seed; a group is the cells
that differ in epsilon and seed alone and share one compiled program; a job is the rows of a group
that run as one queue and become one file of the store. The name of a cell is a hash of all that its
rows depend on, so a changed grid keeps the rows of the cells that it still contains.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxadv.core.bounds import two_numbers
from jaxadv.core.model import Model
from jaxadv.engine import checks
from jaxadv.engine.devices import choose_lanes
from jaxadv.engine.result_store import fingerprint
from jaxadv.sweep.grid import AttackEntry, DataEntry, Grid, ModelEntry, epsilons_of, expand
from jaxadv.sweep.names import Job, title_of
from jaxadv.sweep.resources import Given, Images, Subject, open_data, open_model, software
from jaxadv.sweep.runners import Entry, build_entry, goal_of

SHARD_BYTES = 2**28  # of images in one job


class Cell(NamedTuple):
    """One epsilon and seed of a group.

    Attributes:
        fingerprint: Name of the cell in the store.
        epsilon: Radius, or None if the attack takes none.
        seed: Seed of the attack.
    """

    fingerprint: str
    epsilon: float | None
    seed: int


@dataclasses.dataclass(frozen=True)
class Group:
    """Cells that share model, data and attack.

    Attributes:
        fingerprint: Name of the group in the store.
        about: Columns that are constant over its rows: model, data, attack, settings, norm, goal
            and the fingerprints.
        entry: Runner of the attack.
        subject: The model.
        images: The data set.
        goal: "untargeted" or "next".
        lanes: Number of lanes on each device.
        cells: Its cells.
    """

    fingerprint: str
    about: Mapping[str, Any]
    entry: Entry
    subject: Subject
    images: Images
    goal: str
    lanes: int
    cells: tuple[Cell, ...]

    @property
    def passes(self) -> int:
        """Upper bound of the passes of one row."""
        return self.entry.passes(self.images.classes)

    @property
    def bounds(self) -> tuple[float, float]:
        """Range of the pixels."""
        return two_numbers(self.subject.model.bounds, "a sweep")

    def title(self, cell: Cell | None = None) -> str:
        """Return the title of the group, or of one of its cells."""
        return title_of(self.about if cell is None else {**self.about, **cell._asdict()})


Make = Callable[[ModelEntry, DataEntry], Model]  # a model that is to be trained, or its like


def make_plan(grid: Grid, given: Given, *makes: Make, only: Iterable[str] = ()) -> list[Group]:
    """Return all groups of a grid in its order.

    Args:
        grid: The grid.
        given: Models and data sets that Python hands in.
        *makes: Functions that make the models to be trained. The plan is made with each in turn,
            and that of the last is returned: a first function that returns untrained models finds
            mistakes in any cell before the first training.
        only: Patterns of cells' titles ("lenet / * / PGD*"); other cells are left out.

    Returns:
        The groups.

    Raises:
        ValueError: A model does not fit its images, an attack does not fit its model or epsilons, a
            cell occurs twice, or no cell is left.
    """
    opened = [(entry, open_data(grid, entry, given)) for entry in grid.data]
    pairs = [
        (model, data, images)
        for model in grid.models
        for data, images in opened
        if model.data is None or data.name in model.data
    ]
    groups: list[Group] = []
    for make in makes:
        groups = _wanted(
            [group for pair in pairs for group in _groups(grid, given, *pair, make)], tuple(only)
        )
    return groups


def _groups(
    grid: Grid, given: Given, model: ModelEntry, data: DataEntry, images: Images, make: Make
) -> Iterator[Group]:
    """Yield the groups of one model and data set."""
    pair = _Pair(model, data, images, open_model(model, data, images, given, make))
    for attack in grid.attacks:
        for settings in expand(attack):
            entry = build_entry(attack.name, settings)
            radii = epsilons_of(grid, attack, entry.norm) if entry.needs_epsilon else [None]
            varied = {key: settings[key] for key in attack.settings}
            _check_attacks(entry, attack, pair.subject.model, images, radii)
            yield _group(grid, pair, entry, attack.goal, radii, varied)


def _check_attacks(
    entry: Entry, attack: AttackEntry, model: Model, images: Images, radii: list[Any]
) -> None:
    """Raise ValueError if the attacks of an entry cannot run on the model at these radii."""
    goal = goal_of(attack.goal, np.zeros(1, np.int32), images.classes)
    attacks, epsilons = entry.attacks(goal.targeted), radii if entry.needs_epsilon else np.inf
    classes = checks.count_classes(model, images.shape)
    try:
        checks.check_attacks(attacks, model, goal, classes, epsilons, images.shape)
        if entry.prover is not None:
            entry.prover.check(model, images.shape, entry.norm)
    except ValueError as error:
        raise ValueError(f"attacks: {attack.name} ({entry.norm}): {error}") from None


def _wanted(groups: list[Group], patterns: tuple[str, ...]) -> list[Group]:
    """Return the groups with the cells that match the patterns (no patterns: all cells)."""
    if patterns:
        groups = [kept for group in groups if (kept := _matching(group, patterns)).cells]
        if not groups:
            raise ValueError(f"--only {', '.join(patterns)}: matches no cell")
    seen: set[str] = set()
    for group in groups:
        if again := seen & {cell.fingerprint for cell in group.cells}:
            raise ValueError(f"{group.title()}: {len(again)} cells are in the grid twice")
        seen |= {cell.fingerprint for cell in group.cells}
    return groups


class _Pair(NamedTuple):
    """A model and a data set of the grid, opened for each other."""

    model: ModelEntry
    data: DataEntry
    images: Images
    subject: Subject


def _group(
    grid: Grid,
    pair: _Pair,
    entry: Entry,
    goal: str,
    radii: Iterable[float | None],
    varied: Mapping[str, Any],
) -> Group:
    model, data, images, subject = pair
    ran = software()
    described = fingerprint(entry.describe(), entry.norm, goal)
    settings = ", ".join(f"{key}={value}" for key, value in varied.items())
    title = f"{entry.title}({settings})" if settings else entry.title
    about = {
        "model": model.title + (f" {model.dtype}" if model.dtype != "float32" else ""),
        "data": data.name,
        "attack": title,
        "norm": entry.norm,
        "goal": goal,
        "model_hash": subject.fingerprint,
        "data_hash": images.fingerprint,
        "attack_hash": described,
        "software_hash": fingerprint(ran),
        "software": " ".join(map(" ".join, ran.items())),
    }
    lanes = grid.lanes or choose_lanes(
        subject.model,
        entry.queries(images.classes),
        images.shape,
        min(grid.shard, images.source.count * len(grid.seeds)),
        jax.local_devices()[0],
    )
    same = [subject.fingerprint, images.fingerprint, described, about["software_hash"]]
    cells = tuple(
        Cell(fingerprint(same, epsilon, seed)[:20], epsilon, seed)
        for epsilon in radii
        for seed in dict.fromkeys(grid.seeds)
    )
    return Group(fingerprint(same)[:20], about, entry, subject, images, goal, lanes, cells)


def _matching(group: Group, patterns: tuple[str, ...]) -> Group:
    def wanted(cell: Cell) -> bool:
        title = group.title(cell)
        return any(fnmatchcase(title, f"*{pattern}*") for pattern in patterns)

    return dataclasses.replace(group, cells=tuple(filter(wanted, group.cells)))


def make_jobs(group: Group, cells: tuple[str, ...], shard: int) -> list[Job]:
    """Return jobs for those cells, each of at most `shard` rows or as many as the memory allows.

    A job has several whole cells or a part of one.
    """
    count = group.images.source.count
    most = max(1, min(shard, SHARD_BYTES // (4 * math.prod(group.images.shape))))
    jobs = []
    for first in range(0, len(cells), per := max(1, most // count)):
        mine = cells[first : first + per]
        for begin in range(0, count, most):
            end = min(begin + most, count)
            digest = fingerprint(group.fingerprint, list(mine), begin, end)[:20]
            jobs.append(Job(digest, group.fingerprint, mine, begin, end))
    return jobs
