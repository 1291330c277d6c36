"""One stage of a longer program: an attack on all its rows, kept on disk as it goes."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from jaxadv.core.attack import Attack
from jaxadv.core.files import slug
from jaxadv.core.model import Model
from jaxadv.core.result import Cost, Result, Status, empty_result
from jaxadv.engine.execute import Budget
from jaxadv.engine.result_store import fingerprint
from jaxadv.engine.run import run_rows
from jaxadv.engine.session import Rows, Session

ROWS_BETWEEN_SAVES = 4096


class Refine(NamedTuple):
    """In a cascade or portfolio: an attack that begins at the best image so far, not afresh.

    In a cascade that is the one of least margin at this epsilon (at first the clean image); in a
    portfolio the nearest adversarial one, and where there is none, it is not run.
    """

    attack: Attack


def attack_of(entry: Any) -> Attack:
    """The attack of an entry of a cascade or portfolio: itself, or what wrappers say when of."""
    while not isinstance(entry, Attack) and hasattr(entry, "attack"):
        entry = entry.attack
    return entry


def refines(entry: Any) -> bool:
    """Whether the attack of an entry begins at the best image so far."""
    return isinstance(entry, Refine) or (not isinstance(entry, Attack) and refines(entry.attack))


def keep_of(attack: Attack, model: Model, keep: str | None = None) -> str | None:
    """What `run` is to keep: `keep`, but a first success means little where the model draws."""
    return "loss" if model.random and attack.keep == "first" else keep


def describe(attack: Attack) -> Any:
    """An attack as json: all its settings, arrays by their fingerprint."""
    return {
        "attack": attack.name,
        **{
            field.name: _described(getattr(attack, field.name))
            for field in dataclasses.fields(attack)  # type: ignore[arg-type]
        },
    }


def _described(value: Any) -> Any:
    if isinstance(value, Attack):
        return describe(value)
    return fingerprint(value) if getattr(value, "ndim", 0) else repr(value)


def run_stage(
    session: Session,
    name: str,
    attack: Attack,
    rows: Rows,
    *,
    file: str,
    depends: tuple[Any, ...],
    keep: str | None = None,
    budget: Budget | None = None,
) -> Result:
    """One attack on all its rows; those that the session's store holds are not run again.

    name: as which its progress is reported; file: its name in the store; depends: all that the rows
    depend on beside the session's fingerprint; keep, budget: as in `run`.
    """
    count, store, progress = len(rows.source), session.store, session.progress
    file = slug(file.lower())
    mark = "" if store is None else fingerprint(session.fingerprint, *depends)
    saved = None if store is None else store.load(file, mark)
    if saved is None:
        stated = np.full(count, np.inf) if rows.epsilon is None else rows.epsilon
        saved = empty_result(count, session.images.shape[1:], stated, session.ids[rows.source])
    seconds, ticks = saved.cost.seconds, saved.cost.lane_ticks
    open_rows = np.flatnonzero(saved.status == Status.NOT_RUN)
    done = count - len(open_rows)
    for begin in range(0, len(open_rows), ROWS_BETWEEN_SAVES):
        mine = open_rows[begin : begin + ROWS_BETWEEN_SAVES]
        used, local = np.unique(rows.source[mine], return_inverse=True)
        before, successes = done + begin, int(saved.success.sum())

        def report(d: int, _: int, s: int, before: int = before, found: int = successes) -> None:
            if progress is not None:
                progress(name, before + d, count, found + s)

        report(0, 0, 0)
        part = run_rows(
            session.of(used), attack, rows.of(mine)._replace(source=local),
            keep=keep_of(attack, session.model, keep), budget=budget, progress=report,
        )  # fmt: skip
        saved.put(mine, part)
        seconds, ticks = seconds + part.cost.seconds, ticks + part.cost.lane_ticks
        saved = saved._replace(cost=Cost(ticks, seconds))
        if store is not None:
            store.save(file, mark, saved)
        if (part.status == Status.NOT_RUN).any():
            break
    if progress is not None and not (saved.status == Status.NOT_RUN).any():
        progress(name, count, count, int(saved.success.sum()))
    return saved
