"""How the equations of a traced network are evaluated: plain arithmetic, which others replace."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn
from jaxtyping import Array

from jaxadv.core.jaxprs import bind


class UnsupportedPrimitive(ValueError):
    """A model has an equation of which no sound bound is known here."""


def unsupported(eqn: JaxprEqn) -> UnsupportedPrimitive:
    """Return the error that names an equation, and where the model calls it."""
    frames = getattr(eqn.source_info.traceback, "frames", None) or ()
    user = [f for f in frames if "/jax/" not in f.file_name and "/flax/" not in f.file_name]
    place = f" at {user[0].file_name}:{user[0].line_num}" if user else ""
    layer = str(eqn.source_info.name_stack)
    place += f" in {layer}" if layer else ""
    return UnsupportedPrimitive(
        f"model: its step {eqn.primitive.name!r}{place} is neither affine in "
        "the image nor a nonlinearity of which bounds are known: replace it, or use "
        "attacks (ja.evaluate) and randomised smoothing (ja.certify)"
    )


class Rules:
    """How to evaluate a network: here in plain arithmetic.

    Subclasses replace what they need; a value is whatever they make of a moving array.

    Attributes:
        wide: Whether moving values are float64, in a function that was traced for float32.
    """

    def __init__(self, wide: bool = False):
        self.wide = wide

    def affine(self, eqn: JaxprEqn, values: Sequence[Any], moving: Sequence[bool]) -> list[Any]:
        """Return the outputs of an equation that is affine in its moving values."""
        params = eqn.params
        if self.wide:
            values = [_widened(value) for value in values]
            params = {name: _widened(value) for name, value in params.items()}
        return bind(eqn, values, params)

    def add(self, a: Any, b: Any) -> Any:
        """Return a + b; b may be an array that does not move."""
        return a + b

    def scale(self, a: Any, factor: Array | float) -> Any:
        """Return a times an array that does not move."""
        return a * factor

    def move(self, function: Callable[[Array], Array], a: Any) -> Any:
        """Return the value after a function that copies, moves or leaves out entries."""
        return function(a)

    def nonlinear(self, kind: str, z: Any) -> Any:
        """Return a nonlinearity of a moving value; the subclasses count these."""
        return apply(kind, z)

    def rounded(self, a: Any) -> Any:
        """Return the value after one rounding of the program's."""
        return a

    def maximum(self, a: Any, b: Any, moves: bool) -> Any:
        """Return max(a, b); moves: whether b does."""
        difference = self.add(a, self.scale(b, -1.0) if moves else -b)
        return self.add(self.nonlinear("relu", difference), b)

    def product(self, a: Any, b: Any) -> Any:
        """Return a b, both moving: (a + b)^2 / 4 - (a - b)^2 / 4."""
        more = self.nonlinear("square", self.scale(self.add(a, b), 0.5))
        less = self.nonlinear("square", self.scale(self.add(a, self.scale(b, -1.0)), 0.5))
        return self.rounded(self.add(more, self.scale(less, -1.0)))


def _widened(value: Any) -> Any:
    """Return a float32 array, or the type itself, as float64."""
    if getattr(value, "dtype", None) == jnp.float32 and hasattr(value, "shape"):
        return jnp.asarray(value, jnp.float64)
    is_type = isinstance(value, np.dtype) or value in (jnp.float32, np.float32)
    return np.dtype(np.float64) if is_type and np.dtype(value) == np.float32 else value


def apply(kind: str, z: Array) -> Array:
    """Return the nonlinearity of this kind."""
    return FUNCTIONS[kind](z)


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda z: jnp.maximum(z, 0),
    "square": jnp.square,
    "exp": jnp.exp,
    "logistic": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "erf": lax.erf,
    "reciprocal": lambda z: 1 / z,
    "rsqrt": lax.rsqrt,
    "sqrt": jnp.sqrt,
    "log": jnp.log,
}
