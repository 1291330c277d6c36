"""`prove`: prove that no image in a ball is adversarial, or find one that is.

Attacks first, then bounds from cheap to dear: intervals and CROWN, optimised slopes (alpha-CROWN),
and branch and bound with multipliers (beta-CROWN). A proof is a certificate of choices, and every
one is replayed in float64 before the image counts as proved.
"""

import dataclasses
import enum
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array

from jaxadv.core.goals import Untargeted
from jaxadv.core.model import Model
from jaxadv.core.norms import diameter
from jaxadv.core.result import Cost, Status
from jaxadv.core.typing import ArrayLike, Devices, Numbers
from jaxadv.engine import checks
from jaxadv.engine.devices import choose_devices
from jaxadv.engine.session import Rows, Session, StageProgress
from jaxadv.engine.verify import bucket, margins, verify
from jaxadv.proofs.backward import Network, Region
from jaxadv.proofs.balls import NORMS
from jaxadv.proofs.lines import LINES
from jaxadv.proofs.replay import UNITS, Certificate, Leaf, Replayer
from jaxadv.proofs.roots import Balls, Roots, balls, refine, undecided_columns
from jaxadv.proofs.slopes import Answers, Entries, bound_all
from jaxadv.proofs.tree import STEPS, Subproblem, Tree, grow
from jaxadv.proofs.walk import UnsupportedPrimitive
from jaxadv.protocols.cached_run import attack_of
from jaxadv.protocols.cascades import Cascade, get_cascade, run_cascade

EFFORTS = ("fast", "standard", "strong")
INNER_STEPS, LAST_STEPS = 20, 100  # steps of Adam for nonlinearities' inputs, and for margins
SUBPROBLEMS = 2000  # of an image, with "strong"
CHUNK, CHUNK_BYTES = 64, 2**28  # images whose bounds are in memory at a time
FIRST = 0.999  # of a known distance: where it is exact, nothing is left to bisect
INSIDE = 1 - 1e-6  # a corner is moved inwards by its rounding


class Verdict(enum.IntEnum):
    """What is known of one image, and why no more."""

    NOT_RUN = 0  # interrupted, or the seconds were spent before
    PROVED = 1  # no image of the region is adversarial
    BROKEN = 2  # an adversarial image was found, and verified
    MISCLASSIFIED = 3  # the clean image is: broken at distance 0
    LOOSE = 4  # unknown: the bounds of this effort are too loose
    BUDGET = 5  # unknown: the budget of subproblems or seconds was spent in branch and bound
    STUCK = 6  # unknown: all ReLUs of a part are split, and its bound is still below 0
    UNCONFIRMED = 7  # unknown: bounds above 0 in float32 were not confirmed in float64
    NONFINITE = 8  # unknown: the bounds are NaN or infinite


