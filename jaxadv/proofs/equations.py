"""What each primitive means for a moving value: affine, a maximum, or a nonlinearity.

Of max(a, b) this knows that it is b + relu(a - b), and by that clipping, absolute values and leaky
ReLUs.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn, Literal, Var

from jaxadv.core.rectifiers import COMPARISONS, Atom, multiple, rectifier, sign
from jaxadv.proofs.rules import Rules, unsupported
from jaxadv.proofs.windows import pool, reduce_max

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
FLOATS = (jnp.float32, jnp.float64)


def equation(eqn: JaxprEqn, atoms: Sequence[Atom], rules: Rules) -> list[Atom]:
    """Return the outputs of an equation with a moving input."""
    name, params = eqn.primitive.name, eqn.params
    values, moves = [a.value for a in atoms], [a.moves for a in atoms]
    first = values[0]
    out: Any
    kinds: list[Any] = [v.aval for v in eqn.outvars]
    if any(kind.dtype not in (*FLOATS, jnp.bool_) for kind in kinds):
        raise unsupported(eqn)  # rounded to integers or half precision
    if (sign_of := sign(eqn, atoms)) is not None:
        return [Atom(None, True, None, sign_of)]
    if (found := rectifier(eqn, atoms)) is not None:
        positive = rules.scale(rules.nonlinear("relu", found.x), found.above - found.below)
        return [Atom(rules.rounded(rules.add(positive, rules.scale(found.x, found.below))), True)]
    if name in COMPARISONS or any(atom.sign_of for atom in atoms):
        raise unsupported(eqn)
    if name == "is_finite" or (name == "eq" and _is_infinite(eqn.invars[1])):
        # Where a bound is finite the value is; where none is, nothing is proved.
        return [Atom(jnp.full(_shape(eqn), name == "is_finite"))]
    if name in ("max", "min") and any(map(_is_infinite, eqn.invars)):
        if not _is_neutral(eqn):
            raise unsupported(eqn)
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
        out = rules.scale(reduce_max(rules.scale(first, flip), eqn, rules), flip)
    elif name == "reduce_window_max":
        out = pool(first, eqn, rules)
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
        return [Atom(out, True, multiple(eqn, atoms)) for out in outs]
    else:
        raise unsupported(eqn)
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
