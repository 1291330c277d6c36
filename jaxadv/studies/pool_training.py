"""Adversarial training with a pool for each layer: Szegedy et al. (2013), section 4.2.

A sigmoid network is split at a layer: the body computes activations in [0, 1], the head classifies
them (arXiv 1312.6199, last part of the section). The attack perturbs the input of the head.
Training keeps a pool of such examples for each layer, replaces a random part of it in every round,
and mixes them into the training set, one layer after the other. Beside it stand examples that are
made anew for every batch, by one gradient step of a fixed L2 length: they are never out of date.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

from jaxadv.attacks.gradient_based.pgd import PGD
from jaxadv.attacks.minimum_norm.lbfgs import LBFGS
from jaxadv.core.goals import Untargeted
from jaxadv.core.model import Model
from jaxadv.core.typing import Key, Params
from jaxadv.engine.batch import perturb
from jaxadv.engine.result_store import fingerprint
from jaxadv.models.definitions import get_definition
from jaxadv.studies.networks import (
    BATCH,
    EPOCHS,
    HIDDEN,
    LEARNING_RATE,
    LEAST_STEPS,
    Network,
    WeightDecay,
    load_or_fit,
)
from jaxadv.studies.setting import Setting

State = tuple[Params, optax.OptState]  # of the training
Pools = dict[int, tuple[Array, Array]]  # activations and labels, by layer
WIDTHS, DECAY = (100, 100), WeightDecay(HIDDEN)
STEPS_A_ROUND = 100
POOL = 0.1  # examples of each layer beside those of the training set
REFRESHED = 0.1  # fraction of a pool that is replaced in a round
QUICKLY = LBFGS(memory=4, tolerance=0.05, rounds=5, iterations=8)  # accurate enough for training


@dataclasses.dataclass(frozen=True)
class Method:
    """How a network is trained in addition to weight decay, which all methods use.

    Attributes:
        name: Name of the method.
        layers: Layers with a pool (0: the image), and the L2 length to which its perturbations are
            shortened: the nearest mistake of a network that resists lies so far away that it no
            longer shows its class.
        fresh: Layers (0: the image), and the L2 length of the one gradient step there that makes an
            example of every activation, anew in every batch.
        dropout: Fraction of hidden units that are dropped.
        noise: Standard deviation of Gaussian noise on the images.
        mining: Draw twice as many images and learn from the harder half.
        epsilon: Radius of PGD (Linf, 5 steps) on every image; 0: no PGD.
        learning_rate: Of Adam at first.
    """

    name: str
    layers: tuple[tuple[int, float], ...] = ()
    fresh: tuple[tuple[int, float], ...] = ()
    dropout: float = 0.0
    noise: float = 0.0
    mining: bool = False
    epsilon: float = 0.0
    learning_rate: float = LEARNING_RATE


def body(
    params: Params, images: Array, layer: int, drop: tuple[Key, float] | None = None
) -> Float[Array, "N n"]:
    """Return the activations of a sigmoid `FC` after `layer` hidden layers (0: the pixels).

    Args:
        params: Parameters of the network.
        images: Images [N, ...].
        layer: Number of hidden layers.
        drop: None, or (key, fraction) of the units of each layer that are dropped.

    Returns:
        The activations [N, n].
    """
    x = images.reshape(len(images), -1)
    for number in range(1, layer + 1):
        x = jax.nn.sigmoid(x @ params[f"fc{number}"]["kernel"] + params[f"fc{number}"]["bias"])
        if drop is not None:
            key, fraction = drop
            is_active = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - fraction, x.shape)
            x = jnp.where(is_active, x / (1 - fraction), 0)
    return x


def head(params: Params, activations: Float[Array, "N ..."], layer: int) -> Float[Array, "N K"]:
    """Return the logits of the rest of the network from the activations of a layer.

    Args:
        params: Parameters of the network.
        activations: Activations [N, ...].
        layer: The layer (0: the pixels).

    Returns:
        The logits [N, K].
    """
    x, last = activations.reshape(len(activations), -1), len(params)
    for number in range(layer + 1, last):
        x = jax.nn.sigmoid(x @ params[f"fc{number}"]["kernel"] + params[f"fc{number}"]["bias"])
    return x @ params[f"fc{last}"]["kernel"] + params[f"fc{last}"]["bias"]


@functools.cache
def _head_at(layer: int) -> Callable[[Params, Array], Array]:
    return lambda params, activations: head(params, activations, layer)


def head_model(params: Params, layer: int) -> Model:
    """Return the head as a model for any attack.

    Args:
        params: Parameters of the network.
        layer: The layer whose activations are the head's input.

    Returns:
        The model, whose images are activations [N, 1, 1, n].

    Example:
        >>> import jax, jax.numpy as jnp, jaxadv as ja
        >>> from jaxadv.studies.pool_training import body, head_model
        >>> module = ja.models.get_definition("FC")(widths=(5,), classes=3, activation="sigmoid")
        >>> images = jax.random.uniform(jax.random.key(0), (2, 4, 4, 1))
        >>> variables = module.init(jax.random.key(1), images)
        >>> inside = body(variables["params"], images, 1).reshape(2, 1, 1, 5)
        >>> logits = head_model(variables["params"], 1)(inside)
        >>> bool(jnp.allclose(logits, module.apply(variables, images), atol=1e-6))
        True
    """
    return Model(_head_at(layer), params)


def attack_layer(
    params: Params, images: Array, labels: Array, layer: int, key: Key
) -> Float[Array, "N n"]:
    """Compute nearly minimal perturbations of a layer's activations by a short L-BFGS. Pure.

    Args:
        params: Parameters of the network.
        images: Images [N, H, W, C].
        labels: Labels [N].
        layer: The layer (0: the pixels).
        key: Random key.

    Returns:
        The perturbed activations [N, n].
    """
    inside = body(params, images, layer)
    perturbed = perturb(
        QUICKLY,
        head_model(params, layer),
        inside[:, None, None],
        Untargeted(labels),
        key=key,
        keep="distance",
    )
    return perturbed.reshape(inside.shape)


def _losses(params: Params, x: Array, labels: Array, layer: int = 0) -> Float[Array, " N"]:
    logits = head(params, x, layer)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def stepped(
    params: Params, activations: Float[Array, "N n"], labels: Array, layer: int, length: float
) -> Float[Array, "N n"]:
    """Return activations of a layer after one step of an L2 length along the loss's gradient.

    Args:
        params: Parameters of the network.
        activations: Activations [N, n] in [0, 1].
        labels: Labels [N].
        layer: The layer (0: the pixels).
        length: Length of the step, before the activations are clipped to [0, 1].

    Returns:
        The activations [N, n].

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxadv.studies.pool_training import stepped
        >>> kernel = jnp.array([[3.0, -3.0], [4.0, -4.0]])
        >>> params = {"fc1": {"kernel": kernel, "bias": jnp.zeros(2)}}
        >>> moved = stepped(params, jnp.array([[0.5, 0.5]]), jnp.array([0]), 0, 0.5)
        >>> print((100 * moved).round())
        [[20. 10.]]
    """
    fixed = lax.stop_gradient(params)
    slopes = jax.grad(lambda x: _losses(fixed, x, labels, layer).sum())(activations)
    lengths = jnp.linalg.norm(slopes, axis=1, keepdims=True)
    return jnp.clip(activations + length * slopes / jnp.maximum(lengths, 1e-12), 0, 1)


@functools.partial(jax.jit, static_argnames=("method", "total"))
def _round(
    state: State,
    pools: Pools,
    images: Array,
    labels: Array,
    key: Key,
    *,
    method: Method,
    total: int,
) -> State:
    """Run STEPS_A_ROUND steps of Adam on clean batches and the pools, one layer after the other."""
    adam = _adam(method, total)

    def batch_of(params: Params, key: Key) -> tuple[Array, Array]:
        draw, other = jax.random.split(key)
        rows = jax.random.randint(draw, (BATCH * (1 + method.mining),), 0, len(labels))
        x, y = images[rows], labels[rows]
        if method.mining:
            hardest = jnp.argsort(-_losses(params, x, y))[:BATCH]
            x, y = x[hardest], y[hardest]
        if method.noise:
            x = jnp.clip(x + method.noise * jax.random.normal(other, x.shape), 0, 1)
        if method.epsilon:
            attack = PGD(steps=5, step_size=0.3)
            x = perturb(
                attack,
                head_model(params, 0),
                x,
                Untargeted(y),
                method.epsilon,
                key=other,
                keep="last",
            )
        return x, y

    def step(state: State, number: Array) -> tuple[State, None]:
        params, memory = state
        draw = jax.random.fold_in(key, number)
        x, y = batch_of(params, draw)
        turn = number % max(len(method.layers), 1)
        at_random = jax.random.uniform(jax.random.fold_in(draw, 1), (BATCH,))

        def some(pool: tuple[Array, Array]) -> tuple[Array, Array]:
            size = len(pool[1])
            rows = (at_random * size).astype(int)
            return pool[0][rows], pool[1][rows]

        batches = [some(pools[at]) for at, _ in method.layers]
        # Each example of a pool counts as much as an image of the training set.
        share = sum(len(pools[at][1]) for at, _ in method.layers) / len(labels)

        def loss(params: Params) -> Float[Array, ""]:
            if method.dropout:
                inside = body(params, x, len(params) - 1, (draw, method.dropout))
                clean = _losses(params, inside, y, len(params) - 1)
            else:
                clean = _losses(params, x, y)
            value = clean.mean() + DECAY(params)
            for layer, length in method.fresh:
                inside = body(params, x, layer)
                change = stepped(params, lax.stop_gradient(inside), y, layer, length) - inside
                moved = inside + lax.stop_gradient(change)  # the layers below learn from it too
                value += _losses(params, moved, y, layer).mean() / len(method.fresh)
            if not method.layers:
                return value
            mixed = [
                lambda p, at=at, batch=batch: _losses(p, batch[0], batch[1], at).mean()
                for (at, _), batch in zip(method.layers, batches, strict=True)
            ]
            return value + share * lax.switch(turn, mixed, params)

        updates, memory = adam.update(jax.grad(loss)(params), memory)
        return (optax.apply_updates(params, updates), memory), None

    return lax.scan(step, state, jnp.arange(STEPS_A_ROUND))[0]


@functools.partial(jax.jit, static_argnames=("layer", "length", "count"))
def _fresh(
    params: Params,
    images: Array,
    labels: Array,
    key: Key,
    *,
    layer: int,
    length: float,
    count: int,
) -> tuple[Array, Array]:
    """Return adversarial activations of a layer for `count` random training images."""
    rows = jax.random.randint(key, (count,), 0, len(labels))

    def attack_batch(rows: Array) -> Array:  # the memory of L-BFGS stays in the cache
        inside = body(params, images[rows], layer)
        change = attack_layer(params, images[rows], labels[rows], layer, key) - inside
        longest = jnp.maximum(jnp.linalg.norm(change, axis=1, keepdims=True), length)
        return inside + length * change / longest

    activations = lax.map(attack_batch, rows.reshape(-1, BATCH))
    return activations.reshape(count, -1), labels[rows]


def _whole_batches(count: float) -> int:
    return BATCH * max(1, round(count / BATCH))


def _adam(method: Method, total: int) -> optax.GradientTransformation:
    """Adam, whose rate rises for a twentieth of the steps and falls along a cosine."""
    rate, first = method.learning_rate, max(1, total // 20)
    return optax.adam(optax.warmup_cosine_decay_schedule(0.0, rate, first, total))


def train_with(setting: Setting, method: Method, seed: int = 0) -> Network:
    """Train a 100-100-10 sigmoid network by a method, or load it from the setting's folder."""
    data = setting.train
    epochs = max(EPOCHS // (1 + setting.quick), LEAST_STEPS * BATCH // len(data.labels))
    digest = fingerprint(repr(method), data.images, data.labels, seed, epochs)
    name = f"FC100-100-10, {method.name}"
    module = get_definition("FC")(widths=WIDTHS, classes=len(data.classes), activation="sigmoid")
    return load_or_fit(
        setting, name, module, seed, digest, lambda _: _fit(setting, method, module, seed, epochs)
    )


def _fit(setting: Setting, method: Method, module: nn.Module, seed: int, epochs: int) -> Params:
    """Return the variables after `epochs` epochs; the pools are refreshed between rounds."""
    data = setting.train
    images, labels = jnp.asarray(data.images), jnp.asarray(data.labels, jnp.int32)
    key = jax.random.key(seed)
    params = module.init(jax.random.fold_in(key, 0), images[:1])["params"]
    params = {layer: dict(leaves) for layer, leaves in params.items()}
    rounds = max(1, epochs * len(labels) // (BATCH * STEPS_A_ROUND))
    total = rounds * STEPS_A_ROUND
    state: State = (params, _adam(method, total).init(params))
    pools: Pools = {}
    size, renewed = (_whole_batches(part * len(labels)) for part in (POOL, POOL * REFRESHED))
    for number in range(rounds):
        draw = jax.random.fold_in(key, number + 1)
        for layer, length in method.layers:
            # The full pool at first, then a random part of it.
            count = renewed if layer in pools else size
            layer_key = jax.random.fold_in(draw, layer)
            fresh, targets = _fresh(
                state[0], images, labels, layer_key, layer=layer, length=length, count=count
            )
            if layer in pools:
                replaced = jax.random.permutation(layer_key, size)[:count]
                inside, classes = pools[layer]
                fresh = inside.at[replaced].set(fresh)
                targets = classes.at[replaced].set(targets)
            pools[layer] = fresh, targets
        state = _round(state, pools, images, labels, draw, method=method, total=total)
        setting.progress(f"train {method.name}", number + 1, rounds)
    return {"params": state[0]}
