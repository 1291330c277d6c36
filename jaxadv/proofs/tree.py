"""Branch and bound over the signs of ReLUs, for the margins of many images in one queue.

A subproblem is one margin of one image on the part of its region where some ReLUs are on and some
are off. Its bound is tightened over slopes and multipliers (Wang et al. 2021, beta-CROWN, arXiv
2103.06624); if it stays below 0, the image at which the line below takes its least value is tried
as an attack, and the region is split at another ReLU: of the `CANDIDATES` whose lines lose most at
that image, the one whose worse half has the best bound (after Bunel et al. 2020, arXiv 1909.06588).

In each round every open image hands in its worst subproblems, so what happens to an image depends
on no other image.
"""

import heapq
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxadv.core.model import Model
from jaxadv.core.pytree import take
from jaxadv.proofs.backward import (
    Network,
    Parameters,
    Region,
    look_around,
    lower_bound,
    margin_of,
)
from jaxadv.proofs.slopes import CLEAR, LEVELS, compiled, descend

CANDIDATES = 3
LANES = 64  # subproblems of one call, and the most of one image in a round
STEPS = 3  # steps of Adam of a subproblem
RATES = Parameters(0.1, 0, 0.3)


class Subproblem(NamedTuple):
    """A margin of an image on a part of its region.

    Attributes:
        bound: Lower bound that is known so far.
        target: The class whose logit is subtracted.
        alpha: Integers [M], uint8, slopes to begin with.
        entry: The inputs of nonlinearities that are split.
        sign: 1 or -1 for each of them.
        beta: A multiplier for each of them.
    """

    bound: float
    target: int
    alpha: np.ndarray
    entry: tuple[int, ...] = ()
    sign: tuple[int, ...] = ()
    beta: tuple[float, ...] = ()


class Packed(NamedTuple):
    """Subproblems as arrays, with a leading axis R.

    Attributes:
        image: Integers, the images.
        label: Integers, their classes.
        target: Integers.
        alpha: Integers [R, M], uint8.
        split: Integers [R, M], int8.
        beta: Floats [R, M].
    """

    image: Any
    label: Any
    target: Any
    alpha: Any
    split: Any
    beta: Any


class Treated(NamedTuple):
    """What became of subproblems, with a leading axis R.

    Attributes:
        bound: The best bounds.
        alpha: Integers [R, M], uint8, the slopes that gave them.
        beta: Floats [R, M], the multipliers that gave them.
        corner: The image at which each bound is attained.
        logits: Floats [R, K], the logits there.
        entry: Where to split; -1: nothing is left to split.
        halves: Floats [R, 2], bounds of the halves z >= 0 and z <= 0.
    """

    bound: Any
    alpha: Any
    beta: Any
    corner: Any
    logits: Any
    entry: Any
    halves: Any


def _treat(model: Model, regions: Region, subs: Packed, *, norm: str, steps: int) -> Treated:
    network = Network.of(model, regions.image.shape[1:])
    classes = regions.output.shape[-1]
    own = take(regions, subs.image)
    cotangents = jax.vmap(lambda a, b: margin_of(a, b, classes, jnp.float32))(
        subs.label, subs.target
    )
    rows = jnp.arange(len(subs.image))

    def bound(chosen: Parameters) -> Any:
        def one(region: Region, cotangent: Array, chosen: Parameters) -> Any:
            return lower_bound(network, model.params, norm, region, cotangent, chosen)

        return jax.vmap(one)(own, cotangents, chosen)

    start = Parameters(
        subs.alpha.astype(jnp.float32) / LEVELS, subs.split.astype(jnp.float32), subs.beta
    )
    enough = CLEAR * jnp.abs((cotangents * own.output).sum(1))
    chosen = descend(lambda chosen: bound(chosen).value, start, enough, steps, RATES)
    found = bound(chosen)

    def around(region: Region, cotangent: Array, chosen: Parameters, point: Array) -> Any:
        return look_around(network, model.params, region, cotangent, chosen, point)

    logits, gaps = jax.vmap(around)(own, cotangents, chosen, found.corner)
    free = (own.lower < 0) & (own.upper > 0) & (subs.split == 0) & splittable(network)
    score = jnp.where(free, gaps, -1.0)
    places = []
    for _ in range(CANDIDATES):
        place = score.argmax(1)
        places.append(place)
        score = score.at[rows, place].set(-1.0)

    def half(place: Array, sign: float) -> Array:
        split = chosen.split.at[rows, place].set(sign)
        return bound(chosen._replace(split=split)).value

    tried = jnp.stack([jnp.stack([half(place, sign) for sign in (1.0, -1.0)]) for place in places])
    tried = jnp.where(jnp.isnan(tried), -jnp.inf, tried)
    choice = tried.min(1).argmax(0)
    entry = jnp.where(free.any(1), jnp.stack(places)[choice, rows], -1)
    return Treated(
        jnp.where(jnp.isnan(found.value), -jnp.inf, found.value),
        jnp.round(chosen.alpha * LEVELS).astype(jnp.uint8),
        chosen.beta,
        found.corner,
        logits,
        entry,
        tried[choice, :, rows],
    )


