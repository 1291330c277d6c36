"""The networks of the studies, trained once and stored, mainly those of Szegedy et al. (2013).

These are softmax regression and sigmoid networks on MNIST with quadratic weight decay, and a
softmax on top of a denoising autoencoder that was trained without labels (arXiv 1312.6199).

The paper's penalty is lambda * sum(w^2) / k for a layer of k units. With k the number of outputs,
softmax regression has smaller training errors than the published ones (6.3, 8.3 and 15.6 % for 6.7,
10 and 21.2 %); with k = 2 for every layer it has 6.6, 9.9 and 23.1 %, so that is used. For networks
with hidden layers 2 * lambda was chosen, of 1, 2, 4 and 8, on the last 10,000 training images.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float

from jaxadv.core.model import Model
from jaxadv.core.typing import ArrayLike, Key, Params
from jaxadv.data import Dataset
from jaxadv.engine.result_store import fingerprint
from jaxadv.engine.verify import predict
from jaxadv.models.adapters import from_linen, linen_of
from jaxadv.models.definitions import get_definition
from jaxadv.models.train import train
from jaxadv.models.weights import flatten, read_arrays, unflatten, write_arrays
from jaxadv.studies.setting import Setting


@dataclasses.dataclass(frozen=True)
class WeightDecay:
    """Penalty on the params of an FC: sum over its layers of strength * sum(kernel^2).

    Attributes:
        strengths: Strength for each layer.
    """

    strengths: tuple[float, ...]

    def __call__(self, params: Params) -> Float[Array, ""]:
        kernels = [params[f"fc{i + 1}"]["kernel"] for i in range(len(self.strengths))]
        pairs = zip(self.strengths, kernels, strict=True)
        return sum((s * jnp.square(k).sum() for s, k in pairs), jnp.zeros(()))


class Recipe(NamedTuple):
    """How a network is trained.

    Attributes:
        widths: Hidden widths.
        decay: Weight decay of each layer.
        autoencoder: Whether the hidden layer is that of an autoencoder.
    """

    widths: tuple[int, ...]
    decay: tuple[float, ...]
    autoencoder: bool = False


HIDDEN = (2e-5, 2e-5, 2e-6)  # decay of networks with two hidden layers
RECIPES = {
    "FC10(1e-4)": Recipe((), (0.5e-4,)),
    "FC10(1e-2)": Recipe((), (0.5e-2,)),
    "FC10(1)": Recipe((), (0.5,)),
    "FC100-100-10": Recipe((100, 100), HIDDEN),
    "FC200-200-10": Recipe((200, 200), HIDDEN),
    "AE400-10": Recipe((400,), (1e-6, 1e-6), autoencoder=True),
    "FC123-456-10": Recipe((123, 456), HIDDEN),
}
EPOCHS, BATCH, LEARNING_RATE = 60, 200, 5e-3  # of Adam, with a cosine schedule
LEAST_STEPS = 3_000  # of Adam, where the training set is small
PUBLISHED = {  # training error, test error (per cent), average minimal distortion
    "FC10(1e-4)": (6.7, 7.4, 0.062),
    "FC10(1e-2)": (10.0, 9.4, 0.1),
    "FC10(1)": (21.2, 20.0, 0.14),
    "FC100-100-10": (0.0, 1.64, 0.058),
    "FC200-200-10": (0.0, 1.54, 0.065),
    "AE400-10": (0.57, 1.9, 0.086),
}
State = tuple[Params, optax.OptState]  # of the autoencoder's training
SIX = tuple(RECIPES)[:6]  # those of the paper's first two tables


class Network(NamedTuple):
    """A trained network.

    Attributes:
        name: Name of the network.
        module: The linen module; None of a model that is no linen module.
        variables: Its variables.
        model: The model to attack.
    """

    name: str
    module: nn.Module | None
    variables: Params
    model: Model

    @property
    def linen(self) -> nn.Module:
        """The linen module, for studies of layers.

        Raises:
            ValueError: The model is no linen module.
        """
        if self.module is None:
            raise ValueError(f"{self.name} is no linen module: its layers cannot be told apart")
        return self.module

    def error(self, data: Dataset) -> float:
        """Return the fraction of misclassified images."""
        logits = predict(self.model, data.images)
        return float((logits.argmax(1) != data.labels).mean())


def names_of(setting: Setting, own: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a study's networks: those that the setting gives, else its own."""
    return tuple(given.name for given in setting.networks) or tuple(own)


