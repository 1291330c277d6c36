"""`minimal_distance`: find the nearest adversarial image with a portfolio of attacks.

The members run one after the other; some begin afresh, some at the best image so far. An image that
`PATIENCE` members of a phase in a row did not bring nearer is attacked no more in that phase. The
result of an image does not depend on the other images.

A stronger effort runs the phases of the weaker one first: the same members with the same random
draws and the same limits. So its distances are never larger.
"""

import dataclasses
import warnings
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array

from jaxadv.core.goals import Goal, Untargeted
from jaxadv.core.model import Model
from jaxadv.core.pytree import take
from jaxadv.core.result import Cost, Status
from jaxadv.core.typing import ArrayLike, Devices, Numbers
from jaxadv.engine import checks
from jaxadv.engine.devices import choose_devices
from jaxadv.engine.session import Rows, Session, StageProgress
from jaxadv.engine.verify import margins, verify
from jaxadv.proofs.pieces import Pieces
from jaxadv.protocols.cached_run import (
    Compiler,
    attack_of,
    describe,
    file_of,
    open_compiler,
    refines,
    run_stage,
)
from jaxadv.protocols.pattern_stage import NAME, RESERVED, reserved, search_patterns, small_pieces
from jaxadv.protocols.portfolios import Phase, Portfolio, get_portfolio, members_of
from jaxadv.protocols.proved_radii import prove_radii
from jaxadv.protocols.prover import Prover

GAIN = 1e-3  # least relative decrease of the distance that counts as progress
PATIENCE = 5  # members in a row that may fail to bring an image nearer


@dataclasses.dataclass(frozen=True)
class MinimalDistances:
    """The nearest adversarial image found for each of N images, and how it was found.

    Attributes:
        norm: Name of the norm.
        images: Floats [N, H, W, C], float32, the adversarial images (the clean image where none was
            found).
        originals: Floats [N, H, W, C], the clean images.
        success: Booleans [N].
        distance: Floats [N], float64, in the norm's unit and the scale of the images; 0 where the
            clean image is misclassified, infinite where nothing was found.
        margin: Floats [N], the margin of the adversarial image.
        member: Integers [N], the number of the member that found the image (-1: none, or the clean
            image is misclassified).
        forward: Integers [N], forward passes of all members.
        backward: Integers [N], backward passes of all members.
        programs: Integers [N], linear programs that the pattern search solved.
        status: Integers [N], as in `Result`.
        ids: Integers [N] that identify the images in the random keys.
        labels: Integers [N].
        lower: Floats [N] or None, proved lower bounds: those that the caller passed, or `prove`'s.
        members: Names of the members in the order of their runs.
        path: Floats [members, N], the best distance after each member.
        complete: False if the run was interrupted.
        cost: Lane ticks and seconds of all members.
    """

    norm: str
    images: np.ndarray
    originals: np.ndarray
    success: np.ndarray
    distance: np.ndarray
    margin: np.ndarray
    member: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    programs: np.ndarray
    status: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    lower: np.ndarray | None
    members: list[str]
    path: np.ndarray
    complete: bool
    cost: Cost

    def robust_accuracy(self, epsilons: Numbers) -> np.ndarray:
        """Return the fraction [E] of images whose distance is larger than epsilon [E]."""
        return (self.distance > np.asarray(epsilons, np.float64)[..., None]).mean(-1)

    def certified_accuracy(self, epsilons: Numbers) -> np.ndarray | None:
        """Return the fraction [E] of images proved robust at epsilon [E]; None without bounds."""
        if self.lower is None:
            return None
        return (self.lower > np.asarray(epsilons, np.float64)[..., None]).mean(-1)


