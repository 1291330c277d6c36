"""Training, plain, under noise or adversarial: Adam with a cosine schedule, resumable to the bit.

Adversarial training minimises the loss of images attacked anew in every step (Madry et al. 2017,
"Towards Deep Learning Models Resistant to Adversarial Attacks", arXiv 1706.06083). TRADES (Zhang et
al. 2019, arXiv 1901.08573) minimises the loss of the clean images plus beta times the divergence
between the outputs on clean and attacked ones. Certified training minimises a bound of the loss of
all images of a ball (IBP, Gowal et al. 2018; CROWN-IBP, Zhang et al. 2019).
"""

import dataclasses
import functools
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from jaxadv.attacks.common.gradient import GradientState
from jaxadv.attacks.gradient_based.pgd import PGD
from jaxadv.core.attack import Attack, Problem
from jaxadv.core.goals import Untargeted
from jaxadv.core.pytree import pytree
from jaxadv.core.typing import Devices, Key, Params
from jaxadv.cpu.rewrite import rewrite_for_cpu
from jaxadv.engine import checks
from jaxadv.engine.batch import on_cpu, perturb
from jaxadv.engine.devices import choose_devices
from jaxadv.engine.verify import mesh_of
from jaxadv.models.adapters import from_linen
from jaxadv.models.weights import flatten, read_arrays, unflatten, write_arrays
from jaxadv.proofs.losses import LOSSES
from jaxadv.protocols.prover import Prover

if TYPE_CHECKING:
    from flax import linen as nn

    from jaxadv.data import Dataset

Variables = dict[str, Any]  # the collections of a linen module, nested dicts of arrays
RAMP = (0.1, 0.5)  # of certified training: where the radius begins to grow, and for how long
State = tuple[Variables, Any]  # the variables, and the `ScaleByAdamState` of optax


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["learning_rate", "attack", "epsilon", "beta", "noise"],
    meta_fields=["epochs", "batch_size", "penalty", "bound"],
)
@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings of a training: what is minimised, and in which steps.

    A pytree, whose structure is what the compiled epoch is made for.

    Attributes:
        epochs: Number of epochs.
        batch_size: Images per step.
        learning_rate: Adam's at the first step; it falls to 0 along a cosine.
        attack: The attack of adversarial training, or None.
        epsilon: Its radius, or that of the bound, or None.
        beta: Weight of the divergence in TRADES, or None.
        noise: Standard deviation of Gaussian noise, or None.
        penalty: params -> scalar, added to the loss, or None.
        bound: "ibp" or "crown-ibp", the loss of certified training, or None.
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float | Array = 2e-3
    attack: Attack | None = None
    epsilon: float | Array | None = None
    beta: float | Array | None = None
    noise: float | Array | None = None
    penalty: Callable[[Params], float | Array] | None = None
    bound: str | None = None

    def at(self, done: float | Array) -> "Recipe":
        """Return the recipe after this fraction of all steps.

        The radius of a bound grows, and so does its weight, in the place of TRADES' beta.
        """
        if self.bound is None or self.epsilon is None:
            return self
        grown = jnp.clip((done - RAMP[0]) / RAMP[1], 0, 1)
        return dataclasses.replace(self, epsilon=grown * self.epsilon, beta=grown / 2)


