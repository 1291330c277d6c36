"""Certificates, and their replay in float64 by another routine than the one that found them.

A certificate holds choices only: slopes, splits and multipliers. The replay computes bounds from
them by the textbook's form of the backward bound (Zhang et al. 2018, arXiv 1811.00866):
coefficients and an offset are carried from the output to the image through the transposes of the
affine maps between nonlinearities. Rounding is accounted for: that of the network in float32, if
asked for, and that of the replay.
"""

import functools
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxadv.core.model import Model
from jaxadv.core.pytree import take
from jaxadv.proofs.backward import Network, Parameters, run
from jaxadv.proofs.balls import least
from jaxadv.proofs.certificates import Certificate, covers
from jaxadv.proofs.intervals import Interval, IntervalRules
from jaxadv.proofs.lines import LINES
from jaxadv.proofs.roots import Balls, Slopes, balls, undecided
from jaxadv.proofs.rules import Rules
from jaxadv.proofs.slopes import LEVELS, MOST_ROWS, compiled, width_of

UNITS = {"float32": 2.0**-24, "real": 0.0}  # half the machine epsilon of each arithmetic
OWN = 2.0**-53
LARGEST = 1e30  # no value of a float32 network may come near an overflow


class _Open(Rules):
    """The affine maps between nonlinearities: the output of each is given."""

    def __init__(self, given: list[Array]):
        super().__init__(wide=True)
        self.given = given
        self.inputs: list[Array] = []

    def nonlinear(self, kind: str, z: Array) -> Array:
        self.inputs.append(z)
        return self.given[len(self.inputs) - 1]


class Known(NamedTuple):
    """What the replay knows of one image: its region, and bounds [M] of nonlinearities' inputs."""

    ball: Balls
    lower: Any
    upper: Any
    error: Any
    output_error: Any


def _traced(model: Model, known: Known) -> Network:
    """Return the network, traced for float32."""
    with x64(False):
        return Network.of(model, known.ball.image.shape)


def _survey(model: Model, known: Known, *, unit: float) -> tuple[Known, Array, Array]:
    """Return the bounds narrowed by intervals, the ends of the logits, and the largest value."""
    network = _traced(model, known)

    def narrow(number: int, z: Interval) -> Interval:
        node = network.nodes[number]
        low, high = (part[node.place].reshape(node.shape) for part in (known.lower, known.upper))
        return z._replace(
            low=jnp.where(low > z.low, low, z.low), high=jnp.where(high < z.high, high, z.high)
        )

    rules, ball = IntervalRules(narrow, unit, OWN, wide=True), known.ball
    box = Interval(ball.image + ball.low, ball.image + ball.high, jnp.zeros_like(ball.image))
    ends = run(network.traced, model.params, box, rules)
    parts = [
        jnp.concatenate([jnp.zeros(0), *(z[i].ravel() for _, z in rules.inputs)]) for i in range(3)
    ]
    lower, upper, error = parts
    largest = jnp.maximum(jnp.abs(lower).max(initial=0), jnp.abs(upper).max(initial=0))
    largest = jnp.maximum(largest, ends.size.max())
    known = Known(ball, lower, upper, error, ends.error)
    return known, jnp.stack([ends.low, ends.high]), largest