def minimal_distance(
    model: Model,
    images: ArrayLike,
    goal: Goal | Numbers,
    norm: str = "linf",
    *,
    effort: str | Portfolio = "standard",
    passes: int | None = None,
    key: Array | None = None,
    ids: Numbers | None = None,
    devices: Devices = None,
    lanes: int | None = None,
    lower: Numbers | None = None,
    prove: str | None = None,
    store: str | Path | None = None,
    progress: StageProgress | None = None,
) -> MinimalDistances:
    """Find the nearest adversarial image of each image with a portfolio of attacks.

    Each image costs one forward pass more than the members count; the verification after every
    member is not counted. Ctrl-C returns what was found so far. An image on which no member was
    run, for that reason or for the budget, has the status NOT_RUN.

    Args:
        model: The model under attack.
        images: Floats [N, H, W, C] within `model.bounds`.
        goal: Labels, integers [N], or a goal such as `ja.Targeted(labels, targets)` or
            `ja.Evading(labels, rejected)`.
        norm: "linf", "l2", "l1" or "l0".
        effort: "fast", "standard" or "strong": a portfolio with a budget of 400, 2,000 or 40,000
            forward and backward passes an image (AttackBench compares attacks at 2,000). Or a dict
            of named attacks, each of which is run once, in their order; a `ja.Refine(attack)`
            begins at the best image so far. "standard" and "strong" end with a `ja.pattern_search`
            where the network is piecewise linear and has at most 1,000 ReLUs, in Linf, L2 and L1;
            half of the passes, at most 10,000, are left to it. "standard" runs "fast" first, and
            "strong" runs "standard", so that no distance is larger than with less effort.
        passes: A budget of passes an image in place of the effort's (with a smaller one, distances
            may be larger than with less effort). A member that could exceed it is not begun.
        key: A JAX random key (default: seed 0).
        ids: Integers [N] that identify the images in the random keys (default 0 to N - 1).
        devices: The devices to use (default: all local devices).
        lanes: Number of images attacked at the same time on each device (default: chosen by the
            number of images and the memory).
        lower: Proved lower bounds [N] of the distances, NaN where unknown; they are passed on to
            the result.
        prove: An effort of `ja.prove`, "fast", "standard" or "strong", to prove lower bounds, by
            bisection below the distances found (untargeted goals; not in L0); None for no proofs.
        store: A folder in which every finished member is kept. A call with the same arguments
            continues from there.
        progress: Called with (member, rows done, rows in all, successes).

    Returns:
        The adversarial images with their distances. A CheckWarning is given where a distance is
            below
        its proved lower bound.

    Raises:
        ValueError: If an argument has the wrong type, shape, dtype or range, if the effort is
            unknown or empty, or if an attack works in another norm than `norm`.
        OSError: If the store's folder cannot be written to.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(4)[:, :2])
        >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.7)
        >>> ja.minimal_distance(model, images, jnp.array([0]), effort="fast").distance.round(4)
        array([0.1])
    """
    session = Session.open(
        model, images, goal, ids=ids, key=key, devices=devices, lanes=lanes, store=store
    )
    goal, ids, shape = session.goal, session.ids, session.images.shape[1:]
    count = len(ids)
    phases = get_portfolio(effort, norm, goal.targeted)
    attacks = {name: attack_of(one) for name, one in members_of(phases).items()}
    checks.check_norms(attacks, norm, "effort")
    classes = checks.count_classes(model, shape)
    checks.check_attacks(attacks.values(), model, goal, classes, np.inf, shape)
    checks.check_options(None, passes=passes)
    if lower is not None:
        lower = np.asarray(lower, np.float64)
        if lower.shape != (count,):
            raise ValueError(
                f"lower has shape {lower.shape}: pass {count} numbers, NaN for unknown"
            )
    if prove is not None and (lower is not None or type(goal) is not Untargeted or norm == "l0"):
        raise ValueError(
            f"prove={prove!r}: pass no lower bounds, an untargeted goal, and norm linf, l2 or l1"
        )
    if prove is not None:
        Prover(prove).check(model, shape, norm)
    with session.answered().watched(progress) as session:
        result = run_portfolio(session, phases, norm, passes)
    if prove is not None:
        labels = np.asarray(goal.labels)
        lower = prove_radii(model, session.images, labels, result.distance, norm, effort=prove)
    below = [] if lower is None else np.flatnonzero(result.distance < lower * (1 - 1e-4))
    if len(below):
        warnings.warn(
            f"lower: images {checks.some(ids[below])} were found below their proved bounds: the "
            "bounds are of another model, norm or scale",
            checks.CheckWarning,
            stacklevel=2,
        )
    return dataclasses.replace(result, lower=lower)


