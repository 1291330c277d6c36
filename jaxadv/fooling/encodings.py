"""Encodings of an image as a genome: direct (one gene a pixel), or a network that paints the image.

Both are those of Nguyen, Yosinski and Clune (2014, arXiv 1412.1897). A genome is a pytree of one
individual, and all functions take one or two individuals: vmap makes a population.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Number

STRENGTH = 15.0  # of polynomial mutation: the larger, the smaller the steps
INPUTS = 4  # of a painting network: column, row, distance from the centre, one


class Encoding(Protocol):
    """The interface of an encoding."""

    def random(self, key: Array) -> PyTree:
        """Return a random genome to begin with."""
        ...

    def offspring(self, key: Array, mother: PyTree, father: PyTree, generation: Array) -> PyTree:
        """Return a child of two genomes."""
        ...

    def image(self, genome: PyTree) -> Float[Array, "H W C"]:
        """Return the image [H, W, C] in [0, 1] that a genome encodes."""
        ...


def polynomial(key: Array, values: Array, rate: Number, low: float, high: float) -> Array:
    """Polynomial mutation (Deb): changes each value with probability `rate`.

    The steps are mostly small, in units of the range.
    """
    chosen, step = jax.random.split(key)
    u = jax.random.uniform(step, values.shape)
    power = 1 / (STRENGTH + 1)
    delta = jnp.where(u < 0.5, (2 * u) ** power - 1, 1 - (2 - 2 * u) ** power)
    moved = jnp.clip(values + delta * (high - low), low, high)
    return jnp.where(jax.random.bernoulli(chosen, rate, values.shape), moved, values)


@pytree
class Direct:
    """Direct encoding: each pixel is a gene.

    One child in two is made by simulated binary crossover; the others are copies of one parent.

    Attributes:
        shape: Shape (H, W, C) of the images.
        rate: Probability that a gene mutates, halved every 1,000 generations.
        crossover: Probability of simulated binary crossover.
        spread: Distribution index of the crossover.
    """

    shape: tuple[int, int, int] = static()
    rate: float = static(default=0.1)
    crossover: float = static(default=0.5)
    spread: float = static(default=10.0)

    def random(self, key: Array) -> Float[Array, "H W C"]:
        return jax.random.uniform(key, self.shape)

    def offspring(self, key: Array, mother: Array, father: Array, generation: Array) -> Array:
        crossed, mixing, turn, mutating = jax.random.split(key, 4)
        u = jax.random.uniform(mixing, self.shape)
        power = 1 / (self.spread + 1)
        beta = jnp.where(u < 0.5, (2 * u) ** power, (1 / (2 - 2 * u)) ** power)
        sign = jnp.where(jax.random.bernoulli(turn), 1.0, -1.0)
        mixed = jnp.clip(0.5 * (mother + father + sign * beta * (mother - father)), 0, 1)
        child = jnp.where(jax.random.bernoulli(crossed, self.crossover), mixed, mother)
        return polynomial(mutating, child, self.rate * 0.5 ** (generation // 1000), 0.0, 1.0)

    def image(self, genome: Array) -> Float[Array, "H W C"]:
        return genome


class Painter(NamedTuple):
    """A feed-forward network, its M nodes in the order inputs, hidden slots, outputs.

    Attributes:
        weights: [M, M], weights from the row's node to the column's node, forward only.
        linked: [M, M], which connections exist.
        alive: [M], which hidden slots are in use as nodes.
        kind: [M], index of the activation function of each node.
    """

    weights: Float[Array, "M M"]
    linked: Bool[Array, "M M"]
    alive: Bool[Array, " M"]
    kind: Int[Array, " M"]


@pytree
class CPPN:
    """Compositional pattern-producing network (Stanley 2007), which paints regular images.

    The network takes the column, row and distance from the centre of a pixel and outputs its value.
    It begins without hidden nodes and grows; weights lie between -10 and 10. A child has one
    parent. Rates as published. Outputs are grey values, or hue, saturation and value for images of
    three channels.

    Attributes:
        shape: Shape (H, W, C) of the images.
        hidden: Maximum number of hidden nodes.
        add_link: Probability of adding a connection.
        remove_link: Probability of removing a connection.
        move_link: Probability of moving a connection.
        add_node: Probability of inserting a node into a connection.
        remove_node: Probability of removing a node.
        rate: Probability that a weight or an activation function mutates.
    """

    shape: tuple[int, int, int] = static()
    hidden: int = static(default=10)
    add_link: float = static(default=0.5)
    remove_link: float = static(default=0.3)
    move_link: float = static(default=0.5)
    add_node: float = static(default=0.5)
    remove_node: float = static(default=0.2)
    rate: float = static(default=0.1)

    @property
    def nodes(self) -> int:
        return INPUTS + self.hidden + self.shape[2]

    @property
    def _upwards(self) -> np.ndarray:
        """Mask [M, M] of possible connections: from earlier to later nodes, never to an input."""
        place = np.arange(self.nodes)
        upwards = place[:, None] < place
        upwards[:, :INPUTS] = False
        upwards[INPUTS + self.hidden :] = False
        return upwards

    def random(self, key: Array) -> Painter:
        weights, kinds = jax.random.split(key)
        size = self.nodes
        alive = np.ones(size, bool)
        alive[INPUTS : INPUTS + self.hidden] = False
        linked = np.zeros((size, size), bool)
        linked[:INPUTS, INPUTS + self.hidden :] = True
        return Painter(
            jax.random.uniform(weights, (size, size), minval=-10.0, maxval=10.0),
            jnp.asarray(linked),
            jnp.asarray(alive),
            jax.random.randint(kinds, (size,), 0, 4),
        )

    def offspring(self, key: Array, mother: Painter, father: Painter, generation: Array) -> Painter:
        keys = jax.random.split(key, 8)
        child = mother
        for change, rate, own in (
            (self._add_link, self.add_link, keys[0]),
            (self._remove_link, self.remove_link, keys[1]),
            (self._move_link, self.move_link, keys[2]),
            (self._add_node, self.add_node, keys[3]),
            (self._remove_node, self.remove_node, keys[4]),
        ):
            happens, how = jax.random.split(own)
            changed = change(how, child)
            happens = jax.random.bernoulli(happens, rate)
            child = jax.tree.map(lambda new, old: jnp.where(happens, new, old), changed, child)
        weights = polynomial(keys[5], child.weights, self.rate, -10.0, 10.0)
        other = jax.random.randint(keys[6], child.kind.shape, 0, 4)
        again = jax.random.bernoulli(keys[7], self.rate, child.kind.shape)
        return child._replace(weights=weights, kind=jnp.where(again, other, child.kind))

    def _pick(self, key: Array, mask: Array) -> tuple[Array, Array]:
        """Return the index of a random true entry of the flattened mask, and whether one exists."""
        draw = jnp.where(mask.ravel(), jax.random.uniform(key, (mask.size,)), -1.0)
        return draw.argmax(), mask.any()

    def _free(self, child: Painter) -> Array:
        there = child.alive[:, None] & child.alive
        return there & jnp.asarray(self._upwards) & ~child.linked

    def _set(self, mask: Array, place: Array, value: Number, do: Array) -> Array:
        flat = mask.ravel()
        return flat.at[place].set(jnp.where(do, value, flat[place])).reshape(mask.shape)

    def _add_link(self, key: Array, child: Painter) -> Painter:
        place, exists = self._pick(key, self._free(child))
        return child._replace(linked=self._set(child.linked, place, True, exists))

    def _remove_link(self, key: Array, child: Painter) -> Painter:
        place, exists = self._pick(key, child.linked)
        exists &= child.linked.sum() > 1  # the last one stays
        return child._replace(linked=self._set(child.linked, place, False, exists))

    def _move_link(self, key: Array, child: Painter) -> Painter:
        first, second = jax.random.split(key)
        return self._add_link(second, self._remove_link(first, child))

    def _add_node(self, key: Array, child: Painter) -> Painter:
        """Insert a node in a free slot into a connection, which it replaces by two."""
        which, where = jax.random.split(key)
        place, exists = self._pick(which, child.linked)
        begin, end = place // self.nodes, place % self.nodes
        order = jnp.arange(self.nodes)
        slot, room = self._pick(where, ~child.alive & (order > begin) & (order < end))
        do = exists & room
        linked = self._set(child.linked, place, False, do)
        linked = self._set(linked, begin * self.nodes + slot, True, do)
        linked = self._set(linked, slot * self.nodes + end, True, do)
        weight = child.weights.ravel()[place]
        weights = self._set(child.weights, begin * self.nodes + slot, 1.0, do)
        weights = self._set(weights, slot * self.nodes + end, weight, do)
        return child._replace(
            linked=linked, weights=weights, alive=self._set(child.alive, slot, True, do)
        )

    def _remove_node(self, key: Array, child: Painter) -> Painter:
        order = jnp.arange(self.nodes)
        inner = (order >= INPUTS) & (order < INPUTS + self.hidden)
        slot, exists = self._pick(key, child.alive & inner)
        gone = (order == slot) & exists
        linked = child.linked & ~gone[:, None] & ~gone
        return child._replace(linked=linked, alive=child.alive & ~gone)

    def image(self, genome: Painter) -> Float[Array, "H W C"]:
        height, width, channels = self.shape
        y, x = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
        shown = jnp.stack([x, y, jnp.hypot(x, y), jnp.ones_like(x)]).reshape(INPUTS, -1)
        values = jnp.zeros((self.nodes, shown.shape[1])).at[:INPUTS].set(shown)
        weights = jnp.where(genome.linked, genome.weights, 0.0)

        def fire(values: Array, node: Array) -> tuple[Array, None]:
            total, kind = weights[:, node] @ values, genome.kind[node]
            # One exponential serves the bell and the step: half of the cost is in these functions.
            power = jnp.exp(jnp.where(kind == 1, -2 * (total - 0.5), -(total**2)))
            activation = jnp.select(
                [kind == 0, kind == 1, kind == 2],
                [jnp.sin(total), 1 / (1 + power), power],
                jnp.clip(total, -3, 3) / 3,
            )
            return values.at[node].set(activation), None

        values, _ = jax.lax.scan(fire, values, jnp.arange(INPUTS, self.nodes))
        out = jnp.minimum(jnp.abs(values[-channels:]), 1.0).T.reshape(self.shape)
        return _from_hsv(out) if channels == 3 else out


def _from_hsv(hsv: Float[Array, "H W 3"]) -> Float[Array, "H W 3"]:
    """Convert hue, saturation and value to red, green and blue, all in [0, 1]."""
    hue, saturation, value = jnp.moveaxis(hsv, -1, 0)
    sector = (jnp.array([5.0, 3.0, 1.0]) + 6 * hue[..., None]) % 6
    ramp = jnp.clip(jnp.minimum(sector, 4 - sector), 0, 1)
    return value[..., None] * (1 - saturation[..., None] * ramp)