def _bound(
    network: Network,
    params: Any,
    norm: str,
    node: int | None,
    known: Known,
    cotangent: Array,
    chosen: Parameters,
) -> Array:
    """Return a lower bound of <cotangent, value> of one row, in float64.

    node: the number of the nonlinearity whose input is the value; None: the logits.
    """
    nodes = network.nodes
    upto = len(nodes) if node is None else node
    image = known.ball.image

    def value(number: int | None, x: Array, given: list[Array]) -> Array:
        rules = _Open(given)
        out = run(network.traced, params, x, rules)
        return out if number is None else rules.inputs[number]

    zero = [jnp.zeros(one.shape, jnp.float64) for one in nodes]

    def through(number: int | None, lam: Array) -> tuple[Array, Array, list[Array]]:
        """Return the offset, the slope at the image and those at nonlinearities' outputs."""
        function = functools.partial(value, number)
        offset, pull = jax.vjp(function, jnp.zeros_like(image), zero)
        return (lam * offset).sum(), *pull(lam)

    total, slope, lams = through(node, cotangent)
    if node is None:
        error = known.output_error
    else:
        error = known.error[nodes[node].place].reshape(nodes[node].shape)
    spent = (jnp.abs(cotangent) * error).sum()
    size = jnp.abs(total)
    for number in reversed(range(upto)):
        place, shape = nodes[number].place, nodes[number].shape
        low, high, err, a, s, b = (
            part[place].reshape(shape) for part in (known.lower, known.upper, known.error, *chosen)
        )
        low = jnp.where(s > 0, jnp.maximum(low, 0), low)
        high = jnp.where(s < 0, jnp.minimum(high, 0), high)
        lines = LINES[nodes[number].kind](low, high, a)
        lam = lams[number]
        rise = jnp.where(lam > 0, lam * lines.below, lam * lines.above) - s * b
        heights = jnp.where(lam > 0, lam * lines.below_height, lam * lines.above_height)
        offset, more, others = through(number, rise)
        total, slope = total + heights.sum() + offset, slope + more
        size = size + jnp.abs(heights).sum() + jnp.abs(offset)
        spent = spent + (jnp.abs(rise) * err).sum()
        lams = [x + y for x, y in zip(lams, others, strict=True)]
    ball: Any = known.ball
    taken, _ = least(norm, slope, ball.low, ball.high, ball.radius)
    centre = (slope * image).sum()
    size = size + jnp.abs(slope * image).sum() + jnp.abs(taken)
    return total + centre + taken - spent - 1e-11 * size


def _bounds(
    model: Model,
    known: Known,
    which: tuple[Array, Array],
    chosen: Parameters,
    *,
    norm: str,
    node: int | None,
) -> Array:
    """Return the bounds [R] of rows.

    which: (entries, sides) [R] of a nonlinearity's input, or (labels, targets) [R].
    """
    network = _traced(model, known)

    def one(first: Array, second: Array, chosen: Parameters) -> Array:
        if node is None:
            classes = known.output_error.shape[0]
            cotangent = jax.nn.one_hot(first, classes) - jax.nn.one_hot(second, classes)
        else:
            shape = network.nodes[node].shape
            cotangent = (jax.nn.one_hot(first, int(np.prod(shape))) * second).reshape(shape)
        cotangent = cotangent.astype(jnp.float64)
        return _bound(network, model.params, norm, node, known, cotangent, chosen)

    return jax.vmap(one)(*which, chosen)


survey, bounds = compiled(_survey, "unit"), compiled(_bounds, "norm", "node")


