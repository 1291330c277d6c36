"""One tick of all lanes: ask, one forward pass, at most one backward pass, judge, count, tell."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxadv.core.attack import Answer, Attack, Problem, across, label_of, types_of
from jaxadv.core.model import Model
from jaxadv.core.pytree import where

MOST = 0.95  # share of ticks with gradients from which a program for the others does not pay


class Best(NamedTuple):
    """The query that is kept for an image.

    Attributes:
        image: The query, [H, W, C].
        tier: Whether it is adversarial, if that has precedence (`keep` "first" and "distance"),
            bool.
        value: What decides within the tier, float32; smaller is better.
        adversarial: Whether it is adversarial, bool.
        margin: Its margin, float32.
    """

    image: Any
    tier: Any
    value: Any
    adversarial: Any
    margin: Any


class Counts(NamedTuple):
    """Number of passes and queries of an image, each int32.

    Attributes:
        forward: Forward passes that a sequential run would pay.
        backward: Backward passes that a sequential run would pay.
        queries: Model outputs that the attack used.
        computed: Forward passes on the hardware.
    """

    forward: Any
    backward: Any
    queries: Any
    computed: Any


class Lane(NamedTuple):
    """The state of one image under attack; with several lanes every leaf has a leading axis.

    Attributes:
        problem: The image, its ball and its goal.
        state: State of the attack.
        best: The best query so far.
        counts: Passes and queries so far.
        nonfinite: Whether any output was not finite, bool.
        finished: Whether the attack of this image has ended, bool.
    """

    problem: Problem
    state: Any
    best: Best
    counts: Counts
    nonfinite: Any
    finished: Any


def init_lane(attack: Attack, problem: Problem, key: Array, clean_margin: Array) -> Lane:
    """Return a lane before its first tick, for one image (vmap for several).

    Args:
        attack: The attack.
        problem: The image, its ball and its goal.
        key: Random key of this image.
        clean_margin: Margin of the clean image.

    Returns:
        The lane, with the clean image as its best.
    """
    zero = jnp.int32(0)
    best = Best(
        problem.image, jnp.bool_(False), jnp.float32(jnp.inf), clean_margin < 0, clean_margin
    )
    if attack.label_only:
        problem = dataclasses.replace(problem, clean_logits=label_of(problem.clean_logits))
    with types_of(attack):
        state = attack.init(problem, key)
    return Lane(
        problem, state, best, Counts(zero, zero, zero, zero), jnp.bool_(False), jnp.bool_(False)
    )


def better(new: Best, old: Best) -> Bool[Array, "..."]:
    """Return whether `new` is to replace `old`: a higher tier, or else a smaller value."""
    return (new.tier & ~old.tier) | ((new.tier == old.tier) & (new.value < old.value))


def _judge(
    attack: Attack, keep: str, problem: Problem, images: Any, logits: Any, read: Any
) -> Best:
    """Return one image's queries [Q] of this tick, each rated as a `Best`."""
    margin = jax.vmap(problem.goal.margin)(logits)
    adversarial = jax.vmap(lambda z: across(problem.goal, z))(logits) & read
    if not attack.asks_inside:
        inside = jax.vmap(lambda image: _inside(attack, problem, image))(images)
        adversarial &= inside
        read = read if keep == "last" else read & inside
    if keep == "first":
        tier, value = adversarial, jnp.where(adversarial, 0.0, margin)
    elif keep == "distance":
        distance = jax.vmap(lambda image: attack.geometry.distance(image - problem.image))(images)
        tier, value = adversarial, jnp.where(adversarial, distance, margin)
    elif keep == "loss":
        loss = jax.vmap(lambda z: attack.objective(problem.goal, z))(logits)
        tier, value = jnp.zeros_like(adversarial), -loss
    else:
        tier, value = jnp.zeros_like(adversarial), jnp.zeros_like(margin)
    value = jnp.where(read & ~jnp.isnan(value), value, jnp.inf).astype(jnp.float32)
    return Best(images, tier, value, adversarial, margin)


def _inside(attack: Attack, problem: Problem, image: Any) -> Bool[Array, ""]:
    near = attack.geometry.distance(image - problem.image) <= problem.epsilon
    return near & (image >= problem.lower).all() & (image <= problem.upper).all()


def _best_of(asked: Best) -> Best:
    if asked.value.shape[0] == 1:
        return jax.tree.map(lambda leaf: leaf[0], asked)
    choice = jnp.argmin(jnp.where(asked.tier == asked.tier.any(), asked.value, jnp.inf))
    return jax.tree.map(lambda leaf: leaf[choice], asked)


def _gradients(
    pull_back: Callable[[Array], tuple[Array]],
    cotangents: Float[Array, "L Q P K"],
    images: Float[Array, "L Q H W C"],
    wanted: Bool[Array, ""],
) -> Float[Array, "L Q P H W C"]:
    """Return the pulled-back cotangents; zeros, without a backward pass, where none is wanted."""
    lanes, queries, pullbacks, _ = cotangents.shape

    def none() -> Array:
        return jnp.zeros((lanes, queries, pullbacks, *images.shape[2:]), images.dtype)

    return lax.cond(wanted, lambda: _pulled(pull_back, cotangents, images), none)