@dataclasses.dataclass(frozen=True)
class Proofs:
    """What is proved about N images: neither `proved` nor `broken` means unknown.

    Attributes:
        norm: Name of the norm.
        arithmetic: "float32" or "real", the arithmetic for which the proofs hold.
        epsilon: Floats [N], the radii.
        images: Floats [N, H, W, C], the adversarial images (the clean image where none was found).
        originals: Floats [N, H, W, C], the clean images.
        labels: Integers [N].
        ids: Integers [N] that identify the images in the random keys.
        proved: Booleans [N], whether no image of the region is adversarial.
        broken: Booleans [N], whether an adversarial image was found and verified.
        status: Integers [N], the `Verdict`.
        lower: Floats [N], lower bounds of the margin over the region: from the replay in float64
            where proved, else as computed in float32; -infinity where none was computed.
        upper: Floats [N], the least margin of all images tried.
        subproblems: Integers [N], subproblems of branch and bound.
        forward: Integers [N], forward passes.
        backward: Integers [N], backward passes.
        certificates: What proves each image, or None.
        complete: False if the call was interrupted or its seconds were spent.
        cost: Seconds of the whole call (its lane ticks are 0).
    """

    norm: str
    arithmetic: str
    epsilon: np.ndarray
    images: np.ndarray
    originals: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    proved: np.ndarray
    broken: np.ndarray
    status: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    subproblems: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    certificates: list[Certificate | None]
    complete: bool
    cost: Cost

    @property
    def accuracy(self) -> tuple[float, float]:
        """The interval of the robust accuracy: the proved images, and those that are not broken."""
        return float(self.proved.mean()), float(1 - self.broken.mean())

    def replay(self, model: Model) -> np.ndarray:
        """Compute the proved lower bounds again, from the certificates alone, in float64.

        Another routine than the one that found the proofs, without optimisation; nothing in a
        certificate is believed.

        Args:
            model: The model.

        Returns:
            Floats [N], lower bounds of the margin over each region: the image is proved where they
            are above 0. -infinity without a certificate.
        """
        replayer = Replayer(model, self.originals.shape[1:], self.norm, self.arithmetic)
        return np.array(
            [
                -np.inf
                if proof is None
                else replayer.lower(
                    self.originals[i], float(self.epsilon[i]), int(self.labels[i]), proof
                )
                for i, proof in enumerate(self.certificates)
            ]
        )


