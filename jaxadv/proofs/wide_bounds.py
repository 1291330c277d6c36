"""The backward bound in float64, in the textbook's form (Zhang et al. 2018, arXiv 1811.00866).

Coefficients and an offset are carried from the output to the image through the transposes of the
affine maps between nonlinearities. Rounding is accounted for: that of the network in float32, if
asked for, and that of these bounds.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxadv.core.model import Model
from jaxadv.core.precision import x64
from jaxadv.proofs.backward import Parameters
from jaxadv.proofs.balls import least
from jaxadv.proofs.intervals import Interval, IntervalRules
from jaxadv.proofs.lines import LINES
from jaxadv.proofs.network import Network, run
from jaxadv.proofs.programs import compiled, divided
from jaxadv.proofs.roots import Balls
from jaxadv.proofs.rules import Rules

OWN = 2.0**-53


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


survey = compiled(_survey, "unit")
bounds = divided(_bounds, "norm", "node")
