"""One stage of a longer program: an attack on all its rows, kept on disk as it goes."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array

from jaxadv.core.attack import Attack
from jaxadv.core.goals import Goal
from jaxadv.core.model import Model
from jaxadv.core.pytree import take
from jaxadv.core.result import Cost, Result, Status, empty_result
from jaxadv.engine.chunk import Budget
from jaxadv.engine.run import run_rows
from jaxadv.engine.store import Store, fingerprint

ROWS_BETWEEN_SAVES = 4096
Progress = Callable[[str, int, int, int], None]  # stage, rows done, rows in all, successes


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


def under_name(progress: Progress | None, name: str) -> Callable[[int, int, int], None] | None:
    """What `run` is to call on behalf of the stage of this name."""
    if progress is None:
        return None
    return lambda done, total, successes: progress(name, done, total, successes)


def keep_of(attack: Attack, model: Model, keep: str | None = None) -> str | None:
    """What `run` is to keep: `keep`, but a first success means little where the model draws."""
    return "loss" if model.random and attack.keep == "first" else keep


def slug(name: str) -> str:
    """A stage's name as a file's."""
    return "".join(c if c.isalnum() else "-" for c in name.lower())


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
    attack: Attack, model: Model, images: np.ndarray, goal: Goal, source: np.ndarray,
    epsilon: np.ndarray | None, *, key: Array, ids: np.ndarray, devices: Any, lanes: int,
    clean_logits: np.ndarray, store: Store | None, name: str, mark: str, progress: Any,
    interrupted: Callable[[], bool], start: np.ndarray | None = None, keep: str | None = None,
    budget: Budget | None = None,
) -> Result:  # fmt: skip
    """One attack on all its rows; those that the store holds under this mark are not run again.

    Row r attacks images[source[r]] at epsilon[r] (None: without); the goal, ids and clean logits
    belong to the images, `start` to the rows. name: of the stage's file in the store; keep, budget:
    as in `run`.
    """
    rows = len(source)
    saved = store.load(name, mark) if store is not None else None
    if saved is None:
        stated = np.full(rows, np.inf) if epsilon is None else epsilon
        saved = empty_result(rows, images.shape[1:], stated, ids[source])
    seconds, ticks = saved.cost.seconds, saved.cost.lane_ticks
    open_rows = np.flatnonzero(saved.status == Status.NOT_RUN)
    done = rows - len(open_rows)
    for begin in range(0, len(open_rows), ROWS_BETWEEN_SAVES):
        mine = open_rows[begin : begin + ROWS_BETWEEN_SAVES]
        used, local = np.unique(source[mine], return_inverse=True)
        before, successes = done + begin, int(saved.success.sum())

        def report(d: int, _: int, s: int, before: int = before, found: int = successes) -> None:
            if progress is not None:
                progress(before + d, rows, found + s)

        report(0, 0, 0)
        part = run_rows(
            attack, model, images[used], take(goal, used), local,
            None if epsilon is None else epsilon[mine], key=key,
            keep=keep_of(attack, model, keep), ids=ids[used],
            devices=devices, lanes=lanes, clean_logits=clean_logits[used], progress=report,
            budget=budget, interrupted=interrupted, start=None if start is None else start[mine],
        )  # fmt: skip
        for whole, piece in zip(saved[:-1], part[:-1], strict=True):
            whole[mine] = piece
        seconds, ticks = seconds + part.cost.seconds, ticks + part.cost.lane_ticks
        saved = saved._replace(cost=Cost(ticks, seconds))
        if store is not None:
            store.save(name, mark, saved)
        if (part.status == Status.NOT_RUN).any():
            break
    if progress is not None and not (saved.status == Status.NOT_RUN).any():
        progress(rows, rows, int(saved.success.sum()))
    return saved
