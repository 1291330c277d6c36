"""Rows of bounds, with CROWN's slopes or optimised ones (alpha-CROWN).

A row is one bound: (image, entry of a nonlinearity's input, side) or (image, label, target). The
rows of all images are one queue through one compiled program for each nonlinearity. Slopes are
tightened by Adam (Xu et al. 2021, alpha-CROWN, arXiv 2011.13824), and rounded to multiples of
1/255, so that a certificate is small.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array

from jaxadv.core.model import Model
from jaxadv.core.pytree import take
from jaxadv.proofs.backward import Parameters, Region, adaptive, lower_bound, margin_of
from jaxadv.proofs.network import Network
from jaxadv.proofs.programs import divided, everywhere, width_of

LEVELS = 255  # slopes are multiples of 1 / LEVELS
CLEAR = 1e-3  # a bound above this part of the value at the image survives rounded slopes
RATE = 0.1  # step size of Adam, and its decay a step
DECAY = 0.97


def descend(
    bound: Callable[[Parameters], Array],
    start: Parameters,
    enough: Array,
    steps: int,
    rates: Parameters,
) -> Parameters:
    """Return the parameters of R bounds after at most `steps` steps of Adam.

    Args:
        bound: Parameters of R rows to their bounds [R].
        start: The parameters to begin with.
        enough: Floats [R]; a row whose bound is above this stays as it is.
        steps: The most steps.
        rates: The step sizes of alpha and beta.

    Returns:
        The parameters, their slopes rounded to multiples of 1 / LEVELS.
    """
    rule = optax.scale_by_adam()
    free = start.alpha, start.beta

    def total(free: tuple[Array, Array]) -> tuple[Array, Array]:
        each = bound(start._replace(alpha=free[0], beta=free[1]))
        return -each.sum(), each

    def unfinished(state: Any) -> Array:
        return (state[0] < steps) & ~state[3].all()

    def step(state: Any) -> Any:
        number, free, memory, done = state
        (_, each), gradient = jax.value_and_grad(total, has_aux=True)(free)
        done |= each > enough
        update: Any
        update, memory = rule.update(gradient, memory)
        size = jnp.where(done, 0, jnp.power(DECAY, number))[:, None]
        alpha = jnp.clip(free[0] - rates.alpha * size * update[0], 0, 1)
        beta = jnp.maximum(free[1] - rates.beta * size * update[1], 0)
        return number + 1, (alpha, beta), memory, done

    state = 0, free, rule.init(free), jnp.zeros(len(start.alpha), bool)
    _, (alpha, beta), _, _ = lax.while_loop(unfinished, step, state)
    return start._replace(alpha=jnp.round(alpha * LEVELS) / LEVELS, beta=beta)


class Entries(NamedTuple):
    """Rows: bounds of entries of the input of one nonlinearity, or of margins.

    Attributes:
        image: Integers [R], the image.
        entry: Integers [R], the entry of the input; of a margin the label.
        side: Numbers [R], 1 for a lower bound, -1 for an upper one; of a margin the target.
    """

    image: Any
    entry: Any
    side: Any


def gather(
    network: Network, regions: Region, rows: Entries, node: int | None
) -> tuple[Region, Array, Array, int]:
    """Return what R rows are about.

    Args:
        network: The network.
        regions: The regions of the images.
        rows: The rows.
        node: The number of the nonlinearity whose inputs they bound; None: margins.

    Returns:
        The regions of the rows, as far as inputs of nonlinearities matter to them; the coefficients
        of the value that each bounds; that value at the image, entry by entry; and the number of
        the inputs that come before it.
    """
    classes, dtype = regions.output.shape[-1], regions.image.dtype
    end = network.size if node is None else network.nodes[node].place.stop
    short = {name: getattr(regions, name)[:, :end] for name in ("value", "lower", "upper", "error")}
    own = take(regions._replace(**short), rows.image)
    if node is None:
        margins = jax.vmap(lambda label, target: margin_of(label, target, classes, dtype))
        return own, margins(rows.entry, rows.side), own.output, network.size
    place, shape = network.nodes[node].place, network.nodes[node].shape
    sides = jnp.asarray(rows.side, dtype)[:, None]
    one = jax.nn.one_hot(rows.entry, place.stop - place.start, dtype=dtype) * sides
    values = own.value[:, place].reshape(-1, *shape)
    return own, one.reshape(-1, *shape), values, place.start


def _bound_rows(
    model: Model,
    regions: Region,
    rows: Entries,
    *,
    norm: str,
    node: int | None,
    steps: int,
) -> tuple[Array, Array, Array]:
    """Return the bound [R] of each row, the slopes [R, m] as integers, and its corner [R, ...]."""
    network = Network.of(model, regions.image.shape[1:])
    own, cotangents, values, before = gather(network, regions, rows, node)

    def bound(chosen: Parameters) -> Any:
        one = functools.partial(lower_bound, network, model.params, norm, node=node)
        return jax.vmap(one)(own, cotangents, chosen)

    none = jnp.zeros_like(own.lower[:, :before])
    chosen = Parameters(adaptive(own.lower, own.upper)[:, :before], none, none)
    if steps:
        rates = Parameters(RATE, 0, 0)
        enough = CLEAR * jnp.abs((cotangents * values).reshape(len(values), -1).sum(1))
        chosen = descend(lambda chosen: bound(chosen).value, chosen, enough, steps, rates)
    found = bound(chosen)
    return found.value, jnp.round(chosen.alpha * LEVELS).astype(jnp.uint8), found.corner


bound_rows = divided(_bound_rows, "norm", "node", "steps")


def portions(rows: Entries, width: int) -> Iterator[tuple[slice, Entries]]:
    """Yield the rows in portions of `width`; the last one is filled up with its first row."""
    for begin in range(0, len(rows.image), width):
        count = min(width, len(rows.image) - begin)
        index = np.arange(begin, begin + width)
        index[count:] = begin
        yield slice(begin, begin + count), Entries(*(part[index] for part in rows))


class Stopped(Exception):
    """Bounding was stopped before its end."""


class Settings(NamedTuple):
    """How rows are bounded.

    Attributes:
        norm: Name of the norm.
        steps: Steps of Adam for the slopes; 0: CROWN's slopes.
        program: Half the machine epsilon of the arithmetic for which the proof is to hold.
        mesh: The devices.
        stop: Called before each call of a program; returns whether to raise `Stopped`.
        parts: The most subproblems of an image for the inputs of one nonlinearity; 0: no splits.
    """

    norm: str
    steps: int
    program: float
    mesh: Mesh
    stop: Callable[[], bool] = lambda: False
    parts: int = 0


class Answers(NamedTuple):
    """Bounds [R] of rows, their slopes [R, m] (uint8, or None) and corners [R, ...] (or None)."""

    bound: np.ndarray
    alpha: np.ndarray
    corner: np.ndarray


def bound_all(
    model: Model, regions: Region, rows: Entries, node: int | None, settings: Settings
) -> Answers:
    """Return the bounds of all rows, in portions that fit the memory.

    Raises:
        Stopped: `settings.stop` said so.
    """
    size, count = regions.lower.shape[-1], len(rows.image)
    norm, steps, mesh = settings.norm, settings.steps, settings.mesh
    model, regions = everywhere((model, regions), mesh)
    pieces = []
    for own, part in portions(rows, width_of(size, count, mesh)):
        if settings.stop():
            raise Stopped
        found = bound_rows(model, regions, part, norm=norm, node=node, steps=steps, mesh=mesh)
        pieces.append([np.asarray(x)[: own.stop - own.start] for x in found])
    return Answers(*(np.concatenate(parts) for parts in zip(*pieces, strict=True)))
