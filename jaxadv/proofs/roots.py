"""Bounds of the inputs of all nonlinearities: intervals, then backward bounds, one by one."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxadv.core.bounds import Bounds
from jaxadv.core.model import Model
from jaxadv.proofs.backward import Region
from jaxadv.proofs.certificates import Slopes
from jaxadv.proofs.input_trees import input_trees
from jaxadv.proofs.intervals import Interval, IntervalRules
from jaxadv.proofs.network import Network, run
from jaxadv.proofs.programs import compiled
from jaxadv.proofs.rules import Rules, apply
from jaxadv.proofs.slopes import Entries, Settings, bound_all


class Inputs(Rules):
    """Plain arithmetic that remembers the inputs of all nonlinearities."""

    def __init__(self, wide: bool = False) -> None:
        super().__init__(wide)
        self.inputs: list[Array] = []

    def nonlinear(self, kind: str, z: Array) -> Array:
        self.inputs.append(z)
        return apply(kind, z)


class Balls(NamedTuple):
    """The regions of N images: the part of a norm ball that is inside the bounds of pixels.

    Attributes:
        image: Floats [N, ...], the centres.
        low: Floats [N, ...], the least values less the centre, rounded down.
        high: Floats [N, ...], the largest values less the centre, rounded up.
        radius: Floats [N], rounded up.
    """

    image: np.ndarray
    low: np.ndarray
    high: np.ndarray
    radius: np.ndarray


def balls(
    images: np.ndarray, epsilon: np.ndarray, bounds: Bounds, dtype: Any = np.float32
) -> Balls:
    """Return the regions of images [N, ...] within epsilon [N], widened to numbers of the dtype.

    Every image of `dtype` within epsilon, measured in float64, is inside.
    """
    wide = images.astype(np.float64)
    radius = epsilon.reshape(-1, *[1] * (images.ndim - 1)).astype(np.float64)
    low = np.maximum(-radius, bounds[0] - wide)
    high = np.minimum(radius, bounds[1] - wide)
    down = np.nextafter(np.minimum(low, 0).astype(dtype), dtype(-np.inf))
    up = np.nextafter(np.maximum(high, 0).astype(dtype), dtype(np.inf))
    return Balls(images.astype(dtype), down, up, np.nextafter(epsilon.astype(dtype), dtype(np.inf)))


def _survey(
    model: Model, ball: Balls, lower: Array, upper: Array, *, program: float
) -> tuple[Region, Interval]:
    """Return the region of each image, its bounds narrowed by intervals, and those of the logits.

    program: half the machine epsilon of the arithmetic for which the proof is to hold.
    """
    network = Network.of(model, ball.image.shape[1:])

    def one(ball: Balls, lower: Array, upper: Array) -> tuple[Region, Interval]:
        def known(number: int, z: Interval) -> Interval:
            node = network.nodes[number]
            low, high = (part[node.place].reshape(node.shape) for part in (lower, upper))
            # A NaN never narrows.
            return z._replace(
                low=jnp.where(low > z.low, low, z.low), high=jnp.where(high < z.high, high, z.high)
            )

        plain, rules = Inputs(), IntervalRules(known, program)
        output = run(network.traced, model.params, ball.image, plain)
        box = Interval(ball.image + ball.low, ball.image + ball.high, jnp.zeros_like(ball.image))
        ends = run(network.traced, model.params, box, rules)

        def flat(parts: list[Any]) -> Array:
            empty = jnp.zeros((0,), ball.image.dtype)
            return jnp.concatenate([empty, *(part.ravel() for part in parts)])

        intervals = [z for _, z in rules.inputs]
        region = Region(
            ball.image,
            ball.low,
            ball.high,
            ball.radius,
            flat(plain.inputs),
            flat([z.low for z in intervals]),
            flat([z.high for z in intervals]),
            flat([z.error for z in intervals]),
            output,
            ends.error,
        )
        return region, ends

    return jax.vmap(one)(ball, lower, upper)


survey = compiled(_survey, "program")


class Roots(NamedTuple):
    """Bounds of all nonlinearities' inputs of N images.

    Attributes:
        regions: The regions.
        slopes: For each image the slopes with which inputs were bounded, in their order.
        backward: Integers [N], backward passes, but for those of subproblems.
        subproblems: Integers [N], subproblems of inputs.
    """

    regions: Region
    slopes: list[list[Slopes]]
    backward: np.ndarray
    subproblems: np.ndarray


def undecided(network: Network, lower: np.ndarray, upper: np.ndarray, number: int) -> np.ndarray:
    """Return which entries [N, size] of a nonlinearity's input are worth a backward bound."""
    node = network.nodes[number]
    low, high = lower[:, node.place], upper[:, node.place]
    return (low < 0) & (high > 0) if node.kind == "relu" else low < high


