"""Universal perturbations without data, which maximise the activations of every layer.

The outputs of the network are not used: the perturbation alone is fed to the network, and the
outputs of all nonlinearities are maximised together.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.extend.core import Jaxpr, JaxprEqn, Literal
from jaxtyping import Array, Float, PyTree

from jaxadv.core.attack import safe_epsilon
from jaxadv.core.bounds import two_numbers
from jaxadv.core.jaxprs import bind, called, walk
from jaxadv.core.model import Model
from jaxadv.core.typing import ArrayLike, Numbers
from jaxadv.cpu.rewrite import rewrite_for_cpu
from jaxadv.engine import checks
from jaxadv.engine.batch import on_cpu
from jaxadv.universal.method import Task
from jaxadv.universal.perturbation import check_ball

NONLINEAR = ("tanh", "logistic", "erf", "exp")
LINEAR = ("dot_general", "conv_general_dilated")
PIECE = 50  # steps between two checks of the saturated fraction


def activations(model: Model, images: Float[Array, "N ..."]) -> list[Array]:
    """Return the output of each nonlinearity of the model, in order from the first layer.

    Works for any model that JAX can trace. Costs one forward pass and is differentiable.

    Args:
        model: The model.
        images: Images [N, H, W, C].

    Returns:
        The outputs of every maximum with 0 (ReLU), tanh and sigmoid; if the model has none of
        these, the outputs of every matrix product and convolution.

    >>> import jax.numpy as jnp, jaxadv as ja
    >>> from jaxadv.universal import activations
    >>> model = ja.Model(lambda w, x: jnp.maximum(x.reshape(len(x), -1) @ w - 1, 0) @ w, jnp.eye(4))
    >>> [found.shape for found in activations(model, jnp.ones((2, 2, 2, 1)))]
    [(2, 4)]
    """
    flat, structure = jax.tree.flatten((model, images))

    def call(*leaves: Array) -> PyTree:
        one, x = jax.tree.unflatten(structure, leaves)
        return one.raw(x)

    closed = jax.make_jaxpr(call)(*flat)
    layers: list[tuple[str, Array]] = []
    _walk(closed.jaxpr, closed.consts, flat, layers)
    rectified = [value for kind, value in layers if kind == "nonlinear"]
    return rectified or [value for kind, value in layers if kind == "linear"]


def _walk(
    jaxpr: Jaxpr,
    consts: Sequence[Array],
    args: Sequence[Array],
    layers: list[tuple[str, Array]],
) -> list[Array]:
    """Evaluate a jaxpr and the calls inside it, and add the outputs of its layers to `layers`."""

    def outputs_of(eqn: JaxprEqn, inputs: list[Array]) -> list[Array]:
        name, inner = eqn.primitive.name, called(eqn)
        if inner is not None:
            outputs = _walk(inner.jaxpr, inner.consts, inputs, layers)
        else:
            outputs = bind(eqn, inputs)
        zero = any(isinstance(atom, Literal) and np.all(atom.val == 0) for atom in eqn.invars)
        if name in NONLINEAR or (name == "max" and zero):
            layers.append(("nonlinear", outputs[0]))
        elif name in LINEAR:
            layers.append(("linear", outputs[0]))
        return outputs

    return walk(jaxpr, consts, args, outputs_of)


def excitement(layers: list[Array], objective: str) -> Float[Array, ""]:
    """Return the sum over layers of the log of their mean activation ("mean") or L2 length ("l2").

    "mean" is the objective of fast feature fool, "l2" that of GD-UAP.
    """
    if objective == "mean":
        sizes = [jnp.abs(layer).mean() for layer in layers]
    else:
        sizes = [jnp.sqrt(jnp.square(layer).sum() / len(layer) + 1e-20) for layer in layers]
    return sum((jnp.log(size + 1e-10) for size in sizes), jnp.float32(0))


@functools.partial(jax.jit, static_argnames=("objective", "draws", "rewrite"))
def _piece(
    task: Task,
    state: tuple[Array, PyTree],
    around: tuple[Array, ArrayLike],
    rate: Array,
    key: Array,
    *,
    objective: str,
    draws: int,
    rewrite: bool,
) -> tuple[Array, PyTree, Array]:
    """Run PIECE steps of Adam; also return the fraction of entries at the bound."""
    background, spread = around

    def height(v: Array, task: Task, noise: Array) -> Array:
        images = jnp.clip(background + spread * noise + v, *task.model.bounds)
        return -excitement(activations(task.model, images), objective)

    slope = rewrite_for_cpu(jax.grad(height)) if rewrite else jax.grad(height)

    def step(state: tuple[Array, PyTree], number: Array) -> tuple[tuple[Array, PyTree], None]:
        v, memory = state
        noise = jax.random.normal(jax.random.fold_in(key, number), (draws, *task.shape))
        updates, memory = optax.adam(rate).update(slope(v, task, noise), memory)
        moved: Any = optax.apply_updates(v, updates)
        return (task.project(moved), memory), None

    (v, memory), _ = lax.scan(step, state, jnp.arange(PIECE))
    return v, memory, (jnp.abs(v) >= 0.999 * task.radius).mean()


def data_free_perturbation(
    model: Model,
    shape: tuple[int, ...],
    epsilon: float,
    norm: str = "linf",
    objective: str = "l2",
    *,
    key: Array,
    steps: int = 1000,
    background: Numbers | None = None,
    spread: float = 0.0,
    draws: int = 1,
) -> np.ndarray:
    """Compute a perturbation that maximises the activations of all layers, without images.

    Its fooling rate is measured by `judge`. Costs `draws` forward and backward passes a step.

    Args:
        model: The model, which must be differentiable.
        shape: Shape (H, W, C) of the model's images.
        epsilon: Radius in the norm and in the scale of the images.
        norm: "linf" or "l2".
        objective: "l2", GD-UAP (Mopuri et al. 2018, arXiv 1801.08092), which maximises the L2
            lengths of the activations and halves the perturbation when its saturation has stopped
            growing; or "mean", fast feature fool (Mopuri et al. 2017, arXiv 1707.05572).
        key: JAX random key.
        steps: Steps of Adam, rounded up to a multiple of 50.
        background: What the perturbation is added to: an array [H, W, C] or a number. None is the
            middle of the box, which is the mean image of networks that normalise.
        spread: Standard deviation of the Gaussian noise around `background` (the range prior of
            GD-UAP).
        draws: Samples of that noise in each step.

    Returns:
        The perturbation, float32 [H, W, C], within `epsilon`.

    Raises:
        ValueError: `norm` or `objective` is unknown, `epsilon` is not one positive number, or
            `steps` or `draws` is below 1.

    Example:
        >>> import jax, jax.numpy as jnp, jaxadv as ja
        >>> model = ja.Model(lambda w, x: jnp.maximum(x.reshape(len(x), -1) @ w, 0), jnp.eye(4))
        >>> v = ja.data_free_perturbation(model, (2, 2, 1), 0.1, key=jax.random.key(0), steps=50)
        >>> v.shape, bool(v.max() > 0.09)
        ((2, 2, 1), True)
    """
    checks.count_classes(model, tuple(shape))
    bounds = two_numbers(model.bounds, "ja.data_free_perturbation")
    check_ball(norm, epsilon, shape, bounds)
    if objective not in ("l2", "mean"):
        raise ValueError(f"objective={objective!r}: pass 'l2' (GD-UAP) or 'mean'")
    if steps < 1 or draws < 1:
        raise ValueError(f"steps={steps}, draws={draws}: pass 1 or more")
    task = Task(model, safe_epsilon(norm, epsilon), norm, tuple(shape))
    middle = sum(bounds) / 2 if background is None else background
    middle = jnp.broadcast_to(jnp.asarray(middle, jnp.float32), task.shape)
    rate = jnp.float32(
        0.1 * float(np.max(task.radius)) / (np.prod(shape) ** 0.5 if norm == "l2" else 1)
    )
    start, key = jax.random.split(checks.check_key(key))
    v = task.project(jax.random.uniform(start, task.shape, minval=-1, maxval=1) * task.radius)
    memory, before = optax.adam(rate).init(v), 0.0
    pieces = -(-steps // PIECE)
    for number in range(pieces):
        v, memory, saturated = _piece(
            task,
            (v, memory),
            (middle, np.float32(spread)),
            rate,
            jax.random.fold_in(key, number),
            objective=objective,
            draws=draws,
            rewrite=on_cpu(),
        )
        stuck = float(saturated) > 0.5 and float(saturated) - before < 1e-3
        before = float(saturated)
        if objective == "l2" and stuck and number < pieces - 4:  # enough steps remain to grow again
            v, before = v / 2, 0.0
    return np.asarray(v)
