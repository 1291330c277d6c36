"""Robustness of a model against all attacks of a sweep together, accumulated cell by cell.

An image is robust at epsilon if it is classified correctly and neither an attack with that radius
or a smaller one, at any seed, nor a minimum-norm attack at that distance or a smaller one broke it.
One number is therefore kept for each attack and image: the smallest epsilon at which it is broken.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxadv.core.confidence import wilson
from jaxadv.core.result import Status
from jaxadv.sweep.read import CellRows

POINTS = 200  # points of a curve that would have one at every distance


class Share(NamedTuple):
    """A fraction that was counted, with Wilson's 95 % interval.

    Attributes:
        count: Number of images counted.
        images: Number of all images.
    """

    count: int
    images: int

    @property
    def value(self) -> float | None:
        """The fraction; None if there are no images."""
        return self.count / self.images if self.images else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the fraction."""
        return wilson(self.count, self.images)


@dataclasses.dataclass
class Line:
    """Results of one attack on a model's images, over all its epsilons and seeds.

    Attributes:
        attack: Title of the attack.
        goal: Its goal.
        norm: Its norm.
        reach: Float [images], smallest epsilon at which it broke each image: a radius, or the
            distance found by a minimum-norm attack; infinite if it never did.
        attacked: Bool [images] by radius, which images were attacked (None: minimum norm).
        passes: Frequency table by radius: number of rows, of images classified correctly, for each
            number of passes.
        proved: Float [images], the largest radius at which each image was proved; 0 if at none.
        asked: Radii at which proofs were asked for.
    """

    attack: str
    goal: str
    norm: str
    reach: Float[np.ndarray, "images"]
    attacked: dict[float | None, Bool[np.ndarray, "images"]] = dataclasses.field(
        default_factory=dict
    )
    passes: dict[float | None, Counter[int]] = dataclasses.field(default_factory=dict)
    proved: Float[np.ndarray, "images"] = dataclasses.field(default_factory=lambda: np.zeros(0))
    asked: set[float] = dataclasses.field(default_factory=set)

    @property
    def title(self) -> str:
        """Title of the attack, with its goal unless untargeted."""
        return self.attack if self.goal == "untargeted" else f"{self.attack} ({self.goal})"

    @property
    def minimal(self) -> bool:
        """Whether the attack has minimum norm: it has no radius."""
        return None in self.attacked

    def median_passes(self, epsilon: float | None) -> float | None:
        """Median of forward and backward passes of a row; None where not counted."""
        return median_of(self.passes.get(epsilon, {}))

    def at(self, epsilon: float) -> Bool[np.ndarray, "images"]:
        """Images for which the attack has a result at this epsilon."""
        nobody = np.zeros(len(self.reach), bool)
        return self.attacked.get(None, nobody) | self.attacked.get(epsilon, nobody)