def train(
    definition: "nn.Module",
    data: "Dataset",
    *,
    epochs: int,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    attack: Attack | None = None,
    epsilon: float | None = None,
    beta: float | None = None,
    noise: float | None = None,
    penalty: Callable[[Params], float | Array] | None = None,
    bound: str | None = None,
    key: Key,
    devices: Devices = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Variables:
    """Train a linen module and return its variables.

    Without `attack` the loss is the cross-entropy of the images; with `attack` and `epsilon` that
    of the attacked images, the attack's last iterate, computed in evaluation mode; with `beta` too
    it is that of TRADES, where the attack (a `TRADESAscent`) maximises the divergence. An attack of
    n steps costs n more forward and n more backward passes per image. With `noise` it is that of
    the images plus Gaussian noise, drawn anew in every step and not clipped, as randomised
    smoothing needs (`ja.certify`). With `bound` and `epsilon` it is the mean of the cross-entropy
    and of a bound of it in the Linf ball (`ja.ibp_loss`, `ja.crown_ibp_loss`), whose radius and
    weight grow from 0 over the first 60 % of all steps; `ja.prove` then proves what is within it.

    Args:
        definition: A linen module whose call takes images [N, H, W, C], and `train` if it needs to
            know (batch statistics are updated; dropout draws from the step's key).
        data: Images float32 [N, H, W, C] and labels int32 [N], shuffled anew every epoch; the
            remainder of a division by `batch_size` is left out.
        epochs: Number of epochs.
        batch_size: Images per step.
        learning_rate: Adam's at the first step; it falls to 0 along a cosine.
        attack: The attack of adversarial training, or None.
        epsilon: Its radius, in the attack's norm and the scale of the images, or that of `bound`.
        beta: Weight of the divergence in TRADES, or None.
        noise: Standard deviation of Gaussian noise, or None; not with an attack.
        penalty: params -> scalar, added to the loss, such as a weight decay; a hashable value whose
            repr identifies it (a frozen dataclass with `__call__`).
        bound: "ibp" or "crown-ibp" for certified training; not with an attack or noise.
        key: Random key of the initialisation, the order and all draws.
        devices: Each takes its part of every batch (batch statistics are those of the parts,
            averaged). Default: all local ones for adversarial training if they divide `batch_size`,
            else the first.
        checkpoint: A safetensors file, replaced after every epoch. Where it exists, training
            continues from there and ends with the weights of an uninterrupted run.
        progress: Called with (epochs done, mean loss of the last one).

    Returns:
        The variables, nested dicts of float32.

    Raises:
        ValueError: If an argument is out of range, arguments do not fit each other, the module or
            the data, or the checkpoint belongs to another run.

    >>> import jax, jaxadv as ja, numpy as np
    >>> from jaxadv.data import Dataset
    >>> from jaxadv.models import get_definition
    >>> images, labels = np.eye(4, dtype="float32").reshape(4, 2, 2, 1), np.arange(4)
    >>> data = Dataset(images, labels, labels, "corners", tuple("abcd"))
    >>> module = get_definition("FC")(widths=(16,), classes=4)
    >>> how = {"epochs": 60, "batch_size": 4, "learning_rate": 0.05}
    >>> variables = ja.train(module, data, key=jax.random.key(0), **how)
    >>> module.apply(variables, images).argmax(-1).tolist()
    [0, 1, 2, 3]
    """
    recipe = Recipe(epochs, batch_size, learning_rate, attack, epsilon, beta, noise, penalty, bound)
    check_training(definition, data, recipe)
    images, labels = jnp.asarray(data.images, jnp.float32), jnp.asarray(data.labels, jnp.int32)
    key = checks.check_key(key)
    variables = _initialise(definition, jax.random.fold_in(key, 0), images[:1])
    state = (variables, optax.scale_by_adam().init(variables["params"]))
    done = 0
    if devices is None and (attack is None or batch_size % len(choose_devices(None))):
        devices = choose_devices(None)[:1]
    devices = choose_devices(devices)
    if batch_size % len(devices):
        raise ValueError(
            f"batch_size={batch_size} cannot be divided among {len(devices)} devices: pass a "
            "multiple, or fewer devices"
        )
    fingerprint = _fingerprint(definition, data, recipe, key)
    if checkpoint is not None and Path(checkpoint).is_file():
        state, done = _resume(checkpoint, state, fingerprint)
    if epsilon is not None:
        recipe = dataclasses.replace(recipe, epsilon=jnp.float32(epsilon))
    run_epoch = functools.partial(
        training_epoch, definition=definition, devices=devices, rewrite_cpu=on_cpu()
    )
    while done < epochs:
        state, loss = run_epoch(state, images, labels, jax.random.fold_in(key, done + 1), recipe)
        done += 1
        if checkpoint is not None:
            write_arrays(checkpoint, _named(state), {"run": fingerprint, "epochs_done": done})
        if progress is not None:
            progress(done, float(loss))
    return state[0]


def check_training(definition: "nn.Module", data: "Dataset", recipe: Recipe) -> None:
    """Raise ValueError where `train` cannot take these arguments; nothing is compiled."""
    batch_size, learning_rate = recipe.batch_size, recipe.learning_rate
    attack, epsilon, beta, noise = recipe.attack, recipe.epsilon, recipe.beta, recipe.noise
    checks.check_counts(epochs=recipe.epochs, batch_size=batch_size)
    count, shape = len(data.labels), np.shape(data.images)[1:]
    if batch_size > count:
        raise ValueError(f"batch_size={batch_size}: pass 1 to {count}, the number of images")
    if not (checks.is_number(learning_rate) and 0 < learning_rate < np.inf):
        raise ValueError(f"learning_rate={learning_rate}: pass a positive number, such as 0.002")
    if recipe.bound is not None:
        _check_bound(definition, shape, recipe)
    elif (attack is None) != (epsilon is None):
        raise ValueError(f"epsilon={epsilon} with attack={attack}: pass both, or none of them")
    if beta is not None and not isinstance(attack, TRADESAscent):
        raise ValueError(f"beta={beta} is TRADES': pass attack=TRADESAscent(...) and epsilon too")
    if beta is not None and not (checks.is_number(beta) and 0 <= beta < np.inf):
        raise ValueError(f"beta={beta}: pass a number that is not negative")
    if noise is not None and (
        attack is not None or not (checks.is_number(noise) and 0 <= noise < np.inf)
    ):
        raise ValueError(
            f"noise={noise} with attack={attack}: pass a standard deviation that is not negative, "
            "and no attack"
        )
    variables, classes = untrained(definition, shape)
    goal = checks.check_goal(Untargeted(data.labels), count, classes)
    if attack is not None:
        checks.check_attack(attack)
        attack = attack.specialize(goal, classes)
        checks.check_epsilon(attack, epsilon, 1, shape, from_linen(definition, variables).bounds)


def _check_bound(definition: "nn.Module", shape: tuple[int, ...], recipe: Recipe) -> None:
    """Raise ValueError where the settings of certified training are wrong."""
    bound, epsilon = recipe.bound, recipe.epsilon
    if bound not in LOSSES:
        raise ValueError(f"bound={bound!r}: pass one of {list(LOSSES)}")
    if epsilon is None or not (checks.is_number(epsilon) and 0 < epsilon < np.inf):
        raise ValueError(f"epsilon={epsilon} with bound={bound!r}: pass a radius above 0")
    for name in ("attack", "beta", "noise"):
        if getattr(recipe, name) is not None:
            raise ValueError(f"{name}={getattr(recipe, name)} with bound={bound!r}: pass one")
    Prover("fast").check(from_linen(definition, untrained(definition, shape)[0]), shape, "linf")


def untrained(definition: "nn.Module", shape: tuple[int, ...]) -> tuple[Variables, int]:
    """Return zero variables of a linen module for images of one shape, and its number of classes.

    They suffice to check the arguments that go with the network. Nothing is compiled.

    Args:
        definition: The linen module.
        shape: [H, W, C].

    Returns:
        The variables and the number of classes.

    Raises:
        ValueError: If the module cannot be called on such images.
    """
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    try:
        logits, variables = jax.eval_shape(definition.init_with_output, jax.random.key(0), images)
        classes = int(logits.shape[1])
    except Exception as error:  # a network may raise anything on a wrong shape
        message = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{type(definition).__name__} cannot be called on images of shape "
            f"[N, {', '.join(map(str, shape))}]: {message}; pass another network, or other images"
        ) from error
    return _plain(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variables)), classes


