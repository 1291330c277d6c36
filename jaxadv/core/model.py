"""The model as the engine sees it: a pure function and its parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxadv.core.pytree import pytree, static


@pytree
class Model:
    """A classifier: `apply(params, images[N, H, W, C]) -> logits[N, K]`.

    apply: a pure function, part of the compiled program (compared by value); params: a pytree,
    passed as an argument (new weights never recompile); bounds: the least and the largest value
    that an image may take, in the scale in which epsilon is stated too. Preprocessing
    (normalisation) belongs into `apply`.

    random: the model draws at random: `apply(params, images, key)`, one key for all it is given.
    Each image is then asked alone, with a key made of `seed` and of its own pixels: an image always
    gets the same answer, whatever its company, and another image another draw. Claimed successes
    are judged on draws that the attack has not seen (`fresh`). samples: forward passes that one
    answer takes, as they are counted (see `EOT`).

    >>> import jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
    >>> model(jnp.ones((2, 2, 2, 1))).shape
    (2, 4)
    """

    apply: Callable[..., Any] = static()
    params: Any
    bounds: tuple[float, float] = static(default=(0.0, 1.0))
    random: bool = static(default=False)
    seed: Any = None
    samples: int = static(default=1)

    def __post_init__(self) -> None:
        lower, upper = map(float, self.bounds)
        if not lower < upper:
            raise ValueError(f"bounds={self.bounds}: pass (least, largest) value of the images")
        object.__setattr__(self, "bounds", (lower, upper))
        if self.random and (self.seed is None or isinstance(self.seed, np.floating)):
            object.__setattr__(self, "seed", np.int32(self.seed or 0))

    def __call__(self, images: Float[Array, "N ..."]) -> Float[Array, "N K"]:
        if not self.random:
            return self.apply(self.params, images)

        def one(image: Array) -> Array:
            return self.apply(self.params, image[None], _own_key(self.seed, image))[0]

        return jax.vmap(one)(images)

    def fresh(self) -> "Model":
        """The same model with other draws, in a mean ten times as many; itself if it draws none."""
        if not self.random:
            return self
        apply = _Tenfold(self.apply) if isinstance(self.apply, _Mean) else self.apply
        return dataclasses.replace(self, seed=self.seed + 1, apply=apply)


def EOT(model: Model, samples: int = 20) -> Model:
    """A random model's mean logits over so many draws: expectation over transformations.

    Athalye et al. (2017, arXiv 1707.07397). Attacks then follow the gradient of the mean, and
    success is judged on the mean of ten times as many fresh draws. One answer costs `samples`
    forward passes, one gradient as many backward passes, and they are counted so. Raises ValueError
    for a model that is not random, and for samples below 1.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> def noisy(weights, images, key):
    ...     images += 0.1 * jax.random.normal(key, images.shape)
    ...     return images.reshape(len(images), -1) @ weights
    >>> model = ja.EOT(ja.Model(noisy, jnp.eye(4), random=True), samples=50)
    >>> model(jnp.eye(4).reshape(4, 2, 2, 1)).argmax(-1)
    Array([0, 1, 2, 3], dtype=int32)
    """
    if not model.random:
        raise ValueError("model draws nothing at random: pass Model(apply, params, random=True)")
    if samples < 1:
        raise ValueError(f"samples={samples}: pass 1 or more")
    return dataclasses.replace(
        model, apply=_Mean(model.apply, samples), samples=samples * model.samples
    )


@pytree
class _Mean:
    apply: Callable[..., Any] = static()
    samples: int = static()

    def __call__(self, params: Any, images: Array, key: Array) -> Array:
        draws = jax.vmap(lambda k: self.apply(params, images, k))
        return draws(jax.random.split(key, self.samples)).mean(0)


@pytree
class _Tenfold:
    apply: Callable[..., Any] = static()

    def __call__(self, params: Any, images: Array, key: Array) -> Array:
        # One after the other: all draws at once may not fit the memory.
        draws = lax.map(lambda k: self.apply(params, images, k), jax.random.split(key, 10))
        return draws.mean(0)


def _own_key(seed: Any, image: Array) -> Array:
    """A key that depends on the seed and on every bit of the image."""
    bits = lax.bitcast_convert_type(image.astype(jnp.float32), jnp.uint32).ravel()
    odd = (2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1) * np.uint32(2654435761)
    mixed = bits ^ (bits >> 15)
    return jax.random.fold_in(jax.random.key(seed), (mixed * odd).sum(dtype=jnp.uint32))


def from_function(function: Callable[..., Any], bounds: tuple[float, float] = (0.0, 1.0)) -> Model:
    """A model of a function `images[N, H, W, C] -> logits[N, K]`; what it closes over is constant.

    Weights inside the function become constants of the compiled program: to change them without
    recompiling, use `Model(apply, params)`.

    >>> import jaxadv as ja
    >>> model = ja.from_function(lambda x: x.reshape(len(x), -1)[:, :10])
    """
    return Model(apply=_Closed(function), params=(), bounds=bounds)


@pytree
class _Closed:
    function: Callable[..., Any] = static()

    def __call__(self, params: Any, images: Array) -> Array:
        return self.function(images)
