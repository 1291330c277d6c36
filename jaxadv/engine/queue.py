"""The work of a run as arrays, and its results; both drivers use them.

A row is one image with one goal and one epsilon. It has `attack.entries` entries, numbered by rank.
Its result is the success of lowest rank; entries of higher rank are dropped.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxadv.core.attack import Attack, Problem, attack_key, reachable_box
from jaxadv.core.goals import Goal
from jaxadv.core.pytree import take
from jaxadv.engine.tick import Best, Counts, Lane, better, init_lane


class Table(NamedTuple):
    """The N images of a run and the M rows that attack them.

    Attributes:
        images: Floats [N, H, W, C].
        clean_logits: Floats [N, K], the logits of the images.
        source: Integers [M], the place in `images` of each row's image.
        goal: The goal of each row, with integers [M].
        radius: Floats [M], the stated epsilon reduced for the float64 check (`safe_epsilon`).
        ids: Integers [M] that identify the images in the random keys.
        active: Booleans [M], whether the row is attacked at all.
        start: Floats [M, H, W, C], the images to begin from, or None.
        extra: A pytree with leading axis N, or None.
        seeds: Data [M, ...] of one random key a row, or None for one key for all.
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

    def lane(
        self, attack: Attack, bounds: tuple[float, float], key: Array, row: Any, rank: Any
    ) -> Lane:
        """Return a lane that begins row `row` at rank `rank` (scalars; vmap for several lanes)."""
        source = self.source[row]
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
        if self.seeds is not None:
            key = jax.random.wrap_key_data(self.seeds[row], impl=jax.random.key_impl(key))
        lane_key = attack_key(attack, key, self.ids[row], rank)
        # The barriers keep a lane's bits independent of the length of the table.
        problem, lane_key, logits = lax.optimization_barrier((problem, lane_key, logits))
        return lax.optimization_barrier(
            init_lane(attack, problem, lane_key, problem.goal.margin(logits))
        )


class Results(NamedTuple):
    """The results so far, for M rows of R entries each; entry = rank * M + row.

    Attributes:
        best: The best image of each row [M].
        rank: Integers [M], the rank of the best image (R: none yet).
        nonfinite: Booleans [M], whether a non-finite value was met.
        counts: Counts of passes and queries of each entry [M * R].
        ended: Booleans [M * R], whether the entry is finished.
    """

    best: Best
    rank: Any
    nonfinite: Any
    counts: Counts
    ended: Any

    @classmethod
    def empty(cls, table: Table, restarts: int) -> "Results":
        """Return empty results: each row holds its clean image."""
        rows = table.source.shape[0]
        margin = jax.vmap(lambda goal, z: goal.margin(z))(
            table.goal, table.clean_logits[table.source]
        )
        best = Best(
            image=table.images[table.source],
            tier=jnp.zeros(rows, bool),
            value=jnp.full(rows, jnp.inf, jnp.float32),
            adversarial=margin < 0,
            margin=margin,
        )
        none = jnp.zeros(rows * restarts, jnp.int32)
        return cls(
            best=best,
            rank=jnp.full(rows, restarts, jnp.int32),
            nonfinite=jnp.zeros(rows, bool),
            counts=Counts(none, none, none, none),
            ended=jnp.zeros(rows * restarts, bool),
        )

    def success_rank(self, row: Any) -> Any:
        """Return the rank at which a row succeeded (a large number where it did not)."""
        return jnp.where(self.best.tier[row], self.rank[row], jnp.iinfo(jnp.int32).max)

    def settle(self, lanes: Lane, row: Any, rank: Any, valid: Any) -> "Results":
        """Record the results of finished lanes [F]; the rows of valid lanes differ."""
        rows = self.rank.shape[0]
        old = Best(*take(self.best, row))
        tie = (lanes.best.tier == old.tier) & (lanes.best.value == old.value)
        wins = better(lanes.best, old) | (tie & (rank < self.rank[row]))
        place = jnp.where(valid & wins, row, rows)
        best = jax.tree.map(
            lambda kept, new: kept.at[place].set(new, mode="drop"), self.best, lanes.best
        )
        entry = jnp.where(valid, rank * rows + row, self.ended.shape[0])
        return Results(
            best=best,
            rank=self.rank.at[place].set(rank, mode="drop"),
            nonfinite=self.nonfinite.at[jnp.where(valid, row, rows)].max(
                lanes.nonfinite, mode="drop"
            ),
            counts=jax.tree.map(
                lambda kept, new: kept.at[entry].set(new, mode="drop"), self.counts, lanes.counts
            ),
            ended=self.ended.at[entry].set(True, mode="drop"),
        )

    def totals(self, keep: str) -> tuple[Counts, Any]:
        """Return the counts of a sequential run for each row, and whether the row is complete."""
        rows = self.rank.shape[0]
        ranks = jnp.arange(self.ended.shape[0] // rows)[:, None]
        last = self.success_rank(jnp.arange(rows)) if keep == "first" else jnp.iinfo(jnp.int32).max
        paid = ranks <= last
        counts = jax.tree.map(
            lambda count: jnp.where(paid, count.reshape(-1, rows), 0).sum(0), self.counts
        )
        complete = (self.ended.reshape(-1, rows) | ~paid).all(0)
        return Counts(*counts), complete