@functools.partial(jax.jit, static_argnums=0)
def _initialise(definition: "nn.Module", key: Key, images: Float[Array, "N H W C"]) -> Variables:
    return _plain(definition.init(key, images))


@functools.partial(jax.jit, static_argnames=("definition", "devices", "rewrite_cpu"))
def training_epoch(
    state: State,
    images: Float[Array, "M H W C"],
    labels: Int[Array, " M"],
    key: Key,
    recipe: Recipe,
    *,
    definition: "nn.Module",
    devices: tuple[Any, ...],
    rewrite_cpu: bool,
) -> tuple[State, Float[Array, ""]]:
    """Run one pass over the images; return the new state and the mean loss."""
    shuffle, noise = jax.random.split(key)
    batches = len(images) // recipe.batch_size
    order = jax.random.permutation(shuffle, len(images))[: batches * recipe.batch_size]
    gradient = functools.partial(_gradient, definition)
    gradient = rewrite_for_cpu(gradient) if rewrite_cpu else gradient

    def step(
        state: State, batch: tuple[Int[Array, " N"], Int[Array, " N"], Int[Array, ""]]
    ) -> tuple[State, Float[Array, ""]]:
        rows, places, number = batch
        adam: Any
        variables, adam = state
        draw = jax.random.fold_in(noise, number)
        now = recipe.at(adam.count / (recipe.epochs * batches))
        results = gradient(now, variables, images[rows], labels[rows], places, draw)
        (loss, updated), slope = lax.pmean(results, "devices") if len(devices) > 1 else results
        direction, adam = optax.scale_by_adam().update(slope, adam)
        angle = jnp.pi * (adam.count - 1) / (recipe.epochs * batches)
        rate = recipe.learning_rate * (1 + jnp.cos(angle)) / 2
        params = jax.tree.map(lambda p, d: p - rate * d, variables["params"], direction)
        return ({**variables, **updated, "params": params}, adam), loss

    def all_steps(
        state: State, rows: Int[Array, "B N"], places: Int[Array, " N"]
    ) -> tuple[State, Float[Array, " B"]]:
        places = jnp.broadcast_to(places, rows.shape)
        return lax.scan(step, state, (rows, places, jnp.arange(batches)))

    rows, places = order.reshape(batches, recipe.batch_size), jnp.arange(recipe.batch_size)
    if len(devices) > 1:  # the rows of a batch are sharded, all else is replicated
        replicated, split = PartitionSpec(), PartitionSpec(None, "devices")
        all_steps = jax.shard_map(
            all_steps,
            mesh=mesh_of(devices),
            in_specs=(replicated, split, PartitionSpec("devices")),
            out_specs=replicated,
            check_vma=False,
        )
    state, losses = all_steps(state, rows, places)
    return state, losses.mean()


