"""Branch and bound over the signs of ReLUs, for the margins of many images in one queue.

A subproblem whose bound stays below 0 is tried as an attack at the image where that is attained,
and its region is split at another ReLU (`subproblems`). In each round every open image hands in its
worst subproblems, so what happens to an image depends on no other image.
"""

import heapq
import itertools
from collections.abc import Callable

import numpy as np

from jaxadv.core.model import Model
from jaxadv.proofs.backward import Region
from jaxadv.proofs.programs import everywhere, width_of
from jaxadv.proofs.slopes import Entries, Settings
from jaxadv.proofs.subproblems import ROUND, STEPS, Packed, Subproblem, Treated, treat

CORNERS = 64  # images at which bounds were attained that a tree keeps
CORNER_BYTES = 2**24  # all of them together


class Tree:
    """The open subproblems of one image, and the parts that are proved.

    It may also be about one input of a nonlinearity (`input_trees`), with its sign in the place of
    the margin's.

    Attributes:
        image: The image.
        label: Its class; or the input's number in its nonlinearity.
        count: Number of subproblems so far.
        needed: The bound above which a subproblem is proved.
        proved: The subproblems whose bounds are above it.
        open: The others, the worst first.
        stuck: Those in which nothing is left to split.
        broken: Whether an adversarial image was found on the way.
        attained: The least value at any image at which a bound was attained.
        corners: The images of least margin at which bounds were attained, as a heap of (margin
            times -1, number, image).
    """

    def __init__(self, image: int, label: int, roots: list[Subproblem]):
        self.image, self.label, self.count, self.broken = image, label, 0, False
        self.numbers, self.needed, self.attained = itertools.count(), 0.0, np.inf
        self.proved: list[Subproblem] = []
        self.stuck: list[Subproblem] = []
        self.open: list[tuple[float, int, Subproblem]] = []
        self.corners: list[tuple[float, int, np.ndarray]] = []
        for root in roots:
            self.put(root)

    def note(self, margin: float, corner: np.ndarray) -> None:
        """Keep an image at which a bound was attained, if few have a lower margin."""
        self.attained = min(self.attained, margin)
        most = max(1, min(CORNERS, CORNER_BYTES // corner.nbytes))
        if len(self.corners) < most:
            heapq.heappush(self.corners, (-margin, next(self.numbers), corner.copy()))
        elif margin < -self.corners[0][0]:
            heapq.heapreplace(self.corners, (-margin, next(self.numbers), corner.copy()))

    def put(self, sub: Subproblem) -> None:
        """Add a subproblem to the proved or to the open ones."""
        if sub.bound > self.needed:
            self.proved.append(sub)
        else:
            heapq.heappush(self.open, (sub.bound, next(self.numbers), sub))

    @property
    def unfinished(self) -> bool:
        """Whether another subproblem may decide about the image."""
        return bool(self.open) and not self.stuck and not self.broken

    def worst(self, most: int) -> list[Subproblem]:
        """Take out the worst open subproblems."""
        return [heapq.heappop(self.open)[2] for _ in range(min(most, len(self.open)))]

    @property
    def parts(self) -> list[Subproblem]:
        """The parts, which cover the region."""
        return [*self.proved, *self.stuck, *(entry[2] for entry in self.open)]

    @property
    def lower(self) -> float:
        """The least bound of all parts."""
        every = [*self.proved, *self.stuck, *(entry[2] for entry in self.open[:1])]
        return min((sub.bound for sub in every), default=-np.inf)

    def take_in(self, sub: Subproblem, row: Treated) -> None:
        """Note what became of a subproblem: proved, stuck, or split in two."""
        self.count += 1
        beta = tuple(float(row.beta[place]) for place in sub.entry)
        bound = max(sub.bound, float(row.bound))
        if float(row.bound) > self.needed:
            given = float(row.bound)
            self.put(sub._replace(bound=given, own=given, alpha=row.alpha, beta=beta))
        elif row.entry < 0:
            given = float(row.bound)
            self.stuck.append(sub._replace(bound=bound, own=given, alpha=row.alpha, beta=beta))
        else:
            for sign, half in zip((1, -1), row.halves, strict=True):
                self.put(
                    Subproblem(
                        max(bound, float(half)) if half <= self.needed else float(half),
                        sub.target,
                        row.alpha,
                        (*sub.entry, int(row.entry)),
                        (*sub.sign, sign),
                        (*beta, 0.0),
                        float(half),
                    )
                )
                self.count += int(half > self.needed)

    def reopen(self, confirmed: np.ndarray) -> bool:
        """Open proved parts again that another routine did not confirm.

        From now on bounds must be above twice what they lost there.

        Args:
            confirmed: Floats, the bounds that it computed of the proved parts.

        Returns:
            Whether any part is open now.
        """
        lost = [
            sub.bound - value
            for sub, value in zip(self.proved, confirmed, strict=True)
            if not value > 0
        ]
        if not lost or not np.isfinite(lost).all():
            return False
        self.needed = max(self.needed, 2 * max(lost))
        proved, self.proved = self.proved, []
        for sub in proved:
            self.put(sub)
        return bool(self.open)


Candidates = Callable[[np.ndarray, np.ndarray], np.ndarray]


def grow(
    model: Model,
    regions: Region,
    settings: Settings,
    trees: list[Tree],
    budget: int,
    attack: Candidates,
    settle: Callable[[Tree], None],
) -> None:
    """Split until every image is proved, broken, stuck or out of budget.

    Args:
        model: The model.
        regions: The regions of the images, by their number in the trees.
        settings: The norm, the devices and when to stop.
        trees: The trees, which are changed.
        budget: The most subproblems of one image.
        attack: Called with the numbers [R] of images and candidates [R, ...]; returns which of them
            are verified to be adversarial. Their trees are given up.
        settle: Called with a tree in which subproblems are stuck, to decide them in another way.
    """
    size, mesh = regions.lower.shape[-1], settings.mesh
    model, regions = everywhere((model, regions), mesh)
    while going := [tree for tree in trees if tree.unfinished and tree.count < budget]:
        round_of = [(tree, sub) for tree in going for sub in tree.worst(ROUND)]
        width = width_of(size, len(round_of), mesh)
        for begin in range(0, len(round_of), width):
            part = round_of[begin : begin + width]
            if settings.stop():
                for tree, sub in round_of[begin:]:
                    tree.put(sub)
                return
            out = treat_round(model, regions, settings, part, width)
            images = np.array([tree.image for tree, _ in part])
            own = out.value.astype(np.float64)
            labels = np.array([tree.label for tree, _ in part])
            rows = np.arange(len(part))
            margin = own[rows, labels].copy()
            own[rows, labels] = -np.inf
            hit = np.flatnonzero(margin < own.max(1))
            if len(hit):
                for row in hit[attack(images[hit], out.corner[hit])]:
                    part[row][0].broken = True
            for row, (tree, sub) in enumerate(part):
                tree.note(float(margin[row] - own[row].max()), out.corner[row])
                tree.take_in(sub, Treated(*(field[row] for field in out)))
            for tree in going:
                if tree.stuck and not tree.broken:
                    settle(tree)


def treat_round(
    model: Model,
    regions: Region,
    settings: Settings,
    part: list[tuple[Tree, Subproblem]],
    width: int,
    node: int | None = None,
) -> Treated:
    """Bound at most `width` subproblems, of margins or of the inputs of a nonlinearity."""
    size = len(part[0][1].alpha)
    packed, mesh = pack(part, size, width), settings.mesh
    found = treat(model, regions, packed, norm=settings.norm, steps=STEPS, node=node, mesh=mesh)
    return Treated(*(np.asarray(field)[: len(part)] for field in found))


def pack(subs: list[tuple[Tree, Subproblem]], size: int, width: int) -> Packed:
    """Return subproblems as arrays of `width` rows, filled up with the first one."""
    alpha = np.empty((width, size), np.uint8)
    split, beta = np.zeros((width, size), np.int8), np.zeros((width, size), np.float32)
    filled = subs + subs[:1] * (width - len(subs))
    for row, (_, sub) in enumerate(filled):
        alpha[row] = sub.alpha
        if sub.entry:
            places = list(sub.entry)
            split[row, places], beta[row, places] = sub.sign, sub.beta
    rows = zip(*((t.image, t.label, s.target) for t, s in filled), strict=True)
    return Packed(Entries(*(np.array(part, np.int32) for part in rows)), alpha, split, beta)