def refine(
    model: Model,
    network: Network,
    ball: Balls,
    settings: Settings,
    active: np.ndarray,
    start: Region | None = None,
) -> Roots:
    """Bound the inputs of all nonlinearities of N images.

    Args:
        model: The model.
        network: Its trace.
        ball: The regions of the images.
        settings: How they are bounded.
        active: Booleans [N], the images that are bounded backward; the others by intervals.
        start: Bounds found before, or None.

    Returns:
        The regions, with the bounds.

    Raises:
        Stopped: `settings.stop` said so.
    """
    steps, program = settings.steps, settings.program
    count = len(ball.image)
    if start is None:
        lower = np.full((count, network.size), -np.inf, ball.image.dtype)
        upper = np.full_like(lower, np.inf)
    else:
        lower, upper = np.array(start.lower), np.array(start.upper)
    backward, subproblems = np.zeros(count, int), np.zeros(count, int)
    kept: list[list[Slopes]] = [[] for _ in range(count)]
    for number, node in enumerate(network.nodes):
        if number == 0 and settings.norm == "linf":
            continue  # an affine function of a box: intervals are nearly exact
        regions, _ = survey(model, ball, lower, upper, program=program)
        lower, upper = np.array(regions.lower), np.array(regions.upper)
        image, entry = np.nonzero(undecided(network, lower, upper, number) & active[:, None])
        if len(image) == 0:
            continue
        one = np.ones(len(image), ball.image.dtype)
        rows = Entries(np.tile(image, 2), np.tile(entry, 2), np.concatenate([one, -one]))
        found = bound_all(model, regions, rows, number, settings)
        backward += np.bincount(rows.image, minlength=count) * (1 + steps)
        bound = found.bound
        if steps:
            # Nodes that are not ReLUs, or have none before them, are bounded on one part each.
            parts = settings.parts if node.kind == "relu" and number else 0
            trees = input_trees(model, regions, rows, found, number, settings._replace(parts=parts))
            bound = np.array([min(part.own for part in tree.parts) for tree in trees])
            for tree in trees:
                subproblems[tree.image] += tree.count
            free = undecided_columns(network, lower, upper, number)
            for i in np.flatnonzero(active):
                own = [tree for tree in trees if tree.image == i]
                if own:
                    kept[i].append(Slopes.of(number, own, np.flatnonzero(free[i])))
        at, half = (image, entry + node.place.start), len(image)
        low, high = bound[:half], -bound[half:]
        lower[at] = np.where(low > lower[at], low, lower[at])  # a NaN never narrows
        upper[at] = np.where(high < upper[at], high, upper[at])
    regions, _ = survey(model, ball, lower, upper, program=program)
    return Roots(regions, kept, backward, subproblems)


def undecided_columns(
    network: Network, lower: np.ndarray, upper: np.ndarray, end: int
) -> np.ndarray:
    """Return which inputs [N, m] of the nonlinearities before `end` have a choice of slope."""
    parts = [undecided(network, lower, upper, number) for number in range(end)]
    return np.concatenate([np.zeros((len(lower), 0), bool), *parts], axis=1)
