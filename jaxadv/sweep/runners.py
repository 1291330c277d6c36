"""Runners of the attacks of a grid: one attack, a cascade of attacks, or a portfolio of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from jaxadv.attacks import build_attack
from jaxadv.core.attack import Attack
from jaxadv.core.goals import Goal, Targeted, Untargeted
from jaxadv.core.random import threefry
from jaxadv.core.result import Result, Status, empty_result
from jaxadv.engine.run import run_rows
from jaxadv.engine.session import Rows, Session, StageProgress
from jaxadv.engine.verify import margins, predict
from jaxadv.proofs.balls import NORMS as BALLS
from jaxadv.protocols.branching import Branching
from jaxadv.protocols.cached_run import (
    Softened,
    attack_of,
    describe,
    keep_of,
    layer_of,
    refines,
)
from jaxadv.protocols.cascades import CASCADES, Cascade, Nearly, get_cascade, run_cascade
from jaxadv.protocols.minimal_distance import run_portfolio
from jaxadv.protocols.portfolios import EFFORTS, get_portfolio, members_of
from jaxadv.protocols.proof_stage import prove_rows
from jaxadv.protocols.prover import EFFORTS as PROOFS
from jaxadv.protocols.prover import Prover

PORTFOLIO = "minimal_distance"
UNKNOWN = -1  # stands for a count that is not kept


def goal_of(goal: str, labels: np.ndarray, classes: int) -> Goal:
    """Return the goal that a grid names: "untargeted", or "next" for class label + 1."""
    return Targeted(labels, (labels + 1) % classes) if goal == "next" else Untargeted(labels)


class Entry(Protocol):
    """Interface of the runners that `build_entry` returns."""

    @property
    def title(self) -> str:
        """Name in results."""
        ...

    @property
    def norm(self) -> str:
        """Norm of the attack."""
        ...

    @property
    def needs_epsilon(self) -> bool:
        """Whether its cells have a radius."""
        ...

    @property
    def prover(self) -> Prover | None:
        """How rows that no attack broke are proved, if they are."""
        ...

    def attacks(self, targeted: bool) -> list[Attack]:
        """Return all attacks that it may run, targeted or not."""
        ...

    def queries(self, classes: int) -> int:
        """Return the number of images queried in a tick."""
        ...

    def passes(self, classes: int) -> int:
        """Return an upper bound of an image's forward and backward passes, without proofs."""
        ...

    def describe(self) -> Any:
        """Return all settings, for a fingerprint."""
        ...

    def run(self, session: Session, rows: Rows) -> tuple[Result, np.ndarray]:
        """Attack the rows.

        Args:
            session: The session of the images.
            rows: The rows, with seeds: the keys that `ja.run(key=jax.random.key(seed))` would use.

        Returns:
            The results of the rows, and the name of the attack that broke each, "" if none did.
        """
        ...


def build_entry(name: str, settings: Mapping[str, Any]) -> Entry:
    """Build the runner (attack, cascade or portfolio) of one `[[attacks]]` entry.

    Args:
        name: Name of the attack, cascade or portfolio.
        settings: Its settings, with its norm among them.

    Returns:
        The runner.

    Raises:
        ValueError: There is no attack of that name, or a setting does not fit it.
    """
    if name in CASCADES:
        given = _only(name, settings, "norm", "prove")
        norm, effort = given["norm"], given.get("prove")
        if effort is not None and (effort not in PROOFS or norm not in BALLS):
            raise ValueError(
                f"prove={effort!r} in {norm}: pass one of {', '.join(PROOFS)}, in one of "
                f"{', '.join(BALLS)}"
            )
        prover = None if effort is None else Prover(effort)
        return CascadeEntry(name, norm, get_cascade(name, norm), prover)
    if name == PORTFOLIO:
        given = _only(name, settings, "norm", "effort")
        effort = given.get("effort", "standard")
        if effort not in EFFORTS:
            raise ValueError(f"effort={effort!r}: pass one of {list(EFFORTS)}")
        get_portfolio(effort, given["norm"], False)
        return PortfolioEntry(effort, given["norm"])
    try:
        return SingleEntry(build_attack(name, settings))
    except ValueError as error:
        if "is not known" in str(error) and "attack" in str(error).split("'")[0]:
            raise ValueError(f"{error}, {', '.join(CASCADES)}, {PORTFOLIO}") from None
        raise


def _only(name: str, settings: Mapping[str, Any], *known: str) -> Mapping[str, Any]:
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(f"{name} does not take {', '.join(unknown)}")
    return settings