class Replayer:
    """The replay for one model and one kind of region.

    Attributes:
        model: The model.
        norm: Name of the norm.
        unit: Half the machine epsilon of the arithmetic for which proofs hold, 0 for exact.
    """

    def __init__(self, model: Model, shape: tuple[int, ...], norm: str, arithmetic: str):
        self.model, self.norm, self.unit = model, norm, UNITS[arithmetic]
        self.network = Network.of(model, shape)

    def lower(self, image: np.ndarray, epsilon: float, label: int, proof: Certificate) -> float:
        """Return the least margin that a certificate proves for one image; -inf if none.

        Args:
            image: Floats [...].
            epsilon: Radius of the ball.
            label: The class of the image.
            proof: The certificate. Nothing in it is believed: any slopes, and any multipliers that
                are not negative, give valid bounds, and the parts must cover the region.

        Returns:
            The bound, over all images of the region and all other classes.
        """
        return float(self.parts(image, epsilon, label, proof).min())

    def parts(
        self, image: np.ndarray, epsilon: float, label: int, proof: Certificate
    ) -> np.ndarray:
        """Return the bound of each leaf, of which `lower` is the least; -inf where there is none.

        Args:
            image: Floats [...].
            epsilon: Radius of the ball.
            label: The class of the image.
            proof: The certificate.

        Returns:
            Floats, one for each leaf; [1] without leaves, and all -inf if these do not cover the
            region.
        """
        with x64():
            known, ends = self._roots(image, epsilon, proof)
            nothing = np.full(max(1, len(proof.leaves)), -np.inf)
            if known is None:
                return nothing
            others = [target for target in range(ends.shape[1]) if target != label]
            if not proof.leaves:
                return np.array([ends[0, label] - max(ends[1, target] for target in others)])
            for target in others:
                if not covers([leaf for leaf in proof.leaves if leaf.target == target]):
                    return nothing
            return self._leaves(known, label, proof)

    def _roots(
        self, image: np.ndarray, epsilon: float, proof: Certificate
    ) -> tuple[Known | None, np.ndarray]:
        """Return the bounds of all nonlinearities' inputs, and the interval of the logits."""
        ball = balls(image[None], np.array([epsilon]), self.model.bounds, np.float64)
        size = self.network.size
        known = Known(
            Balls(*(part[0] for part in ball)),
            np.full(size, -np.inf),
            np.full(size, np.inf),
            np.zeros(size),
            np.zeros(self.network.classes),
        )
        known, ends, largest = survey(self.model, known, unit=self.unit)
        passes: list[Slopes | int] = [*range(len(self.network.nodes))] if proof.backward else []
        for step in [*passes, *proof.slopes]:
            number = step if isinstance(step, int) else step.node
            if number == 0 and self.norm == "linf" and isinstance(step, int):
                continue
            known = self._narrowed(known, number, None if isinstance(step, int) else step)
            known, ends, largest = survey(self.model, known, unit=self.unit)
        fine = bool(np.asarray(largest) < LARGEST) or self.unit == 0
        return (known if fine else None), np.asarray(ends)

    def _narrowed(self, known: Known, number: int, chosen: Slopes | None) -> Known:
        """Return the bounds, with some inputs of one nonlinearity bounded backward."""
        place = self.network.nodes[number].place
        lower, upper = np.array(known.lower), np.array(known.upper)
        alpha = (upper > -lower).astype(float)[: place.start]
        if chosen is None:
            (entry,) = np.nonzero(undecided(self.network, lower[None], upper[None], number)[0])
            rows = np.tile(entry, 2), np.repeat([1.0, -1.0], len(entry))
            alpha = np.broadcast_to(alpha, (2 * len(entry), place.start))
        else:
            rows = chosen.entry, np.sign(chosen.side)
            alpha = np.repeat(alpha[None], len(chosen.entry), axis=0)
            alpha[:, chosen.columns] = chosen.alpha / LEVELS
        none = np.zeros_like(alpha)
        found = self._rows(known, rows, Parameters(alpha, none, none), number)
        at, low = rows[0] + place.start, rows[1] > 0
        np.maximum.at(lower, at[low], np.where(np.isnan(found[low]), -np.inf, found[low]))
        np.minimum.at(upper, at[~low], np.where(np.isnan(found[~low]), np.inf, -found[~low]))
        return known._replace(lower=lower, upper=upper)

    def _leaves(self, known: Known, label: int, proof: Certificate) -> np.ndarray:
        """Return the bounds of all parts."""
        lower, upper, pieces = np.asarray(known.lower), np.asarray(known.upper), []
        usual = (upper > -lower).astype(float)
        for begin in range(0, len(proof.leaves), MOST_ROWS):
            leaves = proof.leaves[begin : begin + MOST_ROWS]
            alpha = np.repeat(usual[None], len(leaves), axis=0)
            split, beta = np.zeros_like(alpha), np.zeros_like(alpha)
            for row, leaf in enumerate(leaves):
                alpha[row, proof.columns] = leaf.alpha / LEVELS
                split[row, leaf.entry] = np.sign(leaf.sign)
                beta[row, leaf.entry] = np.abs(leaf.beta)
            rows = np.full(len(leaves), label), np.array([leaf.target for leaf in leaves])
            found = self._rows(known, rows, Parameters(alpha, split, beta), None)
            pieces.append(np.where(np.isnan(found), -np.inf, found))
        return np.concatenate(pieces)

    def _rows(
        self,
        known: Known,
        rows: tuple[np.ndarray, np.ndarray],
        chosen: Parameters,
        node: int | None,
    ) -> np.ndarray:
        """Return the bounds of all rows, in portions."""
        count = len(rows[0])
        width = width_of(2 * self.network.size, count)
        pieces = [np.zeros(0)]
        for begin in range(0, count, width):
            index = np.minimum(np.arange(begin, begin + width), count - 1)
            which, part = take((rows, chosen), index)
            found = bounds(self.model, known, which, part, norm=self.norm, node=node)
            pieces.append(np.asarray(found)[: count - begin])
        return np.concatenate(pieces)


def x64(on: bool = True) -> AbstractContextManager[Any]:
    """Return a context in which JAX computes in float64, or in float32."""
    return (jax if hasattr(jax, "enable_x64") else jax.experimental).enable_x64(on)  # type: ignore[attr-defined]