def run_portfolio(
    session: Session, phases: tuple[Phase, ...], norm: str, passes: int | None = None
) -> MinimalDistances:
    """Run the phases in order; each ends with a pattern search if the network is small enough.

    Args:
        session: The session, with the clean logits.
        phases: The phases; their members have different names.
        norm: Name of the norm.
        passes: The most forward and backward passes an image, in place of the last phase's; no
            phase may exceed it.

    Returns:
        The minimal distances, without lower bounds.
    """
    members, logits = members_of(phases), session.clean_logits
    assert logits is not None
    count, classes = logits.shape
    goal, shape = session.goal, session.images.shape[1:]
    if passes is not None:
        limits = [min(phase.passes, passes) for phase in phases[:-1]] + [passes]
        phases = tuple(
            phase._replace(passes=limit) for phase, limit in zip(phases, limits, strict=True)
        )
    searched = any(phase.searched for phase in phases)
    pieces = small_pieces(session.model, shape, norm) if searched else None
    queries = max(attack_of(entry).specialize(goal, classes).queries for entry in members.values())
    every = Rows(np.arange(count), np.full(count, np.inf))
    session, compiler = open_compiler(
        session._replace(lanes=session.width(queries, count)),
        members,
        dict.fromkeys(members, every),
    )
    nearest = _begin(session, norm)
    for phase in phases:
        most, own = phase.passes, pieces if phase.searched else None
        left = most if own is None else most - reserved(own, most)
        nearest = _run_members(session, compiler, phase._replace(passes=left), nearest)
        if nearest.complete and own is not None:
            nearest = _add_patterns(session, own, nearest, most)
        if not nearest.complete:
            break
    compiler.cancel()
    return nearest


def _begin(session: Session, norm: str) -> MinimalDistances:
    """Return what is known from the clean logits alone, which cost one forward pass an image."""
    images, goal, logits = session.images, session.goal, session.clean_logits
    assert logits is not None
    margin, count = margins(goal, logits), len(images)
    wrong = margin < 0
    distance = np.where(wrong, 0.0, np.inf)
    return MinimalDistances(
        norm=norm,
        images=images,
        originals=images,
        success=wrong,
        distance=distance,
        margin=margin,
        member=np.full(count, -1),
        forward=np.ones(count, int),
        backward=np.zeros(count, int),
        programs=np.zeros(count, int),
        status=np.where(wrong, Status.MISCLASSIFIED, Status.NOT_RUN).astype(np.int8),
        ids=session.ids,
        labels=np.asarray(goal.labels),
        lower=None,
        members=[],
        path=np.empty((0, count)),
        complete=True,
        cost=Cost(0, 0.0),
    )


