"""`run`: any attack on any number of images, on every device, verified."""

import time
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
from jaxadv.core.result import Cost, Result, Status, empty_result
from jaxadv.core.shapes import image_shape, on_images
from jaxadv.engine import checks
from jaxadv.engine.devices import (
    choose_devices,
    choose_lanes,
    rows_in_memory,
    spare_memory_maps,
)  # fmt: skip
from jaxadv.engine.execute import Batch, Budget, Setup, Watch, run_chunk
from jaxadv.engine.session import RowProgress, Rows, Session


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
    progress: RowProgress | None = None,
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
    ids = np.arange(count) if ids is None else ids
    session = Session(model, images, goal, ids, key, devices, lanes, judge=judge, again=again)
    rows = Rows(np.arange(count), epsilon, start)
    return run_rows(
        session, attack, rows, keep=keep, budget=budget, halve=halve, chunk=chunk, progress=progress
    )


def run_rows(
    session: Session,
    attack: Attack,
    rows: Rows,
    *,
    keep: str | None = None,
    budget: Budget | None = None,
    halve: bool = False,
    chunk: int | None = None,
    progress: RowProgress | None = None,
) -> Result:
    """As `run`, for M rows in one queue; the result is that of the rows.

    The session's key may also be an array [M]: a key for each row. progress: of these rows; that of
    the session is not called.
    """
    began = time.perf_counter()
    setup, given, wanted = _set_up(session, attack, rows, keep, budget or Budget(), halve)
    with host_errors() as failed, given.watched() as given:
        watch = Watch(began, lambda: given.stopped() or failed(), progress)
        outcome, spent = _run_chunks(setup, given, wanted, watch, chunk)
        refused = np.flatnonzero(outcome.status == Status.REJECTED_LABEL)
        if setup.again and len(refused):
            outcome.status[refused] = Status.NOT_RUN
            stated = wanted._replace(epsilon=rows.epsilon).of(refused)
            won = int(outcome.success.sum())

            def report(done: int, more: int, found: int) -> None:
                if progress is not None:
                    progress(len(rows.source) - more + done, len(rows.source), won + found)

            second = _search_again(setup, given, attack, stated, spent, watch, report)
            for field in ("forward", "backward", "queries", "computed"):
                getattr(second, field)[:] += getattr(outcome, field)[refused]
            outcome.put(refused, second)
            spent += second.cost.lane_ticks
    cost = Cost(lane_ticks=spent, seconds=time.perf_counter() - began)
    return outcome._replace(cost=cost)


def _set_up(
    session: Session, attack: Attack, rows: Rows, keep: str | None, budget: Budget, halve: bool
) -> tuple[Setup, Session, Rows]:
    """How to attack, the session and the rows, all checked, and chosen what is left open."""
    model, judge, count = session.model, session.judge, len(rows.source)
    if session.again and judge is None:
        raise ValueError("again=True without a judge: pass judge, the model that decides")
    checks.check_attack(attack)
    checks.check_model(model)
    if judge is not None:
        checks.check_model(judge, "judge")
    key, seeds = checks.check_key(session.key), rows.seeds
    keep = checks.check_keep(keep, attack)
    images, shape = len(session.images), tuple(session.images.shape[1:])
    classes = checks.count_classes(model, shape)
    goal = checks.check_goal(session.goal, images, classes)
    attack, epsilon = checks.prepare_attack(
        attack, model, goal, classes, rows.epsilon, count, shape
    )
    ids = checks.check_ids(session.ids, images)
    devices = choose_devices(session.devices)
    spare_memory_maps()
    if rows.start is not None and np.shape(rows.start) != (count, *shape):
        raise ValueError(f"start has shape {np.shape(rows.start)}: pass {(count, *shape)}")
    if key.ndim and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):  # not a raw key of two words
        key, seeds = key[0], np.asarray(jax.random.key_data(key))
    if seeds is not None and len(seeds) != count:
        raise ValueError(f"key has {len(seeds)} keys: pass one, or one for each of {count} rows")
    check_contract(attack, goal, image_shape(shape), classes, key, rows.start is not None)
    viewed, lanes = on_images(model, shape), session.lanes
    if lanes is None:
        lanes = choose_lanes(viewed, attack.queries, image_shape(shape), count, devices[0])
    if lanes < 1:
        raise ValueError(f"lanes={lanes}: pass 1 or more")
    judging = None if judge is None else on_images(judge, shape)
    again = session.again
    return (
        Setup(attack, viewed, judging, again, keep, key, devices, lanes, halve, budget),
        session._replace(goal=goal, ids=ids, key=key, devices=devices, lanes=lanes),
        rows._replace(epsilon=epsilon, seeds=seeds),
    )


def _run_chunks(
    setup: Setup, session: Session, rows: Rows, watch: Watch, chunk: int | None
) -> tuple[Result, int]:
    """The rows' results, and the lane ticks; chunk: how many images are on the devices at a time
    (None: what fits their memory)."""
    images, bounds, source = session.images, session.model.bounds, rows.source
    count, total, shape = len(images), len(source), tuple(images.shape[1:])
    seen = image_shape(shape)  # as what the attack sees them
    if chunk is None:
        most = rows_in_memory(shape, setup.devices[0]) * len(setup.devices)
        chunk = most * count // max(total, 1) + 1
    outcome, spent = empty_result(total, seen, rows.epsilon, session.ids[source]), 0
    for begin in range(0, count, chunk):
        mine = np.flatnonzero((source >= begin) & (source < begin + chunk))
        if len(mine) == 0 or watch.interrupted():
            continue
        part, own = session.of(slice(begin, begin + chunk)), rows.of(mine)
        own = own._replace(source=own.source - begin)
        originals = checks.check_images(part.images, bounds)
        checks.check_box(setup.attack, rows.epsilon, bounds, originals)
        if setup.attack.norm != "l0":
            checks.warn_about_rounding(originals[own.source], own.epsilon)
        if own.start is not None:
            start = checks.check_images(own.start, bounds, "start")
            own = own._replace(start=start.reshape(-1, *seen))
        originals = originals.reshape(-1, *seen)
        batch = Batch(originals, part.goal, part.ids, part.clean_logits, own)
        found, ticks = run_chunk(setup, batch, watch, spent)
        if found is not None:
            outcome.put(mine, found)
        spent += ticks
    return outcome._replace(images=outcome.images.reshape(total, *shape)), spent


def _search_again(
    setup: Setup, session: Session, attack: Attack, rows: Rows, spent: int, watch: Watch,
    progress: RowProgress,
) -> Result:  # fmt: skip
    """The rows that the judge refused, searched on the judge with what is left of the budget."""
    budget, gone = setup.budget, time.perf_counter() - watch.began
    left = budget._replace(
        passes=None if budget.passes is None
        else max(0, budget.passes - spent * setup.passes_per_tick),
        seconds=None if budget.seconds is None else max(0.0, budget.seconds - gone),
    )  # fmt: skip
    assert session.judge is not None
    images, source = np.unique(rows.source, return_inverse=True)
    session = session.of(images)._replace(
        model=session.judge, judge=None, again=False, clean_logits=None
    )
    return run_rows(
        session, attack, rows._replace(source=source), keep=setup.keep, budget=left,
        halve=setup.halve, progress=progress,
    )  # fmt: skip
