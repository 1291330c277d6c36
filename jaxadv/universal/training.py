"""Universal adversarial training: alternating steps of the weights and of one perturbation."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, PyTree

from jaxadv.core.attack import safe_epsilon
from jaxadv.core.norms import get_norm
from jaxadv.core.typing import Params
from jaxadv.cpu.rewrite import rewrite_for_cpu
from jaxadv.data import Dataset
from jaxadv.engine.batch import on_cpu
from jaxadv.models.adapters import from_linen
from jaxadv.universal.method import Task
from jaxadv.universal.perturbation import check_ball

if TYPE_CHECKING:
    from flax.linen import Module

TrainingState = tuple[Params, PyTree, Array]  # variables, memory of Adam, perturbation


def universal_training(
    definition: "Module",
    data: Dataset,
    epsilon: float,
    norm: str = "linf",
    *,
    key: Array,
    epochs: int = 10,
    batch_size: int = 50,
    learning_rate: float = 1e-3,
    step_size: float = 1.0,
    free: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Params, np.ndarray]:
    """Train a linen module against one perturbation of all images.

    Shafahi et al. 2018, arXiv 1811.11304, algorithm 3: with every batch the perturbation ascends
    the loss by `step_size` times epsilon, and the weights descend it by Adam.

    Args:
        definition: A linen module without batch statistics or dropout.
        data: Images float32 [N, H, W, C] in [0, 1] and labels [N], shuffled anew every epoch.
        epsilon: Radius in the norm and in the scale of the images.
        norm: "linf" or "l2".
        key: JAX random key.
        epochs: Passes over the images.
        batch_size: Images of a step.
        learning_rate: Initial learning rate of Adam; it decreases to 0 along a cosine.
        step_size: Step length of the perturbation as a fraction of epsilon. Where it is small, the
            weights adapt to the perturbation faster than it moves, and others still fool them.
        free: Take both steps from one backward pass, at the cost of plain training. If false, the
            weights take the gradient at the updated perturbation, for a second backward pass.
        progress: Called after each epoch with (epochs done, epochs).

    Returns:
        The variables of the module, and the last perturbation, float32 [H, W, C].

    Raises:
        ValueError: `norm` is unknown, `epsilon` is not one positive number, `batch_size` is not
            between 1 and the number of images, `epochs` is below 1, or `definition` has variables
            other than "params".

    Example:
        >>> import jax, numpy as np, jaxadv as ja
        >>> from jaxadv.data import Dataset
        >>> images, labels = np.eye(4, dtype="float32").reshape(4, 2, 2, 1), np.arange(4)
        >>> data = Dataset(images, labels, labels, "corners", tuple("abcd"))
        >>> module = ja.models.get_definition("FC")(widths=(16,), classes=4)
        >>> how = {"epochs": 60, "batch_size": 4, "learning_rate": 0.05}
        >>> variables, v = ja.universal_training(module, data, 0.2, key=jax.random.key(0), **how)
        >>> module.apply(variables, np.clip(images + v, 0, 1)).argmax(-1).tolist()
        [0, 1, 2, 3]
    """
    count, shape = len(data.labels), tuple(data.images.shape[1:])
    check_ball(norm, epsilon, shape, (0.0, 1.0))
    if not 1 <= batch_size <= count or epochs < 1:
        raise ValueError(
            f"batch_size={batch_size}, epochs={epochs}: pass 1 to {count} images, and 1 epoch"
        )
    images, labels = jnp.asarray(data.images, jnp.float32), jnp.asarray(data.labels, jnp.int32)
    variables = definition.init(jax.random.fold_in(key, 0), images[:1])
    if set(variables) != {"params"}:
        raise ValueError(f"definition has {sorted(variables)}: pass a module with params alone")
    state = (variables, optax.scale_by_adam().init(variables), jnp.zeros(shape, jnp.float32))
    radius = jnp.float32(safe_epsilon(norm, epsilon))
    steps = epochs * (count // batch_size)
    recipe = _Recipe(definition, norm, batch_size, steps, free, on_cpu())
    rate, climb = jnp.float32(learning_rate), jnp.float32(step_size)
    for number in range(epochs):
        own = jax.random.fold_in(key, number + 1)
        state = _epoch(recipe, state, images, labels, own, radius, rate, climb)
        if progress is not None:
            progress(number + 1, epochs)
    return state[0], np.asarray(state[2])


class _Recipe(NamedTuple):
    """The static settings of a compiled epoch; `steps` is the number of steps of all epochs."""

    definition: "Module"
    norm: str
    batch_size: int
    steps: int
    free: bool
    rewrite: bool


@functools.partial(jax.jit, static_argnames="recipe")
def _epoch(
    recipe: _Recipe,
    state: TrainingState,
    images: Array,
    labels: Array,
    key: Array,
    radius: Array,
    rate: Array,
    step_size: Array,
) -> TrainingState:
    """Run one epoch over the images in a new order."""
    definition, norm, batch_size, steps, free, rewrite = recipe

    def loss(variables: Params, v: Array, x: Array, y: Array) -> Array:
        logits: Any = definition.apply(variables, jnp.clip(x + v, 0.0, 1.0))
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    slopes = jax.grad(loss, argnums=(0, 1))
    both = rewrite_for_cpu(slopes) if rewrite else slopes

    def step(state: TrainingState, rows: Array) -> tuple[TrainingState, None]:
        variables, memory, v = state
        x, y = images[rows], labels[rows]
        weights, uphill = both(variables, v, x, y)
        task = Task(from_linen(definition, variables), radius, norm, v.shape)
        way = get_norm(norm).steepest(uphill, v, -jnp.inf, jnp.inf, 1.0)
        v = task.project(v + step_size * radius * way)
        if not free:
            weights, _ = both(variables, v, x, y)
        direction, adam = optax.scale_by_adam().update(weights, memory)
        now: Any = adam
        size = rate * (1 + jnp.cos(jnp.pi * (now.count - 1) / steps)) / 2
        variables = jax.tree.map(lambda p, d: p - size * d, variables, direction)
        return (variables, adam, v), None

    batches = len(images) // batch_size
    order = jax.random.permutation(key, len(images))[: batches * batch_size]
    return lax.scan(step, state, order.reshape(batches, batch_size))[0]
