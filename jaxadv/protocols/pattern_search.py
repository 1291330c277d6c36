"""Pattern search: the nearest adversarial image of affine pieces next to the best image so far.

A piecewise-linear network is affine where the pattern of its ReLUs is fixed, so the nearest
adversarial image of a pattern solves a linear program (in L2 a least-distance program). What
gradients do not see is a ReLU that is off at the image they follow, and would help once it is on.
So the ReLUs nearest to their kinks are switched, alone and together, in the order of how far the
image is from their kinks; patterns that cannot win within the best distance are skipped by a bound,
and the search goes on from every nearer image that the model itself, in float32, takes for
adversarial.
"""

from typing import NamedTuple

import numpy as np

from jaxadv.core.attack import CLEAR
from jaxadv.core.bounds import fitted
from jaxadv.core.goals import Evading, Goal, Targeted
from jaxadv.core.model import Model
from jaxadv.core.norms import distance64
from jaxadv.core.pytree import take
from jaxadv.core.typing import ArrayLike, Numbers
from jaxadv.engine import checks
from jaxadv.engine.verify import margins, predict
from jaxadv.proofs.pieces import ROWS, Pieces
from jaxadv.proofs.polytopes import NORMS, dual_norm, nearest

GAIN = 1e-5  # least relative decrease of the distance
NEEDS = 6  # margins that are tried, each four times the last, until float32 agrees
CUTS = 30  # rounds in which the violated inequalities of a pattern are added
MOST_CUTS = 64  # inequalities that a round adds
MOST_UNITS = 10_000  # ReLUs of a network that is small enough


class Settings(NamedTuple):
    """How far a pattern search goes.

    Attributes:
        units: Number of ReLUs that are switched, alone and together.
        programs: The most linear programs an image.
        targets: Number of classes that are tried, if the goal leaves a choice.
        passes: The most forward and backward passes an image.
    """

    units: int = 8
    programs: int = 200
    targets: int = 9
    passes: int = 10_000


class Side(NamedTuple):
    """One class that may win.

    Attributes:
        target: The class.
        losers: The classes that it has to beat.
        soft: Booleans [M], the ReLUs in whose outputs its margin is concave, if nothing else
            depends on them.
        on: Booleans [M], the pattern at the best image.
        moving: Booleans [M], the ReLUs on which the margin depends.
    """

    target: int
    losers: np.ndarray
    soft: np.ndarray
    on: np.ndarray
    moving: np.ndarray


class Found(NamedTuple):
    """The result for one image.

    Attributes:
        image: Floats [...], float32.
        distance: Its distance, in float64.
        programs: Linear programs solved.
        forward: Forward passes.
        backward: Backward passes.
    """

    image: np.ndarray
    distance: float
    programs: int
    forward: int
    backward: int


def pieces_of(model: Model, shape: tuple[int, ...], norm: str) -> Pieces:
    """Return the affine pieces of a model, if its patterns can be searched.

    Args:
        model: The model.
        shape: The shape of an image.
        norm: Name of the norm.

    Returns:
        The pieces.

    Raises:
        ValueError: If the norm is L0, or the model random, not piecewise linear or too large.
    """
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r}: a pattern search works in one of {', '.join(NORMS)}")
    if model.random:
        raise ValueError("model: it draws random numbers, so it has no affine pieces to search")
    pieces = Pieces(model, shape)
    if pieces.size > MOST_UNITS:
        raise ValueError(
            f"model: it has {pieces.size} ReLUs (or maxima) an image, and a pattern search takes "
            f"at most {MOST_UNITS}"
        )
    return pieces


