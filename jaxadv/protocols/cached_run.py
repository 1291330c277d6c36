"""One attack of a protocol on all its rows, kept on disk in parts."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from jaxadv.core.attack import Attack
from jaxadv.core.files import slug
from jaxadv.core.host import HostFunction
from jaxadv.core.model import Model
from jaxadv.core.result import Cost, Result, Status, empty_result
from jaxadv.core.softened import softened
from jaxadv.engine.compilation import Compilation
from jaxadv.engine.devices import choose_devices
from jaxadv.engine.execute import Budget
from jaxadv.engine.result_store import fingerprint
from jaxadv.engine.run import Plan, compile_ahead, run_rows
from jaxadv.engine.session import Room, Rows, Session

ROWS_BETWEEN_SAVES = 4096

Layer = TypeVar("Layer")


class Refine(NamedTuple):
    """An entry of a cascade or portfolio whose attack begins at the best image so far.

    In a cascade this is the image of least margin at this epsilon (at first the clean image). In a
    portfolio it is the nearest adversarial image; where there is none, the attack is not run.

    Attributes:
        attack: The attack with its settings.
    """

    attack: Attack


class Softened(NamedTuple):
    """An entry of a cascade whose attack follows a softened derivative of the model.

    The model's outputs are its own (see `ja.softened`). A model that draws at random, or has no
    derivative, is attacked as it is.

    Attributes:
        attack: The attack, or a `Refine`.
        width: How far from its kink, in the units of its input, a function is softened.
        round: Entries of the same attack in different rounds draw different random numbers.
    """

    attack: Attack | Refine
    width: float = 0.25
    round: int = 0

    def session(self, session: Session) -> Session:
        """Return the session in which the attack runs."""
        key = jax.random.fold_in(session.key, self.round) if self.round else session.key
        model = session.model
        if not model.random and not isinstance(model.apply, HostFunction):
            model = softened(model, self.width)
        return session._replace(model=model, key=key)


def layer_of(entry: Any, kind: type[Layer]) -> Layer | None:
    """Return what is of this kind in an entry, such as its `Softened`; None if nothing is."""
    while not isinstance(entry, Attack | kind) and hasattr(entry, "attack"):
        entry = entry.attack
    return entry if isinstance(entry, kind) else None


def session_of(entry: Any, session: Session) -> Session:
    """Return the session in which the attack of an entry runs."""
    soft = layer_of(entry, Softened)
    return session if soft is None else soft.session(session)


def attack_of(entry: Any) -> Attack:
    """Return the attack of a cascade or portfolio entry, without what is around it."""
    while not isinstance(entry, Attack) and hasattr(entry, "attack"):
        entry = entry.attack
    return entry


def refines(entry: Any) -> bool:
    """Return whether the attack of an entry begins at the best image so far."""
    return isinstance(entry, Refine) or (not isinstance(entry, Attack) and refines(entry.attack))


def keep_of(attack: Attack, model: Model, keep: str | None = None) -> str | None:
    """Return `keep`, but "loss" for a random model, where a first success means little."""
    return "loss" if model.random and attack.keep == "first" else keep


def describe(attack: Attack) -> dict[str, Any]:
    """Return an attack as JSON: all its settings, arrays as their fingerprints."""
    return {
        "attack": attack.name,
        **{
            field.name: _described(getattr(attack, field.name))
            for field in dataclasses.fields(attack)  # type: ignore[arg-type]
        },
    }


def _described(value: object) -> dict[str, Any] | str:
    if isinstance(value, Attack):
        return describe(value)
    return fingerprint(value) if getattr(value, "ndim", 0) else repr(value)


def file_of(number: int, name: str) -> str:
    """Return the name under which the result of a stage is kept."""
    return slug(f"{number:02d}-{name}".lower())


class Compiler:
    """Compiles the attacks of a cascade or portfolio in other threads, some stages ahead."""

    def __init__(
        self, session: Session, plans: Mapping[str, Plan], entries: Mapping[str, Any]
    ) -> None:
        """Remember what is to be compiled.

        Args:
            session: What all attacks have in common; its room is set.
            plans: The attacks that are not in the store, by name, in the order of their runs.
            entries: The cascade or portfolio.
        """
        self.session, self.plans, self.entries = session, plans, entries
        self.begun: dict[str, Compilation] = {}

    def begin(self, name: str) -> None:
        """Begin to compile an attack, if it is not begun yet."""
        if name in self.plans and name not in self.begun:
            own = session_of(self.entries[name], self.session)
            self.begun[name] = compile_ahead(own, self.plans[name])

    def wait(self, name: str) -> None:
        """Wait until an attack is compiled; the one after it is begun meanwhile."""
        names = list(self.plans)
        if name not in names:
            return
        self.begin(name)
        for following in names[names.index(name) + 1 :][:1]:
            self.begin(following)
        self.begun[name].wait(self.session.named("compiling"))

    def cancel(self) -> None:
        """Give up what is not needed any more."""
        for compilation in self.begun.values():
            compilation.cancel()


def open_compiler(
    session: Session, entries: Mapping[str, Any], given: Mapping[str, Rows]
) -> tuple[Session, Compiler]:
    """Return the session with room for the tables of all its attacks, and their compiler.

    Args:
        session: What all attacks on the images have in common.
        entries: The cascade or portfolio.
        given: For each of its names, all rows that the attack may be given; an attack that is not
            named is compiled where it runs.

    Returns:
        The session and the compiler, which has begun nothing.
    """
    rows = max((len(own.source) for own in given.values()), default=0)
    levels = max(1, rows // max(1, len(session.images)))
    devices = len(choose_devices(session.devices))
    session = session._replace(room=Room.of(session.images, levels, devices))
    plans = {}
    for number, (name, entry) in enumerate(entries.items()):
        held = session.store is not None and session.store.holds(file_of(number, name))
        if name in given and not held:
            attack, own = attack_of(entry), given[name]
            lanes = session.width(attack.queries, len(own.source))
            keep = keep_of(attack, session.model)
            plans[name] = Plan(attack, own, keep, lanes, refines(entry))
    return session, Compiler(session, plans, entries)


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
    """Run one attack on all its rows, except those that the session's store already holds.

    Args:
        session: What all attacks on the images have in common.
        name: Name of the attack in progress reports.
        attack: The attack with its settings.
        rows: The M rows.
        file: Name of the result in the store.
        depends: Everything on which the rows depend beside the session's fingerprint.
        keep: As in `run`.
        budget: As in `run`.

    Returns:
        The result of the M rows; rows that were not reached are NOT_RUN.
    """
    count, store, progress = len(rows.source), session.store, session.progress
    file = slug(file.lower())
    same = "" if store is None else fingerprint(session.fingerprint, *depends)
    saved = None if store is None else store.load(file, same)
    if saved is None:
        stated = np.full(count, np.inf) if rows.epsilon is None else rows.epsilon
        saved = empty_result(count, session.images.shape[1:], stated, session.ids[rows.source])
    seconds, ticks = saved.cost.seconds, saved.cost.lane_ticks
    open_rows = np.flatnonzero(saved.status == Status.NOT_RUN)
    done = count - len(open_rows)
    for begin in range(0, len(open_rows), ROWS_BETWEEN_SAVES):
        batch = open_rows[begin : begin + ROWS_BETWEEN_SAVES]
        used, local = np.unique(rows.source[batch], return_inverse=True)
        before, successes = done + begin, int(saved.success.sum())

        def report(d: int, _: int, s: int, before: int = before, known: int = successes) -> None:
            if progress is not None:
                progress(name, before + d, count, known + s)

        report(0, 0, 0)
        part = run_rows(
            session.of(used),
            attack,
            rows.of(batch)._replace(source=local),
            keep=keep_of(attack, session.model, keep),
            budget=budget,
            progress=report,
        )
        saved.put(batch, part)
        seconds, ticks = seconds + part.cost.seconds, ticks + part.cost.lane_ticks
        saved = saved._replace(cost=Cost(ticks, seconds))
        if store is not None:
            store.save(file, same, saved)
        if (part.status == Status.NOT_RUN).any():
            break
    if progress is not None and not (saved.status == Status.NOT_RUN).any():
        progress(name, count, count, int(saved.success.sum()))
    return saved