def _gradient(
    definition: "nn.Module",
    recipe: Recipe,
    variables: Variables,
    images: Float[Array, "N H W C"],
    labels: Int[Array, " N"],
    places: Int[Array, " N"],
    key: Key,
) -> tuple[tuple[Float[Array, ""], Variables], Params]:
    """Return ((loss, updated collections), gradient of the loss in the params).

    places [N]: indices of the images in the batch, which enter their random keys.
    """
    others = {name: tree for name, tree in variables.items() if name != "params"}
    has_mode = "train" in inspect.signature(definition.__call__).parameters
    mode: dict[str, Any] = {"train": True} if has_mode else {}
    beta, penalty = recipe.beta, recipe.penalty
    moved_images = images
    if recipe.attack is not None:
        attacked = perturb(
            recipe.attack,
            from_linen(definition, variables),
            images,
            Untargeted(labels),
            recipe.epsilon,
            key=jax.random.fold_in(key, 1),
            ids=places,
            keep="last",
        )
        moved_images = lax.stop_gradient(attacked)
    elif recipe.noise is not None:
        draws = jax.vmap(lambda place: jax.random.fold_in(jax.random.fold_in(key, 2), place))(
            places
        )
        normal = jax.vmap(lambda draw: jax.random.normal(draw, images.shape[1:]))(draws)
        moved_images = images + recipe.noise * normal

    rngs = {"dropout": jax.random.fold_in(key, places[0])}

    def apply(
        params: Params, images: Float[Array, "N H W C"], others: Variables
    ) -> tuple[Float[Array, "N K"], Variables]:
        logits, updated = definition.apply(
            {**others, "params": params}, images, mutable=list(others), rngs=rngs, **mode
        )
        return logits, _plain(updated)

    def loss(params: Params) -> tuple[Float[Array, ""], Variables]:
        more = 0.0 if penalty is None else penalty(params)
        if recipe.bound is not None and recipe.epsilon is not None and beta is not None:
            logits, updated = apply(params, images, others)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            model = from_linen(definition, {**others, "params": params})
            worst = LOSSES[recipe.bound](model, images, labels, recipe.epsilon)
            return (1 - beta) * losses.mean() + beta * worst + more, updated
        if beta is None:
            logits, updated = apply(params, moved_images, others)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean() + more, updated
        logits, updated = apply(params, images, others)
        moved_logits, updated = apply(params, moved_images, updated)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        log_clean, log_moved = jax.nn.log_softmax(logits), jax.nn.log_softmax(moved_logits)
        divergence = (jnp.exp(log_clean) * (log_clean - log_moved)).sum(1)
        return (losses + beta * divergence).mean() + more, updated

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


