"""Success against queries: what attacks that may only ask reach within how many answers."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array

from jaxadv.core.attack import Attack
from jaxadv.core.confidence import wilson
from jaxadv.core.goals import Goal
from jaxadv.core.model import Model
from jaxadv.core.result import Result, Status
from jaxadv.engine import checks
from jaxadv.engine.execute import Budget
from jaxadv.engine.session import Rows, Session, StageProgress
from jaxadv.protocols.cached_run import describe, run_stage


class QueryCurve(NamedTuple):
    """The success rate [B] within so many queries [B], of `attacked` images; lower, upper [B]: its
    95 % interval (Wilson's)."""

    budgets: np.ndarray
    success: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    attacked: int


def queries_needed(result: Result) -> np.ndarray:
    """The queries [A] after which each image attacked was fooled; infinite where none was.

    Images that were misclassified from the start, or not reached, are left out.
    """
    out = np.isin(result.status, (Status.MISCLASSIFIED, Status.NOT_RUN))
    return np.where(result.success, result.queries, np.inf)[~out]


def query_curve(result: Result, budgets: Any) -> QueryCurve:
    """The share of the images attacked that were fooled within so many queries.

    result: of an attack with keep="first" (others ask on after a success, and their queries are
    all that they asked); budgets: integers [B]. Queries are the answers that the attack read, up to
    the end of the tick that fooled the image; the clean image's answer, which every attack is
    given, is none of them. An attack that was stopped at a smaller budget than the last one asked
    for counts as failed from there on. Raises ValueError for negative budgets.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
    >>> images, goal = jnp.full((3, 2, 2, 1), 0.5), ja.Untargeted(jnp.arange(3))
    >>> images = images.at[:, 0].set(jnp.array([0.6, 0.5])[None, :, None])
    >>> result = ja.run(ja.Square(), model, images, goal, epsilon=0.1, key=jax.random.key(0))
    >>> ja.query_curve(result, [0, 5000]).success
    array([0., 1.])
    """
    budgets = np.atleast_1d(np.asarray(budgets))
    if budgets.ndim != 1 or not (budgets >= 0).all():
        raise ValueError(f"budgets={budgets.tolist()}: pass numbers of queries, 0 or more")
    needed = queries_needed(result)
    fooled = (needed <= budgets[:, None]).sum(1)
    lower, upper = np.array([wilson(float(n), len(needed)) for n in fooled]).reshape(-1, 2).T
    return QueryCurve(budgets, fooled / max(len(needed), 1), lower, upper, len(needed))


@dataclasses.dataclass(frozen=True)
class QueryComparison:
    """What several attacks reached by asking, on the same images.

    norm, epsilon, budget: as they were passed; attacks, results: under their names, those that were
    begun; ids, labels [N]; originals [N, H, W, C]; complete: False where it was interrupted.
    """

    norm: str
    epsilon: float | None
    budget: int
    attacks: dict[str, Attack]
    results: dict[str, Result]
    ids: np.ndarray
    labels: np.ndarray
    originals: np.ndarray
    complete: bool

    def curve(self, name: str, budgets: Any) -> QueryCurve:
        """The `query_curve` of one attack."""
        return query_curve(self.results[name], budgets)


def fit_steps(attack: Attack, budget: int) -> Attack:
    """The attack with as many steps as the budget of queries allows, where a step is a tick.

    So schedules that are stretched over all steps fit the budget. Other attacks stay as they are.
    Raises ValueError where one tick exceeds the budget.

    >>> import jaxadv as ja
    >>> from jaxadv.protocols.query_curves import fit_steps
    >>> fit_steps(ja.Square(), 1000).steps, fit_steps(ja.NES(samples=50), 1000).steps
    (999, 18)
    """
    most = budget // attack.queries
    if most < 1:
        raise ValueError(
            f"budget={budget}: {attack.name} asks {attack.queries} images at a time; pass at least "
            "so many"
        )
    if not isinstance(getattr(attack, "steps", None), int):
        return attack
    longer: Any = dataclasses.replace(attack, steps=most)  # type: ignore[type-var]
    beside = longer.ticks - most
    return attack if beside >= most else dataclasses.replace(longer, steps=most - beside)


def fit_attacks(
    attacks: Mapping[str, Attack], model: Model, goal: Goal, classes: int, epsilon: float | None,
    shape: tuple[int, ...], budget: int,
) -> dict[str, Attack]:  # fmt: skip
    """The attacks of `compare_queries`, fitted to the budget; ValueError where they cannot be
    compared so. Nothing is computed."""
    checks.check_named(attacks, "attacks")
    checks.check_counts(budget=budget)
    if epsilon is not None and np.ndim(epsilon):
        raise ValueError(f"epsilon={epsilon!r}: pass one number for all images")
    norms = {attack.norm for attack in attacks.values()}
    if len(norms) != 1:
        raise ValueError(f"attacks work in the norms {sorted(norms)}: pass attacks of one norm")
    for name, attack in attacks.items():
        if attack.pullbacks:
            raise ValueError(f"attacks[{name!r}] asks for gradients: pass attacks that only ask")
        checks.prepare_attack(attack, model, goal, classes, epsilon, 1, shape)
    return {name: fit_steps(attack, budget) for name, attack in attacks.items()}


def compare_queries(
    model: Model,
    images: Any,
    goal: Any,
    attacks: Mapping[str, Attack],
    epsilon: float | None = None,
    *,
    budget: int = 5000,
    key: Array | None = None,
    ids: Any = None,
    devices: Any = None,
    lanes: int | None = None,
    store: str | Path | None = None,
    progress: StageProgress | None = None,
) -> QueryComparison:
    """Run attacks that only ask on the same images, each until its first success or the budget.

    images: [N, H, W, C] floats within `model.bounds`; goal: labels, integers [N], or a goal;
    attacks: under names of your own, of one norm and without gradients; epsilon: radius of the ball
    (None: for attacks that need none). budget: queries per image; steps are set to fill it
    (`fit_steps`), and restarts are not run. store: a folder in which every finished attack is kept;
    called again with the same arguments, it goes on from there. progress: called with (attack, rows
    done, rows in all, successes).

    Each image costs one forward pass, and what the attacks count. Ctrl-C returns what is done.
    Raises ValueError for arguments that cannot be meant so.

    >>> import jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
    >>> images, labels = jnp.eye(4).reshape(4, 2, 2, 1), jnp.arange(4)
    >>> two = {"Square": ja.Square(), "SimBA": ja.SimBA(norm="linf")}
    >>> asked = ja.compare_queries(model, images, labels, two, 0.6, budget=100)
    >>> asked.curve("Square", [100]).success
    array([1.])
    """
    session = Session.open(
        model, images, goal, ids=ids, key=key, devices=devices, lanes=lanes, store=store
    )
    count, shape = len(session.images), session.images.shape[1:]
    classes = checks.count_classes(model, shape)
    fitted = fit_attacks(attacks, model, session.goal, classes, epsilon, shape, budget)
    radius = None if epsilon is None else np.full(count, float(epsilon))
    results: dict[str, Result] = {}
    complete = True
    with session.answered().watched(progress) as session:
        for number, (name, attack) in enumerate(fitted.items()):
            width = session.width(attack.queries, count)
            results[name] = run_stage(
                session._replace(lanes=width), name, attack, Rows(np.arange(count), radius),
                file=name, depends=(describe(attack), budget, str(epsilon), width),
                keep="first", budget=Budget(queries=budget),
            )  # fmt: skip
            if (results[name].status == Status.NOT_RUN).any() or session.stopped():
                complete = number == len(fitted) - 1 and results[name].status.all()
                break
    return QueryComparison(
        norm=next(iter(fitted.values())).norm, epsilon=epsilon, budget=budget,
        attacks={name: fitted[name] for name in results}, results=results, ids=session.ids,
        labels=np.asarray(session.goal.labels), originals=session.images, complete=bool(complete),
    )  # fmt: skip