def network_of(setting: Setting, name: str, seed: int = 0, data: Dataset | None = None) -> Network:
    """Return a network of a study by its name: a model that is given, or one trained here.

    Args:
        setting: The setting, whose folder stores the networks.
        name: Name of a given model, of one of `RECIPES`, or of a definition.
        seed: Seed of the training.
        data: Training set (None: the setting's).

    Returns:
        The network.

    Raises:
        ValueError: A given model is to be trained on other data, or there is no network of that
            name.
    """
    model = next((given.model for given in setting.networks if given.name == name), None)
    if model is not None:
        if data is not None:
            raise ValueError(f"{name} is trained already: pass the name of a definition")
        return Network(name, *(linen_of(model) or (None, model.params)), model)
    if name in RECIPES:
        return trained(setting, name, seed, data)
    data = setting.train if data is None else data
    epochs = round((60_000 if setting.quick else 720_000) / len(data.labels))
    return plain(setting, data, seed, epochs=min(max(3, epochs), 20), batch_size=50, kind=name)


def published(setting: Setting, name: str) -> tuple[float, float, float]:
    """Return the row of `PUBLISHED`, nan for networks and images that are not the paper's."""
    nothing = (np.nan, np.nan, np.nan)
    is_colour = setting.test.images.shape[-1] != 1
    return nothing if is_colour else PUBLISHED.get(name, nothing)


def load_or_fit(
    setting: Setting,
    name: str,
    module: nn.Module,
    seed: int,
    digest: str,
    fit: Callable[[Path], Params],
) -> Network:
    """Load a network from the setting's folder, or make it by `fit` and store it.

    Args:
        setting: The setting.
        name: Name of the network.
        module: The linen module.
        seed: Seed of the training.
        digest: Fingerprint of all that the variables depend on.
        fit: Function that returns the variables, given a path for checkpoints. The file there is
            removed at the end.

    Returns:
        The network.
    """
    file = setting.folder / "networks" / f"{name}-{seed}-{digest[:8]}.safetensors"
    if file.is_file():
        arrays, _ = read_arrays(file)
        variables = jax.tree.map(jnp.asarray, unflatten(arrays))
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        checkpoint = file.with_suffix(".checkpoint")
        variables = fit(checkpoint)
        write_arrays(file, flatten(variables), {"name": name, "seed": seed})
        checkpoint.unlink(missing_ok=True)
    return Network(name, module, variables, from_linen(module, variables))


def plain(
    setting: Setting,
    data: Dataset,
    seed: int = 0,
    *,
    epochs: int,
    batch_size: int = 100,
    kind: str = "LeNet",
) -> Network:
    """Train a network of `models.definitions` by Adam alone, or load it if it is stored.

    Args:
        setting: The setting, whose folder stores the network.
        data: Training set.
        seed: Seed of the training.
        epochs: Epochs of Adam.
        batch_size: Images in a batch.
        kind: Name of the definition.

    Returns:
        The network.
    """
    module = get_definition(kind)(classes=len(data.classes))
    digest = fingerprint(data.images, data.labels, data.classes, seed, epochs, batch_size)

    def fit(checkpoint: Path) -> Params:
        return train(
            module,
            data,
            epochs=epochs,
            batch_size=min(batch_size, len(data.labels)),
            key=jax.random.key(seed),
            checkpoint=checkpoint,
            progress=lambda done, _: setting.progress(f"train {kind}", done, epochs),
        )

    return load_or_fit(setting, kind, module, seed, digest, fit)


def trained(setting: Setting, name: str, seed: int = 0, data: Dataset | None = None) -> Network:
    """Train one of `RECIPES`, or load it from the setting's folder.

    Args:
        setting: The setting, whose folder stores the network.
        name: Name of the recipe.
        seed: Seed of the training.
        data: Training set (None: the setting's).

    Returns:
        The network.

    Raises:
        ValueError: There is no recipe of that name.
    """
    if name not in RECIPES:
        raise ValueError(f"name={name!r} is not known: pass one of {', '.join(RECIPES)}")
    recipe, data = RECIPES[name], setting.train if data is None else data
    module = get_definition("FC")(
        widths=recipe.widths, classes=len(data.classes), activation="sigmoid"
    )
    digest = fingerprint(repr(recipe), data.images, data.labels, seed, setting.quick)

    def fit(checkpoint: Path) -> Params:
        return _fit(setting, recipe, module, name, data, jax.random.key(seed), checkpoint)

    return load_or_fit(setting, name, module, seed, digest, fit)