@pytree
class TRADESAscent(PGD):
    """PGD on the divergence of TRADES (Zhang et al. 2019, arXiv 1901.08573).

    It maximises KL(clean || perturbed) of the softmax outputs in place of a loss of the label. It
    begins at the image plus normal noise of standard deviation 0.001, since the divergence has no
    gradient at the image itself.

    Attributes:
        steps: Number of steps, and the other settings of `PGD`.
    """

    def init(self, problem: Problem, key: Key) -> GradientState:
        noise = 0.001 * jax.random.normal(key, problem.image.shape)
        image = self.project(problem, problem.image + noise)
        return GradientState(image, self.transformation(problem).init(image), jnp.int32(0))

    def cotangents(
        self, problem: Problem, state: GradientState, logits: Float[Array, "1 K"]
    ) -> Float[Array, "1 1 K"]:
        return (jax.nn.softmax(logits) - jax.nn.softmax(problem.clean_logits))[:, None]


def _plain(tree: Mapping[str, Any]) -> Variables:
    """Return nested plain dicts, regardless of the mapping that this version of Flax returns."""
    return {k: _plain(v) if hasattr(v, "items") else v for k, v in tree.items()}


def _named(state: State) -> dict[str, np.ndarray]:
    variables, adam = state
    trees = {"variables": variables, "mean": adam.mu, "square": adam.nu, "count": adam.count}
    return flatten(trees)


def _resume(
    path: str | os.PathLike[str], state: State, fingerprint: dict[str, Any]
) -> tuple[State, int]:
    arrays, metadata = read_arrays(path)
    stored = metadata.get("run")
    if stored is None:
        raise ValueError(f"checkpoint={path} is no checkpoint of train: pass another file")
    differ = [
        f"{k} was {stored.get(k)}, is {value}"
        for k, value in fingerprint.items()
        if stored.get(k) != value
    ]
    if differ:
        raise ValueError(
            f"checkpoint={path} belongs to another run ({'; '.join(differ)}): delete it or pass "
            "another file"
        )
    trees = jax.tree.map(jnp.asarray, unflatten(arrays))
    adam = state[1]._replace(count=trees["count"], mu=trees["mean"], nu=trees["square"])
    return (trees["variables"], adam), metadata["epochs_done"]


def _fingerprint(
    definition: "nn.Module", data: "Dataset", recipe: Recipe, key: Key
) -> dict[str, Any]:
    """Return all that determines the weights, as JSON values."""
    digest = hashlib.sha256(np.ascontiguousarray(data.images, np.float32).tobytes())
    digest.update(np.ascontiguousarray(data.labels, np.int32).tobytes())
    run = {
        "definition": repr(definition),
        "data": digest.hexdigest()[:16],
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "learning_rate": float(recipe.learning_rate),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
    }
    run = json.loads(json.dumps(run))
    if recipe.attack is not None:
        run |= {"attack": repr(recipe.attack), "epsilon": float(np.float32(recipe.epsilon))}
        run |= {"beta": recipe.beta}
    if recipe.noise is not None:
        run |= {"noise": float(np.float32(recipe.noise))}
    if recipe.bound is not None:
        run |= {"bound": recipe.bound, "epsilon": float(np.float32(recipe.epsilon))}
    if recipe.penalty is not None:
        run |= {"penalty": repr(recipe.penalty)}
    return run
