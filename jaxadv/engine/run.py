"""`run`: any attack on any number of images, on every device, verified."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxadv.core.attack import Attack
from jaxadv.core.contract import check_contract
from jaxadv.core.goals import Goal
from jaxadv.core.host import host_errors
from jaxadv.core.model import Model
from jaxadv.core.pytree import take
from jaxadv.core.result import Cost, Result, Status, empty_result
from jaxadv.core.shapes import image_shape, on_images
from jaxadv.engine import checks
from jaxadv.engine.chunk import Batch, Budget, Progress, fly_chunk
from jaxadv.engine.devices import (
    choose_devices,
    choose_lanes,
    rows_in_memory,
    spare_memory_maps,
)  # fmt: skip
from jaxadv.engine.interrupt import interruptible


def run(
    attack: Attack,
    model: Model,
    images: Any,
    goal: Goal,
    epsilon: Any = None,
    *,
    key: Array,
    keep: str | None = None,
    ids: Any = None,
    devices: Any = None,
    lanes: int | None = None,
    judge: Model | None = None,
    again: bool = False,
    start: Any = None,
    budget: Budget | None = None,
    halve: bool = False,
    chunk: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Attack every image and verify every answer.

    images: [N, H, W, C] floats within `model.bounds`; any array that can be sliced, also a
    memory-mapped one. Vectors [N, D] are attacked as images of one row, [N, H, W] as images of one
    channel. goal: `Untargeted(labels)`, `Targeted(labels, targets)` or, where the
    model can refuse an image, `Evading(labels, rejected)`, integers [N]. epsilon: radius of the
    ball, one number or [N], in the attack's norm and the scale of the images; None for
    minimum-norm attacks. key: a JAX random key.
    keep: which of all images asked is returned: "first" (stop at the first success), "distance"
    (the nearest adversarial one), "loss" (the highest loss, all steps), "last"; None: what the
    attack is made for. ids: integers [N] that name the images in the random keys (default 0 to
    N - 1): a part of the images with its ids gives what the whole run would give.
    devices: default all local devices. lanes: images in flight per device (default: chosen by the
    number of images and the memory; results are equal bit by bit between runs of equal lanes).
    judge: another model that decides about success (transfer). again: search again on the judge
    where it refuses what the model claims, for a model that stands in for it (`in_bfloat16`); both
    searches are counted. start: [N, H, W, C] images to begin from. budget: a `Budget`. halve: halve
    the lanes while the queue runs dry: fewer passes, but equal bits no longer. chunk: images on the
    devices at a time (default: what fits the memory).
    progress: called with (rows done, rows in all, successes).

    The clean images cost one forward pass each (counted), verification one more (not counted).
    An image that fulfils the goal from the start is a success at distance 0, and not attacked,
    where `keep` is "first" or "distance". Ctrl-C ends the run and returns what is done; a second
    one raises. Raises ValueError for arguments that cannot be meant so.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
    >>> images, goal = jnp.full((3, 2, 2, 1), 0.5), ja.Untargeted(jnp.arange(3))
    >>> result = ja.run(ja.FGSM(), model, images, goal, epsilon=0.1, key=jax.random.key(0))
    >>> result.success.all(), result.distance.max() <= 0.1
    (np.True_, np.True_)
    """
    images = checks.some_images(images)
    count = len(images)
    return run_rows(
        attack, model, images, goal, np.arange(count), epsilon, key=key, keep=keep,
        ids=np.arange(count) if ids is None else ids, devices=devices, lanes=lanes, judge=judge,
        again=again, start=start, budget=budget, halve=halve, chunk=chunk, progress=progress,
    )  # fmt: skip