def _run_members(
    session: Session, compiler: Compiler, phase: Phase, before: MinimalDistances
) -> MinimalDistances:
    """Run the members in order, each on the images that are still worth its passes.

    An image is skipped once `PATIENCE` members in a row did not bring it nearer, or if the member
    could exceed the budget.

    Args:
        session: The session, with the clean logits.
        compiler: The compiler of all members.
        phase: The members, and the most forward and backward passes an image.
        before: What the phases before found.

    Returns:
        The minimal distances, each no larger than before.
    """
    goal, count, logits = session.goal, len(before.distance), session.clean_logits
    assert logits is not None
    classes = logits.shape[1]
    nearest, distance, margin = before.images.copy(), before.distance.copy(), before.margin.copy()
    status, member, idle = before.status.copy(), before.member.copy(), np.zeros(count, int)
    forward, backward = before.forward.copy(), before.backward.copy()
    path, complete = list(before.path), True
    seconds, ticks = before.cost.seconds, before.cost.lane_ticks
    for number, (name, entry) in enumerate(phase.members.items(), len(before.members)):
        attack, refining = attack_of(entry), refines(entry)
        wanted = (status != Status.MISCLASSIFIED) & (idle < PATIENCE)
        wanted &= forward + backward + attack.specialize(goal, classes).passes <= phase.passes + 1
        rows = np.flatnonzero(wanted & np.isfinite(distance) if refining else wanted)
        if len(rows) == 0:
            path.append(distance.copy())
            continue
        own = session._replace(key=jax.random.fold_in(session.key, number))
        compiler.wait(name)
        start = nearest[rows] if refining else None
        result = run_stage(
            own,
            name,
            attack,
            Rows(rows, distance[rows], start),
            file=file_of(number, name),
            depends=(before.norm, describe(attack), rows, distance[rows], session.lanes),
        )
        nearer = result.success & (result.distance < distance[rows])
        gained = nearer & ~(result.distance > (1 - GAIN) * distance[rows])
        better, tried = rows[nearer], rows[result.status != Status.NOT_RUN]
        lost = rows[result.status == Status.NONFINITE]
        nearest[better], distance[better] = result.images[nearer], result.distance[nearer]
        margin[better], member[better] = result.margin[nearer], number
        status[tried] = np.where(status[tried] == Status.NOT_RUN, Status.FAILED, status[tried])
        status[lost] = np.where(status[lost] == Status.FAILED, Status.NONFINITE, status[lost])
        status[better] = Status.SUCCESS
        forward[rows] += result.forward
        backward[rows] += result.backward
        idle[rows] = np.where(gained, 0, idle[rows] + np.isfinite(distance[rows]))
        seconds, ticks = seconds + result.cost.seconds, ticks + result.cost.lane_ticks
        path.append(distance.copy())
        if (result.status == Status.NOT_RUN).any() or session.stopped():
            complete = False
            break
    return dataclasses.replace(
        before,
        images=nearest,
        success=np.isfinite(distance),
        distance=distance,
        margin=margin,
        member=member,
        forward=forward,
        backward=backward,
        status=status,
        members=[*before.members, *list(phase.members)[: len(path) - len(before.path)]],
        path=np.array(path),
        complete=complete,
        cost=Cost(ticks, seconds),
    )


def _add_patterns(
    session: Session, pieces: Pieces, nearest: MinimalDistances, passes: int
) -> MinimalDistances:
    """Search the affine pieces next to the nearest adversarial images, as one more member.

    Args:
        session: The session, with the clean logits.
        pieces: The affine pieces of its model.
        nearest: What the portfolio found.
        passes: The most forward and backward passes an image.

    Returns:
        The minimal distances, each no larger than before.
    """
    if not nearest.complete:
        return nearest
    number, norm = len(nearest.members), nearest.norm
    wanted = nearest.success & (nearest.distance > 0)
    left = np.where(wanted, passes - nearest.forward - nearest.backward, 0).clip(0, RESERVED)
    rows = np.flatnonzero(left)
    if len(rows) == 0:
        members, path = [*nearest.members, NAME], [*nearest.path, nearest.distance]
        return dataclasses.replace(nearest, members=members, path=np.array(path))
    found = search_patterns(session, pieces, nearest.images, left, norm, file_of(number, NAME))
    status, distance, margin = verify(
        session.model,
        norm,
        found.images[rows],
        session.images[rows],
        take(session.goal, rows),
        nearest.distance[rows],
        choose_devices(session.devices),
    )
    nearer = (status == Status.SUCCESS) & (distance < nearest.distance[rows])
    better = rows[nearer]
    images, reached = nearest.images.copy(), nearest.distance.copy()
    margins_now, member = nearest.margin.copy(), nearest.member.copy()
    images[better], reached[better] = found.images[better], distance[nearer]
    margins_now[better], member[better] = margin[nearer], number
    return dataclasses.replace(
        nearest,
        images=images,
        distance=reached,
        margin=margins_now,
        member=member,
        forward=nearest.forward + found.forward,
        backward=nearest.backward + found.backward,
        programs=found.programs,
        members=[*nearest.members, NAME],
        path=np.array([*nearest.path, reached]),
        complete=bool(found.done[rows].all()),
        cost=Cost(nearest.cost.lane_ticks, nearest.cost.seconds + float(found.seconds)),
    )
