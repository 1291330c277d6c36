"""What one line of a grid runs: an attack, a cascade of attacks, or a portfolio of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np

from jaxadv.attacks import build_attack
from jaxadv.core.attack import Attack
from jaxadv.core.goals import Goal, Targeted, Untargeted
from jaxadv.core.result import Result, Status, empty_result
from jaxadv.engine.run import run_rows
from jaxadv.engine.session import Rows, Session, StageProgress
from jaxadv.engine.verify import margins, predict
from jaxadv.protocols.cached_run import attack_of, describe, keep_of, refines
from jaxadv.protocols.cascades import CASCADES, Cascade, Nearly, get_cascade, run_cascade
from jaxadv.protocols.minimal_distance import run_portfolio
from jaxadv.protocols.portfolios import EFFORTS, get_portfolio

PORTFOLIO = "minimal_distance"
UNKNOWN = -1  # of a count that is not kept


def goal_of(goal: str, labels: np.ndarray, classes: int) -> Goal:
    """The goal that a grid names: "untargeted", or "next", class label + 1."""
    return Targeted(labels, (labels + 1) % classes) if goal == "next" else Untargeted(labels)


class Entry(Protocol):
    """What `build_entry` returns."""

    @property
    def title(self) -> str:
        """Its name in results."""
        ...

    @property
    def norm(self) -> str:
        """The norm in which it works."""
        ...

    @property
    def needs_epsilon(self) -> bool:
        """Whether its cells have a radius."""
        ...

    def attacks(self, targeted: bool) -> list[Attack]:
        """All that it may run, towards targets or not."""
        ...

    def queries(self, classes: int) -> int:
        """Images asked in a tick."""
        ...

    def passes(self, classes: int) -> int:
        """The most forward and backward passes that one image can cost."""
        ...

    def describe(self) -> Any:
        """All its settings, for a fingerprint."""
        ...

    def run(self, session: Session, rows: Rows) -> tuple[Result, np.ndarray]:
        """The rows' results, and who broke each: a name, or "" where nobody did.

        The rows have seeds: what `ja.run(key=jax.random.key(seed))` would use for each.
        """
        ...


def build_entry(name: str, settings: Mapping[str, Any]) -> Entry:
    """What a grid's attack of that name and settings (its norm among them) is. ValueError."""
    if name in CASCADES:
        norm = _only(name, settings, "norm")["norm"]
        return CascadeEntry(name, norm, get_cascade(name, norm))
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
    """One attack."""

    attack: Attack

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
            session, self.attack, rows, keep=keep_of(self.attack, session.model),
            progress=session.named(self.title),
        )  # fmt: skip
        return result, _names(result, self.title)


def _any_goal() -> Goal:
    return Untargeted(np.zeros(1, np.int32))


def _names(result: Result, title: str) -> np.ndarray:
    names = np.where(result.success, title, "").astype(object)
    names[result.status == Status.MISCLASSIFIED] = "misclassified"
    return names


@dataclasses.dataclass(frozen=True)
class CascadeEntry:
    """Attacks one after the other, each for the rows that survived those before.

    Unlike `ja.evaluate` every epsilon stands alone, and an attack meant for the hardest images
    (`ja.Hardest`) is given all survivors, so that no row depends on another.
    """

    name: str
    norm: str
    stages: Cascade
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
            for name, stage in self.stages.items()
        }

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
            whole.put(chosen, result._replace(
                forward=whole.forward[chosen] + result.forward - again,
                backward=whole.backward[chosen] + result.backward,
                queries=whole.queries[chosen] + result.queries,
                computed=whole.computed[chosen] + result.computed - again,
            ))  # fmt: skip
            names[chosen] = _names(result, stage.name)
            complete = stage.number == len(self.stages) - 1
        if not complete:  # interrupted between two attacks: the next one's rows are missing
            whole.status[~whole.success] = Status.NOT_RUN
        return whole, names


@dataclasses.dataclass(frozen=True)
class PortfolioEntry:
    """`ja.minimal_distance`, which does not count queries."""

    effort: str
    norm: str
    needs_epsilon: bool = False

    @property
    def title(self) -> str:
        return PORTFOLIO

    def attacks(self, targeted: bool) -> list[Attack]:
        return list(map(attack_of, get_portfolio(self.effort, self.norm, targeted)[0].values()))

    def queries(self, classes: int) -> int:
        return max(SingleEntry(attack).queries(classes) for attack in self.attacks(False))

    def passes(self, classes: int) -> int:
        return EFFORTS[self.effort]

    def describe(self) -> Any:
        return [self.effort, *map(describe, self.attacks(False))]

    def run(self, session: Session, rows: Rows) -> tuple[Result, np.ndarray]:
        count, shape, seeds = len(rows.source), session.images.shape[1:], rows.seeds
        assert seeds is not None
        whole = empty_result(count, shape, np.full(count, np.inf), session.ids[rows.source])
        names = np.full(count, "", object)
        for seed in np.unique(seeds, axis=0):
            mine = np.flatnonzero((seeds == seed).all(1))
            own = session.of(rows.source[mine])._replace(
                key=jax.random.wrap_key_data(seed), progress=_beyond(session, whole, self.title)
            )
            part, names[mine] = self._nearest(own)
            whole.put(mine, part)
            if (part.status == Status.NOT_RUN).any() or session.stopped():
                break
        return whole, names

    def _nearest(self, session: Session) -> tuple[Result, np.ndarray]:
        """The session's images, all of them NOT_RUN where one is, and who broke each."""
        count, shape, judge = len(session.images), session.images.shape[1:], session.judge
        whole = empty_result(count, shape, np.full(count, np.inf), session.ids)
        names, rows = np.full(count, "", object), np.arange(count)
        for model in (session.model, judge):
            if model is None or len(rows) == 0:
                continue
            own = session.of(rows)._replace(model=model, judge=None, again=False).checked()
            members, most = get_portfolio(self.effort, self.norm, own.goal.targeted)
            nearest = run_portfolio(own.answered(), members, self.norm, most)
            part = whole.rows(rows)
            whole.put(rows, part._replace(
                images=nearest.images, success=nearest.success, distance=nearest.distance,
                margin=nearest.margin, status=nearest.status,
                queries=np.full(len(rows), UNKNOWN), forward=part.forward + nearest.forward,
                backward=part.backward + nearest.backward,
            ))  # fmt: skip
            titles = np.array([*nearest.members, ""], object)[nearest.member]
            titles[nearest.status == Status.MISCLASSIFIED] = "misclassified"
            names[rows] = np.where(nearest.success, titles, "")
            if not nearest.complete:
                whole.status[:] = Status.NOT_RUN
                break
            if judge is not None:  # what it refuses, and what it gets wrong from the start
                margin, clean = (margins(own.goal, predict(judge, images, session.devices))
                                 for images in (nearest.images, nearest.originals))  # fmt: skip
                whole.margin[rows] = margin
                refused = nearest.success & ~(margin < 0)
                rows = rows[refused | (clean < 0) & (nearest.distance > 0)]
        return whole, names


def _beyond(session: Session, whole: Result, title: str) -> StageProgress | None:
    """Reports under one title what is found, beyond the rows of `whole` that are done."""
    done, found = int((whole.status != Status.NOT_RUN).sum()), int(whole.success.sum())
    tell, count = session.named(title), len(whole.status)
    return None if tell is None else lambda *now: tell(done, count, found + now[-1])
