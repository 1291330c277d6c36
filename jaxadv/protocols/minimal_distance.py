"""`minimal_distance`: find the nearest adversarial image with a portfolio of attacks.

The members run one after the other; some begin afresh, some at the best image so far. An image that
`PATIENCE` members in a row did not bring nearer is attacked no more. The result of an image does
not depend on the other images.
"""

import dataclasses
import warnings
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array

from jaxadv.core.goals import Goal, Untargeted
from jaxadv.core.model import Model
from jaxadv.core.result import Cost, Status
from jaxadv.core.typing import ArrayLike, Devices, Numbers
from jaxadv.engine import checks
from jaxadv.engine.session import Rows, Session, StageProgress
from jaxadv.engine.verify import margins
from jaxadv.protocols.cached_run import (
    attack_of,
    describe,
    file_of,
    open_compiler,
    refines,
    run_stage,
)
from jaxadv.protocols.portfolios import Portfolio, get_portfolio
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
            begins at the best image so far.
        passes: A budget of passes an image in place of the effort's. A member that could exceed it
            is not begun.
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
    members, most = get_portfolio(effort, norm, goal.targeted)
    attacks = {name: attack_of(one) for name, one in members.items()}
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
        result = run_portfolio(session, members, norm, passes or most)
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


def run_portfolio(session: Session, members: Portfolio, norm: str, passes: int) -> MinimalDistances:
    """Run the members in order, each on the images that are still worth its passes.

    An image is skipped once `PATIENCE` members in a row did not bring it nearer, or if the member
    could exceed the budget.

    Args:
        session: The session, with the clean logits.
        members: The portfolio.
        norm: Name of the norm.
        passes: The most forward and backward passes an image.

    Returns:
        The minimal distances, without lower bounds.
    """
    images, goal, logits = session.images, session.goal, session.clean_logits
    assert logits is not None
    count, classes = logits.shape
    queries = max(attack_of(entry).specialize(goal, classes).queries for entry in members.values())
    width = session.width(queries, count)
    margin = margins(goal, logits)
    wrong = margin < 0
    nearest, distance = images.copy(), np.where(wrong, 0.0, np.inf)
    status = np.where(wrong, Status.MISCLASSIFIED, Status.FAILED).astype(np.int8)
    member, idle, tried = np.full(count, -1), np.zeros(count, int), wrong.copy()
    forward, backward = np.ones(count, int), np.zeros(count, int)
    path, seconds, ticks, complete = [], 0.0, 0, True
    every = Rows(np.arange(count), np.full(count, np.inf))
    session, compiler = open_compiler(
        session._replace(lanes=width), members, dict.fromkeys(members, every)
    )
    for number, (name, entry) in enumerate(members.items()):
        attack, refining = attack_of(entry), refines(entry)
        wanted = ~wrong & (idle < PATIENCE)
        wanted &= forward + backward + attack.specialize(goal, classes).passes <= passes + 1
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
            depends=(norm, describe(attack), rows, distance[rows], width),
        )
        nearer = result.success & (result.distance < distance[rows])
        gained = nearer & ~(result.distance > (1 - GAIN) * distance[rows])
        better, lost = rows[nearer], rows[result.status == Status.NONFINITE]
        nearest[better], distance[better] = result.images[nearer], result.distance[nearer]
        margin[better], member[better] = result.margin[nearer], number
        status[lost] = np.where(status[lost] == Status.FAILED, Status.NONFINITE, status[lost])
        status[better] = Status.SUCCESS
        forward[rows] += result.forward
        backward[rows] += result.backward
        idle[rows] = np.where(gained, 0, idle[rows] + np.isfinite(distance[rows]))
        tried[rows[result.status != Status.NOT_RUN]] = True
        seconds, ticks = seconds + result.cost.seconds, ticks + result.cost.lane_ticks
        path.append(distance.copy())
        if (result.status == Status.NOT_RUN).any() or session.stopped():
            complete = False
            break
    compiler.cancel()
    status[~tried] = Status.NOT_RUN
    return MinimalDistances(
        norm=norm,
        images=nearest,
        originals=images,
        success=np.isfinite(distance),
        distance=distance,
        margin=margin,
        member=member,
        forward=forward,
        backward=backward,
        status=status,
        ids=session.ids,
        labels=np.asarray(goal.labels),
        lower=None,
        members=list(members)[: len(path)],
        path=np.array(path),
        complete=complete,
        cost=Cost(ticks, seconds),
    )
