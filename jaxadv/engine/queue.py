"""The work of a run as arrays, and its results; both drivers use them.

A row is one image with one goal and one epsilon. It has `attack.entries` entries, numbered by rank.
Its result is the success of lowest rank; entries of higher rank are dropped.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int

from jaxadv.core.attack import Attack, Problem, attack_key, reachable_box
from jaxadv.core.bounds import Bounds
from jaxadv.core.goals import Goal
from jaxadv.core.pytree import take, where
from jaxadv.engine.tick import Best, Counts, Lane, better, init_lane


class Table(NamedTuple):
    """The N images of a run and the M rows that attack them.

    Attributes:
        images: Floats [N, H, W, C].
        clean_logits: Floats [N, K], the logits of the images.
        source: Integers [M], the place in `images` of each row's image (None: row i has image i).
        goal: The goal of each row, with integers [M].
        radius: Floats [M], the stated epsilon reduced for the float64 check (`safe_epsilon`).
        ids: Integers [M] that identify the images in the random keys.
        active: Booleans [M], whether the row is attacked at all.
        start: Floats [M, H, W, C], the images to begin from, or None.
        extra: A pytree with leading axis N, or None.
        seeds: Data [M, ...] of one random key a row, or None for one key for all.
        keys: Random keys [R, M] of all entries, or None until `with_keys`.
    """

    images: Any
    clean_logits: Any
    source: Any
    goal: Goal
    radius: Any
    ids: Any
    active: Any
    start: Any = None
    extra: Any = None
    seeds: Any = None
    keys: Any = None

    def with_keys(self, attack: Attack, key: Array) -> "Table":
        """Return the table with the random keys of all entries of `attack`."""

        def one(row_key: Array, example: Array, rank: Array) -> Array:
            return attack_key(attack, row_key, example, rank)

        ranks = jnp.arange(attack.entries)
        if self.seeds is None:
            keys = jax.vmap(lambda r: jax.vmap(lambda i: one(key, i, r))(self.ids))(ranks)
        else:
            own = jax.random.wrap_key_data(self.seeds, impl=jax.random.key_impl(key))
            keys = jax.vmap(lambda r: jax.vmap(lambda k, i: one(k, i, r))(own, self.ids))(ranks)
        return self._replace(keys=keys)

    def lane(self, attack: Attack, bounds: Bounds, row: Any, rank: Any) -> Lane:
        """Return a lane that begins row `row` at rank `rank` (scalars; vmap for several lanes)."""
        source = row if self.source is None else self.source[row]
        logits, goal = self.clean_logits[source], take(self.goal, row)
        image, radius = self.images[source], self.radius[row]
        lower, upper = reachable_box(attack.norm, image, radius, bounds)
        problem = Problem(
            image=image,
            goal=goal,
            epsilon=radius,
            lower=lower,
            upper=upper,
            clean_logits=logits,
            rank=rank,
            start=take(self.start, row),
            extra=take(self.extra, source),
        )
        lane_key = self.keys[rank, row]
        # The barriers keep a lane's bits independent of the length of the table.
        problem, lane_key, logits = lax.optimization_barrier((problem, lane_key, logits))
        return lax.optimization_barrier(
            init_lane(attack, problem, lane_key, problem.goal.margin(logits))
        )


class RowResult(NamedTuple):
    """The result of a row.

    Attributes:
        best: The best image.
        rank: The rank of the best image (R: none yet).
        nonfinite: Whether a non-finite value was met.
    """

    best: Best
    rank: Int[Array, ""]
    nonfinite: Bool[Array, ""]


class EntryResult(NamedTuple):
    """What is recorded of an entry.

    Attributes:
        counts: Counts of passes and queries.
        ended: Whether the entry is finished.
    """

    counts: Counts
    ended: Bool[Array, ""]


def improves(lane: Lane, rank: Int[Array, ""], old: RowResult) -> Bool[Array, ""]:
    """Return whether the best image of a lane replaces that of its row.

    Among images that are equally good, that of lowest rank is kept.
    """
    tie = (lane.best.tier == old.best.tier) & (lane.best.value == old.best.value)
    return better(lane.best, old.best) | (tie & (rank < old.rank))


class Results(NamedTuple):
    """The results so far, for M rows of R entries each; entry = rank * M + row.

    Attributes:
        rows: The result of each row [M].
        entries: The result of each entry [R * M].
    """

    rows: RowResult
    entries: EntryResult

    @property
    def best(self) -> Best:
        """The best image of each row [M]."""
        return self.rows.best

    @property
    def rank(self) -> Int[Array, " M"]:
        """The rank of the best image of each row (R: none yet)."""
        return self.rows.rank

    @property
    def counts(self) -> Counts:
        """Counts of passes and queries of each entry [R * M]."""
        return self.entries.counts

    @classmethod
    def empty(cls, table: Table, restarts: int) -> "Results":
        """Return empty results: each row holds its clean image."""
        rows = table.active.shape[0]
        images, logits = table.images, table.clean_logits
        if table.source is not None:
            images, logits = images[table.source], logits[table.source]
        margin = jax.vmap(lambda goal, z: goal.margin(z))(table.goal, logits)
        best = Best(
            image=images,
            tier=jnp.zeros(rows, bool),
            value=jnp.full(rows, jnp.inf, jnp.float32),
            adversarial=margin < 0,
            margin=margin,
        )
        none = jnp.zeros(rows * restarts, jnp.int32)
        return cls(
            RowResult(best, jnp.full(rows, restarts, jnp.int32), jnp.zeros(rows, bool)),
            EntryResult(Counts(none, none, none, none), jnp.zeros(rows * restarts, bool)),
        )

    def record_all(self, lanes: Lane, rank: Int[Array, ""], valid: Bool[Array, " M"]) -> "Results":
        """Record entry `rank` of every row that is `valid`; lane i is that of row i."""
        count, old = len(valid), self.rows
        wins = valid & improves(lanes, rank, old)
        rows = RowResult(
            where(wins, lanes.best, old.best),
            jnp.where(wins, rank, old.rank),
            old.nonfinite | (valid & lanes.nonfinite),
        )
        own = EntryResult(lanes.counts, jnp.ones(count, bool))

        def put(every: Array, new: Array) -> Array:
            old = lax.dynamic_slice_in_dim(every, rank * count, count)
            return lax.dynamic_update_slice_in_dim(
                every, jnp.where(valid, new, old), rank * count, 0
            )

        return Results(rows, jax.tree.map(put, self.entries, own))

    def totals(self, keep: str) -> tuple[Counts, Bool[Array, " M"]]:
        """Return the counts of a sequential run for each row, and whether the row is complete.

        The arrays may be numpy's, and have leading axes.
        """
        rank, ended = self.rows.rank, self.entries.ended
        shape = (*rank.shape[:-1], ended.shape[-1] // rank.shape[-1], rank.shape[-1])
        last = success_rank(self.rows.best.tier, rank) if keep == "first" else NEVER + 0 * rank
        paid = np.arange(shape[-2])[:, None] <= last[..., None, :]
        counts = jax.tree.map(
            lambda count: (paid * count.reshape(shape)).sum(-2, dtype=count.dtype),
            self.entries.counts,
        )
        return Counts(*counts), (ended.reshape(shape) | ~paid).all(-2)


NEVER = np.int32(jnp.iinfo(jnp.int32).max)


def success_rank(tier: Bool[Array, "..."], rank: Int[Array, "..."]) -> Int[Array, "..."]:
    """Return the rank at which a row succeeded (`NEVER` where it did not)."""
    return tier * rank + ~tier * NEVER
