"""An optax optimiser as a value: equal settings share one compiled program."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


@jax.tree_util.register_pytree_node_class
class Optimizer:
    """An optax optimiser, given by its constructor and arguments.

    For example `Optimizer(optax.adam, learning_rate=0.01)`. Float arguments are leaves of the
    pytree, so that another learning rate does not recompile; all others (integers, flags,
    schedules) are part of the program. (Two calls of `optax.adam(0.01)` are never equal, because
    each makes new functions.) Learning rates are per step, in the scale of the image.

    Attributes:
        constructor: The optax function that builds the optimiser.
        numbers: Its float arguments, by name.
        settings: Its other arguments, by name.

    >>> import optax, jaxadv as ja
    >>> attack = ja.PGD(optimizer=ja.Optimizer(optax.adam, learning_rate=0.01))
    """

    def __init__(self, constructor: Callable[..., Any], **arguments: Any) -> None:
        self.constructor = constructor
        self.numbers = {k: np.float32(v) for k, v in arguments.items() if type(v) is float}
        self.settings = {k: v for k, v in arguments.items() if k not in self.numbers}

    def build(self) -> Any:
        """Return the `optax.GradientTransformation`."""
        return self.constructor(**self.numbers, **self.settings)

    def tree_flatten(self) -> tuple[Any, Any]:
        return (self.numbers,), (self.constructor, tuple(sorted(self.settings.items())))

    @classmethod
    def tree_unflatten(cls, structure: tuple[Any, ...], leaves: tuple[Any, ...]) -> "Optimizer":
        optimizer = object.__new__(cls)
        optimizer.constructor, settings = structure
        optimizer.settings = dict(settings)
        (optimizer.numbers,) = leaves
        return optimizer

    def __repr__(self) -> str:
        arguments = {k: float(v) for k, v in self.numbers.items()} | self.settings
        listed = ", ".join(f"{k}={v}" for k, v in arguments.items())
        return f"Optimizer({self.constructor.__name__}, {listed})"