@dataclasses.dataclass(frozen=True)
class SingleEntry:
    """Runner of one attack."""

    attack: Attack
    prover: None = None

    @property
    def title(self) -> str:
        return self.attack.name

    @property
    def norm(self) -> str:
        return self.attack.norm

    @property
    def needs_epsilon(self) -> bool:
        return self.attack.needs_epsilon

    def attacks(self, targeted: bool) -> list[Attack]:
        return [self.attack]

    def queries(self, classes: int) -> int:
        return self.attack.specialize(_any_goal(), classes).queries

    def passes(self, classes: int) -> int:
        return self.attack.specialize(_any_goal(), classes).passes

    def describe(self) -> Any:
        return describe(self.attack)

    def run(self, session: Session, rows: Rows) -> tuple[Result, np.ndarray]:
        result = run_rows(
            session,
            self.attack,
            rows,
            keep=keep_of(self.attack, session.model),
            progress=session.named(self.title),
        )
        return result, _names(result, self.title)


def _any_goal() -> Goal:
    return Untargeted(np.zeros(1, np.int32))


def _names(result: Result, title: str) -> np.ndarray:
    names = np.where(result.success, title, "").astype(object)
    names[result.status == Status.MISCLASSIFIED] = "misclassified"
    return names


@dataclasses.dataclass(frozen=True)
class CascadeEntry:
    """Runner of a cascade: each attack runs on the rows that survived the attacks before it.

    Unlike in `ja.evaluate`, every epsilon is run on its own, and an attack meant for the hardest
    images (`ja.Hardest`) runs on all survivors, so that no row depends on another.

    Attributes:
        name: Name of the cascade.
        norm: Its norm.
        stages: Its attacks.
        prover: How rows that none of them broke are proved; None for no proofs.
        needs_epsilon: Whether its cells have a radius.
    """

    name: str
    norm: str
    stages: Cascade
    prover: Prover | None = None
    needs_epsilon: bool = True

    @property
    def title(self) -> str:
        return self.name

    def attacks(self, targeted: bool) -> list[Attack]:
        return list(map(attack_of, self.stages.values()))

    def queries(self, classes: int) -> int:
        return max(SingleEntry(attack_of(s)).queries(classes) for s in self.stages.values())

    def passes(self, classes: int) -> int:
        return sum(SingleEntry(attack_of(s)).passes(classes) for s in self.stages.values())

    def describe(self) -> Any:
        return {
            name: describe(attack_of(stage))
            | ({"for": str(stage[1:])} if isinstance(stage, Nearly) else {})
            | ({"begin": "best"} if refines(stage) else {})
            | ({"softened": soft[1:]} if (soft := layer_of(stage, Softened)) is not None else {})
            | ({"branching": own[1:]} if (own := layer_of(stage, Branching)) is not None else {})
            for name, stage in self.stages.items()
        } | ({} if self.prover is None else {"proof": repr(self.prover)})

    def run(self, session: Session, rows: Rows) -> tuple[Result, np.ndarray]:
        count, shape = len(rows.source), session.images.shape[1:]
        whole = empty_result(count, shape, rows.epsilon, session.ids[rows.source])
        names, tell = np.full(count, "", object), session.named(self.title)

        def report(_: str, __: int, total: int, successes: int) -> None:
            if tell is not None:
                tell(count - total, count, int(whole.success.sum()) + successes)

        complete = False
        untouched = np.full(len(session.images), np.inf)
        session = session._replace(progress=report)
        for stage in run_cascade(session, self.stages, rows, untouched, nested=False):
            result, chosen = stage.result, stage.rows
            # The clean image is one pass, and was counted by the first attack.
            again = session.model.samples if stage.number else 0
            whole.put(
                chosen,
                result._replace(
                    forward=whole.forward[chosen] + result.forward - again,
                    backward=whole.backward[chosen] + result.backward,
                    queries=whole.queries[chosen] + result.queries,
                    computed=whole.computed[chosen] + result.computed - again,
                ),
            )
            names[chosen] = _names(result, stage.name)
            complete = stage.number == len(self.stages) - 1
        if not complete:  # interrupted between two attacks: the next one's rows are missing
            whole.status[~whole.success] = Status.NOT_RUN
        if complete and self.prover is not None:
            self._prove(session, self.prover, rows, whole, names)
        return whole, names

    def _prove(
        self, session: Session, prover: Prover, rows: Rows, whole: Result, names: np.ndarray
    ) -> None:
        """Prove the rows that stand, each image once at each epsilon, whatever its seeds."""
        standing = np.flatnonzero(~whole.success)
        if not len(standing):
            return
        epsilon = np.broadcast_to(rows.epsilon, rows.source.shape)[standing]
        pairs, own = np.unique(
            np.stack([rows.source[standing], epsilon], 1), axis=0, return_inverse=True
        )
        judge = session.judge or session.model
        problem = session.of(pairs[:, 0].astype(int))._replace(model=judge, judge=None, again=False)
        network = prover.check(judge, session.images.shape[1:], self.norm)
        found, _ = prove_rows(problem.answered(), network, self.norm, prover, pairs[:, 1])
        found, before = found.rows(own.reshape(-1)), whole.rows(standing)
        won = found.success
        every = won.reshape(-1, *[1] * (found.images.ndim - 1))
        whole.put(
            standing,
            before._replace(
                images=np.where(every, found.images, before.images),
                margin=np.where(won, found.margin, before.margin),
                distance=np.where(won, found.distance, before.distance),
                success=won,
                status=found.status,
                forward=before.forward + found.forward,
                backward=before.backward + found.backward,
            ),
        )
        names[standing[won]] = prover.name


