"""The bounds of subproblems of branch and bound, many at a time, and where to split each.

A subproblem is one margin of one image, or one input of a nonlinearity, on the part of the image's
region where some ReLUs are on and some are off. Its bound is tightened over slopes and multipliers
(Wang et al. 2021, beta-CROWN, arXiv 2103.06624). Of the `CANDIDATES` ReLUs whose lines lose most at
the image where the bound is attained, the one is chosen whose worse half has the best bound (after
Bunel et al. 2020, arXiv 1909.06588).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxadv.core.model import Model
from jaxadv.proofs.backward import Parameters, Region, look_around, lower_bound
from jaxadv.proofs.network import Network
from jaxadv.proofs.programs import divided
from jaxadv.proofs.slopes import CLEAR, LEVELS, Entries, descend, gather

CANDIDATES = 3


ROUND = 64  # the most subproblems of one image in a round


STEPS = 3  # steps of Adam of a subproblem


FORWARD, BACKWARD = STEPS + 1, STEPS + 2 + 2 * CANDIDATES  # passes of a subproblem


RATES = Parameters(0.1, 0, 0.05)


class Subproblem(NamedTuple):
    """A margin, or an input of a nonlinearity, on a part of an image's region.

    Attributes:
        bound: Lower bound that is known so far.
        target: The class whose logit is subtracted; of an input its side, 1 or -1.
        alpha: Integers [M], uint8, slopes to begin with.
        entry: The inputs of nonlinearities that are split.
        sign: 1 or -1 for each of them.
        beta: A multiplier for each of them.
        own: The bound that these slopes and multipliers give; that of a larger part may be better.
    """

    bound: float
    target: int
    alpha: np.ndarray
    entry: tuple[int, ...] = ()
    sign: tuple[int, ...] = ()
    beta: tuple[float, ...] = ()
    own: float = -np.inf


class Packed(NamedTuple):
    """Subproblems as arrays, with a leading axis R.

    Attributes:
        rows: What is bounded.
        alpha: Integers [R, M], uint8.
        split: Integers [R, M], int8.
        beta: Floats [R, M].
    """

    rows: Entries
    alpha: Any
    split: Any
    beta: Any


class Treated(NamedTuple):
    """What became of subproblems, with a leading axis R.

    Attributes:
        bound: The best bounds.
        alpha: Integers [R, M], uint8, the slopes that gave them.
        beta: Floats [R, M], the multipliers that gave them.
        corner: The image at which each bound is attained.
        value: Floats [R, K], the logits there, or [R, 1] what is bounded.
        entry: Where to split; -1: nothing is left to split.
        halves: Floats [R, 2], bounds of the halves z >= 0 and z <= 0.
    """

    bound: Any
    alpha: Any
    beta: Any
    corner: Any
    value: Any
    entry: Any
    halves: Any


def _treat(
    model: Model, regions: Region, subs: Packed, *, norm: str, steps: int, node: int | None
) -> Treated:
    network = Network.of(model, regions.image.shape[1:])
    own, cotangents, values, before = gather(network, regions, subs.rows, node)
    rows = jnp.arange(len(subs.alpha))

    def bound(chosen: Parameters) -> Any:
        one = functools.partial(lower_bound, network, model.params, norm, node=node)
        return jax.vmap(one)(own, cotangents, chosen)

    start = Parameters(
        subs.alpha.astype(jnp.float32) / LEVELS, subs.split.astype(jnp.float32), subs.beta
    )
    enough = CLEAR * jnp.abs((cotangents * values).reshape(len(rows), -1).sum(1))
    chosen = descend(lambda chosen: bound(chosen).value, start, enough, steps, RATES)
    found = bound(chosen)

    def around(region: Region, cotangent: Array, chosen: Parameters, point: Array) -> Any:
        return look_around(network, model.params, region, cotangent, chosen, point, node)

    value, gaps = jax.vmap(around)(own, cotangents, chosen, found.corner)
    if node is not None:
        value = (cotangents * value).reshape(len(rows), -1).sum(1, keepdims=True)
    free = ((own.lower < 0) & (own.upper > 0))[:, :before]
    free &= (subs.split == 0) & splittable(network)[:before]
    score = jnp.where(free, gaps, -1.0)
    places = []
    for _ in range(CANDIDATES):
        place = score.argmax(1)
        places.append(place)
        score = score.at[rows, place].set(-1.0)

    def half(place: Array, sign: float) -> Array:
        split = chosen.split.at[rows, place].set(sign)
        # Fewer may be free than there are candidates.
        return jnp.where(free[rows, place], bound(chosen._replace(split=split)).value, -jnp.inf)

    tried = jnp.stack([jnp.stack([half(place, sign) for sign in (1.0, -1.0)]) for place in places])
    tried = jnp.where(jnp.isnan(tried), -jnp.inf, tried)
    choice = tried.min(1).argmax(0)
    entry = jnp.where(free.any(1), jnp.stack(places)[choice, rows], -1)
    return Treated(
        jnp.where(jnp.isnan(found.value), -jnp.inf, found.value),
        jnp.round(chosen.alpha * LEVELS).astype(jnp.uint8),
        chosen.beta,
        found.corner,
        value,
        entry,
        tried[choice, :, rows],
    )


treat = divided(_treat, "norm", "steps", "node")


def splittable(network: Network) -> np.ndarray:
    """Return which inputs [M] are those of ReLUs."""
    parts = [np.full(int(np.prod(n.shape)), n.kind == "relu") for n in network.nodes]
    return np.concatenate([np.zeros(0, bool), *parts])