def run_rows(
    attack: Attack,
    model: Model,
    images: Any,
    goal: Goal,
    source: np.ndarray,
    epsilon: Any,
    *,
    key: Array,
    keep: str | None,
    ids: Any,
    devices: Any = None,
    lanes: int | None = None,
    judge: Model | None = None,
    again: bool = False,
    start: Any = None,
    clean_logits: np.ndarray | None = None,
    budget: Budget | None = None,
    halve: bool = False,
    chunk: int | None = None,
    progress: Progress | None = None,
    interrupted: Callable[[], bool] | None = None,
) -> Result:
    """As `run`, for M rows: row i attacks images[source[i]] at epsilon[i] (one queue for all).

    `goal`, `ids` and `clean_logits` belong to the images; `start` and the result to the rows. key:
    one for all rows, or an array [M] of one for each (restarts from several seeds). Where the clean
    logits [N, K] are given, they are neither computed nor counted. interrupted: asked
    between two pieces of work whether to stop (default: Ctrl-C).
    """
    began = time.perf_counter()
    if again and judge is None:
        raise ValueError("again=True without a judge: pass judge, the model that decides")
    checks.check_attack(attack)
    checks.check_model(model)
    if judge is not None:
        checks.check_model(judge, "judge")
    key = checks.check_key(key)
    given = attack, epsilon, key
    keep = checks.check_keep(keep, attack)
    budget = budget or Budget()
    count, shape = len(images), tuple(images.shape[1:])
    classes = checks.count_classes(model, shape)
    goal = checks.check_goal(goal, count, classes)
    attack, epsilon = checks.prepare_attack(
        attack, model, goal, classes, epsilon, len(source), shape
    )
    ids = checks.check_ids(ids, count)
    chosen = choose_devices(devices)
    spare_memory_maps()
    if start is not None and np.shape(start) != (len(source), *shape):
        raise ValueError(f"start has shape {np.shape(start)}: pass {(len(source), *shape)}")
    rows, seeds = len(source), None
    seen = image_shape(shape)  # as what the attack sees them
    viewed = on_images(model, shape)
    judging = None if judge is None else on_images(judge, shape)
    if key.ndim and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):  # not a raw key of two words
        key, seeds = key[0], np.asarray(jax.random.key_data(key))
        if len(seeds) != rows:
            raise ValueError(f"key has {len(seeds)} keys: pass one, or one for each of {rows} rows")
    check_contract(attack, goal, seen, classes, key, start is not None)
    if lanes is None:
        lanes = choose_lanes(viewed, attack.queries, seen, rows, chosen[0])
    if lanes < 1:
        raise ValueError(f"lanes={lanes}: pass 1 or more")
    if chunk is None:
        chunk = rows_in_memory(shape, chosen[0]) * len(chosen) * count // max(rows, 1) + 1

    outcome = empty_result(rows, seen, epsilon, ids[source])
    spent = 0
    asked_to_stop = nullcontext(interrupted) if interrupted else interruptible()
    with host_errors() as failed, asked_to_stop as stopped:
        interrupted = lambda: stopped() or failed()  # noqa: E731
        for begin in range(0, count, chunk):
            mine = np.flatnonzero((source >= begin) & (source < begin + chunk))
            if len(mine) == 0 or interrupted():
                continue
            part = slice(begin, begin + chunk)
            originals = checks.check_images(images[part], model.bounds)
            checks.check_box(attack, epsilon, model.bounds, originals)
            if attack.norm != "l0":
                checks.warn_about_rounding(originals[source[mine] - begin], epsilon[mine])
            first = (
                None if start is None else
                checks.check_images(start[mine], model.bounds, "start").reshape(-1, *seen)
            )  # fmt: skip
            batch = Batch(
                originals.reshape(-1, *seen), take(goal, part), ids[part],
                source[mine] - begin, epsilon[mine],
                None if clean_logits is None else clean_logits[part], first,
                None if seeds is None else seeds[mine],
            )  # fmt: skip
            ticks = fly_chunk(
                attack, viewed, batch, key, keep, chosen, lanes, halve, budget, interrupted, began,
                spent, outcome, mine, judging, again, progress,
            )  # fmt: skip
            spent += ticks
        outcome = outcome._replace(images=outcome.images.reshape(rows, *shape))
        refused = np.flatnonzero(outcome.status == Status.REJECTED_LABEL)
        if again and len(refused):
            outcome.status[refused] = Status.NOT_RUN
            each = attack.queries * (1 + attack.pullbacks)
            gone = time.perf_counter() - began
            left = budget._replace(
                passes=None if budget.passes is None else max(0, budget.passes - spent * each),
                seconds=None if budget.seconds is None else max(0.0, budget.seconds - gone),
            )
            attack, epsilon, key = given
            images_of, within = np.unique(source[refused], return_inverse=True)
            won = int(outcome.success.sum())
            second = run_rows(
                attack, judge, images[images_of], take(goal, images_of), within,  # type: ignore[arg-type]
                np.asarray(epsilon)[refused] if np.ndim(epsilon) else epsilon,
                key=key if seeds is None else key[refused], keep=keep,
                ids=ids[images_of], devices=chosen, lanes=lanes,
                start=None if start is None else start[refused], budget=left, halve=halve,
                interrupted=interrupted,
                progress=None if progress is None else
                lambda done, more, found: progress(rows - more + done, rows, won + found),
            )  # fmt: skip
            for field in ("forward", "backward", "queries", "computed"):
                getattr(second, field)[:] += getattr(outcome, field)[refused]
            for whole, part in zip(outcome[:-1], second[:-1], strict=True):
                whole[refused] = part
            spent += second.cost.lane_ticks
    cost = Cost(lane_ticks=spent, seconds=time.perf_counter() - began)
    return outcome._replace(cost=cost)
