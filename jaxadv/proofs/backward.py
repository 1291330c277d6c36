"""The backward linear bound, as `jax.vjp` of the network with another derivative at nonlinearities.

Zhang et al. 2018 (CROWN, arXiv 1811.00866) and Singh et al. 2019 (DeepPoly) replace lam phi(z) by a
line below it, from the output back to the image. All else is affine, so JAX transposes it. Taken at
a point x, no offset is carried along:

    bound = <c, f(x)> - sum of gaps - (what the region takes from the slope at x),

where gap = lam phi(z) - line(z) at the z of x. Slopes alpha, and the multipliers beta of the halves
z >= 0 or z <= 0 of a split ReLU (Wang et al. 2021, beta-CROWN, arXiv 2103.06624), are parameters:
whatever they are, the bound holds.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxadv.proofs.balls import least
from jaxadv.proofs.lines import LINES, adaptive
from jaxadv.proofs.network import Network, Node, run
from jaxadv.proofs.rules import Rules, apply


class Region(NamedTuple):
    """What is known of one image's region; a leading axis N for several.

    Attributes:
        image: The image.
        low: The least image of the region, less `image`.
        high: The largest image of the region, less `image`.
        radius: The radius of the ball.
        value: Floats [M], the input of every nonlinearity at the image.
        lower: Floats [M], lower bounds of these inputs.
        upper: Floats [M], upper bounds.
        error: Floats [M], what rounding adds to them.
        output: Floats [K], the logits at the image.
        output_error: Floats [K], what rounding adds to the logits.
    """

    image: Any
    low: Any
    high: Any
    radius: Any
    value: Any
    lower: Any
    upper: Any
    error: Any
    output: Any
    output_error: Any


class Parameters(NamedTuple):
    """What a bound is optimised over.

    Attributes:
        alpha: Floats [M], slopes of lower lines.
        split: Numbers [M]: 1 where z >= 0 is assumed, -1 where z <= 0, else 0.
        beta: Floats [M] of 0 or more, the multipliers of these.
    """

    alpha: Any
    split: Any
    beta: Any


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def relaxed(kind: str, z: Array, slack: Array, known: Region, chosen: Parameters) -> Array:
    """Return the nonlinearity; its derivative is the slope of a line below lam times it.

    The gradient of `slack` is the gap, entry by entry, or its sum if slack is a number.
    """
    del slack, chosen
    return apply(kind, z if known.value is None else known.value)


def _forward(kind: str, z: Array, slack: Array, known: Region, chosen: Parameters) -> Any:
    z = z if known.value is None else known.value
    return apply(kind, z), (z, slack, known, chosen)


def _backward(kind: str, saved: Any, lam: Array) -> Any:
    z, slack, known, chosen = saved
    low = jnp.where(chosen.split > 0, jnp.maximum(known.lower, 0), known.lower)
    high = jnp.where(chosen.split < 0, jnp.minimum(known.upper, 0), known.upper)
    lines = LINES[kind](low, high, chosen.alpha)
    above, below = jnp.maximum(lam, 0), jnp.minimum(lam, 0)
    slope = above * lines.below + below * lines.above - chosen.beta * chosen.split
    height = above * lines.below_height + below * lines.above_height
    gap = lam * apply(kind, z) - slope * z - height + jnp.abs(slope) * known.error
    gap = gap if slack.shape == gap.shape else gap.sum()
    return slope, gap, *jax.tree.map(jnp.zeros_like, (known, chosen))


relaxed.defvjp(_forward, _backward)


class RelaxedRules(Rules):
    """Arithmetic in which the first nonlinearities have the derivative of `relaxed`.

    Attributes:
        inputs: The inputs of all nonlinearities so far.
    """

    def __init__(
        self,
        nodes: tuple[Node, ...],
        slacks: list[Array],
        known: Region,
        chosen: Parameters,
    ):
        super().__init__()
        self.nodes, self.slacks, self.known, self.chosen = nodes, slacks, known, chosen
        self.inputs: list[Array] = []

    def nonlinear(self, kind: str, z: Array) -> Array:
        number = len(self.inputs)
        self.inputs.append(z)
        if number >= len(self.slacks):
            return apply(kind, z)
        node = self.nodes[number]
        known, chosen = jax.tree.map(
            lambda leaf: leaf[node.place].reshape(node.shape), (self.known, self.chosen)
        )
        return relaxed(kind, z, self.slacks[number], known, chosen)


class Bound(NamedTuple):
    """A lower bound of <cotangent, value> over a region.

    Attributes:
        value: The bound.
        corner: The image at which the linear function below takes its least value.
        gaps: The gap of each nonlinearity: a number, or one of each entry.
    """

    value: Any
    corner: Any
    gaps: list[Any]


def lower_bound(
    network: Network,
    params: Any,
    norm: str,
    region: Region,
    cotangent: Array,
    chosen: Parameters,
    node: int | None = None,
) -> Bound:
    """Bound <cotangent, value> from below over the region of one image.

    Args:
        network: The network.
        params: Its parameters.
        norm: Name of the norm.
        region: The region; its bounds of the inputs of earlier nonlinearities are used.
        cotangent: The coefficients of the entries of the value, in its shape.
        chosen: Slopes, splits and multipliers.
        node: The number of the nonlinearity whose input is the value; None: the logits.

    Returns:
        The bound, its corner, and the sum of the gaps of each earlier nonlinearity. It costs one
        backward pass: the forward pass is that of the image, which the region knows.
    """
    upto = len(network.nodes) if node is None else node
    known = region._replace(
        image=None, low=None, high=None, radius=None, output=None, output_error=None
    )

    def value(x: Array, slacks: list[Array]) -> Array:
        rules = RelaxedRules(network.nodes, slacks, known, chosen)
        out = run(network.traced, params, x, rules)
        return out if node is None else rules.inputs[node]

    slacks = [jnp.zeros((), region.image.dtype) for _ in range(upto)]
    _, pull = jax.vjp(value, region.image, slacks)
    slope, gaps = pull(cotangent)
    taken, corner = least(norm, slope, region.low, region.high, region.radius)
    if node is None:
        at_image, error = region.output, region.output_error
    else:
        place, shape = network.nodes[node].place, network.nodes[node].shape
        at_image, error = (part[place].reshape(shape) for part in (region.value, region.error))
    bound = (cotangent * at_image).sum() - (jnp.abs(cotangent) * error).sum()
    return Bound(bound - sum(gaps) + taken, region.image + corner, gaps)


def look_around(
    network: Network,
    params: Any,
    region: Region,
    cotangent: Array,
    chosen: Parameters,
    point: Array,
    node: int | None = None,
) -> tuple[Array, Array]:
    """Return the value at a point, and the gaps [M] there of the bound of <cotangent, value>.

    The value are the logits, or the input of the nonlinearity number `node`. At the bound's own
    corner the gaps are all that separates the bound from the value there. Costs one forward and one
    backward pass.
    """
    upto = len(network.nodes) if node is None else node
    known = region._replace(
        image=None, low=None, high=None, radius=None, output=None, output_error=None, value=None
    )

    def value(slacks: list[Array]) -> Array:
        rules = RelaxedRules(network.nodes, slacks, known, chosen)
        out = run(network.traced, params, point, rules)
        return out if node is None else rules.inputs[node]

    slacks = [jnp.zeros(one.shape, point.dtype) for one in network.nodes[:upto]]
    found, pull = jax.vjp(value, slacks)
    (gaps,) = pull(cotangent)
    return found, jnp.concatenate([gap.ravel() for gap in gaps])


def crown(region: Region) -> Parameters:
    """Return CROWN's slopes, without splits."""
    none = jnp.zeros_like(region.lower)
    return Parameters(adaptive(region.lower, region.upper), none, none)


def margin_of(label: Array, target: Array, classes: int, dtype: Any) -> Array:
    """Return the coefficients [K] of the logit of `label` less that of `target`."""
    return (jax.nn.one_hot(label, classes) - jax.nn.one_hot(target, classes)).astype(dtype)