def _pulled(
    pull_back: Callable[[Array], tuple[Array]],
    cotangents: Float[Array, "L Q P K"],
    images: Float[Array, "L Q H W C"],
) -> Float[Array, "L Q P H W C"]:
    lanes, queries, pullbacks, classes = cotangents.shape
    each = cotangents.reshape(lanes * queries, pullbacks, classes).swapaxes(0, 1)
    pulled = jnp.stack([pull_back(one)[0] for one in each], 1)
    return pulled.reshape(lanes, queries, pullbacks, *images.shape[2:])


def _passes(
    outputs: Callable[[Array], Array],
    cotangents: Callable[[Array], Array],
    images: Float[Array, "L Q H W C"],
    pullbacks: int,
    wanted: Bool[Array, ""] | None,
) -> tuple[Float[Array, "L Q K"], Float[Array, "L Q P H W C"]]:
    """Return the logits and the gradients, from both passes in one branch of the program.

    Args:
        outputs: The model on a batch.
        cotangents: The cotangents, from the logits.
        images: The queries.
        pullbacks: Gradients of a query.
        wanted: Whether gradients are wanted; None: always, and there is no other branch.

    Returns:
        The logits, and the gradients, zeros where none are wanted.
    """
    flat, shape = images.reshape(-1, *images.shape[2:]), images.shape

    def both() -> tuple[Array, Array]:
        logits, pull_back = jax.vjp(outputs, flat)
        logits = logits.reshape(*shape[:2], -1)
        return logits, _pulled(pull_back, cotangents(logits), images)

    def forward() -> tuple[Array, Array]:
        logits = outputs(flat).reshape(*shape[:2], -1)
        return logits, jnp.zeros((*shape[:2], pullbacks, *shape[2:]), images.dtype)

    return both() if wanted is None else lax.cond(wanted, both, forward)


def tick(
    attack: Attack,
    model: Model,
    lanes: Lane,
    live: Bool[Array, " L"],
    *,
    keep: str,
    joined: bool = False,
) -> Lane:
    """Advance all lanes by one tick.

    Lanes that are not `live` keep their results and counts. A lane of an attack with gradients ends
    if all outputs of the model are NaN or infinite.

    Args:
        attack: The attack.
        model: The model.
        lanes: The lanes [L].
        live: Mask [L] of the lanes that advance.
        keep: Which query to keep: "first", "distance", "loss" or "last".
        joined: Whether the forward pass is compiled together with the backward pass, and a second
            time alone, unless nearly all ticks take gradients. Then an accelerator writes fewer
            intermediate results to memory.

    Returns:
        The lanes after the tick.
    """
    problem, state = lanes.problem, lanes.state
    with types_of(attack):
        needs = jax.vmap(attack.needs)(problem, state)
        images = jax.vmap(attack.ask)(problem, state)
    flat = images.reshape(-1, *images.shape[2:])

    def outputs(images: Array) -> Array:
        return model(images).astype(attack.precision)

    def cotangents(logits: Array) -> Array:
        with types_of(attack):
            return jax.vmap(attack.cotangents)(problem, state, logits)

    gradients, pull_back = None, None
    if attack.pullbacks and joined:
        always = attack.gradients >= MOST * attack.ticks
        asked_for = None if always else (needs.gradients & live[:, None]).any()
        logits, gradients = _passes(outputs, cotangents, images, attack.pullbacks, asked_for)
    elif attack.pullbacks:
        logits, pull_back = jax.vjp(outputs, flat)
    else:
        logits = outputs(flat)
    logits = logits.reshape(*images.shape[:2], -1)
    shown = label_of(logits) if attack.label_only else logits
    with types_of(attack):
        used = jax.vmap(attack.used)(problem, state, shown, needs.answers)
        needs = needs._replace(answers=used & needs.answers)
        asked = jax.vmap(lambda p, x, z, r: _judge(attack, keep, p, x, z, r))(
            problem, images, logits, needs.answers
        )
    new = jax.vmap(_best_of)(asked)
    replace = live & (better(new, lanes.best) if keep != "last" else ~jnp.isnan(new.margin))
    new = jax.tree.map(lambda leaf, old: leaf.astype(old.dtype), new, lanes.best)
    best = where(replace, new, lanes.best)
    stop = best.tier if keep == "first" else jnp.zeros_like(live)

    wanted = needs.gradients & (live & ~stop)[:, None]
    # A gradient that is not finite makes the next iterate, hence its output, not finite: checking
    # outputs suffices, and spares a reduction over all gradients (a tenth of a small network).
    finite = jnp.isfinite(logits).all(2) | ~needs.answers
    sick = ~finite.all(1)
    lost = ~finite.any(1) if attack.pullbacks else jnp.zeros_like(sick)
    if pull_back is not None:
        gradients = _gradients(pull_back, cotangents(logits), images, wanted.any())

    answer = Answer(shown, gradients, asked.adversarial, needs.answers)
    with types_of(attack):
        told = jax.vmap(attack.tell)(problem, state, answer)
        done = jax.vmap(attack.done)(problem, told)
    read = needs.answers.sum(1, dtype=jnp.int32)
    counts = Counts(
        lanes.counts.forward + live * read,
        lanes.counts.backward + attack.pullbacks * wanted.sum(1, dtype=jnp.int32),
        lanes.counts.queries + live * read,
        lanes.counts.computed + live * attack.queries,
    )
    finished = lanes.finished | (live & (done | stop | lost))
    return Lane(problem, told, best, counts, lanes.nonfinite | (live & sick), finished)