def pattern_search(
    model: Model,
    images: ArrayLike,
    goal: Goal | Numbers,
    starts: ArrayLike,
    norm: str = "linf",
    *,
    units: int = Settings().units,
    programs: int = Settings().programs,
    targets: int = Settings().targets,
) -> list[Found]:
    """Find nearer adversarial images in the affine pieces next to known ones.

    The result of an image does not depend on the others. It takes about ten linear programs an
    image, of SciPy's HiGHS, on one core.

    Args:
        model: A piecewise-linear model: affine maps, ReLU, leaky ReLU, max pooling, clipping.
        images: Floats [N, H, W, C], the clean images.
        goal: Labels, integers [N], or a goal.
        starts: Floats [N, H, W, C], adversarial images; where one is not, it is returned as it is.
        norm: "linf", "l2" or "l1".
        units: Number of ReLUs that are switched, alone and together, at most 12.
        programs: The most linear programs an image.
        targets: Number of classes that are tried, if the goal leaves a choice.

    Returns:
        What was found for each image: `image`, `distance` (float64), `programs`, `forward` and
        `backward`.

    Raises:
        ValueError: If an argument has the wrong type, shape, dtype or range, if the norm is L0, or
            if the model is random, not piecewise linear or too large.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> model = ja.Model(lambda w, x: jnp.abs(x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(2))
        >>> images, starts = jnp.array([[0.9, 0.7], [0.3, 0.8]]).reshape(2, 1, 1, 2)
        >>> (found,) = ja.pattern_search(model, images[None], [0], starts[None])
        >>> round(found.distance, 4)
        0.1
    """
    images, goal, _, _ = checks.check_problem(model, images, goal, None)
    starts = checks.check_images(starts, model.bounds, "starts")
    if starts.shape != images.shape:
        raise ValueError(f"starts has shape {starts.shape}: pass {images.shape}")
    for name, value, most in (
        ("units", units, 12),
        ("programs", programs, 10**6),
        ("targets", targets, 10**6),
    ):
        if not 1 <= value <= most:
            raise ValueError(f"{name}={value}: pass an integer from 1 to {most}")
    pieces, settings = pieces_of(model, images.shape[1:], norm), Settings(units, programs, targets)
    fooled = margins(goal, predict(model, starts)) < 0
    found = []
    for i, (image, start) in enumerate(zip(images, starts, strict=True)):
        own = take(goal, np.array([i]))
        search = PatternSearch(pieces, image, own, norm, settings)
        found.append(search.run(start) if fooled[i] else search.unchanged(start))
    return found