treat = compiled(_treat, "norm", "steps")


def splittable(network: Network) -> np.ndarray:
    """Return which inputs [M] are those of ReLUs."""
    parts = [np.full(int(np.prod(n.shape)), n.kind == "relu") for n in network.nodes]
    return np.concatenate([np.zeros(0, bool), *parts])


class Tree:
    """The open subproblems of one image, and the parts that are proved.

    Attributes:
        image: The image.
        label: Its class.
        count: Number of subproblems so far.
        needed: The bound above which a subproblem is proved.
        proved: The subproblems whose bounds are above it.
        open: The others, the worst first.
        stuck: Those in which nothing is left to split.
        broken: Whether an adversarial image was found on the way.
    """

    def __init__(self, image: int, label: int, roots: list[Subproblem]):
        self.image, self.label, self.count, self.broken = image, label, 0, False
        self.numbers, self.needed = itertools.count(), 0.0
        self.proved: list[Subproblem] = []
        self.stuck: list[Subproblem] = []
        self.open: list[tuple[float, int, Subproblem]] = []
        for root in roots:
            self.put(root)

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
            self.put(sub._replace(bound=float(row.bound), alpha=row.alpha, beta=beta))
        elif row.entry < 0:
            self.stuck.append(sub._replace(bound=bound))
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
    norm: str,
    trees: list[Tree],
    budget: int,
    attack: Candidates,
    stop: Callable[[list[Tree]], bool],
) -> None:
    """Split until every image is proved, broken, stuck or out of budget.

    Args:
        model: The model.
        regions: The regions of the images, by their number in the trees.
        norm: Name of the norm.
        trees: The trees, which are changed.
        budget: The most subproblems of one image.
        attack: Called with the numbers [R] of images and candidates [R, ...]; returns which of them
            are verified to be adversarial. Their trees are given up.
        stop: Called with the trees that are still open before each call of the program; returns
            whether to stop.
    """
    size = regions.lower.shape[-1]
    while going := [tree for tree in trees if tree.unfinished and tree.count < budget]:
        round_of = [(tree, sub) for tree in going for sub in tree.worst(LANES)]
        for begin in range(0, len(round_of), LANES):
            part = round_of[begin : begin + LANES]
            if stop(going):
                for tree, sub in round_of[begin:]:
                    tree.put(sub)
                return
            out = Treated(
                *map(np.asarray, treat(model, regions, pack(part, size), norm=norm, steps=STEPS))
            )
            images = np.array([tree.image for tree, _ in part])
            own = out.logits[: len(part)].astype(np.float64)
            labels = np.array([tree.label for tree, _ in part])
            rows = np.arange(len(part))
            margin = own[rows, labels].copy()
            own[rows, labels] = -np.inf
            hit = np.flatnonzero(margin < own.max(1))
            if len(hit):
                for row in hit[attack(images[hit], out.corner[hit])]:
                    part[row][0].broken = True
            for row, (tree, sub) in enumerate(part):
                tree.take_in(sub, take(out, row))


def pack(subs: list[tuple[Tree, Subproblem]], size: int) -> Packed:
    """Return subproblems as arrays of `LANES` rows, filled up with the first one."""
    alpha = np.empty((LANES, size), np.uint8)
    split, beta = np.zeros((LANES, size), np.int8), np.zeros((LANES, size), np.float32)
    filled = subs + subs[:1] * (LANES - len(subs))
    for row, (_, sub) in enumerate(filled):
        alpha[row] = sub.alpha
        if sub.entry:
            places = list(sub.entry)
            split[row, places], beta[row, places] = sub.sign, sub.beta
    image, label, target = (
        np.array(x, np.int32)
        for x in zip(*((t.image, t.label, s.target) for t, s in filled), strict=True)
    )
    return Packed(image, label, target, alpha, split, beta)
