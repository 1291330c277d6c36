"""Rewrite of convolutions, pooling and reductions into forms that XLA's CPU backend runs fast.

Inside a loop, XLA for CPU runs a convolution in any but the canonical layout 2 to 20 times slower
(jax issue 12868), and the gradient of max-pooling always. `rewrite_for_cpu(f)` traces `f`, rewrites
its jaxpr, nested ones included, and returns a function that computes the same:

- every ungrouped `conv_general_dilated` gets NHWC and HWIO operands, with explicit transposes, and
  the form that suits its number of channels (`convolution`);
- strided convolutions on few channels, and the gradients of all strided convolutions, become
  convolutions of stride one over blocks of pixels (`strides`);
- every `select_and_scatter_add` over windows that tile the image (stride equal to window, no
  padding) becomes strided slices with a first-maximum mask;
- the largest and smallest of an image's entries are found among integers, which is faster than
  comparing floats one by one, and sums of entries avoid a library that is slow at most sizes.

The rewrite is applied after differentiation, so derivatives of any order and mode are unaffected.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jaxtyping import Array, PyTree

from jaxadv.core.jaxprs import bind, walk
from jaxadv.cpu import strided_convolution
from jaxadv.cpu.convolution import convolve, has_form, is_simple, kind_of

MOST_SLICES = 64  # entries of a pooling window; a larger one would need too many slices and pads
LONG = 64  # least number of entries of a reduction that is rewritten
EVEN = 128  # sums of a multiple of this many entries are fast already


def _canonical(rank: int) -> tuple[tuple[int, ...], ...]:
    image = (0, rank - 1, *range(1, rank - 1))  # batch, channel, space...
    kernel = (rank - 1, rank - 2, *range(rank - 2))  # out, in, space...
    return image, kernel, image


def _is_slow_convolution(eqn: JaxprEqn) -> bool:
    p = eqn.params
    if p["batch_group_count"] != 1 or p["feature_group_count"] != 1:
        return False
    if strided_convolution.is_strided(eqn) or strided_convolution.is_spread(eqn):
        return True
    numbers = tuple(map(tuple, p["dimension_numbers"]))
    if numbers != _canonical(len(numbers[0])):
        return True
    return is_simple(eqn) and max(p["window_strides"]) == 1 and has_form(eqn)


def _convolution(image: Array, kernel: Array, *, eqn: JaxprEqn, gradients: bool) -> Array:
    rank = image.ndim
    batch_first, out_in, placed = eqn.params["dimension_numbers"]
    image = lax.transpose(image, (batch_first[0], *batch_first[2:], batch_first[1]))
    kernel = lax.transpose(kernel, (*out_in[2:], out_in[1], out_in[0]))
    canonical = lax.ConvDimensionNumbers(*_canonical(rank))
    params = {**eqn.params, "dimension_numbers": canonical}
    if strided_convolution.is_strided(eqn):
        out = strided_convolution.strided(image, kernel, params, gradients)
    elif strided_convolution.is_spread(eqn):
        out = strided_convolution.spread(image, kernel, params)
    elif is_simple(eqn) and max(params["window_strides"]) == 1:
        out = convolve(image, kernel, params["padding"], gradients, *kind_of(params))
    else:
        out = eqn.primitive.bind(image, kernel, **params)
    order = [0] * rank
    order[placed[0]], order[placed[1]] = 0, rank - 1
    for axis in range(rank - 2):
        order[placed[2 + axis]] = axis + 1
    return lax.transpose(out, tuple(order))


def _is_tiled_pooling(eqn: JaxprEqn) -> bool:
    p = eqn.params
    window = tuple(p["window_dimensions"])
    tiles = window == tuple(p["window_strides"]) and not any(map(any, p["padding"]))
    return tiles and math.prod(window) <= MOST_SLICES and p["select_prim"] is lax.ge_p


def _pooling_gradient(gradient: Array, image: Array, *, eqn: JaxprEqn) -> Array:
    window = eqn.params["window_dimensions"]
    limits = [n * w for n, w in zip(gradient.shape, window, strict=True)]
    offsets = list(itertools.product(*map(range, window)))
    slices = [lax.slice(image, start, limits, window) for start in offsets]
    largest = functools.reduce(lax.max, slices)
    free = jnp.ones(largest.shape, bool)
    total = jnp.zeros(image.shape, gradient.dtype)
    for start, piece in zip(offsets, slices, strict=True):
        first = free & (piece == largest)
        free = free & ~first
        placed = jnp.where(first, gradient, 0)
        edges = [
            (s, n - s - (k - 1) * w - 1, w - 1)
            for s, n, k, w in zip(start, image.shape, gradient.shape, window, strict=True)
        ]
        total = total + lax.pad(placed, jnp.zeros((), gradient.dtype), edges)
    return total


def _is_long_reduction(eqn: JaxprEqn) -> bool:
    values: Any = eqn.invars[0].aval
    axes = tuple(eqn.params["axes"])
    last = axes == tuple(range(values.ndim - len(axes), values.ndim))
    return values.dtype == jnp.float32 and last and _length(eqn) >= LONG


def _is_uneven_sum(eqn: JaxprEqn) -> bool:
    return _is_long_reduction(eqn) and _length(eqn) % EVEN > 0


def _length(eqn: JaxprEqn) -> int:
    values: Any = eqn.invars[0].aval
    return math.prod(values.shape[axis] for axis in eqn.params["axes"])


def _sum(values: Array, *, eqn: JaxprEqn) -> Array:
    rows = values.reshape(*values.shape[: values.ndim - len(eqn.params["axes"])], -1)
    # Changes no value, but makes XLA add in its own loop instead of calling a library.
    return jnp.where(rows <= np.inf, rows, np.float32(np.nan)).sum(-1)


def _largest(values: Array, *, eqn: JaxprEqn) -> Array:
    return _greatest(values, tuple(eqn.params["axes"]))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _greatest(values: Array, axes: tuple[int, ...]) -> Array:
    # The bits of floats, inverted for negative ones, are in the order of the floats.
    def ordered(bits: Array) -> Array:
        return jnp.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits)

    # A NaN with a sign bit would be the least of all.
    known = jnp.where(jnp.isnan(values), np.float32(np.nan), values)
    most = jnp.max(ordered(lax.bitcast_convert_type(known, jnp.int32)), axis=axes)
    return lax.bitcast_convert_type(ordered(most), jnp.float32)


@_greatest.defjvp
def _(axes: tuple[int, ...], primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return jax.jvp(lambda values: jnp.max(values, axis=axes), primals, tangents)


def _smallest(values: Array, *, eqn: JaxprEqn) -> Array:
    return -_largest(-values, eqn=eqn)


_TESTS = {
    "conv_general_dilated": (_is_slow_convolution, _convolution),
    "select_and_scatter_add": (_is_tiled_pooling, _pooling_gradient),
    "reduce_sum": (_is_uneven_sum, _sum),
    "reduce_max": (_is_long_reduction, _largest),
    "reduce_min": (_is_long_reduction, _smallest),
}


def _replacement(eqn: JaxprEqn, gradients: bool = False) -> Callable[..., Any] | None:
    test, replace = _TESTS.get(eqn.primitive.name, (None, None))
    if test is None or replace is None or not test(eqn):
        return None
    more = {"gradients": gradients} if replace is _convolution else {}
    return functools.partial(replace, eqn=eqn, **more)


def _has_gradients(jaxpr: ClosedJaxpr | Jaxpr) -> bool:
    """Return whether a jaxpr differentiates a convolution by its image, with a reversed kernel."""
    return any(
        eqn.primitive.name == "rev" or any(map(_has_gradients, _inner(eqn.params)))
        for eqn in _open(jaxpr).eqns
    )


def _inner(params: dict[str, Any]) -> list[ClosedJaxpr | Jaxpr]:
    leaves = jax.tree.leaves(params, is_leaf=lambda v: isinstance(v, ClosedJaxpr | Jaxpr))
    return [leaf for leaf in leaves if isinstance(leaf, ClosedJaxpr | Jaxpr)]


def _open(jaxpr: ClosedJaxpr | Jaxpr) -> Jaxpr:
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


def needs_rewrite(jaxpr: ClosedJaxpr | Jaxpr) -> bool:
    """Return whether a jaxpr holds an operation that the rewrite replaces."""
    return any(
        _replacement(eqn) is not None or any(map(needs_rewrite, _inner(eqn.params)))
        for eqn in _open(jaxpr).eqns
    )


def _rewrite(value: PyTree, gradients: bool) -> PyTree:
    """Return a parameter of an equation with every jaxpr in it rewritten."""
    if isinstance(value, ClosedJaxpr):
        if not needs_rewrite(value):
            return value
        shapes = [
            jax.ShapeDtypeStruct(
                v.aval.shape, v.aval.dtype, weak_type=getattr(v.aval, "weak_type", False)
            )
            for v in value.jaxpr.invars
        ]

        def rewritten(*args: Array) -> list[Array]:
            return _evaluate(value.jaxpr, value.consts, args, gradients)

        return jax.make_jaxpr(rewritten)(*shapes)
    if isinstance(value, Jaxpr):
        if not needs_rewrite(value) or value.constvars:
            return value
        closed = _rewrite(ClosedJaxpr(value, ()), gradients)
        return value if closed.consts else closed.jaxpr
    if type(value) in (tuple, list):
        return type(value)(_rewrite(item, gradients) for item in value)
    return value


def _evaluate(
    jaxpr: Jaxpr, consts: Sequence[Array], args: Sequence[Array], gradients: bool
) -> list[Array]:
    def outputs_of(eqn: JaxprEqn, inputs: list[Array]) -> list[Array]:
        replace = _replacement(eqn, gradients)
        if replace is not None:
            return [replace(*inputs)]
        return bind(eqn, inputs, {name: _rewrite(v, gradients) for name, v in eqn.params.items()})

    return walk(jaxpr, consts, args, outputs_of)


def rewrite_for_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` rewritten for the CPU, with equal values and derivatives.

    Args:
        function: A function of pytrees of arrays that JAX can trace.

    Returns:
        A function that traces `function` at each call and evaluates the rewritten program.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxadv.cpu.rewrite import rewrite_for_cpu
        >>> float(rewrite_for_cpu(jax.grad(lambda x: x**2))(jnp.float32(3)))
        6.0
    """

    @functools.wraps(function)
    def call(*args: PyTree) -> PyTree:
        jaxpr, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        if not needs_rewrite(jaxpr):
            return function(*args)
        gradients = _has_gradients(jaxpr)
        outputs = _evaluate(jaxpr.jaxpr, jaxpr.consts, jax.tree.leaves(args), gradients)
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)

    return call