def prove(
    model: Model,
    images: ArrayLike,
    labels: Numbers | Untargeted,
    epsilon: Numbers,
    norm: str = "linf",
    *,
    effort: str = "standard",
    budget: int | None = None,
    seconds: float = math.inf,
    arithmetic: str = "float32",
    attacks: str | Cascade = "quick",
    key: Array | None = None,
    ids: Numbers | None = None,
    devices: Devices = None,
    progress: StageProgress | None = None,
) -> Proofs:
    """Prove that no image within epsilon is adversarial, or find one that is.

    Attacks run first. The images that survive are bounded by intervals and backward linear bounds
    (CROWN, Zhang et al. 2018, arXiv 1811.00866), then with optimised slopes (alpha-CROWN, Xu et al.
    2021, arXiv 2011.13824), then by branch and bound over the signs of ReLUs (beta-CROWN, Wang et
    al. 2021, arXiv 2103.06624). The region is the norm ball within the model's bounds. Where a
    bound is attained is tried as an attack at every step. Each proof is replayed in float64, by
    another routine. Ctrl-C returns what is known.

    The model must be a traced program of affine operations, max, min, clip, abs, (leaky) ReLU and
    max pooling, or, with looser bounds and without branching, of sigmoid, tanh, erf, exp, log,
    roots, squares, products and quotients.

    Args:
        model: The model, without random draws.
        images: Floats [N, H, W, C] within `model.bounds`.
        labels: Integers [N], or `ja.Untargeted(labels)`.
        epsilon: Radius, one number or [N], in the norm's unit and the scale of the images.
        norm: "linf", "l2" or "l1".
        effort: "fast" (attacks, CROWN), "standard" (optimised slopes too) or "strong" (branch and
            bound too).
        budget: The most subproblems an image in branch and bound (default 2,000). Results do not
            depend on the other images.
        seconds: The most wall time of the whole call, compilation included, after which no further
            step is begun. Results then depend on the speed of the machine.
        arithmetic: "float32": the proof holds for the model as it runs in IEEE float32, in whatever
            order sums are added up (not for TF32 or bfloat16 products). "real": for exact
            arithmetic on the same parameters.
        attacks: A cascade of `ja.evaluate`, or a dict of attacks; {} for none.
        key: A JAX random key of the attacks (default: seed 0).
        ids: Integers [N] that identify the images in the random keys (default 0 to N - 1).
        devices: The devices of the attacks (default: all local devices). Bounds are computed on
            JAX's default device.
        progress: Called with (stage, images done, images in all, images proved).

    Returns:
        For each image whether it is proved or broken, else why it is unknown; bounds of the margin
            from both sides; certificates.

    Raises:
        ValueError: An argument has the wrong type, shape, dtype or range, the model draws at
            random, or it has a step of which no bound is known; the message names the step and
            its line.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> model = ja.Model(lambda w, x: jnp.maximum(x.reshape(len(x), -1) @ w, 0), jnp.eye(4))
        >>> images, labels = jnp.eye(4).reshape(4, 2, 2, 1), jnp.arange(4)
        >>> proof = ja.prove(model, images, labels, jnp.array([0.4, 0.4, 0.6, 0.6]), attacks={})
        >>> proof.proved, proof.broken
        (array([ True,  True, False, False]), array([False, False,  True,  True]))
    """
    begun = time.monotonic()
    session = Session.open(model, images, labels, ids=ids, key=key, devices=devices)
    radii = _check(session, epsilon, norm, arithmetic)
    checks.check_options(None, budget=budget)
    entries = get_cascade(attacks, norm)
    checks.check_norms({name: attack_of(one) for name, one in entries.items()}, norm, "attacks")
    shape = session.images.shape[1:]
    classes = checks.count_classes(model, shape)
    checks.check_attacks(
        map(attack_of, entries.values()), model, session.goal, classes, radii, shape
    )
    if not seconds > 0:
        raise ValueError(f"seconds={seconds}: pass a number above 0")
    network = check_provable(model, shape, effort)
    with session.answered().watched(progress) as session:
        search = Search(session, network, norm, arithmetic, radii, begun + seconds)
        search.attack(entries)
        size = max(1, min(CHUNK, CHUNK_BYTES // (16 * max(network.size, 1))))
        rows = np.flatnonzero(search.status == Verdict.NOT_RUN)
        for begin in range(0, len(rows), size):
            search.bound(rows[begin : begin + size], effort, budget or SUBPROBLEMS)
    return search.result(time.monotonic() - begun)


def prove_radii(
    model: Model,
    images: ArrayLike,
    labels: Numbers,
    upper: Numbers,
    norm: str = "linf",
    *,
    effort: str = "standard",
    rounds: int = 6,
    **options: Any,
) -> np.ndarray:
    """Find for each image the largest radius at which `prove` proves it, by bisection.

    Args:
        model: The model.
        images: Floats [N, H, W, C].
        labels: Integers [N].
        upper: Floats [N], radii at which an adversarial image is known; 0: nothing to prove,
            infinite: none is known, so the search ends at the diameter of the bounds.
        norm: "linf", "l2" or "l1".
        effort: As in `prove`.
        rounds: Number of calls; the first one tries `FIRST` of `upper`.
        **options: Further arguments of `prove`; no attacks are run.

    Returns:
        Floats [N], radii within which no adversarial image lies, 0 where nothing was proved.

    Raises:
        ValueError: As `prove`.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> from jaxadv.protocols.prove import prove_radii
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
        >>> images, labels = jnp.eye(4).reshape(4, 2, 2, 1), jnp.arange(4)
        >>> prove_radii(model, images, labels, [0.5] * 4, rounds=2).round(4)
        array([0.4995, 0.4995, 0.4995, 0.4995])
    """
    images, labels = np.asarray(images), np.asarray(labels)
    span = model.bounds[1] - model.bounds[0]
    high = np.minimum(
        np.asarray(upper, np.float64), float(diameter(norm, int(np.prod(images.shape[1:])), span))
    )
    low = np.zeros(len(images))
    for number in range(rounds):
        rows = np.flatnonzero(low < FIRST * high)
        if len(rows) == 0:
            break
        radii = (low + high)[rows] / 2 if number else FIRST * high[rows]
        proof = prove(
            model,
            images[rows],
            labels[rows],
            radii,
            norm,
            effort=effort,
            attacks={},
            **options,
        )
        low[rows] = np.where(proof.proved, radii, low[rows])
        high[rows] = np.where(proof.proved, high[rows], radii)
        if not proof.complete:
            break
    return low


def _check(session: Session, epsilon: Numbers, norm: str, arithmetic: str) -> np.ndarray:
    """Return the radii [N]; ValueError if an argument is wrong."""
    if type(session.goal) is not Untargeted:
        raise ValueError(f"labels is {type(session.goal).__name__}: pass labels, integers [N]")
    for name, value, known in (
        ("norm", norm, NORMS),
        ("arithmetic", arithmetic, tuple(UNITS)),
    ):
        if value not in known:
            raise ValueError(f"{name}={value!r}: pass one of {known}")
    radii = np.asarray(epsilon, np.float64)
    count = len(session.images)
    if radii.shape not in ((), (count,)) or not (np.isfinite(radii) & (radii > 0)).all():
        raise ValueError(f"epsilon={epsilon}: pass one finite number above 0, or {count}")
    return np.broadcast_to(radii, count).copy()


def check_provable(model: Model, shape: tuple[int, ...], effort: str) -> Network:
    """Return the network; ValueError if a step has no bound or the effort is unknown."""
    if effort not in EFFORTS:
        raise ValueError(f"effort={effort!r}: pass one of {EFFORTS}")
    if model.random:
        raise ValueError("model draws at random: its smoothed classifier has ja.certify")
    network = Network.of(model, shape)
    missing = {node.kind for node in network.nodes} - set(LINES)
    if missing:
        raise UnsupportedPrimitive(
            f"model: no line below {', '.join(sorted(missing))} is known: ja.bounds gives intervals"
        )
    return network


class Search:
    """What is known of all images so far.

    Attributes:
        status: Integers [N], the `Verdict`; NOT_RUN where nothing is decided.
    """

    def __init__(
        self,
        session: Session,
        network: Network,
        norm: str,
        arithmetic: str,
        radii: np.ndarray,
        until: float,
    ):
        self.session, self.network, self.norm = session, network, norm
        self.arithmetic, self.radii, self.until = arithmetic, radii, until
        self.labels = np.asarray(session.goal.labels)
        count = len(self.labels)
        assert session.clean_logits is not None
        self.upper = margins(session.goal, session.clean_logits).astype(np.float64)
        wrong = ~(self.upper >= 0)
        self.status = np.where(wrong, Verdict.MISCLASSIFIED, Verdict.NOT_RUN).astype(np.int8)
        self.images = session.images.copy()
        self.lower = np.full(count, -np.inf)
        self.subproblems = np.zeros(count, int)
        self.forward, self.backward = np.ones(count, int), np.zeros(count, int)
        self.certificates: list[Certificate | None] = [None] * count
        self.replayer = Replayer(session.model, session.images.shape[1:], norm, arithmetic)
        self.complete = True

    def late(self) -> bool:
        """Return whether to stop: Ctrl-C, or the seconds are spent."""
        stopped = self.session.stopped() or time.monotonic() > self.until
        self.complete &= not stopped
        return stopped

    def attack(self, entries: Cascade) -> None:
        """Run the attacks on all images that are classified correctly."""
        count = len(self.labels)
        distance = np.where(self.status == Verdict.NOT_RUN, np.inf, 0.0)
        rows = Rows(np.arange(count), self.radii)
        for stage in run_cascade(self.session, entries, rows, distance, nested=False):
            result = stage.result
            self.forward[stage.rows] += result.forward
            self.backward[stage.rows] += result.backward
            tried = result.status != Status.NOT_RUN
            inside = tried & (result.distance <= self.radii[stage.rows])
            least = np.where(inside & ~np.isnan(result.margin), result.margin, np.inf)
            np.minimum.at(self.upper, stage.rows, least)
            self.images[stage.broken] = result.images[stage.by]
            self.status[stage.broken] = Verdict.BROKEN
            if self.late():
                break

    def try_corners(self, rows: np.ndarray, corners: np.ndarray) -> np.ndarray:
        """Verify candidates [R, ...] for images [R]; return which of them are adversarial."""
        originals, session = self.session.images[rows], self.session
        step = (corners.astype(np.float64) - originals) * INSIDE
        images = np.clip(originals + step, *session.model.bounds).astype(np.float32)
        goal = Untargeted(self.labels[rows])
        status, _, margin = verify(
            session.model,
            self.norm,
            images,
            originals,
            goal,
            self.radii[rows],
            choose_devices(session.devices),
        )
        valid = np.isin(status, (Status.SUCCESS, Status.REJECTED_LABEL)) & ~np.isnan(margin)
        np.minimum.at(self.upper, rows[valid], margin[valid])
        self.forward += np.bincount(rows, minlength=len(self.labels))
        hit = status == Status.SUCCESS
        self.images[rows[hit]], self.status[rows[hit]] = images[hit], Verdict.BROKEN
        return hit

    def bound(self, rows: np.ndarray, effort: str, budget: int) -> None:
        """Bound the margins of some images, from cheap to dear."""
        self.report("CROWN")
        if self.late():
            return
        # Filled up with the first image to one of few sizes, so that few programs are compiled.
        filled = np.concatenate([rows, np.repeat(rows[:1], bucket(len(rows), 4) - len(rows))])
        ball = balls(self.session.images[filled], self.radii[filled], self.session.model.bounds)
        left = np.arange(len(rows))
        roots = self.roots(rows, ball, 0, left, None)
        answers = self.margins(rows, roots, 0, left)
        left = self.conclude(rows, roots, answers)
        if effort == "fast" or not len(left) or self.late():
            return
        self.report("alpha-CROWN")
        roots = self.roots(rows, ball, INNER_STEPS, left, roots.regions)
        answers = self.margins(rows, roots, LAST_STEPS, left)
        left = self.conclude(rows, roots, answers)
        if effort == "strong" and len(left) and not self.late():
            self.branch(rows, roots, answers, left, budget)

    def roots(
        self, rows: np.ndarray, ball: Balls, steps: int, left: np.ndarray, start: Region | None
    ) -> Roots:
        """Bound the inputs of all nonlinearities of the images at the places that are left."""
        active = np.isin(np.arange(len(ball.image)), left)
        unit = UNITS[self.arithmetic]
        roots = refine(
            self.session.model, self.network, ball, self.norm, unit, steps, active, start
        )
        self.backward[rows] += roots.backward[: len(rows)]
        self.forward[rows] += steps * roots.backward[: len(rows)] // (1 + steps)
        self.forward[rows[left]] += 3 * (1 + len(self.network.nodes))
        return roots

    def margins(
        self, rows: np.ndarray, roots: Roots, steps: int, left: np.ndarray
    ) -> tuple[Entries, Answers]:
        """Bound the margins to all other classes of the images at the places that are left."""
        others = roots.regions.output.shape[-1] - 1
        labels = self.labels[rows[left]]
        targets = (labels[:, None] + np.arange(1, others + 1)) % (others + 1)
        entries = Entries(np.repeat(left, others), np.repeat(labels, others), targets.ravel())
        self.backward[rows[left]] += others * (1 + steps)
        self.forward[rows[left]] += others * steps
        return entries, bound_all(
            self.session.model, roots.regions, entries, self.norm, None, steps
        )

    def conclude(
        self, rows: np.ndarray, roots: Roots, answers: tuple[Entries, Answers]
    ) -> np.ndarray:
        """Confirm what is proved, try the corners of the rest; return the places undecided."""
        entries, found = answers
        least = np.full(len(rows), np.inf)
        bound = np.where(np.isnan(found.bound), -np.inf, found.bound)
        np.minimum.at(least, entries.image, bound)
        places = np.unique(entries.image)
        own, least = rows[places], least[places]
        self.lower[own] = np.maximum(self.lower[own], least)
        self.status[own] = np.where(np.isfinite(least), Verdict.LOOSE, Verdict.NONFINITE)
        for place in places[least > 0].tolist():
            subs = [
                Subproblem(1.0, int(entries.side[row]), found.alpha[row])
                for row in np.flatnonzero(entries.image == place)
            ]
            self.confirm(int(rows[place]), place, roots, subs)
        below = np.flatnonzero(bound <= 0)
        if len(below):
            self.try_corners(rows[entries.image[below]], found.corner[below])
        return places[self.status[own] == Verdict.LOOSE]

    def confirm(self, row: int, place: int, roots: Roots, parts: Sequence[Subproblem]) -> None:
        """Replay a proof in float64; the image is proved if that confirms it."""
        lower, upper = (np.asarray(x)[place][None] for x in roots.regions[5:7])
        columns = np.flatnonzero(
            undecided_columns(self.network, lower, upper, len(self.network.nodes))[0]
        )
        leaves = [
            Leaf(
                part.target,
                np.array(part.entry, np.int32),
                np.array(part.sign, np.int8),
                np.array(part.beta, np.float32),
                part.alpha[columns],
            )
            for part in parts
        ]
        proof = Certificate(True, roots.slopes[place], columns, leaves)
        image, radius = self.session.images[row], float(self.radii[row])
        lower = self.replayer.lower(image, radius, int(self.labels[row]), proof)
        if lower > 0:
            self.lower[row], self.status[row] = lower, Verdict.PROVED
            self.certificates[row] = proof
        else:
            self.status[row] = Verdict.UNCONFIRMED

    def branch(
        self,
        rows: np.ndarray,
        roots: Roots,
        answers: tuple[Entries, Answers],
        left: np.ndarray,
        budget: int,
    ) -> None:
        """Split the images at these places until they are decided or the budget is spent."""
        entries, found = answers
        trees = [
            Tree(
                int(place),
                int(self.labels[rows[place]]),
                [
                    Subproblem(float(found.bound[row]), int(entries.side[row]), found.alpha[row])
                    for row in np.flatnonzero(entries.image == place)
                ],
            )
            for place in left
        ]

        def stop(_: list[Tree]) -> bool:
            self.report("branch and bound")
            return self.late()

        grow(
            self.session.model,
            roots.regions,
            self.norm,
            trees,
            budget,
            lambda places, corners: self.try_corners(rows[places], corners),
            stop,
        )
        for tree in trees:
            row = rows[tree.image]
            self.subproblems[row] += tree.count
            self.forward[row] += tree.count * (STEPS + 1)
            self.backward[row] += tree.count * (STEPS + 8)
            self.lower[row] = max(self.lower[row], tree.lower)
            if tree.broken:
                continue
            if tree.stuck:
                self.status[row] = Verdict.STUCK
            elif tree.open:
                self.status[row] = Verdict.BUDGET
            else:
                self.confirm(row, tree.image, roots, tree.proved)

    def report(self, stage: str) -> None:
        """Tell the caller how many images are decided."""
        if self.session.progress is not None:
            undecided = (Verdict.NOT_RUN, Verdict.LOOSE)
            done = int((~np.isin(self.status, undecided)).sum())
            proved = int((self.status == Verdict.PROVED).sum())
            self.session.progress(stage, done, len(self.status), proved)

    def result(self, seconds: float) -> Proofs:
        """Return what is known."""
        status = self.status
        return Proofs(
            norm=self.norm,
            arithmetic=self.arithmetic,
            epsilon=self.radii,
            images=self.images,
            originals=self.session.images,
            labels=self.labels,
            ids=self.session.ids,
            proved=status == Verdict.PROVED,
            broken=np.isin(status, (Verdict.BROKEN, Verdict.MISCLASSIFIED)),
            status=status,
            lower=self.lower,
            upper=self.upper,
            subproblems=self.subproblems,
            forward=self.forward,
            backward=self.backward,
            certificates=self.certificates,
            complete=self.complete,
            cost=Cost(0, seconds),
        )
