"""`run`: run one attack on images, on all devices, and verify the returned images."""

import time
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from jaxadv.core.attack import Attack
from jaxadv.core.contract import check_contract
from jaxadv.core.goals import Goal
from jaxadv.core.host import host_errors
from jaxadv.core.model import Model
from jaxadv.core.result import Cost, Result, Status, empty_result
from jaxadv.core.shapes import image_shape, on_images
from jaxadv.core.typing import ArrayLike, Devices, Numbers
from jaxadv.engine import checks
from jaxadv.engine.compilation import Compilation, compiles
from jaxadv.engine.devices import (
    choose_devices,
    choose_lanes,
    rows_in_memory,
    spare_memory_maps,
)
from jaxadv.engine.execute import Batch, Budget, Setup, Watch, compile_room, run_chunk
from jaxadv.engine.session import Room, RowProgress, Rows, Session


def run(
    attack: Attack,
    model: Model,
    images: ArrayLike,
    goal: Goal,
    epsilon: Numbers | None = None,
    *,
    key: Array,
    keep: str | None = None,
    ids: Numbers | None = None,
    devices: Devices = None,
    lanes: int | None = None,
    judge: Model | None = None,
    again: bool = False,
    start: ArrayLike | None = None,
    budget: Budget | None = None,
    halve: bool = False,
    chunk: int | None = None,
    progress: RowProgress | None = None,
) -> Result:
    """Run an attack on every image and verify every returned image.

    The clean images cost one forward pass each, which is counted; the verification costs one more
    each, which is not counted. Where `keep` is "first" or "distance", an image that fulfils the
    goal from the start is a success at distance 0 and is not attacked. Ctrl-C ends the run and
    returns what is done; a second Ctrl-C raises KeyboardInterrupt.

    Args:
        attack: The attack with its settings.
        model: The model under attack.
        images: Floats [N, H, W, C] within `model.bounds`, in any array that can be sliced, such as
            a memory-mapped one. Vectors [N, D] are attacked as images of one row, [N, H, W] as
            images of one channel.
        goal: `Untargeted(labels)`, `Targeted(labels, targets)` or, for a model that can reject an
            image, `Evading(labels, rejected)`; labels and targets are integers [N].
        epsilon: Radius of the ball, one number or [N], in the attack's norm and the scale of the
            images; None for minimum-norm attacks.
        key: A JAX random key.
        keep: Which of the queried images is returned: "first" (the attack stops at the first
            success), "distance" (the nearest adversarial image), "loss" (the image of highest loss
            over all steps) or "last"; None for the attack's own default.
        ids: Integers [N] that identify the images in the random keys (default 0 to N - 1). A subset
            of the images with its ids gives the same results as in the whole run.
        devices: The devices to use (default: all local devices).
        lanes: Number of images attacked at the same time on each device (default: chosen from the
            number of images and the memory). Runs with equal lanes give equal results bit by bit.
        judge: Another model that decides about success, for transfer attacks.
        again: Whether to search again on the judge where it rejects a success on the model, for a
            model that stands in for the judge (`in_bfloat16`). The passes of both searches are
            counted.
        start: Images [N, H, W, C] from which the attack begins.
        budget: Where to stop, a `Budget`.
        halve: Whether to halve the lanes once the queue is empty. This takes fewer passes, but
            results are no longer equal bit by bit.
        chunk: Number of images on the devices at a time (default: as many as fit the memory).
        progress: Called with (rows done, rows in all, successes).

    Returns:
        The images, success, distances, margins, counted passes and status of every row.

    Raises:
        ValueError: If an argument has the wrong type, shape, dtype or range, if `again` is set
            without a judge, or if attack, model, goal and epsilon do not fit each other.

    Example:
        >>> import jax, jax.numpy as jnp, jaxadv as ja
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
        >>> images, goal = jnp.full((3, 2, 2, 1), 0.5), ja.Untargeted(jnp.arange(3))
        >>> result = ja.run(ja.FGSM(), model, images, goal, epsilon=0.1, key=jax.random.key(0))
        >>> result.success.all(), result.distance.max() <= 0.1
        (np.True_, np.True_)
    """
    array = checks.some_images(images)
    count = len(array)
    ids = np.arange(count) if ids is None else np.asarray(ids)
    session = Session(model, array, goal, ids, key, devices, lanes, judge=judge, again=again)
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
    """Run an attack on M rows in one queue, as `run` does on images.

    Args:
        session: Model, images, goal, keys and devices. Its key may also be an array [M], one key
            for each row; its progress is not called.
        attack: The attack with its settings.
        rows: The M rows: which image each of them attacks, and at which epsilon.
        keep: As in `run`.
        budget: As in `run`.
        halve: As in `run`.
        chunk: As in `run`.
        progress: Called with (rows done, rows in all, successes) of these rows.

    Returns:
        The result of the M rows.

    Raises:
        ValueError: As `run` does, and if an array of keys does not hold M keys.
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

            def report(done: int, more: int, successes: int) -> None:
                if progress is not None:
                    progress(len(rows.source) - more + done, len(rows.source), won + successes)

            second = _search_again(setup, given, attack, stated, spent, watch, report)
            for field in ("forward", "backward", "queries", "computed"):
                getattr(second, field)[:] += getattr(outcome, field)[refused]
            outcome.put(refused, second)
            spent += second.cost.lane_ticks
    cost = Cost(lane_ticks=spent, seconds=time.perf_counter() - began)
    return outcome._replace(cost=cost)


def _set_up(
    session: Session,
    attack: Attack,
    rows: Rows,
    keep: str | None,
    budget: Budget,
    halve: bool,
    contract: bool = True,
) -> tuple[Setup, Session, Rows]:
    """Check the setup, the session and the rows, and choose what the caller did not set.

    contract: whether what the methods of the attack return is checked, too.
    """
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
    if key.ndim:
        key, seeds = key[0], np.asarray(jax.random.key_data(key))
    if seeds is not None and len(seeds) != count:
        raise ValueError(f"key has {len(seeds)} keys: pass one, or one for each of {count} rows")
    if contract:
        check_contract(attack, goal, image_shape(shape), classes, key, rows.start is not None)
    viewed, lanes = on_images(model, shape), session.lanes
    if lanes is None:
        lanes = choose_lanes(viewed, attack.queries, image_shape(shape), count, devices[0])
    if lanes < 1:
        raise ValueError(f"lanes={lanes}: pass 1 or more")
    judging = None if judge is None else on_images(judge, shape)
    again = session.again
    return (
        Setup(
            attack, viewed, judging, again, keep, key, devices, lanes, halve, budget, session.room
        ),
        session._replace(goal=goal, ids=ids, key=key, devices=devices, lanes=lanes),
        rows._replace(epsilon=epsilon, seeds=seeds),
    )


class Plan(NamedTuple):
    """An attack that will be run on some of a session's images.

    Attributes:
        attack: The attack with its settings.
        rows: All rows that it may be given.
        keep: As in `run`.
        lanes: Number of lanes on each device.
        start: Whether it will be given images to begin from.
    """

    attack: Attack
    rows: Rows
    keep: str | None
    lanes: int
    start: bool


def compile_ahead(session: Session, plan: Plan) -> Compilation:
    """Begin to compile the programs of an attack in other threads.

    Tables larger than the session's room have sizes that are not known ahead; then nothing is
    compiled.

    Args:
        session: What all attacks have in common; its room is set.
        plan: The attack.

    Returns:
        The compilation.
    """
    if session.room == Room() or not compiles():
        return Compilation()
    session = session._replace(lanes=plan.lanes)
    setup, given, rows = _set_up(
        session, plan.attack, plan.rows, plan.keep, Budget(), halve=False, contract=False
    )
    return Compilation(tuple(compile_room(setup, given, rows, plan.start)))


def _run_chunks(
    setup: Setup, session: Session, rows: Rows, watch: Watch, chunk: int | None
) -> tuple[Result, int]:
    """Run the rows chunk by chunk; return their result and the lane ticks.

    chunk: the number of images on the devices at a time (None: as many as fit the memory).
    """
    images, bounds, source = session.images, session.model.bounds, rows.source
    count, total, shape = len(images), len(source), tuple(images.shape[1:])
    seen = image_shape(shape)  # the shape in which the attack gets them
    if chunk is None:
        most = rows_in_memory(shape, setup.devices[0]) * len(setup.devices)
        chunk = most * count // max(total, 1) + 1
    outcome, spent = empty_result(total, seen, rows.epsilon, session.ids[source]), 0
    for begin in range(0, count, chunk):
        members = np.flatnonzero((source >= begin) & (source < begin + chunk))
        if len(members) == 0 or watch.interrupted():
            continue
        part, own = session.of(slice(begin, begin + chunk)), rows.of(members)
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
        result, ticks = run_chunk(setup, batch, watch, spent)
        if result is not None:
            outcome.put(members, result)
        spent += ticks
    return outcome._replace(images=outcome.images.reshape(total, *shape)), spent


def _search_again(
    setup: Setup,
    session: Session,
    attack: Attack,
    rows: Rows,
    spent: int,
    watch: Watch,
    progress: RowProgress,
) -> Result:
    """Search the rows that the judge rejected on the judge, with the rest of the budget."""
    budget, gone = setup.budget, time.perf_counter() - watch.began
    left = budget._replace(
        passes=None
        if budget.passes is None
        else max(0, budget.passes - spent * setup.passes_per_tick),
        seconds=None if budget.seconds is None else max(0.0, budget.seconds - gone),
    )
    assert session.judge is not None
    images, source = np.unique(rows.source, return_inverse=True)
    session = session.of(images)._replace(
        model=session.judge, judge=None, again=False, clean_logits=None
    )
    return run_rows(
        session,
        attack,
        rows._replace(source=source),
        keep=setup.keep,
        budget=left,
        halve=setup.halve,
        progress=progress,
    )
