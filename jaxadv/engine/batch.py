"""The plain driver: all images run together until the last one is done. Pure.

It is the reference for the tests of the lanes and the driver for adversarial training: `perturb`
works under jit, vmap, pmap, shard_map and inside scans.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxadv.core.attack import KEEPS, Attack, safe_epsilon, types_of
from jaxadv.core.goals import Goal
from jaxadv.core.model import Model
from jaxadv.core.pytree import where
from jaxadv.core.random import threefry
from jaxadv.core.shapes import image_shape, on_images
from jaxadv.cpu.rewrite import rewrite_for_cpu
from jaxadv.engine.queue import Results, Table
from jaxadv.engine.tick import Lane, tick


def on_cpu() -> bool:
    """Return whether the function that is being traced will run on a CPU.

    The mesh of `jax.set_mesh` says it, which may be one of devices that are not at hand; else the
    default device.
    """
    meant = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    if meant is not None:
        return meant.platform == "cpu"
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
    rewrite: bool | None = None,
    judge_last: bool = True,
) -> Results:
    """Run every row of the table at once, one rank after the other. Pure.

    Args:
        attack: The attack with its settings.
        model: The model under attack.
        table: The M rows; they are the batch axis.
        key: A JAX random key.
        keep: As in `run`.
        limit: The most ticks per entry (None: those of the attack).
        rewrite: Whether to rewrite the program for the CPU (None: if it runs on a CPU).
        judge_last: Whether the model is queried at the image of an entry's last tick. Otherwise
            this image is kept without a query, which serves keep="last" of an attack with one query
            a tick.

    Returns:
        The results of all rows.
    """
    attack = attack.specialize(table.goal, table.clean_logits.shape[-1])
    rows = jnp.arange(table.active.shape[0])
    limit = attack.ticks if limit is None else min(limit, attack.ticks)
    step = tick_function(attack, model, keep, rewrite)
    table = table.with_keys(attack, key)

    def one_rank(rank: Int[Array, ""], results: Results) -> Results:
        lanes = jax.vmap(lambda row: table.lane(attack, model.bounds, row, rank))(rows)
        wanted = table.active
        if keep == "first":
            wanted &= ~results.best.tier

        def live(lanes: Lane) -> Bool[Array, " M"]:
            return wanted & ~lanes.finished

        def proceed(carry: tuple[Int[Array, ""], Lane]) -> Bool[Array, ""]:
            return (carry[0] < (limit if judge_last else limit - 1)) & live(carry[1]).any()

        def body(carry: tuple[Int[Array, ""], Lane]) -> tuple[Int[Array, ""], Lane]:
            return carry[0] + 1, step(carry[1], live(carry[1]))

        _, lanes = lax.while_loop(proceed, body, (jnp.int32(0), lanes))
        if not judge_last:
            with types_of(attack):
                asked = jax.vmap(attack.ask)(lanes.problem, lanes.state)[:, 0]
            sound = jax.vmap(lambda image: jnp.isfinite(image).all())(asked)
            image = where(live(lanes) & sound, asked, lanes.best.image)
            lanes = lanes._replace(best=lanes.best._replace(image=image))
        return results.record_all(lanes, rank, wanted)

    results = Results.empty(table, attack.entries)
    if attack.entries == 1:
        return one_rank(jnp.int32(0), results)
    return lax.fori_loop(0, attack.entries, one_rank, results)


def tick_function(
    attack: Attack, model: Model, keep: str, rewrite: bool | None
) -> Callable[[Lane, Bool[Array, " L"]], Lane]:
    """Return (lanes, live) -> lanes, one tick, rewritten for the CPU if it runs there."""
    rewrite = on_cpu() if rewrite is None else rewrite

    def plain(attack: Attack, model: Model, lanes: Lane, live: Bool[Array, " L"]) -> Lane:
        return tick(attack, model, lanes, live, keep=keep, joined=not rewrite)

    return functools.partial(rewrite_for_cpu(plain) if rewrite else plain, attack, model)


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
    """Return the attacked images only: for training loops, under any JAX transformation.

    The function is pure; it neither validates its arguments nor verifies the images. A PGD of n
    steps costs n backward passes, and n forward passes with keep="last", n + 1 with "loss", and n +
    2 with "first" and "distance", which also need the clean logits.

    Args:
        attack: The attack with its settings.
        model: The model under attack.
        images: Floats [N, H, W, C], float32, within `model.bounds`.
        goal: `Untargeted`, `Targeted` or `Evading`, with integers [N].
        epsilon: Radius of the ball, one number or [N], in the attack's norm and the scale of the
            images (None: infinite).
        key: A JAX random key.
        keep: Which of the queried images is returned: "loss" (the image of highest loss over all
            steps), "last", "first" or "distance", as in `run`.
        ids: Integers [N] that identify the images in the random keys (default 0 to N - 1).

    Returns:
        The attacked images [N, H, W, C], in the shape and dtype of `images`.

    Raises:
        ValueError: If `keep` is not one of these four.

    Example:
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
    table = table._replace(source=None)  # or TPUs would collect a batch that is split over them
    judge_last = keep != "last" or attack.queries > 1
    results = drive_batch(attack, model, table, threefry(key), keep=keep, judge_last=judge_last)
    return results.best.image.reshape(images.shape).astype(images.dtype)


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
    """Return a table of one row an image and clean logits (one forward pass an image). Pure."""
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
