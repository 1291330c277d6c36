"""What one line of a grid runs: an attack, a cascade of attacks, or a portfolio of them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxadv.attacks import build_attack
from jaxadv.core.attack import Attack
from jaxadv.core.goals import Goal, Targeted, Untargeted
from jaxadv.core.model import Model
from jaxadv.core.pytree import take
from jaxadv.core.result import Result, Status, empty_result
from jaxadv.engine.cascades import CASCADES, Cascade, Margins, Nearly, get_cascade
from jaxadv.engine.minimal import minimal_distance
from jaxadv.engine.portfolios import EFFORTS, get_portfolio
from jaxadv.engine.run import run_rows
from jaxadv.engine.stage import attack_of, describe, keep_of, refines
from jaxadv.engine.verify import margins, predict

PORTFOLIO = "minimal_distance"
KEYS = jax.jit(jax.vmap(jax.random.key))
UNKNOWN = -1  # of a count that is not kept


class Work(NamedTuple):
    """M rows of one group: row r attacks images[source[r]] at epsilon[r] with the seed seeds[r].

    images [N, H, W, C], goal and ids [N]; start [M, H, W, C] or None: where to begin; judge: the
    model that decides, where the attack searches on one that stands in for it (None: the same), and
    on which what it refuses is searched again; lanes: in flight on each device; progress(rows done,
    successes); interrupted: whether to stop.
    """

    model: Model
    judge: Model | None
    images: np.ndarray
    goal: Goal
    ids: np.ndarray
    source: np.ndarray
    epsilon: np.ndarray | None
    seeds: np.ndarray
    devices: Any
    lanes: int
    progress: Callable[[int, int], None]
    interrupted: Callable[[], bool]
    start: np.ndarray | None = None

    @property
    def keys(self) -> Any:
        """A random key for each row: what `ja.run(key=jax.random.key(seed))` would use."""
        return KEYS(np.asarray(self.seeds, np.uint32))


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

    def run(self, work: Work) -> tuple[Result, np.ndarray]:
        """The rows' results, and who broke each: a name, or "" where nobody did."""
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
        return self.attack.prepared(_any_goal(), classes).queries

    def passes(self, classes: int) -> int:
        return self.attack.prepared(_any_goal(), classes).passes

    def describe(self) -> Any:
        return describe(self.attack)

    def run(self, work: Work) -> tuple[Result, np.ndarray]:
        result = run_rows(
            self.attack, work.model, work.images, work.goal, work.source, work.epsilon,
            key=work.keys, keep=keep_of(self.attack, work.model), ids=work.ids,
            judge=work.judge, again=work.judge is not None, devices=work.devices,
            lanes=work.lanes, start=work.start,
            progress=lambda done, _, found: work.progress(done, found),
            interrupted=work.interrupted,
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

    def run(self, work: Work) -> tuple[Result, np.ndarray]:
        rows, epsilon = len(work.source), np.asarray(work.epsilon)
        whole = empty_result(rows, work.images.shape[1:], epsilon, work.ids[work.source])
        names = np.full(rows, "", object)
        fallen = np.zeros(rows, bool)
        clean = np.zeros(rows)
        if any(isinstance(stage, Nearly) or refines(stage) for stage in self.stages.values()):
            logits = predict(work.judge or work.model, work.images, work.devices)
            clean = margins(work.goal, logits)[work.source]
        closest = None
        if any(map(refines, self.stages.values())):
            closest = work.images[work.source]
        found = Margins(clean, clean, closest)
        for number, (name, stage) in enumerate(self.stages.items()):
            chosen = np.flatnonzero(~fallen)
            if isinstance(stage, Nearly):
                chosen = chosen[stage.choose(found.of(chosen), rows)]
            if len(chosen) == 0:
                continue
            spared, gone = rows - len(chosen), int(fallen.sum())
            part = work._replace(
                source=work.source[chosen],
                epsilon=epsilon[chosen],
                seeds=work.seeds[chosen],
                progress=lambda _, now, spared=spared, gone=gone: work.progress(spared, gone + now),
                start=found.starts(chosen) if refines(stage) else None,
            )
            result, by = SingleEntry(attack_of(stage)).run(part)
            spent = {f: getattr(result, f) for f in ("forward", "backward", "queries", "computed")}
            if number:  # the clean image is one pass, and was counted by the first
                asked = work.model.samples
                spent["forward"] = spent["forward"] - asked
                spent["computed"] = spent["computed"] - asked
            total = {f: getattr(whole, f)[chosen] + count for f, count in spent.items()}
            kept = result._replace(**total)
            for target, values in zip(whole[:-1], kept[:-1], strict=True):
                target[chosen] = values
            names[chosen] = np.where(by == "", "", np.where(by == "misclassified", by, name))
            found = found.lowered(chosen, result.margin, result.images)
            fallen[chosen] = result.success
            if (result.status == Status.NOT_RUN).any():
                break  # an interruption between two stages leaves the next one's rows NOT_RUN
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

    def run(self, work: Work) -> tuple[Result, np.ndarray]:
        rows = len(work.source)
        nothing = np.full(rows, np.inf)
        whole = empty_result(rows, work.images.shape[1:], nothing, work.ids[work.source])
        names = np.full(rows, "", object)
        for seed in np.unique(work.seeds):
            mine = np.flatnonzero(work.seeds == seed)
            before, found = int((whole.status != Status.NOT_RUN).sum()), int(whole.success.sum())
            complete = True
            for model in (work.model, work.judge):
                if model is None or len(mine) == 0:
                    continue
                used = work.source[mine]
                goal = take(work.goal, used)
                nearest = minimal_distance(
                    model, work.images[used], goal, self.norm,
                    effort=self.effort, key=jax.random.key(int(seed)), ids=work.ids[used],
                    devices=work.devices, lanes=work.lanes,
                    progress=lambda *now, b=before, f=found: work.progress(b, f + now[-1]),
                )  # fmt: skip
                values = {
                    "images": nearest.images, "success": nearest.success,
                    "distance": nearest.distance, "margin": nearest.margin,
                    "status": nearest.status, "queries": np.full(len(mine), UNKNOWN),
                    "forward": whole.forward[mine] + nearest.forward,
                    "backward": whole.backward[mine] + nearest.backward,
                }  # fmt: skip
                for field, value in values.items():
                    getattr(whole, field)[mine] = value
                title = np.array([*nearest.members, ""], object)[nearest.member]
                title[nearest.status == Status.MISCLASSIFIED] = "misclassified"
                names[mine] = np.where(nearest.success, title, "")
                complete &= nearest.complete
                if not complete:
                    whole.status[mine] = Status.NOT_RUN
                    break
                if work.judge is not None:  # what it refuses, and what it gets wrong from the start
                    images = np.concatenate([nearest.images, nearest.originals])
                    margin = margins(take(goal, np.tile(np.arange(len(mine)), 2)),
                                     predict(work.judge, images, work.devices))  # fmt: skip
                    whole.margin[mine] = margin[: len(mine)]
                    refused = nearest.success & ~(margin[: len(mine)] < 0)
                    mine = mine[refused | (margin[len(mine) :] < 0) & (nearest.distance > 0)]
            if not complete or work.interrupted():
                break
        return whole, names
