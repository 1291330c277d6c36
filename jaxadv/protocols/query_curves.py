"""Success rate against the number of queries, for score-based and decision-based attacks."""

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
from jaxadv.core.typing import ArrayLike, Devices, Numbers
from jaxadv.engine import checks
from jaxadv.engine.execute import Budget
from jaxadv.engine.session import Rows, Session, StageProgress
from jaxadv.protocols.cached_run import describe, run_stage


class QueryCurve(NamedTuple):
    """Success rate of an attack within each of B query budgets.

    Attributes:
        budgets: Integers [B], numbers of queries.
        success: Floats [B], the fraction of attacked images with a success within the budget.
        lower: Floats [B], lower end of the 95 % Wilson interval.
        upper: Floats [B], upper end of the 95 % Wilson interval.
        attacked: Number of attacked images.
    """

    budgets: np.ndarray
    success: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    attacked: int


def queries_needed(result: Result) -> np.ndarray:
    """Return the queries [A] of each attacked image up to its success; infinite where none was.

    Images that were misclassified from the start, or not attacked, are left out.
    """
    out = np.isin(result.status, (Status.MISCLASSIFIED, Status.NOT_RUN))
    return np.where(result.success, result.queries, np.inf)[~out]


def query_curve(result: Result, budgets: Numbers) -> QueryCurve:
    """Return the fraction of attacked images with a success within given numbers of queries.

    Queries are the model outputs that the attack used, up to the end of the tick of the success.
    The output of the clean image, which every attack is given, is not counted. An attack that was
    stopped before the largest of the budgets counts as failed from there on.

    Args:
        result: Result of an attack with keep="first"; other attacks continue after a success, and
            their queries are those of the whole run.
        budgets: Integers [B], numbers of queries.

    Returns:
        The success rate at each budget, with its 95 % interval.

    Raises:
        ValueError: If a budget is negative or `budgets` has more than one axis.

    Example:
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
    """Results of several attacks without gradients on the same images.

    Attributes:
        norm: Norm of the attacks.
        epsilon: Radius of the ball, as it was passed.
        budget: Queries per image, as it was passed.
        attacks: The attacks that were begun, under their names, with fitted steps.
        results: Their results, under the same names.
        ids: Integers [N] that identify the images in the random keys.
        labels: Integers [N].
        originals: Floats [N, H, W, C], the clean images.
        complete: False if the comparison was interrupted.
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

    def curve(self, name: str, budgets: Numbers) -> QueryCurve:
        """Return the `query_curve` of one attack."""
        return query_curve(self.results[name], budgets)


def fit_steps(attack: Attack, budget: int) -> Attack:
    """Return the attack with as many steps as the query budget allows, where a step is a tick.

    Schedules that are stretched over all steps then fit the budget. An attack without `steps`, or
    whose steps are not ticks, is returned unchanged.

    Args:
        attack: The attack with its settings.
        budget: Queries per image.

    Returns:
        The attack with its new number of steps.

    Raises:
        ValueError: If one tick exceeds the budget.

    Example:
        >>> import jaxadv as ja
        >>> from jaxadv.protocols.query_curves import fit_steps
        >>> fit_steps(ja.Square(), 1000).steps, fit_steps(ja.NES(samples=50), 1000).steps
        (999, 18)
    """
    most = budget // attack.queries
    if most < 1:
        raise ValueError(
            f"budget={budget}: {attack.name} makes {attack.queries} queries at a time; pass "
            f"{attack.queries} or more"
        )
    if not isinstance(getattr(attack, "steps", None), int):
        return attack
    longer: Any = dataclasses.replace(attack, steps=most)  # type: ignore[type-var]
    beside = longer.ticks - most
    return attack if beside >= most else dataclasses.replace(longer, steps=most - beside)


def fit_attacks(
    attacks: Mapping[str, Attack],
    model: Model,
    goal: Goal,
    classes: int,
    epsilon: float | None,
    shape: tuple[int, ...],
    budget: int,
) -> dict[str, Attack]:
    """Fit the attacks of `compare_queries` to the budget. Nothing is computed.

    Args:
        attacks: The attacks, under names of the caller's choice.
        model: The model under attack.
        goal: The goal, with integers [N].
        classes: Number of the model's classes.
        epsilon: Radius of the ball, or None.
        shape: Shape of one image.
        budget: Queries per image.

    Returns:
        The attacks with fitted steps, under the same names.

    Raises:
        ValueError: If the attacks work in several norms, if one needs gradients or takes more
            queries a tick than the budget, or if `epsilon` is not one number.
    """
    checks.check_named(attacks, "attacks")
    checks.check_counts(budget=budget)
    if epsilon is not None and np.ndim(epsilon):
        raise ValueError(f"epsilon={epsilon!r}: pass one number for all images")
    norms = {attack.norm for attack in attacks.values()}
    if len(norms) != 1:
        raise ValueError(f"attacks work in the norms {sorted(norms)}: pass attacks of one norm")
    for name, attack in attacks.items():
        if attack.pullbacks:
            raise ValueError(f"attacks[{name!r}] needs gradients: pass attacks without gradients")
        checks.prepare_attack(attack, model, goal, classes, epsilon, 1, shape)
    return {name: fit_steps(attack, budget) for name, attack in attacks.items()}


def compare_queries(
    model: Model,
    images: ArrayLike,
    goal: Goal | Numbers,
    attacks: Mapping[str, Attack],
    epsilon: float | None = None,
    *,
    budget: int = 5000,
    key: Array | None = None,
    ids: Numbers | None = None,
    devices: Devices = None,
    lanes: int | None = None,
    store: str | Path | None = None,
    progress: StageProgress | None = None,
) -> QueryComparison:
    """Run attacks without gradients on the same images, each until its first success or the budget.

    Each image costs one forward pass and the passes that the attacks count. Ctrl-C returns what is
    done.

    Args:
        model: The model under attack.
        images: Floats [N, H, W, C] within `model.bounds`.
        goal: Labels, integers [N], or a goal.
        attacks: Score-based or decision-based attacks of one norm, under names of your choice.
        epsilon: Radius of the ball (None: for attacks that need none).
        budget: Queries per image and random restart. The steps of each attack are set to use them
            up (`fit_steps`).
        key: A JAX random key (default: seed 0).
        ids: Integers [N] that identify the images in the random keys (default 0 to N - 1).
        devices: The devices to use (default: all local devices).
        lanes: Number of images attacked at the same time on each device (default: chosen for each
            attack).
        store: A folder in which every finished attack is kept. A call with the same arguments
            continues from there.
        progress: Called with (attack, rows done, rows in all, successes).

    Returns:
        The results of the attacks that were begun.

    Raises:
        ValueError: If an argument has the wrong type, shape, dtype or range, if the attacks work in
            several norms, or if an attack needs gradients or takes more queries a tick than
            `budget`.
        OSError: If the store's folder cannot be written to.

    Example:
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
                session._replace(lanes=width),
                name,
                attack,
                Rows(np.arange(count), radius),
                file=name,
                depends=(describe(attack), budget, str(epsilon), width),
                keep="first",
                budget=Budget(queries=budget),
            )
            if (results[name].status == Status.NOT_RUN).any() or session.stopped():
                complete = number == len(fitted) - 1 and results[name].status.all()
                break
    return QueryComparison(
        norm=next(iter(fitted.values())).norm,
        epsilon=epsilon,
        budget=budget,
        attacks={name: fitted[name] for name in results},
        results=results,
        ids=session.ids,
        labels=np.asarray(session.goal.labels),
        originals=session.images,
        complete=bool(complete),
    )
