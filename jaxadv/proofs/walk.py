"""The walk through a traced network: affine maps between nonlinearities, each told by its name.

A function of one image is traced, and its equations are evaluated in order by a set of `Rules`:
plain arithmetic, intervals, or arithmetic with another derivative at the nonlinearities. Values
that depend on the image are called moving. All that moves must be affine in the moving values,
except at a few nonlinearities. Of these max(a, b) is written as b + relu(a - b), and by that so are
clipping, absolute values, leaky ReLUs and max pooling.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jaxtyping import Array

CALLS = {  # equations that hold a program, and the name of the parameter that it is
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
MOVES = {  # copy, move or leave out entries: a bound of the input is one of the output
    "reshape",
    "transpose",
    "broadcast_in_dim",
    "squeeze",
    "expand_dims",
    "slice",
    "dynamic_slice",
    "gather",
    "rev",
    "concatenate",
    "stack",
    "pad",
    "copy",
    "copy_p",
    "stop_gradient",
    "select_n",
    "split",
    "optimization_barrier",
}
SUMS = {"add", "sub", "add_any", "neg", "reduce_sum", "reduce_window_sum", "cumsum"}
WEIGHTED = {"mul", "div", "dot_general", "conv_general_dilated"}  # by values that do not move
SMOOTH = {"exp", "logistic", "tanh", "erf", "rsqrt", "log", "sqrt"}  # nonlinearities of one number
KEEPS_ZERO = {"broadcast_in_dim", "convert_element_type", "reshape", "copy"}
FLOATS = (jnp.float32, jnp.float64)


class UnsupportedPrimitive(ValueError):
    """A model has an equation of which no sound bound is known here."""


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
        outs = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(params))
        return list(outs) if eqn.primitive.multiple_results else [outs]

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


class Atom(NamedTuple):
    """A value on the walk.

    Attributes:
        value: An array, or what the rules made of a moving one.
        moves: Whether it depends on the image.
        origin: (number of the value x that this is a multiple of, x, factor), or None.
        sign_of: For a comparison of a moving x with 0: (number of x, x, whether it is x > 0).
        zero: Whether it is 0 in every entry, by the text of the program.
    """

    value: Any
    moves: bool = False
    origin: tuple[int, Any, Any] | None = None
    sign_of: tuple[int, Any, bool] | None = None
    zero: bool = False


def evaluate(closed: ClosedJaxpr, inputs: Sequence[Any], moving: Sequence[bool], rules: Rules):
    """Evaluate a traced function by the rules.

    Args:
        closed: The traced function.
        inputs: Its flat inputs.
        moving: Which of them depend on the image.
        rules: The rules.

    Returns:
        Its flat outputs, as `Atom`s.

    Raises:
        UnsupportedPrimitive: An equation is not affine in the moving values, and no nonlinearity of
            which bounds are known.
    """
    numbers = itertools.count()
    atoms = [
        Atom(x, m, (next(numbers), x, 1.0) if m else None)
        for x, m in zip(inputs, moving, strict=True)
    ]
    return _walk(closed.jaxpr, closed.consts, atoms, rules, numbers)


def _walk(
    jaxpr: Jaxpr,
    consts: Sequence[Any],
    inputs: Sequence[Atom],
    rules: Rules,
    numbers: "itertools.count[int]",
) -> list[Atom]:
    known: dict[Var, Atom] = dict(zip(jaxpr.constvars, map(Atom, consts), strict=True))
    known.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Var | Literal) -> Atom:
        if isinstance(atom, Literal):
            return Atom(atom.val, zero=not np.any(atom.val))
        return known[atom]

    for eqn in jaxpr.eqns:
        atoms = [read(atom) for atom in eqn.invars]
        name = eqn.primitive.name
        if name in CALLS:
            inner = eqn.params[CALLS[name]]
            body, own = (inner.jaxpr, inner.consts) if hasattr(inner, "jaxpr") else (inner, ())
            outs = _walk(body, own, atoms, rules, numbers)
        elif not any(atom.moves for atom in atoms):
            zero = name in KEEPS_ZERO and atoms[0].zero
            outs = [Atom(x, zero=zero) for x in Rules().affine(eqn, [a.value for a in atoms], [])]
        else:
            outs = _equation(eqn, atoms, rules)
            outs = [
                out._replace(origin=(next(numbers), out.value, 1.0))
                if out.moves and out.origin is None and out.sign_of is None
                else out
                for out in outs
            ]
        known.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _equation(eqn: JaxprEqn, atoms: Sequence[Atom], rules: Rules) -> list[Atom]:
    """Return the outputs of an equation with a moving input."""
    name, params = eqn.primitive.name, eqn.params
    values, moves = [a.value for a in atoms], [a.moves for a in atoms]
    first = values[0]
    out: Any
    kinds: list[Any] = [v.aval for v in eqn.outvars]
    if any(kind.dtype not in (*FLOATS, jnp.bool_) for kind in kinds):
        raise _unsupported(eqn)  # rounded to integers or half precision
    if name in ("gt", "ge", "lt", "le"):
        return [_sign(eqn, atoms)]
    if name == "is_finite" or (name == "eq" and _is_infinite(eqn.invars[1])):
        # Where a bound is finite the value is; where none is, nothing is proved.
        return [Atom(jnp.full(_shape(eqn), name == "is_finite"))]
    if name == "select_n" and moves[0]:
        out = _leaky(eqn, atoms, rules)
    elif name in ("max", "min") and any(map(_is_infinite, eqn.invars)):
        if not _is_neutral(eqn):
            raise _unsupported(eqn)
        out = values[moves.index(True)]
    elif name in ("max", "min"):
        flip = -1.0 if name == "min" else 1.0
        a, b = atoms if moves[0] else atoms[::-1]
        one = rules.scale(a.value, flip)
        other = (
            rules.scale(b.value, flip) if b.moves else flip * jnp.broadcast_to(b.value, _shape(eqn))
        )
        out = rules.scale(rules.maximum(one, other, b.moves), flip)
    elif name == "clamp" and moves == [False, True, False]:
        low, high = (jnp.broadcast_to(values[i], _shape(eqn)) for i in (0, 2))
        out = rules.maximum(values[1], low, False)
        out = rules.scale(rules.maximum(rules.scale(out, -1.0), -high, False), -1.0)
    elif name == "abs":
        out = rules.maximum(first, rules.scale(first, -1.0), True)
    elif name in ("reduce_max", "reduce_min"):
        flip = -1.0 if name == "reduce_min" else 1.0
        out = rules.scale(_reduce_max(rules.scale(first, flip), eqn, rules), flip)
    elif name == "reduce_window_max":
        out = _pool(first, eqn, rules)
    elif name in SMOOTH:
        out = rules.nonlinear(name, first)
    elif name == "erfc":
        out = rules.add(rules.scale(rules.nonlinear("erf", first), -1.0), jnp.ones(_shape(eqn)))
    elif name == "square" or (name == "integer_pow" and params["y"] == 2):
        out = rules.nonlinear("square", first)
    elif name == "integer_pow" and params["y"] == -1:
        out = rules.nonlinear("reciprocal", first)
    elif name == "mul" and all(moves):
        same = eqn.invars[0] is eqn.invars[1]
        out = rules.nonlinear("square", first) if same else rules.product(*values)
    elif name == "div" and moves[1]:
        inverse = rules.nonlinear("reciprocal", values[1])
        out = rules.product(first, inverse) if moves[0] else rules.scale(inverse, first)
    elif name == "dot_general" and all(moves):
        out = _matrix_product(eqn, values, rules)
    elif _is_affine(eqn, moves):
        outs = rules.affine(eqn, values, moves)
        return [Atom(out, True, _multiple(eqn, atoms)) for out in outs]
    else:
        raise _unsupported(eqn)
    return [Atom(out, True)]


def _is_infinite(atom: Var | Literal) -> bool:
    return isinstance(atom, Literal) and bool(np.all(np.isinf(atom.val)))


def _is_neutral(eqn: JaxprEqn) -> bool:
    """Return whether this is a maximum with -infinity or a minimum with infinity."""
    (end,) = (atom.val for atom in eqn.invars if isinstance(atom, Literal))
    return bool(np.all(np.asarray(end) < 0)) == (eqn.primitive.name == "max")


def _is_affine(eqn: JaxprEqn, moves: Sequence[bool]) -> bool:
    """Whether an equation is affine in its moving inputs."""
    name = eqn.primitive.name
    if name == "convert_element_type":
        return eqn.params["new_dtype"] in FLOATS
    if name in ("mul", "dot_general"):
        return sum(moves) == 1
    if name in ("div", "conv_general_dilated", "gather", "dynamic_slice"):
        return moves[0] and not any(moves[1:])
    if name == "select_n":
        return not moves[0]
    return name in MOVES | SUMS


def _shape(eqn: JaxprEqn) -> tuple[int, ...]:
    aval: Any = eqn.outvars[0].aval
    return aval.shape


def _multiple(eqn: JaxprEqn, atoms: Sequence[Atom]) -> tuple[int, Any, Any] | None:
    """Return of which value the output is a multiple, where that is known."""
    name = eqn.primitive.name
    moving = next(atom for atom in atoms if atom.moves)
    if moving.origin is None:
        return None
    number, base, factor = moving.origin
    if name == "neg":
        return number, base, -factor
    if name == "mul" and len(atoms) == 2:
        (other,) = (atom for atom in atoms if not atom.moves)
        return number, base, factor * other.value
    return moving.origin if name == "copy" else None


def _sign(eqn: JaxprEqn, atoms: Sequence[Atom]) -> Atom:
    """Return the comparison of a moving value with the literal 0."""
    place = 0 if atoms[0].moves else 1
    moving, zero = atoms[place], atoms[1 - place].zero
    plain = moving.origin is not None and isinstance(moving.origin[2], float)
    if not zero or not plain or moving.origin is None or moving.origin[2] != 1.0:
        raise _unsupported(eqn)
    greater = (eqn.primitive.name in ("gt", "ge")) == (place == 0)
    return Atom(None, True, None, (*moving.origin[:2], greater))


def _leaky(eqn: JaxprEqn, atoms: Sequence[Atom], rules: Rules) -> Any:
    """Return where(x > 0, a x, b x) = b x + (a - b) relu(x)."""
    if atoms[0].sign_of is None or len(atoms) != 3:
        raise _unsupported(eqn)
    number, x, greater = atoms[0].sign_of
    factors = []
    for place in (1, 2):
        atom = atoms[place]
        if atom.moves and atom.origin is not None and atom.origin[0] == number:
            factors.append(atom.origin[2])
        elif atom.zero:
            factors.append(0.0)
        else:
            raise _unsupported(eqn)
    below, above = factors if greater else factors[::-1]
    positive = rules.scale(rules.nonlinear("relu", x), above - below)
    return rules.rounded(rules.add(positive, rules.scale(x, below)))


def _reduce_max(z: Any, eqn: JaxprEqn, rules: Rules) -> Any:
    """Return the maximum along axes, as maxima of two halves (of an odd length, overlapping)."""
    aval: Any = eqn.invars[0].aval
    for axis in sorted(eqn.params["axes"], reverse=True):
        length = aval.shape[axis]
        while length > 1:
            half = -(-length // 2)
            cut = functools.partial(lax.slice_in_dim, axis=axis)
            first = functools.partial(cut, start_index=0, limit_index=half)
            second = functools.partial(cut, start_index=length - half, limit_index=length)
            z, length = rules.maximum(rules.move(first, z), rules.move(second, z), True), half
        z = rules.move(functools.partial(jnp.squeeze, axis=axis), z)
    return z


def _pool(z: Any, eqn: JaxprEqn, rules: Rules) -> Any:
    """Return the maxima of windows, one axis after the other.

    An entry in the padding is replaced by the nearest one of the image, which is in the same window
    and so does not change its maximum.
    """
    p = eqn.params
    aval: Any = eqn.invars[0].aval
    if any(d != 1 for d in (*p["base_dilation"], *p["window_dilation"])):
        raise _unsupported(eqn)
    for axis, (size, stride, (before, _), count, out) in enumerate(
        zip(
            p["window_dimensions"],
            p["window_strides"],
            p["padding"],
            aval.shape,
            _shape(eqn),
            strict=True,
        )
    ):
        starts = [i * stride - before for i in range(out)]
        if any(start + size <= 0 or start >= count for start in starts):
            raise _unsupported(eqn)  # a window in the padding alone
        if size == 1 and stride == 1:
            continue
        parts = []
        for offset in range(size):
            places = [min(max(start + offset, 0), count - 1) for start in starts]
            inside = places == [start + offset for start in starts]
            move = (
                functools.partial(
                    lax.slice_in_dim,
                    start_index=places[0],
                    limit_index=places[-1] + 1,
                    stride=stride,
                    axis=axis,
                )
                if inside
                else functools.partial(jnp.take, indices=jnp.array(places), axis=axis)
            )
            parts.append(rules.move(move, z))
        z = functools.reduce(lambda a, b: rules.maximum(a, b, True), parts)
    return z


def _matrix_product(eqn: JaxprEqn, values: Sequence[Any], rules: Rules) -> Any:
    """Return the product of two moving arrays, as a sum of products of their entries."""
    contract, batch = eqn.params["dimension_numbers"]
    avals: list[Any] = [v.aval for v in eqn.invars]
    free = [
        [axis for axis in range(avals[i].ndim) if axis not in (*contract[i], *batch[i])]
        for i in (0, 1)
    ]
    sizes = [[avals[i].shape[axis] for axis in free[i]] for i in (0, 1)]
    shared = [avals[0].shape[axis] for axis in batch[0]]
    inner = [avals[0].shape[axis] for axis in contract[0]]
    full = [*shared, *sizes[0], *sizes[1], *inner]

    def spread(side: int) -> Any:
        order = (*batch[side], *free[side], *contract[side])
        own = [*sizes[0], *[1] * len(sizes[1])] if side == 0 else [*[1] * len(sizes[0]), *sizes[1]]
        wide = [*shared, *own, *inner]
        return rules.move(
            lambda x: jnp.broadcast_to(jnp.transpose(x, order).reshape(wide), full), values[side]
        )

    products = rules.product(spread(0), spread(1))
    axes = tuple(range(len(full) - len(inner), len(full)))
    total = jax.make_jaxpr(lambda x: lax.reduce_sum(x, axes))(
        jax.ShapeDtypeStruct(full, avals[0].dtype)
    )
    return rules.affine(total.jaxpr.eqns[0], [products], [True])[0]


def _unsupported(eqn: JaxprEqn) -> UnsupportedPrimitive:
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
