"""Interval bounds of a traced function, widened by every rounding of floating-point arithmetic.

A sum of n products in any order errs by at most gamma_n = n u / (1 - n u) times the sum of their
absolute values, u half the machine epsilon (Higham 2002, "Accuracy and stability of numerical
algorithms", section 3.1). Intervals are widened by that: for the rounding of the function as it
runs, and for that of the bounds' own arithmetic.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn
from jaxtyping import Array, PyTree

from jaxadv.proofs.equations import MOVES
from jaxadv.proofs.ranges import RANGES
from jaxadv.proofs.rules import Rules
from jaxadv.proofs.walk import evaluate

ULPS = 8  # units in the last place by which a library's exp, tanh, ... may err
EXACT = ("relu",)  # nonlinearities that are not rounded


class Interval(NamedTuple):
    """Bounds of a value, entry by entry.

    Attributes:
        low: The least values.
        high: The largest values.
        error: By how much the rounding of all operations since the last nonlinearity changes it.
    """

    low: Any
    high: Any
    error: Any

    @property
    def size(self) -> Any:
        """The largest absolute values."""
        return jnp.maximum(jnp.abs(self.low), jnp.abs(self.high))


class IntervalRules(Rules):
    """Interval arithmetic, widened by what two kinds of rounding may change.

    Attributes:
        program: Half the machine epsilon of the function as it runs; 0 for exact arithmetic.
        own: Half the machine epsilon of the bounds' own arithmetic; 0 to ignore its rounding.
        known: Called with (number of a nonlinearity, interval of its input); returns a narrower
            one.
        inputs: The kind of every nonlinearity so far, and the interval of its input.
    """

    def __init__(
        self,
        known: Callable[[int, Interval], Interval] | None = None,
        program: float = 0.0,
        own: float = 0.0,
        wide: bool = False,
    ):
        super().__init__(wide)
        self.known, self.program, self.own = known, program, own
        self.inputs: list[tuple[str, Interval]] = []

    def affine(self, eqn: JaxprEqn, values: Sequence[Any], moving: Sequence[bool]) -> list[Any]:
        name = eqn.primitive.name

        def bind(*operands: Any) -> list[Any]:
            return Rules.affine(self, eqn, operands, moving)

        def part(field: str, other: Callable[[Any], Any]) -> list[Any]:
            return [
                getattr(v, field) if m else other(v) for v, m in zip(values, moving, strict=True)
            ]

        if name in MOVES or name == "convert_element_type":
            lows, highs = bind(*part("low", _same)), bind(*part("high", _same))
            kept = _zero if name in ("concatenate", "stack", "pad") else _same
            if name == "select_n":
                kept = lambda v: v if v.dtype == bool or v.dtype == jnp.int32 else jnp.zeros_like(v)  # noqa: E731
            errors = bind(*part("error", kept))
            outs = [Interval(*each) for each in zip(lows, highs, errors, strict=True)]
            return [self.rounded(out) for out in outs] if name == "convert_element_type" else outs
        if name == "neg":
            (one,) = values
            return [Interval(-one.high, -one.low, one.error)]
        positive = Rules() if name != "sub" else None
        if name in ("add", "sub", "add_any"):
            a, b = (
                v if m else Interval(v, v, jnp.zeros_like(v))
                for v, m in zip(values, moving, strict=True)
            )
            b = Interval(-b.high, -b.low, b.error) if positive is None else b
            out, size = self.add(a, b), a.size + b.size
        elif name in ("reduce_sum", "reduce_window_sum", "cumsum"):
            (low,), (high,) = bind(values[0].low), bind(values[0].high)
            (error,), (size,) = bind(values[0].error), bind(values[0].size)
            out = Interval(low, high, error)
        else:  # a product with a value that does not move
            middle = [(v.low + v.high) / 2 if m else v for v, m in zip(values, moving, strict=True)]
            (centre,) = bind(*middle)
            half = [
                (v.high - v.low) / 2 if m else jnp.abs(v)
                for v, m in zip(values, moving, strict=True)
            ]
            (radius,) = bind(*half)
            (error,), (size,) = bind(*part("error", jnp.abs)), bind(*part("size", jnp.abs))
            out = Interval(centre - radius, centre + radius, error)
        return [self.widened(out, size, _terms(eqn))]

    def add(self, a: Interval, b: Any) -> Interval:
        if not isinstance(b, Interval):
            return Interval(a.low + b, a.high + b, a.error + jnp.zeros_like(b))
        return Interval(a.low + b.low, a.high + b.high, a.error + b.error)

    def scale(self, a: Interval, factor: Array | float) -> Interval:
        one, other = a.low * factor, a.high * factor
        low, high = jnp.minimum(one, other), jnp.maximum(one, other)
        return Interval(low, high, a.error * jnp.abs(factor))

    def move(self, function: Callable[[Array], Array], a: Interval) -> Interval:
        return Interval(*map(function, a))

    def widened(self, value: Interval, size: Any, terms: int) -> Interval:
        """Return the interval after a sum of terms whose absolute values add up to `size`.

        Some more terms stand for constants that the function computes, and for what follows.
        """
        size = jax.lax.stop_gradient(size)
        tiny = terms * float(jnp.finfo(jnp.float32).tiny) if self.program else 0.0
        program, own = (1.01 * (terms + 8) * unit * size for unit in (self.program, self.own))
        width = program + 2 * own + tiny
        return Interval(value.low - width, value.high + width, value.error + width)

    def rounded(self, a: Interval) -> Interval:
        return self.widened(a, a.size, 1)

    def nonlinear(self, kind: str, z: Interval) -> Interval:
        if self.known is not None:
            z = self.known(len(self.inputs), z)
        self.inputs.append((kind, z))
        low, high = RANGES[kind](z.low, z.high)
        out = Interval(low, high, jnp.zeros_like(low))
        return out if kind in EXACT else self.widened(out, out.size, ULPS)

    def maximum(self, a: Interval, b: Any, moves: bool) -> Interval:
        out = super().maximum(a, b, moves)
        low, high = (b.low, b.high) if moves else (b, b)
        return Interval(jnp.maximum(a.low, low), jnp.maximum(a.high, high), out.error)

    def product(self, a: Interval, b: Interval) -> Interval:
        out = super().product(a, b)
        corners = [x * y for x in a[:2] for y in b[:2]]
        low, high = jnp.minimum(*corners[:2]), jnp.maximum(*corners[:2])
        low = jnp.minimum(low, jnp.minimum(*corners[2:]))
        high = jnp.maximum(high, jnp.maximum(*corners[2:]))
        own = self.rounded(Interval(low, high, out.error))
        return Interval(own.low, own.high, out.error)


def _same(value: Any) -> Any:
    return value


def _zero(value: Any) -> Any:
    return jnp.zeros_like(value)


def _terms(eqn: JaxprEqn) -> int:
    """Return how many numbers each entry of the output of an equation sums up."""
    name, params = eqn.primitive.name, eqn.params
    avals: list[Any] = [v.aval for v in eqn.invars]
    if name == "dot_general":
        return math.prod(avals[0].shape[axis] for axis in params["dimension_numbers"][0][0])
    if name == "conv_general_dilated":
        kernel = params["dimension_numbers"].rhs_spec
        return math.prod(avals[1].shape) // avals[1].shape[kernel[0]]
    if name == "reduce_sum":
        return math.prod(avals[0].shape[axis] for axis in params["axes"])
    if name == "reduce_window_sum":
        return math.prod(params["window_dimensions"])
    return avals[0].shape[params["axis"]] if name == "cumsum" else 1


def bounds(function: Callable[..., Any], low: PyTree, high: PyTree) -> tuple[PyTree, PyTree]:
    """Bound the values of a function over a box by interval arithmetic.

    No value of the function between the corners is outside, whatever the order in which sums are
    added up. Pure; works under `jax.jit`, `jax.vmap` and `jax.grad`, so that a loss of the bounds
    trains a network that can be proved (interval bound propagation, Gowal et al. 2018, arXiv
    1810.12715). Costs two to four evaluations of the function.

    Args:
        function: A pure function of one pytree of float arrays, made of affine operations, max,
            min, clip, abs, leaky ReLU, max pooling, exp, log, sigmoid, tanh, erf, square, sqrt,
            rsqrt, products and quotients.
        low: The least inputs, a pytree of float arrays.
        high: The largest inputs, of the same structure and shapes.

    Returns:
        The bounds (low, high), each of the structure of the function's output.

    Raises:
        ValueError: `low` and `high` differ in structure or shape.
        UnsupportedPrimitive: The function has an operation of which no bound is known; a ValueError
            that names it and its line.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> low, high = ja.bounds(lambda x: jnp.maximum(x, 0).sum(), -jnp.ones(2), jnp.ones(2))
        >>> bool(-1e-4 < low <= 0), bool(2 <= high < 2.0001)
        (True, True)
    """
    lows, tree = jax.tree.flatten(low)
    highs, other = jax.tree.flatten(high)
    shapes = [jnp.shape(x) for x in lows], [jnp.shape(x) for x in highs]
    if tree != other or shapes[0] != shapes[1]:
        raise ValueError(
            f"high has {other} and shapes {shapes[1]}, low {tree} and {shapes[0]}: pass the same"
        )
    traced, shape = jax.make_jaxpr(function, return_shape=True)(low)
    pairs = zip(lows, highs, strict=True)
    inputs = [Interval(jnp.asarray(a), jnp.asarray(b), jnp.zeros_like(a)) for a, b in pairs]
    unit = max(float(jnp.finfo(x.low.dtype).eps) / 2 for x in inputs)
    rules = IntervalRules(program=unit, own=unit)
    outs = evaluate(traced, inputs, [True] * len(inputs), rules)
    ends = [atom.value if atom.moves else Interval(atom.value, atom.value, 0) for atom in outs]
    structure = jax.tree.structure(shape)
    return tuple(jax.tree.unflatten(structure, [end[i] for end in ends]) for i in (0, 1))  # type: ignore[return-value]