@dataclasses.dataclass(frozen=True)
class PortfolioEntry:
    """Runner of `ja.minimal_distance`, which does not count queries.

    Attributes:
        effort: Name of the portfolio.
        norm: Its norm.
        prover: None; nothing is proved.
        needs_epsilon: Whether its cells have a radius.
    """

    effort: str
    norm: str
    prover: None = None
    needs_epsilon: bool = False

    @property
    def title(self) -> str:
        return PORTFOLIO

    def attacks(self, targeted: bool) -> list[Attack]:
        phases = get_portfolio(self.effort, self.norm, targeted)
        return list(map(attack_of, members_of(phases).values()))

    def queries(self, classes: int) -> int:
        return max(SingleEntry(attack).queries(classes) for attack in self.attacks(False))

    def passes(self, classes: int) -> int:
        return EFFORTS[self.effort]

    def describe(self) -> Any:
        described: list[Any] = [self.effort]
        for phase in get_portfolio(self.effort, self.norm, False):
            described += map(describe, map(attack_of, phase.members.values()))
            described += ["pattern search"] * phase.searched
        return described

    def run(self, session: Session, rows: Rows) -> tuple[Result, np.ndarray]:
        count, shape, seeds = len(rows.source), session.images.shape[1:], rows.seeds
        assert seeds is not None
        whole = empty_result(count, shape, np.full(count, np.inf), session.ids[rows.source])
        names = np.full(count, "", object)
        for seed in np.unique(seeds, axis=0):
            mine = np.flatnonzero((seeds == seed).all(1))
            own = session.of(rows.source[mine])._replace(
                key=threefry(seed), progress=_beyond(session, whole, self.title)
            )
            part, names[mine] = self._nearest(own)
            whole.put(mine, part)
            if (part.status == Status.NOT_RUN).any() or session.stopped():
                break
        return whole, names

    def _nearest(self, session: Session) -> tuple[Result, np.ndarray]:
        """Attack the session's images; return the results and the attack that broke each image.

        If one image is NOT_RUN, all are.
        """
        count, shape, judge = len(session.images), session.images.shape[1:], session.judge
        whole = empty_result(count, shape, np.full(count, np.inf), session.ids)
        names, rows = np.full(count, "", object), np.arange(count)
        for model in (session.model, judge):
            if model is None or len(rows) == 0:
                continue
            own = session.of(rows)._replace(model=model, judge=None, again=False).checked()
            phases = get_portfolio(self.effort, self.norm, own.goal.targeted)
            nearest = run_portfolio(own.answered(), phases, self.norm)
            part = whole.rows(rows)
            whole.put(
                rows,
                part._replace(
                    images=nearest.images,
                    success=nearest.success,
                    distance=nearest.distance,
                    margin=nearest.margin,
                    status=nearest.status,
                    queries=np.full(len(rows), UNKNOWN),
                    forward=part.forward + nearest.forward,
                    backward=part.backward + nearest.backward,
                ),
            )
            titles = np.array([*nearest.members, ""], object)[nearest.member]
            titles[nearest.status == Status.MISCLASSIFIED] = "misclassified"
            names[rows] = np.where(nearest.success, titles, "")
            if not nearest.complete:
                whole.status[:] = Status.NOT_RUN
                break
            if judge is not None:  # images that the judge refuses, or misclassifies when clean
                margin, clean = (
                    margins(own.goal, predict(judge, images, session.devices))
                    for images in (nearest.images, nearest.originals)
                )
                whole.margin[rows] = margin
                refused = nearest.success & ~(margin < 0)
                rows = rows[refused | (clean < 0) & (nearest.distance > 0)]
        return whole, names


def _beyond(session: Session, whole: Result, title: str) -> StageProgress | None:
    """Report under one title the successes beyond the rows of `whole` that are done."""
    done, found = int((whole.status != Status.NOT_RUN).sum()), int(whole.success.sum())
    tell, count = session.named(title), len(whole.status)
    return None if tell is None else lambda *now: tell(done, count, found + now[-1])
