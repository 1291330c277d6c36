"""What is the same for all attacks of a run: one value, opened once by each protocol."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Array

from jaxadv.core.bounds import Ends
from jaxadv.core.goals import Goal
from jaxadv.core.model import Model
from jaxadv.core.pytree import take
from jaxadv.core.typing import ArrayLike, Devices, Index, Numbers
from jaxadv.engine import checks, clean_answers
from jaxadv.engine.devices import choose_devices, choose_lanes
from jaxadv.engine.interrupt import interruptible
from jaxadv.engine.result_store import Store, fingerprint
from jaxadv.engine.verify import bucket, predict

MOST_PADDED_ROWS, MOST_PADDED_BYTES = 4096, 2**26  # tables up to this size are padded to one size


class RowProgress(Protocol):
    """Called while one attack runs, with (rows done, rows in all, successes so far)."""

    def __call__(self, done: int, total: int, successes: int, /) -> object: ...


class StageProgress(Protocol):
    """Called while several attacks run, with (attack, rows done, rows in all, successes so far)."""

    def __call__(self, stage: str, done: int, total: int, successes: int, /) -> object: ...


class Rows(NamedTuple):
    """M rows of an attack: row r attacks images[source[r]] at the stated radius epsilon[r].

    Attributes:
        source: Integers [M], the image that each row attacks.
        epsilon: Floats [M] (before the checks also one number), or None for an attack without
            epsilon.
        start: Floats [M, H, W, C], the images to begin from, or None.
        seeds: Data [M, ...] of one random key a row, or None for the session's key.
    """

    source: np.ndarray
    epsilon: Any = None
    start: ArrayLike | None = None
    seeds: np.ndarray | None = None

    def of(self, index: Index) -> "Rows":
        """Return the rows at this index."""
        return Rows(
            self.source[index],
            self.epsilon[index] if np.ndim(self.epsilon) else self.epsilon,
            None if self.start is None else self.start[index],
            None if self.seeds is None else self.seeds[index],
        )


class Room(NamedTuple):
    """Sizes of a table on each device; padded to one size, all attacks of a run use one program.

    Attributes:
        images: Number of images.
        rows: Number of rows.
    """

    images: int = 0
    rows: int = 0

    @classmethod
    def of(cls, images: np.ndarray, levels: int, devices: int) -> "Room":
        """Return the room for all images at each of `levels` epsilons, if they are not many."""
        count = math.ceil(len(images) / devices)
        small = count * levels <= MOST_PADDED_ROWS and images.nbytes <= MOST_PADDED_BYTES
        return cls(count, count * levels) if small else cls()

    def bucket(self, needed: "Room", width: int) -> tuple[int, int]:
        """Return the padded number of images and of rows."""
        images, rows = (max(own, other) for own, other in zip(self, needed, strict=True))
        return bucket(images, width), bucket(rows, width)


class Session(NamedTuple):
    """What all attacks on the same images have in common.

    Attributes:
        model: The model under attack.
        images: Floats [N, H, W, C].
        goal: The goal, with integers [N].
        ids: Integers [N] that identify the images in the random keys.
        key: A JAX random key.
        devices: The devices, None for all local ones.
        lanes: Number of images attacked at the same time on each device; None: chosen for each
            attack.
        judge: The model that decides about success, None for `model`.
        again: Whether to search again on the judge what it rejects.
        clean_logits: Floats [N, K] of the model, where known; they are then neither computed nor
            counted.
        store: Where finished rows are kept, or None.
        fingerprint: Fingerprint of everything here on which kept rows depend.
        progress: Called with (attack, rows done, rows in all, successes), or None.
        interrupted: Returns whether to stop; None before `watched`.
        room: The least sizes of a table.
    """

    model: Model
    images: np.ndarray
    goal: Goal
    ids: np.ndarray
    key: Array
    devices: Devices = None
    lanes: int | None = None
    judge: Model | None = None
    again: bool = False
    clean_logits: np.ndarray | None = None
    store: Store | None = None
    fingerprint: str = ""
    progress: StageProgress | None = None
    interrupted: Callable[[], bool] | None = None
    room: Room = Room()

    @classmethod
    def open(
        cls,
        model: Model,
        images: ArrayLike,
        goal: Goal | Numbers,
        *,
        ids: Numbers | None = None,
        key: Array | None = None,
        devices: Devices = None,
        lanes: int | None = None,
        store: str | Path | None = None,
    ) -> "Session":
        """Check the arguments of a protocol and return the session.

        Args:
            model: The model under attack.
            images: Floats [N, H, W, C] within `model.bounds`.
            goal: A goal, or labels, integers [N].
            ids: Integers [N] that identify the images in the random keys (default 0 to N - 1).
            key: A JAX random key (default: seed 0).
            devices: The devices to use (default: all local devices).
            lanes: Number of images attacked at the same time on each device.
            store: A folder in which finished rows are kept.

        Returns:
            The session of the checked arguments.

        Raises:
            ValueError: If an argument has the wrong type, shape, dtype or range.
            OSError: If the store's folder cannot be written to.
        """
        checks.check_options(store, lanes=lanes)
        images, goal, ids, _ = checks.check_problem(model, images, goal, ids)
        key = checks.key_or_first(key)
        return cls(
            model,
            images,
            goal,
            ids,
            key,
            choose_devices(devices),
            lanes,
            store=Store.or_none(store),
        )

    def checked(self) -> "Session":
        """Check model, images, goal, ids and key; ValueError if one is wrong."""
        images, goal, ids, _ = checks.check_problem(self.model, self.images, self.goal, self.ids)
        return self._replace(images=images, goal=goal, ids=ids, key=checks.check_key(self.key))

    def answered(self) -> "Session":
        """Return the session with its clean logits and, if it has a store, its fingerprint.

        The logits cost one forward pass an image; a warning is given if they look wrong.
        """
        logits = predict(self.model, self.images, self.devices)
        clean_answers.warn_about_logits(logits)
        session = self._replace(clean_logits=logits)
        if self.store is None:
            return session
        key = jax.random.key_data(self.key)
        same = (self.model.params, self.images, self.goal, self.ids, key, logits.round(2))
        if isinstance(self.model.bounds[0], Ends):
            same = (*same, self.model.bounds)
        return session._replace(fingerprint=fingerprint(*same))

    @contextmanager
    def watched(self, progress: StageProgress | None = None) -> Iterator["Session"]:
        """Yield the session that reports its progress and stops after the first Ctrl-C."""
        progress = progress or self.progress
        if self.interrupted is not None:
            yield self._replace(progress=progress)
            return
        with interruptible() as interrupted:
            yield self._replace(progress=progress, interrupted=interrupted)

    def logits(self) -> np.ndarray:
        """Return the clean logits [N, K] of the judge, computed if they are not known."""
        if self.clean_logits is not None:
            return self.clean_logits
        return predict(self.judge or self.model, self.images, self.devices)

    def named(self, stage: str) -> RowProgress | None:
        """Return the session's progress as that of one attack."""
        tell = self.progress
        return None if tell is None else lambda *now: tell(stage, *now)

    def stopped(self) -> bool:
        """Return whether there was a Ctrl-C."""
        return self.interrupted is not None and self.interrupted()

    def of(self, index: Index) -> "Session":
        """Return the session of a subset of the images."""
        return self._replace(
            images=self.images[index],
            goal=take(self.goal, index),
            ids=self.ids[index],
            clean_logits=None if self.clean_logits is None else self.clean_logits[index],
        )

    def width(self, queries: int, rows: int) -> int:
        """Return the number of lanes of an attack with `queries` queries a tick on `rows` rows."""
        if self.lanes:
            return self.lanes
        device = choose_devices(self.devices)[0]
        return choose_lanes(self.model, queries, self.images.shape[1:], rows, device)
