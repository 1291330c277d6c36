"""The model as the engine sees it: a pure function and its parameters."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from jaxadv.core.pytree import pytree, static


@pytree
class Model:
    """A classifier: `apply(params, images[N, H, W, C]) -> logits[N, K]`.

    apply: a pure function, part of the compiled program (compared by value); params: a pytree,
    passed as an argument (new weights never recompile); bounds: the least and the largest value
    that an image may take, in the scale in which epsilon is stated too. Preprocessing
    (normalisation) belongs into `apply`.

    >>> import jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
    >>> model(jnp.ones((2, 2, 2, 1))).shape
    (2, 4)
    """

    apply: Callable[..., Any] = static()
    params: Any
    bounds: tuple[float, float] = static(default=(0.0, 1.0))

    def __post_init__(self) -> None:
        lower, upper = map(float, self.bounds)
        if not lower < upper:
            raise ValueError(f"bounds={self.bounds}: pass (least, largest) value of the images")
        object.__setattr__(self, "bounds", (lower, upper))

    def __call__(self, images: Float[Array, "N ..."]) -> Float[Array, "N K"]:
        return self.apply(self.params, images)


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