class Standing:
    """Results of all attacks on one model and data set; `add` the cells before reading them.

    Attributes:
        lines: Results of each attack, by (norm, attack, goal).
        missing: (norm, epsilon, rows) of the cells that lack rows.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        self.model, self.data = about["model"], about["data"]
        self.model_hash, self.data_hash = about["model_hash"], about["data_hash"]
        self.ids = np.zeros(0, np.int64)
        self.right = np.zeros(0, bool)
        self.lines: dict[tuple[str, str, str], Line] = {}
        self.missing: list[tuple[str, float | None, int]] = []

    def add(self, cell: CellRows) -> None:
        """Add one cell."""
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
        reach = cell.column("distance") if epsilon is None else np.full(len(won), epsilon)
        np.minimum.at(line.reach, rows[won], reach[won])
        line.attacked.setdefault(epsilon, np.zeros(len(self.ids), bool))[rows] = True
        passes = cell.column("forward") + cell.column("backward")
        known, counts = np.unique(passes[right & np.isfinite(passes)], return_counts=True)
        tally = line.passes.setdefault(epsilon, Counter())
        tally.update(dict(zip(known.astype(int).tolist(), counts.tolist(), strict=True)))
        status = cell.column("status").astype(str)
        asked = np.isin(status, (Status.PROVED.name, Status.UNDECIDED.name)).any()
        if epsilon is not None and asked:
            line.asked.add(epsilon)
            sure = rows[status == Status.PROVED.name]
            line.proved[sure] = np.maximum(line.proved[sure], epsilon)

    def _line(self, norm: str, attack: str, goal: str) -> Line:
        reach, proved = np.full(len(self.ids), np.inf), np.zeros(len(self.ids))
        fresh = Line(attack, goal, norm, reach, proved=proved)
        return self.lines.setdefault((norm, attack, goal), fresh)

    def _places(self, ids: np.ndarray) -> np.ndarray:
        """Return the indices of these images among all images; new images are added."""
        every = np.union1d(self.ids, ids)
        if len(every) > len(self.ids):
            old = np.searchsorted(every, self.ids)

            def placed(values: np.ndarray, fill: float) -> np.ndarray:
                larger = np.full(len(every), fill, values.dtype)
                larger[old] = values
                return larger

            self.right = placed(self.right, True)
            for line in self.lines.values():
                line.reach = placed(line.reach, np.inf)
                line.proved = placed(line.proved, 0.0)
                line.attacked = {e: placed(mask, False) for e, mask in line.attacked.items()}
            self.ids = every
        return np.searchsorted(self.ids, ids)

    @property
    def clean(self) -> Share:
        """Fraction of the images that are classified correctly."""
        return Share(int(self.right.sum()), len(self.ids))

    @property
    def norms(self) -> list[str]:
        """Norms of the attacks, including attacks without a row."""
        norms = [line[0] for line in self.lines] + [norm for norm, *_ in self.missing]
        return list(dict.fromkeys(norms))

    def of(self, norm: str) -> list[Line]:
        """Return the attacks of one norm."""
        return [line for line in self.lines.values() if line.norm == norm]

    def robust(self, lines: Iterable[Line], epsilon: float) -> Share:
        """Return the robust accuracy against all these attacks together.

        It counts the images that any of these attacks was run on, at this epsilon or without one.
        """
        counted, standing = np.zeros(len(self.ids), bool), self.right.copy()
        for line in lines:
            counted |= line.at(epsilon)
            standing &= ~(line.reach <= epsilon)
        return Share(int((standing & counted).sum()), int(counted.sum()))

    def proved(self, norm: str, epsilon: float) -> Share | None:
        """Return the fraction of images that are proved at epsilon or a larger one.

        It counts the images that `robust` counts. None if no proofs were asked for there.
        """
        lines = self.of(norm)
        if not any(epsilon <= radius for line in lines for radius in line.asked):
            return None
        counted = np.any([line.at(epsilon) for line in lines], 0)
        sure = np.any([line.proved >= epsilon for line in lines], 0)
        return Share(int((sure & self.right & counted).sum()), int(counted.sum()))

    def contradictions(self, norm: str) -> int:
        """Return the number of images that are broken within a radius at which they are proved."""
        lines = self.of(norm)
        reach = np.min([line.reach for line in lines], 0)
        proved = np.max([line.proved for line in lines], 0)
        return int(((proved > 0) & (proved >= reach)).sum())

    def lacks(self, norm: str, epsilon: float) -> bool:
        """Return whether rows are missing that could lower the robust accuracy at epsilon."""
        return any(one == norm and (at is None or at <= epsilon) for one, at, _ in self.missing)

    def worst(self, norm: str, epsilon: float) -> Line | None:
        """Return the attack with the lowest robust accuracy; among equal ones the cheapest."""
        candidates = []
        for number, line in enumerate(self.of(norm)):
            accuracy = self.robust([line], epsilon).value
            if accuracy is not None:
                cost = line.median_passes(None if line.minimal else epsilon)
                candidates.append((accuracy, np.inf if cost is None else cost, number, line))
        return min(candidates)[-1] if candidates else None

    def points(self, lines: Iterable[Line], levels: Iterable[float]) -> list[float]:
        """Return the epsilons at which a curve of these attacks has points.

        They are 0, the radii of the attacks, and, up to the last of `levels`, the distances that
        minimum-norm attacks found.
        """
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
        """Robust accuracy against one attack; at 0 the clean accuracy on its images."""
        if epsilon > 0 or line.minimal:
            return self.robust([line], epsilon)
        attacked = np.any(list(line.attacked.values()), 0)
        return Share(int((self.right & attacked).sum()), int(attacked.sum()))

    def success(self, line: Line, epsilon: float | None) -> Share:
        """Success rate of the attack on images classified correctly (None: at any distance)."""
        attacked = self.right & line.attacked[epsilon]
        broken = line.reach <= (np.inf if epsilon is None else epsilon)
        broken &= np.isfinite(line.reach)
        return Share(int((attacked & broken).sum()), int(attacked.sum()))

    def median_distance(self, line: Line) -> float | None:
        """Median distance of a minimum-norm attack on images classified correctly."""
        return quantile(line.reach[self.right & line.attacked[None]], 0.5)


def quantile(values: np.ndarray, rank: float) -> float | None:
    """Return the smallest value that a fraction `rank` does not exceed; None if infinite."""
    if len(values) == 0:
        return None
    value = float(np.quantile(values, rank, method="inverted_cdf"))
    return value if np.isfinite(value) else None


def median_of(counts: Mapping[int, int]) -> float | None:
    """Return the median of a frequency table, or None if the table is empty.

    Args:
        counts: Number of occurrences of each value.

    Returns:
        The median.

    Example:
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
    """Yield each cell with the `Standing` of its model and data set, to which it was added."""
    known: dict[tuple[str, ...], Standing] = {}
    for cell in cells:
        key = tuple(cell.about[name] for name in ("model", "model_hash", "data", "data_hash"))
        standing = known.setdefault(key, Standing(cell.about))
        standing.add(cell)
        yield cell, standing


def levels_of(standings: Iterable[Standing], norm: str) -> list[float]:
    """Return the epsilons at which models are compared in a norm.

    They are the epsilons of all attacks; if all are minimum-norm attacks, round numbers at the
    quintiles of the distances found.
    """
    everyone = list(standings)
    lines = [line for standing in everyone for line in standing.of(norm)]
    radii = {e for line in lines for e in line.attacked if e is not None}
    radii |= {e for one in everyone for n, e, _ in one.missing if n == norm and e is not None}
    if radii:
        return sorted(radii)
    reached = [line.reach[standing.right] for standing in everyone for line in standing.of(norm)]
    pooled = np.concatenate([*reached, np.zeros(0)])
    pooled = pooled[np.isfinite(pooled) & (pooled > 0)]
    if len(pooled) == 0:
        return []
    return sorted({float(f"{q:.2g}") for q in np.quantile(pooled, [0.2, 0.4, 0.6, 0.8])})
