"""How a run is carried out: one value, opened once by everything that runs attacks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Array

from jaxadv.core.goals import Goal
from jaxadv.core.model import Model
from jaxadv.core.pytree import take
from jaxadv.engine import checks
from jaxadv.engine.devices import choose_devices, choose_lanes
from jaxadv.engine.interrupt import interruptible
from jaxadv.engine.result_store import Store, fingerprint
from jaxadv.engine.verify import predict


class RowProgress(Protocol):
    """Called while one attack runs: rows done, rows in all, successes so far."""

    def __call__(self, done: int, total: int, successes: int, /) -> Any: ...


class StageProgress(Protocol):
    """Called while several attacks run: the attack's name, then as `RowProgress`."""

    def __call__(self, stage: str, done: int, total: int, successes: int, /) -> Any: ...


class Rows(NamedTuple):
    """M rows of an attack: row r attacks images[source[r]] at the stated radius epsilon[r].

    epsilon: [M], one number, or None where the attack takes none; start: [M, H, W, C] images to
    begin from, or None; seeds: the data [M, ...] of a random key for each row, or None for the
    session's key.
    """

    source: np.ndarray
    epsilon: Any = None
    start: np.ndarray | None = None
    seeds: np.ndarray | None = None

    def of(self, index: Any) -> "Rows":
        """Some of the rows."""
        return Rows(
            self.source[index],
            self.epsilon[index] if np.ndim(self.epsilon) else self.epsilon,
            None if self.start is None else self.start[index],
            None if self.seeds is None else self.seeds[index],
        )


class Session(NamedTuple):
    """All that attacks on the same images share.

    model; images [N, H, W, C], their goal and ids [N]; key: a JAX random key; devices: None for all
    local ones; lanes: images in flight on each device, None: chosen for each attack; judge: the
    model that decides about success, None for `model`; again: whether what the judge refuses is
    searched again on the judge; clean_logits [N, K]: the model's, where known, which are then
    neither computed nor counted; store: where finished rows are kept; fingerprint: of all of this
    on which kept rows depend; progress; interrupted: whether to stop (None: nobody listens yet).
    """

    model: Model
    images: Any
    goal: Goal
    ids: Any
    key: Array
    devices: tuple[Any, ...] | None = None
    lanes: int | None = None
    judge: Model | None = None
    again: bool = False
    clean_logits: np.ndarray | None = None
    store: Store | None = None
    fingerprint: str = ""
    progress: StageProgress | None = None
    interrupted: Callable[[], bool] | None = None

    @classmethod
    def open(
        cls,
        model: Model,
        images: Any,
        goal: Any,
        *,
        ids: Any = None,
        key: Array | None = None,
        devices: Any = None,
        lanes: int | None = None,
        store: str | Path | None = None,
    ) -> "Session":
        """A session of checked arguments (goal: a goal, or labels; key: default seed 0)."""
        checks.check_options(store, lanes=lanes)
        session = cls(
            model, images, goal, ids, jax.random.key(0) if key is None else key, lanes=lanes,
            store=Store.or_none(store),
        ).checked()  # fmt: skip
        return session._replace(devices=choose_devices(devices))

    def checked(self) -> "Session":
        """The session with its model, images, goal, ids and key checked. ValueError."""
        images, goal, ids, _ = checks.check_problem(self.model, self.images, self.goal, self.ids)
        return self._replace(images=images, goal=goal, ids=ids, key=checks.check_key(self.key))

    def answered(self) -> "Session":
        """The session with the model's logits of the clean images, of which it is warned, and with
        its fingerprint where it has a store. One forward pass an image."""
        logits = predict(self.model, self.images, self.devices)
        checks.warn_about_logits(logits)
        session = self._replace(clean_logits=logits)
        if self.store is None:
            return session
        key = jax.random.key_data(self.key)
        same = (self.model.params, self.images, self.goal, self.ids, key, logits.round(2))
        return session._replace(fingerprint=fingerprint(*same))

    @contextmanager
    def watched(self, progress: StageProgress | None = None) -> Iterator["Session"]:
        """The session that reports its progress, and stops after the first Ctrl-C."""
        progress = progress or self.progress
        if self.interrupted is not None:
            yield self._replace(progress=progress)
            return
        with interruptible() as interrupted:
            yield self._replace(progress=progress, interrupted=interrupted)

    def named(self, stage: str) -> RowProgress | None:
        """The session's progress as that of one attack."""
        tell = self.progress
        return None if tell is None else lambda *now: tell(stage, *now)

    def stopped(self) -> bool:
        """Whether there was a Ctrl-C."""
        return self.interrupted is not None and self.interrupted()

    def of(self, index: Any) -> "Session":
        """The session of some of the images only."""
        return self._replace(
            images=self.images[index], goal=take(self.goal, index), ids=self.ids[index],
            clean_logits=None if self.clean_logits is None else self.clean_logits[index],
        )  # fmt: skip

    def width(self, queries: int, rows: int) -> int:
        """The lanes of an attack of so many queries a tick on so many rows."""
        if self.lanes:
            return self.lanes
        device = choose_devices(self.devices)[0]
        return choose_lanes(self.model, queries, self.images.shape[1:], rows, device)