class PatternSearch:
    """The search around one image."""

    def __init__(
        self, pieces: Pieces, image: np.ndarray, goal: Goal, norm: str, settings: Settings
    ):
        """Remember the problem.

        Args:
            pieces: The affine pieces of the model.
            image: The clean image, float32 [...].
            goal: Its goal, with a leading axis of one.
            norm: "linf", "l2" or "l1".
            settings: How far to search.
        """
        self.pieces, self.goal, self.norm, self.settings = pieces, goal, norm, settings
        self.image, self.x = image, image.astype(np.float64).ravel()
        ends = (
            np.broadcast_to(end, image.shape) for end in fitted(pieces.model.bounds, image.shape)
        )
        self.low, self.high = (np.asarray(end, np.float64).ravel() - self.x for end in ends)
        self.programs = self.checked = 0
        self.begun = pieces.forward, pieces.backward

    def run(self, start: np.ndarray) -> Found:
        """Return the nearest adversarial image found, at first `start`, which is adversarial."""
        self.begun = forward, backward = self.pieces.forward, self.pieces.backward
        best, distance = start, self._length(start)
        seen: set[bytes] = set()
        while distance > 0 and (nearer := self._step(best, distance, seen)) is not None:
            best, distance = nearer, self._length(nearer)
        forward, backward = self.pieces.forward - forward, self.pieces.backward - backward
        return Found(best, distance, self.programs, forward + self.checked, backward)

    def unchanged(self, start: np.ndarray) -> Found:
        """Return a start from which nothing was searched."""
        return Found(start, self._length(start), 0, 0, 0)

    def _spent(self) -> bool:
        """Return whether the linear programs of this image, or its passes, may not suffice."""
        passes = self.pieces.forward + self.pieces.backward - sum(self.begun) + self.checked
        next_step = 2 * ROWS + MOST_CUTS + 8 * self.settings.units
        return self.programs >= self.settings.programs or passes + next_step > self.settings.passes

    def _step(self, best: np.ndarray, distance: float, seen: set[bytes]) -> np.ndarray | None:
        """Return a nearer adversarial image of a piece next to that of `best`, or None."""
        if self._spent():
            return None
        inputs, logits = self.pieces.at(best)
        radius = distance * (1 - GAIN)
        box = (np.maximum(self.low, -radius), np.minimum(self.high, radius))
        sides = [self._side(inputs, logits, classes) for classes in self._classes(logits)]
        tasks: list[tuple[float, Side, np.ndarray]] = []
        slopes: dict[int, np.ndarray] = {}  # of the inputs of ReLUs, whichever class is to win
        for side in sides:
            if self._spent():
                break
            ons, away = self._patterns(best, inputs, side, box, radius, slopes)
            tasks += zip(away, [side] * len(ons), ons, strict=True)
        tasks.sort(key=lambda task: task[0])
        size, start = float(np.abs(logits).max()), best.astype(np.float64).ravel() - self.x
        for begin in range(0, len(tasks), ROWS):
            if self._spent():
                return None
            some = [task[1:] for task in tasks[begin : begin + ROWS]]
            for side, on in self._able(some, logits, (*box, radius)):
                name = np.packbits(on[~side.soft]).tobytes() + str(side.target).encode()
                if name in seen:
                    continue
                seen.add(name)
                if self._spent():
                    return None
                if (found := self._nearest(on, side, size, start, radius)) is not None:
                    return found
        return None

    def _able(
        self,
        tasks: list[tuple["Side", np.ndarray]],
        logits: np.ndarray,
        ball: tuple[np.ndarray, np.ndarray, float],
    ) -> list[tuple["Side", np.ndarray]]:
        """Return the patterns whose margin could be positive somewhere in the ball."""
        targets = np.array([side.target for side, _ in tasks])
        rivals = np.array([side.losers[np.argmax(logits[side.losers])] for side, _ in tasks])
        ons = np.array([on for _, on in tasks])
        bounds = self.pieces.most(ons, (targets, rivals), self.x, self.norm, ball)
        return [task for task, bound in zip(tasks, bounds, strict=True) if bound > 0]

    def _classes(self, logits: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Return classes that may win, the likeliest first, each with those that it has to beat."""
        goal, others = self.goal, np.arange(len(logits))
        if isinstance(goal, Targeted):
            target = int(np.asarray(goal.targets)[0])
            return [(target, others[others != target])]
        losers = [int(np.asarray(goal.labels)[0])]
        losers += [int(goal.rejected)] if isinstance(goal, Evading) else []
        order = [int(i) for i in np.argsort(-logits, kind="stable") if i not in losers]
        return [(target, np.array(losers)) for target in order[: self.settings.targets]]

    def _side(
        self, inputs: np.ndarray, logits: np.ndarray, classes: tuple[int, np.ndarray]
    ) -> "Side":
        target, losers = classes
        on = inputs > 0
        each = [self.pieces.effects(on, target, self.x, int(loser)) for loser in losers]
        soft = self.pieces.last & (np.max(each, axis=0) <= 0)
        moving = np.any(np.asarray(each) != 0, axis=0)
        return Side(target, losers, soft, on, moving)

    def _patterns(
        self,
        best: np.ndarray,
        inputs: np.ndarray,
        side: "Side",
        box: tuple[np.ndarray, np.ndarray],
        radius: float,
        known: dict[int, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return patterns [P, M], and the sums [P] of the switched ReLUs' distances from kinks."""
        hard = np.flatnonzero(side.moving & ~side.soft)
        few = hard[np.argsort(np.abs(inputs[hard]), kind="stable")[: 8 * self.settings.units]]
        new = np.array([unit for unit in few if unit not in known], int)
        known |= zip(new, self.pieces.gradients(side.on, side.target, best, new), strict=True)
        slopes = np.array([known[unit] for unit in few]).reshape(len(few), best.size)
        pace = dual_norm(self.norm, slopes)
        # By how much a slack can fall below its value at the clean image, at most.
        room = np.where(slopes > 0, -box[0], box[1])
        fall = np.minimum(pace * radius, (np.abs(slopes) * room).sum(1))
        clean = np.abs(inputs[few]) - slopes @ (best.astype(np.float64).ravel() - self.x)
        away = np.where(fall >= clean, np.abs(inputs[few]) / np.maximum(pace * radius, 1e-300), 9e9)
        order = np.argsort(away, kind="stable")[: self.settings.units]
        units, away = few[order], away[order]
        units, away = units[away < 9e9], away[away < 9e9]
        sets = (np.arange(2 ** len(units))[:, None] >> np.arange(len(units))) & 1 == 1
        ons = np.repeat(side.on[None], len(sets), axis=0)
        ons[:, units] ^= sets
        return ons, sets @ away

    def _nearest(
        self, on: np.ndarray, side: "Side", size: float, start: np.ndarray, radius: float
    ) -> np.ndarray | None:
        """Return the nearest image of a pattern that the model takes for adversarial, or None."""
        need = 4 * CLEAR * size
        for _ in range(NEEDS):
            d = self._solve(on, side, need, start, radius)
            if d is None:
                return None
            image = np.clip(self.x + d, self.x + self.low, self.x + self.high)
            image = image.astype(np.float32).reshape(self.image.shape)
            self.checked += 1
            logits = predict(self.pieces.model, image[None])
            if margins(self.goal, logits)[0] < -CLEAR * np.abs(logits).max():
                return image if self._length(image) < radius / (1 - GAIN) else None
            need *= 4
        return None

    def _solve(
        self, on: np.ndarray, side: "Side", need: float, start: np.ndarray, radius: float
    ) -> np.ndarray | None:
        """Return the nearest point of a pattern at which the target wins by `need`, or None.

        Inequalities are added as they are violated, so that a program has few of them. The margin
        is concave in the soft ReLUs, so that theirs are not needed: the margin's own, for their
        pattern at each new point, bound it from above.
        """
        size, d = self.pieces.size, start
        wins, on = size + side.losers, on.copy()
        slopes, needs = np.zeros((0, len(start))), np.zeros(0)
        known = np.zeros(size, bool)
        known[side.soft] = True
        new = wins
        for _ in range(CUTS):
            slack = self.pieces.slack(on, side.target, self.x + d)
            flip = side.soft & (slack[:size] < 0)
            if flip.any():
                on ^= flip
                slack = self.pieces.slack(on, side.target, self.x + d)
            if len(needs):
                short = np.where(known, 0, -slack[:size])
                new = np.flatnonzero(short > 1e-9 * np.abs(slack).max())
                new = new[np.argsort(-short[new], kind="stable")[:MOST_CUTS]]
                new = np.r_[new, wins[slack[wins] < need / 2]]
                if len(new) == 0:
                    return d
            if self._spent():
                return None
            known[new[new < size]] = True
            more = self.pieces.gradients(on, side.target, self.x + d, new)
            slopes = np.r_[slopes, more]
            needs = np.r_[needs, np.where(new < size, 0, need) - slack[new] + more @ d]
            self.programs += 1
            found = nearest(self.norm, slopes, needs, (self.low, self.high), radius)
            if found is None:
                return None
            d = found
        return None

    def _length(self, image: np.ndarray) -> float:
        return float(distance64(self.norm, image[None], self.image[None])[0])
