"""Losses that bound the worst cross-entropy in a ball: what they train can be proved.

Interval bound propagation (Gowal et al. 2018, arXiv 1810.12715) bounds the logits by intervals.
CROWN-IBP (Zhang et al. 2019, arXiv 1906.06316) bounds the inputs of nonlinearities by intervals,
and the margins to the other classes by one backward pass each.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxadv.core.model import Model
from jaxadv.core.typing import Params
from jaxadv.proofs.backward import Region, crown, lower_bound, margin_of
from jaxadv.proofs.intervals import Interval, IntervalRules, bounds
from jaxadv.proofs.network import Network, run
from jaxadv.proofs.roots import Inputs


def ibp_loss(
    model: Model,
    images: Float[Array, "N ..."],
    labels: Int[Array, " N"],
    epsilon: float | Array,
    params: Params | None = None,
) -> Float[Array, ""]:
    """Return the mean cross-entropy of the worst logits in the interval bounds of Linf balls.

    No image within epsilon (and the model's bounds) has a larger cross-entropy. Pure, for `jax.jit`
    and `jax.grad`. Costs two to four forward passes an image.

    Args:
        model: The model.
        images: Floats [N, ...].
        labels: Integers [N].
        epsilon: Radius in Linf, one number; in training it grows from 0.
        params: Parameters in the place of the model's, with respect to which one differentiates.

    Returns:
        The loss.

    Raises:
        UnsupportedPrimitive: A step of the model has no bound; a ValueError that names it.

    Example:
        >>> import jax, jax.numpy as jnp, jaxadv as ja
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, 4 * jnp.eye(4))
        >>> images, labels = jnp.eye(4).reshape(4, 2, 2, 1), jnp.arange(4)
        >>> losses = [ja.ibp_loss(model, images, labels, e) for e in (0.0, 0.1, 0.4)]
        >>> [round(float(loss), 2) for loss in losses]
        [0.05, 0.12, 0.85]
    """
    model = _with(model, params)

    def margins(image: Array, label: Array) -> Array:
        low, high = bounds(lambda x: model.raw(x[None])[0], *_ends(model, image, epsilon))
        return low[label] - high

    return _cross_entropy(jax.vmap(margins)(images, labels), labels)


def crown_ibp_loss(
    model: Model,
    images: Float[Array, "N ..."],
    labels: Int[Array, " N"],
    epsilon: float | Array,
    params: Params | None = None,
) -> Float[Array, ""]:
    """Return the mean cross-entropy of the worst margins in the CROWN-IBP bounds of Linf balls.

    No image within epsilon (and the model's bounds) has a larger cross-entropy. Tighter than
    `ibp_loss` where that is loose, as at the start of a training. Pure, for `jax.jit` and
    `jax.grad`. Costs three forward passes an image and a backward pass for each class.

    Args:
        model: The model.
        images: Floats [N, ...].
        labels: Integers [N].
        epsilon: Radius in Linf, one number; in training it grows from 0.
        params: Parameters in the place of the model's, with respect to which one differentiates.

    Returns:
        The loss.

    Raises:
        UnsupportedPrimitive: A step of the model has no bound; a ValueError that names it.

    Example:
        >>> import jax, jax.numpy as jnp, jaxadv as ja
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, 4 * jnp.eye(4))
        >>> images, labels = jnp.eye(4).reshape(4, 2, 2, 1), jnp.arange(4)
        >>> losses = [ja.crown_ibp_loss(model, images, labels, e) for e in (0.0, 0.1, 0.4)]
        >>> [round(float(loss), 2) for loss in losses]
        [0.05, 0.12, 0.85]
    """
    model = _with(model, params)
    network = Network.of(model, images.shape[1:])

    def margins(image: Array, label: Array) -> Array:
        region = _region(network, model, image, epsilon)
        chosen = crown(region)

        def to(target: Array) -> Array:
            wanted = margin_of(label, target, network.classes, image.dtype)
            return lower_bound(network, model.params, "linf", region, wanted, chosen).value

        return jax.vmap(to)(jnp.arange(network.classes))

    return _cross_entropy(jax.vmap(margins)(images, labels), labels)


LOSSES = {"ibp": ibp_loss, "crown-ibp": crown_ibp_loss}


def _with(model: Model, params: Params | None) -> Model:
    return model if params is None else dataclasses.replace(model, params=params)


def _ends(model: Model, image: Array, epsilon: float | Array) -> tuple[Array, Array]:
    """Return the least and the largest image of a ball."""
    low, high = model.bounds
    return jnp.maximum(image - epsilon, low), jnp.minimum(image + epsilon, high)


def _region(network: Network, model: Model, image: Array, epsilon: float | Array) -> Region:
    """Return the region of one image, with nonlinearities' inputs bounded by intervals."""
    low, high = _ends(model, image, epsilon)
    plain, rules = Inputs(), IntervalRules(own=float(np.finfo(np.float32).eps) / 2)
    output = run(network.traced, model.params, image, plain)
    run(network.traced, model.params, Interval(low, high, jnp.zeros_like(image)), rules)

    def flat(parts: list[Array]) -> Array:
        return jnp.concatenate([jnp.zeros(0, image.dtype), *(part.ravel() for part in parts)])

    return Region(
        image=image,
        low=low - image,
        high=high - image,
        radius=jnp.asarray(epsilon, image.dtype),
        value=flat(plain.inputs),
        lower=flat([z.low for _, z in rules.inputs]),
        upper=flat([z.high for _, z in rules.inputs]),
        error=jnp.zeros(network.size, image.dtype),
        output=output,
        output_error=jnp.zeros_like(output),
    )


def _cross_entropy(margins: Array, labels: Array) -> Array:
    """Return the mean cross-entropy of the logits -margins [N, K], of the label 0."""
    own = jax.nn.one_hot(labels, margins.shape[1], dtype=bool)
    return jax.nn.logsumexp(jnp.where(own, 0, -margins), axis=1).mean()
