"""The affine pieces of a piecewise-linear network: its ReLUs switched on or off by a pattern.

Where every ReLU keeps the state that the pattern gives it, the network is affine in the image. The
images that have the pattern, and at which one class wins, are those of non-negative slack:

    slack = z of every ReLU that is on, -z of every other, f_target - f_class of every class,

all of which are affine, too (Katz et al. 2017, arXiv 1702.01135, and others search these pieces).
A maximum is a ReLU of a difference, so max pooling, leaky ReLUs and clipping are included.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxadv.core.model import Model
from jaxadv.core.precision import x64
from jaxadv.proofs.balls import least
from jaxadv.proofs.network import Network, run
from jaxadv.proofs.programs import compiled
from jaxadv.proofs.roots import Inputs
from jaxadv.proofs.rules import Rules

ROWS = 64  # slacks whose gradients are computed in one call


class _Switched(Rules):
    """The affine piece of a pattern; `more` is added to the outputs of the ReLUs."""

    def __init__(self, on: list[Array], more: list[Array]):
        super().__init__(wide=True)
        self.on, self.more = on, more
        self.inputs: list[Array] = []

    def nonlinear(self, kind: str, z: Array) -> Array:
        number = len(self.inputs)
        self.inputs.append(z)
        return z * self.on[number] + self.more[number]


def _network(model: Model, image: Array) -> Network:
    with x64(False):
        return Network.of(model, image.shape)


def _split(network: Network, values: Array) -> list[Array]:
    return [values[node.place].reshape(node.shape) for node in network.nodes]


def _slack(
    network: Network, params: Any, on: Array, target: Array, x: Array, more: Array | None = None
) -> Array:
    """Return the slacks [M + K] of one image."""
    more = jnp.zeros(network.size) if more is None else more
    rules = _Switched(_split(network, on * 1.0), _split(network, more))
    logits = run(network.traced, params, x, rules)
    inputs = jnp.concatenate([jnp.zeros(0), *(z.ravel() for z in rules.inputs)])
    return jnp.concatenate([jnp.where(on, inputs, -inputs), logits[target] - logits])


def _values(model: Model, x: Array) -> tuple[Array, Array]:
    network, rules = _network(model, x), Inputs(wide=True)
    logits = run(network.traced, model.params, x, rules)
    return jnp.concatenate([jnp.zeros(0), *(z.ravel() for z in rules.inputs)]), logits


def _slacks(model: Model, on: Array, target: Array, x: Array) -> Array:
    return _slack(_network(model, x), model.params, on, target, x)


def _gradients(model: Model, on: Array, target: Array, x: Array, index: Array) -> Array:
    network = _network(model, x)
    one = functools.partial(_slack, network, model.params, on, target)
    slack, pull = jax.vjp(one, x)
    return jax.vmap(lambda i: pull(jax.nn.one_hot(i, len(slack)))[0].ravel())(index)


def _effects(model: Model, on: Array, target: Array, x: Array, index: Array) -> Array:
    network = _network(model, x)
    one = functools.partial(_slack, network, model.params, on, target, x)
    return jax.grad(lambda more: one(more)[index])(jnp.zeros(network.size))


def _later(model: Model, x: Array, weights: Array) -> Array:
    network = _network(model, x)
    on, target = jnp.ones(network.size, bool), jnp.zeros((), int)

    def total(more: Array) -> Array:
        return _slack(network, model.params, on, target, x, more)[: network.size] @ weights

    return jax.grad(total)(jnp.zeros(network.size))


def _most(
    model: Model, ons: Array, targets: Array, rivals: Array, x: Array, ball: Any, *, norm: str
) -> Array:
    network = _network(model, x)
    low, high, radius = ball

    def one(on: Array, target: Array, rival: Array) -> Array:
        function = functools.partial(_slack, network, model.params, on, target)
        value, slope = jax.value_and_grad(lambda image: function(image)[network.size + rival])(x)
        return value - least(norm, -slope.ravel(), low, high, radius)[0]

    return jax.vmap(one)(ons, targets, rivals)


values, slacks, gradients, effects, later, most = (
    compiled(_values),
    compiled(_slacks),
    compiled(_gradients),
    compiled(_effects),
    compiled(_later),
    compiled(_most, "norm"),
)


class Pieces:
    """The affine pieces of a model, evaluated in float64.

    Attributes:
        model: The model.
        shape: The shape of an image.
        size: The number M of ReLUs.
        last: Booleans [M], the ReLUs on which no other ReLU depends.
        forward: Forward passes so far.
        backward: Backward passes so far.
    """

    def __init__(self, model: Model, shape: tuple[int, ...]):
        """Trace the model; ValueError if it is not piecewise linear.

        Args:
            model: The model.
            shape: The shape of an image.
        """
        self.model, self.shape = model, shape
        network = Network.of(model, shape)
        for node in network.nodes:
            if node.kind != "relu":
                raise ValueError(
                    f"model: its nonlinearity {node.kind!r} is not piecewise linear, so it has no "
                    "affine pieces to search"
                )
        self.size = network.size
        self.forward = self.backward = 0
        weights = np.random.default_rng(0).uniform(1, 2, self.size)  # no two terms cancel
        with x64():
            self.last = np.asarray(later(model, np.full(shape, 0.5), weights)) == 0

    def at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the inputs [M] of all ReLUs, and the logits [K], at an image."""
        self.forward += 1
        with x64():
            found = values(self.model, self._image(x))
            return np.asarray(found[0]), np.asarray(found[1])

    def slack(self, on: np.ndarray, target: int, x: np.ndarray) -> np.ndarray:
        """Return the slacks [M + K] of an image in the piece of a pattern [M]."""
        self.forward += 1
        with x64():
            return np.asarray(slacks(self.model, on, target, self._image(x)))

    def gradients(
        self, on: np.ndarray, target: int, x: np.ndarray, index: np.ndarray
    ) -> np.ndarray:
        """Return the gradients [R, D] of the slacks at `index` [R], the same all over the piece."""
        self.backward += len(index)
        pieces = [np.zeros((0, x.size))]
        with x64():
            for begin in range(0, len(index), ROWS):
                own = np.resize(index[begin : begin + ROWS], ROWS)
                found = gradients(self.model, on, target, self._image(x), own)
                pieces.append(np.asarray(found)[: len(index) - begin])
        return np.concatenate(pieces)

    def effects(self, on: np.ndarray, target: int, x: np.ndarray, rival: int) -> np.ndarray:
        """Return the derivatives [M] of f_target - f_rival in the outputs of the ReLUs."""
        self.forward, self.backward = self.forward + 1, self.backward + 1
        with x64():
            return np.asarray(effects(self.model, on, target, self._image(x), self.size + rival))

    def most(
        self,
        ons: np.ndarray,
        classes: tuple[np.ndarray, np.ndarray],
        x: np.ndarray,
        norm: str,
        ball: tuple[np.ndarray, np.ndarray, float],
    ) -> np.ndarray:
        """Return upper bounds [P] of f_target - f_rival in the pieces of patterns [P, M].

        Args:
            ons: Booleans [P, M], with P of at most `ROWS`.
            classes: Integers [P], the targets, and integers [P], the rivals.
            x: The image.
            norm: "linf", "l2" or "l1".
            ball: The least and the largest difference [D] from the image, and the radius.

        Returns:
            The bounds over the ball, whether or not its images have the pattern.
        """
        count = len(ons)
        self.forward, self.backward = self.forward + count, self.backward + count
        fill = np.arange(ROWS) % count
        targets, rivals = classes
        with x64():
            found = most(
                self.model,
                ons[fill],
                targets[fill],
                rivals[fill],
                self._image(x),
                ball,
                norm=norm,
            )
        return np.asarray(found)[:count]

    def _image(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x, np.float64).reshape(self.shape)
