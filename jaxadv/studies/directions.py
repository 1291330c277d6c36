"""Directions of a hidden layer: their top images, what these have in common, and other bases.

Section 3 of Szegedy et al. (2013, arXiv 1312.6199) compares the images that maximise a unit,
argmax <phi(x), e_i>, with those of a random direction, argmax <phi(x), v>, by eye. This module
provides measurements for it; the study is `jaxadv.studies.units`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from flax.linen.module import InterceptorContext
from jax import lax
from jaxtyping import Array, Float, Int

from jaxadv.core.model import Model
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Params

# --- A hidden layer, and the same network in another basis ---


def activations(
    module: nn.Module,
    variables: Params,
    images: Float[Array, "N H W C"],
    layer: str,
    side: str = "input",
) -> Float[Array, "N n"]:
    """Return the input or the output of a layer, flattened; one forward pass.

    Pure: jit, vmap and grad go through.

    Args:
        module: Any Flax linen module in evaluation mode.
        variables: Its variables.
        images: Images [N, H, W, C].
        layer: Name of a submodule that is called once ("fc2", or a path "block1/conv2"). The input
            of "fc2" are the units above "fc1", after the nonlinearity; the output of "fc1" are the
            same units before it.
        side: "input" or "output".

    Returns:
        The activations [N, n].

    Raises:
        ValueError: `side` is unknown, or the layer is not called exactly once.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxadv.models import get_definition
        >>> from jaxadv.studies.directions import activations
        >>> module = get_definition("FC")(widths=(16, 12))
        >>> variables = module.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
        >>> activations(module, variables, jnp.zeros((5, 28, 28, 1)), "fc3").shape
        (5, 12)
    """
    if side not in ("input", "output"):
        raise ValueError(f"side={side!r}: pass 'input' or 'output'")
    recorded: dict[str, list[Array]] = {}
    for called, given, out in _calls(module, variables, images):
        value = given if side == "input" else out
        recorded.setdefault("/".join(called.path), []).append(value)
    if len(values := recorded.get(layer, [])) != 1:
        single = sorted(name for name, calls in recorded.items() if name and len(calls) == 1)
        raise ValueError(
            f"layer={layer!r} is called {len(values)} times: pass one of {', '.join(single)}"
        )
    return values[0].reshape(len(images), -1)


def _calls(
    module: nn.Module, variables: Params, images: Float[Array, "N H W C"]
) -> list[tuple[nn.Module, Any, Any]]:
    """Return each module that is called, in the order of returns, with its input and its output."""
    calls: list[tuple[nn.Module, Any, Any]] = []

    def record(
        method: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: InterceptorContext,
    ) -> Any:
        out = method(*args, **kwargs)
        if context.method_name == "__call__":
            calls.append((context.module, args[0], out))
        return out

    with nn.intercept_methods(record):
        module.apply(variables, images)
    return calls


def dense_layers(
    module: nn.Module, variables: Params, images: Float[Array, "N H W C"]
) -> dict[str, int]:
    """Return the dense layers of a module in the order of their calls, each with its input width.

    Args:
        module: A Flax linen module in evaluation mode.
        variables: Its variables.
        images: Images [N, H, W, C], of which the first is passed through.

    Returns:
        The widths of the inputs by name, of layers that are called once and do not lie inside a
        submodule.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxadv.models import get_definition
        >>> from jaxadv.studies.directions import dense_layers
        >>> module, images = get_definition("FC")(widths=(16, 12)), jnp.ones((1, 28, 28, 1))
        >>> dense_layers(module, module.init(jax.random.key(0), images), images)
        {'fc1': 784, 'fc2': 16, 'fc3': 12}
    """
    widths: dict[str, list[int]] = {}
    for called, given, _ in _calls(module, variables, images[:1]):
        if isinstance(called, nn.Dense) and len(called.path) == 1 and given.ndim == 2:
            widths.setdefault(called.path[0], []).append(given.shape[1])
    return {name: each[0] for name, each in widths.items() if len(each) == 1}


def counter_rotated(
    module: nn.Module, variables: Params, layer: str, rotation: Float[Array, "n n"]
) -> Model:
    """Return the same function with other units: phi becomes phi R, and the next W becomes R^T W.

    Args:
        module: A Flax linen module.
        variables: Its variables.
        layer: Name of the dense layer that undoes the rotation.
        rotation: Orthogonal matrix R.

    Returns:
        The model. Its params are (rotation, variables), so that a new rotation needs no
        compilation.

    Raises:
        ValueError: The layer has no kernel with as many rows as the rotation.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxadv.models import get_definition
        >>> from jaxadv.studies.directions import counter_rotated
        >>> module, images = get_definition("FC")(widths=(16, 12)), jnp.ones((5, 28, 28, 1))
        >>> variables = module.init(jax.random.key(0), images)
        >>> rotation = jax.random.orthogonal(jax.random.key(1), 12)
        >>> model = counter_rotated(module, variables, "fc3", rotation)
        >>> bool(jnp.allclose(model(images), module.apply(variables, images), atol=1e-5))
        True
    """
    params: Any = variables["params"]
    kernel = params.get(layer, {}).get("kernel")
    if kernel is None or kernel.ndim != 2 or len(kernel) != len(rotation):
        shape = None if kernel is None else kernel.shape
        raise ValueError(
            f"layer={layer!r} has a kernel of shape {shape}: a rotation of {len(rotation)} units "
            "is undone in a dense layer that reads them"
        )
    rotated_back = {**params[layer], "kernel": rotation.T @ kernel}
    rotated = {**variables, "params": {**params, layer: rotated_back}}
    return Model(_Rotated(module, layer), (rotation, rotated))


@pytree
class _Rotated:
    """Function of a `Model` that rotates the input of one layer.

    Attributes:
        module: The Flax linen module.
        layer: Name of the layer.
    """

    module: nn.Module = static()
    layer: str = static()

    def __call__(self, params: tuple[Array, Params], images: Array) -> Array:
        rotation, variables = params

        def rotate(
            method: Callable[..., Any],
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
            context: InterceptorContext,
        ) -> Any:
            if context.method_name == "__call__" and context.module.path == (self.layer,):
                args = (args[0] @ rotation, *args[1:])
            return method(*args, **kwargs)

        with nn.intercept_methods(rotate):
            logits: Any = self.module.apply(variables, images)
        return logits


# --- The top images of a direction, and what they have in common ---


def top_images(values: Float[Array, "N D"], count: int = 8) -> Int[np.ndarray, "D count"]:
    """Return the indices of the images with the largest values in each column.

    Args:
        values: Values [N, D] of N images in D directions.
        count: Number of images for each direction.

    Returns:
        Indices [D, count], the largest value first.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxadv.studies.directions import top_images
        >>> top_images(jnp.array([[0.1, 5.0], [0.3, 4.0], [0.2, 6.0]]), 2).tolist()
        [[1, 2], [2, 0]]
    """
    return np.asarray(lax.top_k(values.T, count)[1])


def purity(labels: Int[np.ndarray, "D k"]) -> Float[np.ndarray, " D"]:
    """Return the fraction of the most frequent label in each row.

    Args:
        labels: Labels [D, k].

    Returns:
        The fractions [D]; 1 where all are of one class.

    Example:
        >>> import numpy as np
        >>> from jaxadv.studies.directions import purity
        >>> purity(np.array([[3, 3, 3, 3], [3, 3, 5, 8]])).tolist()
        [1.0, 0.5]
    """
    return _frequencies(labels).max(1)


def entropy(labels: Int[np.ndarray, "D k"]) -> Float[np.ndarray, " D"]:
    """Return the Shannon entropy of the labels in each row.

    Args:
        labels: Labels [D, k].

    Returns:
        The entropies [D] in bits; 0 where all are of one class.

    Example:
        >>> import numpy as np
        >>> from jaxadv.studies.directions import entropy
        >>> entropy(np.array([[3, 3, 3, 3], [3, 3, 5, 5]])).tolist()
        [0.0, 1.0]
    """
    frequencies = _frequencies(labels)
    return -(frequencies * np.log2(np.where(frequencies > 0, frequencies, 1))).sum(1) + 0.0


def _frequencies(labels: np.ndarray) -> np.ndarray:
    return (labels[:, :, None] == np.unique(labels)).mean(1)


def similarity(
    vectors: Float[np.ndarray, "N n"], top: Int[np.ndarray, "D k"]
) -> Float[np.ndarray, " D"]:
    """Return the mean cosine similarity over all pairs of the k images of each row.

    The mean of all N images is subtracted first: 1 for equal images, about 0 for random images.

    Args:
        vectors: Images as points [N, n] in the space of comparison: pixels, or features of a
            network.
        top: Indices [D, k] of the images of each row.

    Returns:
        The mean similarities [D].

    Example:
        >>> import numpy as np
        >>> from jaxadv.studies.directions import similarity
        >>> similarity(np.array([[1.0, 0], [1, 0], [-1, 0], [-1, 0]]), np.array([[0, 1], [0, 2]]))
        array([ 1., -1.])
    """
    centred = vectors - vectors.mean(0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    chosen = (centred / np.maximum(length, 1e-12))[top]
    # |sum of k unit vectors|^2 = k + the cosines of all ordered pairs
    k = top.shape[1]
    return (np.square(chosen.sum(1)).sum(-1) - k) / (k * (k - 1))


class Comparison(NamedTuple):
    """Result of a comparison of two samples.

    Attributes:
        effect: P(x > y) - P(x < y), in [-1, 1].
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        p: Two-sided p-value.
    """

    effect: float
    low: float
    high: float
    p: float


def compare(x: npt.ArrayLike, y: npt.ArrayLike) -> Comparison:
    """Compare two samples by the test of Mann and Whitney (1947), with ties.

    The effect is Cliff's delta (the rank-biserial correlation): 0 where neither sample tends to be
    larger, 1 where all of x is above all of y. Its interval is that of DeLong et al. (1988), which
    has no width where the samples do not overlap; p is the normal approximation with corrections
    for ties and for continuity.

    Args:
        x: Sample [n].
        y: Sample [m].

    Returns:
        The effect with its interval and p-value.

    Example:
        >>> from jaxadv.studies.directions import compare
        >>> compare([1, 2, 3, 4], [3, 4, 5, 6]).effect
        -0.75
    """
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n, m = len(first), len(second)
    above = np.sign(first[:, None] - second)
    effect = float(above.mean())
    error = math.sqrt(above.mean(1).var(ddof=1) / n + above.mean(0).var(ddof=1) / m)
    ties = np.unique(np.concatenate([first, second]), return_counts=True)[1].astype(np.float64)
    variance = n * m / 12 * (n + m + 1 - (ties**3 - ties).sum() / ((n + m) * (n + m - 1)))
    distance = max(0.0, abs(effect) * n * m / 2 - 0.5)  # of U = n m (1 + effect) / 2 from its mean
    p = math.erfc(distance / math.sqrt(2 * variance)) if variance > 0 else 1.0
    low, high = max(-1.0, effect - 1.96 * error), min(1.0, effect + 1.96 * error)
    return Comparison(effect, low, high, p)


# --- The image that maximises a direction ---

Best = tuple[Array, Array]  # an image and its value


def synthesize(
    value: Callable[[Array], Array],
    start: Float[Array, "..."],
    bounds: tuple[float, float] = (0.0, 1.0),
    steps: int = 200,
    learning_rate: float = 0.1,
) -> tuple[Float[Array, "..."], Float[Array, ""]]:
    """Compute the image in the box that maximises `value`, by Adam projected after each step.

    Gradients are scaled to a largest entry of one (a saturated unit has hardly any), and the best
    image met is returned. Costs `steps + 1` forward passes, `steps` of them with a backward pass.
    Pure: vmap it over directions.

    Args:
        value: Differentiable function of one image (or of its coordinates).
        start: Where the ascent begins.
        bounds: The box.
        steps: Steps of Adam.
        learning_rate: Initial learning rate in the units of the box; it decreases to 0 along a
            cosine.

    Returns:
        The image and its value.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxadv.studies.directions import synthesize
        >>> weights = jnp.array([[[2.0], [-1.0]]])
        >>> start = jnp.full((1, 2, 1), 0.5)
        >>> image, best = synthesize(lambda image: (weights * image).sum(), start)
        >>> image.ravel().tolist(), float(best)
        ([1.0, 0.0], 2.0)
    """
    adam = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def better(best: Best, image: Array, reached: Array) -> Best:
        return jax.tree.map(
            lambda new, old: jnp.where(reached > best[1], new, old), (image, reached), best
        )

    def step(
        state: tuple[Array, optax.OptState, Best], _: None
    ) -> tuple[tuple[Array, optax.OptState, Best], None]:
        image, memory, best = state
        reached, slope = jax.value_and_grad(value)(image)
        scaled = slope / jnp.maximum(jnp.abs(slope).max(), 1e-30)
        updates, memory = adam.update(-scaled, memory)
        moved: Any = optax.apply_updates(image, updates)
        return (jnp.clip(moved, *bounds), memory, better(best, image, reached)), None

    start = jnp.asarray(start, jnp.float32)
    none_yet = (start, jnp.float32(-jnp.inf))
    (image, _, best), _ = lax.scan(step, (start, adam.init(start), none_yet), None, steps)
    return better(best, image, value(image))


def principal_components(
    images: Float[Array, "N H W C"], count: int
) -> tuple[Float[Array, "H W C"], Float[Array, "count H W C"]]:
    """Return the mean image and the first principal components of the images.

    Args:
        images: Images [N, H, W, C].
        count: Number of components.

    Returns:
        The mean [H, W, C] and the components [count, H, W, C], each as long as the standard
        deviation along it: mean + z . components resembles the images for z of about one.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxadv.studies.directions import principal_components
        >>> images = jnp.array([[0.0, 0.5], [1.0, 0.5]]).reshape(2, 1, 2, 1)
        >>> jnp.abs(principal_components(images, 1)[1]).round(6).ravel().tolist()
        [0.5, 0.0]
    """
    flat = images.reshape(len(images), -1)
    mean = flat.mean(0)
    covariance = (flat - mean).T @ (flat - mean) / len(flat)
    variances, vectors = jnp.linalg.eigh(covariance)  # in ascending order
    lengths = jnp.sqrt(jnp.maximum(variances[::-1][:count], 0))
    components = (vectors[:, ::-1][:, :count] * lengths).T
    return mean.reshape(images.shape[1:]), components.reshape(-1, *images.shape[1:])
