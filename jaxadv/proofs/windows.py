"""Maxima along axes and over windows, as maxima of two values at a time."""

import functools
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from jaxadv.proofs.rules import Rules, unsupported


def reduce_max(z: Any, eqn: JaxprEqn, rules: Rules) -> Any:
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


def pool(z: Any, eqn: JaxprEqn, rules: Rules) -> Any:
    """Return the maxima of windows, one axis after the other.

    An entry in the padding is replaced by the nearest one of the image, which is in the same window
    and so does not change its maximum.
    """
    p = eqn.params
    aval: Any = eqn.invars[0].aval
    output: Any = eqn.outvars[0].aval
    if any(d != 1 for d in (*p["base_dilation"], *p["window_dilation"])):
        raise unsupported(eqn)
    for axis, (size, stride, (before, _), count, out) in enumerate(
        zip(
            p["window_dimensions"],
            p["window_strides"],
            p["padding"],
            aval.shape,
            output.shape,
            strict=True,
        )
    ):
        starts = [i * stride - before for i in range(out)]
        if any(start + size <= 0 or start >= count for start in starts):
            raise unsupported(eqn)  # a window in the padding alone
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