def _fit(
    setting: Setting,
    recipe: Recipe,
    module: nn.Module,
    name: str,
    data: Dataset,
    key: Key,
    checkpoint: Path,
) -> Params:
    batch_size = min(BATCH, len(data.labels))
    least = -(-LEAST_STEPS // max(len(data.labels) // batch_size, 1))
    settings = {
        "epochs": max(EPOCHS // (1 + setting.quick), least),
        "batch_size": batch_size,
        "learning_rate": LEARNING_RATE,
        "key": key,
        "checkpoint": checkpoint,
        "progress": lambda done, _: setting.progress(f"train {name}", done, settings["epochs"]),
    }
    if not recipe.autoencoder:
        variables = train(module, data, penalty=WeightDecay(recipe.decay), **settings)
    else:
        epochs = settings["epochs"] // 3
        layers = autoencoder(data.images, recipe.widths[0], recipe.decay[0], epochs, key)
        encoder = layers["encode"]
        flat = data.images.reshape(len(data.images), -1)
        codes = np.asarray(jax.nn.sigmoid(flat @ encoder["kernel"] + encoder["bias"]))
        classifier = get_definition("FC")(widths=(), classes=len(data.classes))
        coded = data._replace(images=codes.reshape(len(codes), 1, 1, -1))
        settings |= {"learning_rate": 1e-2}  # convex
        softmax = train(classifier, coded, penalty=WeightDecay(recipe.decay[1:]), **settings)
        variables = {"params": {"fc1": encoder, "fc2": softmax["params"]["fc1"]}}
    return variables


def autoencoder(images: ArrayLike, width: int, decay: float, epochs: int, key: Key) -> Params:
    """Train a sigmoid autoencoder by Adam without labels.

    The loss is the cross-entropy of the pixels with their reconstruction (a sigmoid too) from
    pixels with Gaussian noise of standard deviation 0.8. A plain autoencoder does not suffice: its
    codes are nearly linear, and a softmax on top errs as often as one on the pixels (7 %), or,
    after longer training, is fooled by noise of 0.06.

    Args:
        images: Images [N, ...] in [0, 1].
        width: Number of hidden units.
        decay: Weight decay.
        epochs: Passes over the images.
        key: JAX random key.

    Returns:
        {"encode": {"kernel": [n, width], "bias": [width]}, "decode": {...}}.
    """
    inputs = jnp.asarray(images).reshape(len(images), -1)
    draw, shuffle = jax.random.split(key)
    one, two = jax.random.split(draw)
    size = inputs.shape[1]
    init = jax.nn.initializers.lecun_normal()
    params = {
        "encode": {"kernel": init(one, (size, width)), "bias": jnp.zeros(width)},
        "decode": {"kernel": init(two, (width, size)), "bias": jnp.zeros(size)},
    }
    batch = min(100, len(inputs))
    batches = len(inputs) // batch
    adam = optax.adam(optax.cosine_decay_schedule(3e-3, epochs * batches))

    def loss(params: Params, x: Array, key: Key) -> Float[Array, ""]:
        noisy = x + 0.8 * jax.random.normal(key, x.shape)
        code = jax.nn.sigmoid(noisy @ params["encode"]["kernel"] + params["encode"]["bias"])
        reconstruction = code @ params["decode"]["kernel"] + params["decode"]["bias"]
        weights = [layer["kernel"] for layer in params.values()]
        penalty = sum(decay * jnp.square(w).sum() for w in weights)
        return optax.sigmoid_binary_cross_entropy(reconstruction, x).sum(1).mean() + penalty

    def step(state: State, draw: tuple[Array, Key]) -> tuple[State, None]:
        (params, memory), (rows, key) = state, draw
        updates, memory = adam.update(jax.grad(loss)(params, inputs[rows], key), memory)
        return (optax.apply_updates(params, updates), memory), None

    @jax.jit
    def epoch(state: State, key: Key) -> State:
        order = jax.random.permutation(key, len(inputs))[: batches * batch]
        keys = jax.random.split(jax.random.fold_in(key, 0), batches)
        return lax.scan(step, state, (order.reshape(batches, batch), keys))[0]

    state = (params, adam.init(params))
    for number in range(epochs):
        state = epoch(state, jax.random.fold_in(shuffle, number))
    return state[0]
