"""`minimal_distance`: the nearest adversarial image that a portfolio of attacks finds.

Its members run one after the other. Some begin afresh, some at the best image that those before
them found, and only what is nearer counts. An image that several in a row could not bring nearer is
left alone: so the passes go where the distance still falls. No answer depends on the company that
an image is in.
"""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from jaxadv.core.model import Model
from jaxadv.core.result import Cost, Status
from jaxadv.engine import checks
from jaxadv.engine.session import Rows, Session, StageProgress
from jaxadv.engine.verify import margins
from jaxadv.protocols.cached_run import attack_of, describe, refines, run_stage
from jaxadv.protocols.portfolios import Portfolio, get_portfolio

GAIN = 1e-3  # an image has come nearer if its distance fell by this share
PATIENCE = 5  # members in a row that may fail to bring an image nearer


@dataclasses.dataclass(frozen=True)
class MinimalDistances:
    """The nearest adversarial image of each of N, and how it was found.

    norm; images [N, H, W, C] float32 (the clean one where none was found); success [N]; distance
    [N] float64, in the norm's unit and the images' scale (0 where the clean image is misclassified,
    infinite where nothing was found); margin [N]: of the image found; member [N]: the number of the
    member that found it (-1: none, or misclassified); forward, backward [N]: passes of all members;
    status [N]: as `Result`'s; ids, labels [N]; lower [N] or None: proved lower bounds that were
    handed in; members: their names in the order of their runs; path [members, N]: the best distance
    after each; complete: False where it was interrupted.
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

    def robust_accuracy(self, epsilons: Any) -> np.ndarray:
        """The share [E] of the images that no distance up to epsilon [E] is known to break."""
        return (self.distance > np.asarray(epsilons, np.float64)[..., None]).mean(-1)

    def certified_accuracy(self, epsilons: Any) -> np.ndarray | None:
        """The share [E] of images that are proved robust at epsilon [E]; None without bounds."""
        if self.lower is None:
            return None
        return (self.lower > np.asarray(epsilons, np.float64)[..., None]).mean(-1)


def minimal_distance(
    model: Model,
    images: Any,
    goal: Any,
    norm: str = "linf",
    *,
    effort: str | Portfolio = "standard",
    passes: int | None = None,
    key: Array | None = None,
    ids: Any = None,
    devices: Any = None,
    lanes: int | None = None,
    lower: Any = None,
    store: str | Path | None = None,
    progress: StageProgress | None = None,
) -> MinimalDistances:
    """The nearest adversarial image of each image, by everything we have, at a stated budget.

    images: [N, H, W, C] floats within `model.bounds`; goal: labels, integers [N], or a goal
    (`ja.Targeted(labels, targets)`, `ja.Evading(labels, rejected)`); norm: "linf", "l2", "l1" or
    "l0". effort: "fast", "standard" or "strong": a portfolio and its budget of 400, 2,000 and
    40,000 forward and backward passes an image (AttackBench compares at 2,000); or named attacks of
    your own, run once in their order (a `ja.Refine(attack)` begins at the best image so far).
    passes: another budget; a member that could exceed it is not begun. key: default seed 0. lower:
    proved lower bounds [N] where they are known; they ride along. store: a folder in which every
    finished member is kept; called again with the same arguments, it goes on from there. progress:
    called with (member, rows done, rows in all, successes).

    Each image costs one forward pass more, and verification after every member, which is not
    counted. Ctrl-C returns what was found so far; images that no member was run on, for that or for
    the budget, are NOT_RUN. Raises ValueError for arguments that cannot be meant so; warns
    (CheckWarning) of a distance below its proved bound.

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
    with session.answered().watched(progress) as session:
        found = run_portfolio(session, members, norm, passes or most)
    below = [] if lower is None else np.flatnonzero(found.distance < lower * (1 - 1e-4))
    if len(below):
        warnings.warn(
            f"lower: images {checks.some(ids[below])} were found below their proved bounds: the "
            "bounds are of another model, norm or scale",
            checks.CheckWarning,
            stacklevel=2,
        )
    return dataclasses.replace(found, lower=lower)


def run_portfolio(session: Session, members: Portfolio, norm: str, passes: int) -> MinimalDistances:
    """The members one after the other, each for the images that it can bring nearer within the
    passes that an image may cost; the session knows the clean logits."""
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
    for number, (name, entry) in enumerate(members.items()):
        attack, refining = attack_of(entry), refines(entry)
        wanted = ~wrong & (idle < PATIENCE)
        wanted &= forward + backward + attack.specialize(goal, classes).passes <= passes + 1
        rows = np.flatnonzero(wanted & np.isfinite(distance) if refining else wanted)
        if len(rows) == 0:
            path.append(distance.copy())
            continue
        own = session._replace(key=jax.random.fold_in(session.key, number), lanes=width)
        start = nearest[rows] if refining else None
        result = run_stage(
            own, name, attack, Rows(rows, distance[rows], start), file=f"{number:02d}-{name}",
            depends=(norm, describe(attack), rows, distance[rows], width),
        )  # fmt: skip
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
    status[~tried] = Status.NOT_RUN
    return MinimalDistances(
        norm=norm, images=nearest, originals=images, success=np.isfinite(distance),
        distance=distance, margin=margin, member=member, forward=forward, backward=backward,
        status=status, ids=session.ids, labels=np.asarray(goal.labels), lower=None,
        members=list(members)[: len(path)], path=np.array(path), complete=complete,
        cost=Cost(ticks, seconds),
    )  # fmt: skip
