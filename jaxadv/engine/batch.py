"""The plain driver: every image keeps its lane until the last one is done. Pure.

It is the reference that the tests hold the lanes against, and the bare driver for adversarial
training: `perturb` can stand under jit, vmap, pmap, shard_map and inside scans.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxadv.core.attack import KEEPS, Attack, safe_epsilon, types_of
from jaxadv.core.goals import Goal
from jaxadv.core.model import Model
from jaxadv.core.pytree import where
from jaxadv.core.shapes import image_shape, on_images
from jaxadv.cpu.rewrite import rewrite_for_cpu
from jaxadv.engine.queue import Results, Table
from jaxadv.engine.tick import needs_gradient, tick


def on_cpu() -> bool:
    """Whether what is traced now will run on a CPU."""
    default = jax.config.jax_default_device  # type: ignore[attr-defined]
    platform = default if isinstance(default, str) else getattr(default, "platform", None)
    return (platform or jax.default_backend()) == "cpu"


def drive_batch(
    attack: Attack,
    model: Model,
    table: Table,
    key: Array,
    *,
    keep: str,
    limit: int | None = None,
    cure: bool | None = None,
    judge_last: bool = True,
) -> Results:
    """Run every row of the table at once, rank after rank. Pure; rows are the batch's axis.

    limit: the most ticks per entry; cure: rewrite for the CPU (default: where the CPU is used);
    judge_last: whether the model is asked about the image of an entry's last tick; else it is kept
    as it is, which serves keep="last" of an attack that asks one image a tick.
    """
    attack = attack.specialize(table.goal, table.clean_logits.shape[-1])
    rows = jnp.arange(table.source.shape[0])
    limit = attack.ticks if limit is None else min(limit, attack.ticks)
    step = tick_function(attack, model, keep, cure)

    def one_rank(rank: Any, gathered: Results) -> Results:
        ranks = jnp.full(rows.shape, rank, jnp.int32)
        lanes = jax.vmap(lambda row, r: table.lane(attack, model.bounds, key, row, r))(rows, ranks)
        wanted = table.active
        if keep == "first":
            wanted &= ~gathered.best.tier

        def live(lanes: Any) -> Any:
            return wanted & ~lanes.finished

        def go_on(carry: Any) -> Any:
            return (carry[0] < (limit if judge_last else limit - 1)) & live(carry[1]).any()

        def body(carry: Any) -> Any:
            return advance(
                go_on,
                lambda carry: needs_gradient(attack, carry[1], live(carry[1])),
                lambda carry, backward: (carry[0] + 1, step(carry[1], live(carry[1]), backward)),
                carry,
                attack.pullbacks > 0,
            )

        _, lanes = lax.while_loop(go_on, body, (jnp.int32(0), lanes))
        if not judge_last:
            with types_of(attack):
                asked = jax.vmap(attack.ask)(lanes.problem, lanes.state)[:, 0]
            sound = jax.vmap(lambda image: jnp.isfinite(image).all())(asked)
            image = where(live(lanes) & sound, asked, lanes.best.image)
            lanes = lanes._replace(best=lanes.best._replace(image=image))
        return gathered.settle(lanes, rows, ranks, wanted)

    gathered = Results.empty(table, attack.entries)
    if attack.entries == 1:
        return one_rank(0, gathered)
    return lax.fori_loop(0, attack.entries, one_rank, gathered)


def tick_function(attack: Attack, model: Model, keep: str, cure: bool | None) -> Any:
    """(lanes, live, backward) -> lanes, cured where it runs on a CPU."""
    cure = on_cpu() if cure is None else cure

    def step(lanes: Any, live: Any, backward: bool) -> Any:
        def plain(attack: Attack, model: Model, lanes: Any, live: Any) -> Any:
            return tick(attack, model, lanes, live, keep=keep, backward=backward)

        return (rewrite_for_cpu(plain) if cure else plain)(attack, model, lanes, live)

    return step


def advance(go_on: Any, is_hungry: Any, body: Any, carry: Any, gradients: bool) -> Any:
    """Tick as long as it takes while `go_on(carry)`: at least once. Pure.

    Whole ticks are a loop of their own, and a tick in which nobody reads a gradient comes between
    two such loops: a branch within the loop would cost a small network a tenth.
    """
    if not gradients:
        return lax.while_loop(go_on, lambda c: body(c, False), carry)
    carry = lax.while_loop(lambda c: go_on(c) & is_hungry(c), lambda c: body(c, True), carry)
    return lax.cond(go_on(carry), lambda c: body(c, False), lambda c: c, carry)


def perturb(
    attack: Attack,
    model: Model,
    images: Float[Array, "N ..."],
    goal: Goal,
    epsilon: Any = None,
    *,
    key: Array,
    keep: str = "loss",
    ids: Any = None,
) -> Float[Array, "N ..."]:
    """The attacked images [N, H, W, C], and nothing else: for training loops, under any transform.

    images: [N, H, W, C] float32 within `model.bounds`; epsilon: scalar or [N], in the attack's norm
    and the images' scale (None: infinite); keep: "loss" (of all steps the image of highest loss),
    "last", "first" or "distance"; ids: integers [N] that name the images in the random keys
    (default 0 to N - 1). Pure; nothing is verified or validated. A PGD of n steps costs n backward
    passes and, with "last", n forward passes, with "loss" one more, with "first" and "distance" yet
    another, for the clean image.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
    >>> images, goal = jnp.full((3, 2, 2, 1), 0.5), ja.Untargeted(jnp.arange(3))
    >>> attack = ja.PGD(steps=7, step_size=0.25)
    >>> ja.perturb(attack, model, images, goal, 0.1, key=jax.random.key(0)).shape
    (3, 2, 2, 1)
    """
    if keep not in KEEPS:
        raise ValueError(f"keep={keep!r}: pass one of {KEEPS}")
    images = jnp.asarray(images)
    model = on_images(model, images.shape[1:])
    seen = images.reshape(len(images), *image_shape(images.shape[1:]))
    seen = seen.astype(jnp.float32) if seen.dtype == jnp.float64 else seen
    table = make_table(attack, model, seen, goal, epsilon, ids, keep=keep)
    judge_last = keep != "last" or attack.queries > 1
    gathered = drive_batch(attack, model, table, key, keep=keep, judge_last=judge_last)
    return gathered.best.image.reshape(images.shape).astype(images.dtype)


def make_table(
    attack: Attack,
    model: Model,
    images: Any,
    goal: Goal,
    epsilon: Any,
    ids: Any = None,
    *,
    keep: str = "first",
) -> Table:
    """One row an image, with the model's answers to the clean images (one forward pass). Pure."""
    images = jnp.asarray(images)
    count = images.shape[0]
    if epsilon is None:
        radius = jnp.full(count, jnp.inf, jnp.float32)
    else:
        radius = jnp.asarray(safe_epsilon(attack.norm, epsilon))
    forward = rewrite_for_cpu(lambda m, x: m(x)) if on_cpu() else lambda m, x: m(x)
    logits = forward(model, images).astype(jnp.float32)
    goal = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.int32), goal)
    margin = jax.vmap(lambda g, z: g.margin(z))(goal, logits)
    return Table(
        images=images,
        clean_logits=logits,
        source=jnp.arange(count),
        goal=goal,
        radius=jnp.broadcast_to(radius, (count,)).astype(jnp.float32),
        ids=jnp.arange(count) if ids is None else jnp.asarray(ids),
        active=~(margin < 0) if keep in ("first", "distance") else jnp.ones(count, bool),
    )
