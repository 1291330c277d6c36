"""How a model stands against all attacks of a sweep together, added up cell by cell.

An image is robust at epsilon if it is classified right, and neither an attack of that radius or a
smaller one, at any seed, nor a minimum-norm attack at that distance or a smaller one broke it. So
of each attack and image one number is kept: the least epsilon at which it is broken.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxadv.core.confidence import wilson
from jaxadv.sweep.read import CellRows

POINTS = 200  # of a curve that has one at every distance


class Share(NamedTuple):
    """A share that was counted: `count` of `images` (with Wilson's 95 % interval)."""

    count: int
    images: int

    @property
    def value(self) -> float | None:
        """The share; None of nothing."""
        return self.count / self.images if self.images else None

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval."""
        return wilson(self.count, self.images)


@dataclasses.dataclass
class Line:
    """What one attack, at all its epsilons and seeds, did to a model's images.

    reach: the least epsilon at which it broke each image (a radius, or a distance that a
    minimum-norm attack found; infinite: at none); attacked: which images, at each radius (None: by
    minimum norm); passes: how often a row of images classified right cost so many.
    """

    attack: str
    goal: str
    norm: str
    reach: Float[np.ndarray, "images"]
    attacked: dict[float | None, Bool[np.ndarray, "images"]] = dataclasses.field(
        default_factory=dict
    )
    passes: dict[float | None, Counter[int]] = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str:
        """The attack, and its goal where it has one."""
        return self.attack if self.goal == "untargeted" else f"{self.attack} ({self.goal})"

    @property
    def minimal(self) -> bool:
        """Whether it looks for the nearest adversarial image, without a radius."""
        return None in self.attacked

    def median_passes(self, epsilon: float | None) -> float | None:
        """Forward and backward passes of a row; None where they were not counted."""
        return median_of(self.passes.get(epsilon, {}))

    def at(self, epsilon: float) -> Bool[np.ndarray, "images"]:
        """The images that it says something of at this epsilon."""
        nobody = np.zeros(len(self.reach), bool)
        return self.attacked.get(None, nobody) | self.attacked.get(epsilon, nobody)


class Standing:
    """One model on one data set. `add` its cells; then ask.

    lines: what each attack did, by (norm, attack, goal); missing: (norm, epsilon, rows) of cells
    that lack rows.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        self.model, self.data = about["model"], about["data"]
        self.model_hash, self.data_hash = about["model_hash"], about["data_hash"]
        self.ids = np.zeros(0, np.int64)
        self.right = np.zeros(0, bool)
        self.lines: dict[tuple[str, str, str], Line] = {}
        self.missing: list[tuple[str, float | None, int]] = []

    def add(self, cell: CellRows) -> None:
        """Take one cell in."""
        about, epsilon = cell.about, cell.about["epsilon"]
        if cell.count < cell.expected:
            self.missing.append((about["norm"], epsilon, cell.expected - cell.count))
        if not cell.count:
            return
        rows = self._places(cell.column("id").astype(np.int64))
        right = cell.column("prediction") == cell.column("label")
        np.logical_and.at(self.right, rows, right)
        line = self._line(about["norm"], about["attack"], about["goal"])
        won = cell.column("success").astype(bool)
        found = cell.column("distance") if epsilon is None else np.full(len(won), epsilon)
        np.minimum.at(line.reach, rows[won], found[won])
        line.attacked.setdefault(epsilon, np.zeros(len(self.ids), bool))[rows] = True
        passes = cell.column("forward") + cell.column("backward")
        known, counts = np.unique(passes[right & np.isfinite(passes)], return_counts=True)
        tally = line.passes.setdefault(epsilon, Counter())
        tally.update(dict(zip(known.astype(int).tolist(), counts.tolist(), strict=True)))

    def _line(self, norm: str, attack: str, goal: str) -> Line:
        fresh = Line(attack, goal, norm, np.full(len(self.ids), np.inf))
        return self.lines.setdefault((norm, attack, goal), fresh)

    def _places(self, ids: np.ndarray) -> np.ndarray:
        """Where these images stand among all; new ones are taken in."""
        every = np.union1d(self.ids, ids)
        if len(every) > len(self.ids):
            old = np.searchsorted(every, self.ids)

            def placed(values: np.ndarray, fill: Any) -> np.ndarray:
                larger = np.full(len(every), fill, values.dtype)
                larger[old] = values
                return larger

            self.right = placed(self.right, True)
            for line in self.lines.values():
                line.reach = placed(line.reach, np.inf)
                line.attacked = {e: placed(mask, False) for e, mask in line.attacked.items()}
            self.ids = every
        return np.searchsorted(self.ids, ids)

    @property
    def clean(self) -> Share:
        """The images classified right."""
        return Share(int(self.right.sum()), len(self.ids))

    @property
    def norms(self) -> list[str]:
        """The norms of its attacks, those without a row too."""
        asked = [line[0] for line in self.lines] + [norm for norm, *_ in self.missing]
        return list(dict.fromkeys(asked))

    def of(self, norm: str) -> list[Line]:
        """The attacks of one norm."""
        return [line for line in self.lines.values() if line.norm == norm]

    def robust(self, lines: Iterable[Line], epsilon: float) -> Share:
        """How many of the images that any of these attacks was run on, at this epsilon or without
        one, stand against them together."""
        asked, standing = np.zeros(len(self.ids), bool), self.right.copy()
        for line in lines:
            asked |= line.at(epsilon)
            standing &= ~(line.reach <= epsilon)
        return Share(int((standing & asked).sum()), int(asked.sum()))

    def lacks(self, norm: str, epsilon: float) -> bool:
        """Whether rows are missing that could lower the robust accuracy there."""
        return any(one == norm and (at is None or at <= epsilon) for one, at, _ in self.missing)

    def worst(self, norm: str, epsilon: float) -> Line | None:
        """The attack that leaves least standing; of equal ones the cheapest."""
        found = []
        for number, line in enumerate(self.of(norm)):
            share = self.robust([line], epsilon).value
            if share is not None:
                cost = line.median_passes(None if line.minimal else epsilon)
                found.append((share, np.inf if cost is None else cost, number, line))
        return min(found)[-1] if found else None

    def points(self, lines: Iterable[Line], levels: Iterable[float]) -> list[float]:
        """Where a curve of these attacks has points: 0, their radii, and up to the last of `levels`
        the distances that minimum-norm attacks found."""
        levels = sorted(levels)
        at: set[float] = {0.0}
        for line in lines:
            at |= {e for e in line.attacked if e is not None}
            if line.minimal:
                inside = line.reach[self.right & np.isfinite(line.reach)]
                inside = np.unique(inside[inside <= levels[-1]]) if levels else np.unique(inside)
                spread = np.linspace(0, len(inside) - 1, min(POINTS, len(inside))).round()
                at |= set(inside[spread.astype(int)].tolist()) | set(levels[-1:])
        return sorted(at)

    def accuracy(self, line: Line, epsilon: float) -> Share:
        """One attack's own; at 0 the clean accuracy on its images."""
        if epsilon > 0 or line.minimal:
            return self.robust([line], epsilon)
        asked = np.any(list(line.attacked.values()), 0)
        return Share(int((self.right & asked).sum()), int(asked.sum()))

    def success(self, line: Line, epsilon: float | None) -> Share:
        """How many of its images that are classified right the attack broke (None: at all)."""
        asked = self.right & line.attacked[epsilon]
        broken = line.reach <= (np.inf if epsilon is None else epsilon)
        broken &= np.isfinite(line.reach)
        return Share(int((asked & broken).sum()), int(asked.sum()))

    def median_distance(self, line: Line) -> float | None:
        """Over the images classified right that a minimum-norm attack was run on."""
        return quantile(line.reach[self.right & line.attacked[None]], 0.5)


def quantile(values: np.ndarray, share: float) -> float | None:
    """The smallest value that so large a share does not exceed; None where it is infinite."""
    if len(values) == 0:
        return None
    found = float(np.quantile(values, share, method="inverted_cdf"))
    return found if np.isfinite(found) else None


def median_of(counts: Mapping[int, int]) -> float | None:
    """The median of numbers of which it is known how often each occurs.

    >>> from jaxadv.sweep.leaderboard import median_of
    >>> median_of({1: 2, 5: 1}), median_of({1: 1, 4: 1}), median_of({})
    (1.0, 2.5, None)
    """
    total = sum(counts.values())
    if total == 0:
        return None

    def place(number: int) -> int:
        seen = 0
        for value in sorted(counts):
            seen += counts[value]
            if seen > number:
                return value
        raise IndexError(number)

    return (place((total - 1) // 2) + place(total // 2)) / 2


def standings(cells: Iterable[CellRows]) -> Iterator[tuple[CellRows, Standing]]:
    """Each cell with the standing that it was added to: one for each model and data set."""
    found: dict[tuple[str, ...], Standing] = {}
    for cell in cells:
        key = tuple(cell.about[name] for name in ("model", "model_hash", "data", "data_hash"))
        standing = found.setdefault(key, Standing(cell.about))
        standing.add(cell)
        yield cell, standing


def levels_of(standings: Iterable[Standing], norm: str) -> list[float]:
    """The epsilons at which models are compared in a norm: those of all their attacks; where all
    are minimum-norm attacks, round numbers at the quintiles of the distances found."""
    everyone = list(standings)
    lines = [line for standing in everyone for line in standing.of(norm)]
    radii = {e for line in lines for e in line.attacked if e is not None}
    radii |= {e for one in everyone for n, e, _ in one.missing if n == norm and e is not None}
    if radii:
        return sorted(radii)
    found = [line.reach[standing.right] for standing in everyone for line in standing.of(norm)]
    pooled = np.concatenate([*found, np.zeros(0)])
    pooled = pooled[np.isfinite(pooled) & (pooled > 0)]
    if len(pooled) == 0:
        return []
    return sorted({float(f"{q:.2g}") for q in np.quantile(pooled, [0.2, 0.4, 0.6, 0.8])})
