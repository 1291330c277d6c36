"""Nearest point of a hyperplane within the box: where a linearised classifier is crossed.

Every entry has a slack, its distance to the box in the useful direction, and contributes its weight
times its change. In Linf all entries move by one length; in L2 each moves in proportion to its
weight, as far as the box allows; in L1 the entries of largest weight go all the way to the box. One
number is left to find: the length, factor or weight at which the contributions suffice. It is found
by bisection; nothing is sorted, and 31 halvings leave neighbouring floats.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxadv.core.norms import flat, get_norm
from jaxadv.core.typing import Number

DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
LARGEST = int(np.finfo(np.float32).max.view(np.int32))


def smallest(holds: Callable[[Array], Bool[Array, ""]]) -> Float[Array, ""]:
    """Return the smallest non-negative float32 at which the monotone predicate `holds` is true.

    31 bisections on the bit patterns, which order non-negative floats as the floats themselves.

    Args:
        holds: Predicate of a float32 scalar that stays true once it is true.

    Returns:
        float32 scalar; the largest finite float32 if the predicate is never true.
    """

    def halve(_: Number, interval: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = interval
        middle = jnp.maximum(low + (high - low) // 2, 0)  # the bits of -1 are a NaN
        enough = holds(lax.bitcast_convert_type(middle, jnp.float32))
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    _, bits = lax.fori_loop(0, 31, halve, (jnp.int32(-1), jnp.int32(LARGEST)))
    return lax.bitcast_convert_type(bits, jnp.float32)


def _scaled(normal: Float[Array, "..."], gap: Number) -> tuple[Array, Array, Array]:
    """Return the weights (at most 1), their required sum, and the sign of each entry's move."""
    scale = jnp.maximum(jnp.abs(normal).max(), 1e-37)  # keeps squares and sums finite
    return jnp.abs(normal) / scale, jnp.abs(gap) / scale, jnp.sign(normal) * jnp.sign(gap)


@flat
def hyperplane_step(
    norm: str,
    image: Float[Array, "..."],
    normal: Float[Array, "..."],
    gap: Number,
    lower: Number,
    upper: Number,
) -> Float[Array, "..."]:
    """Return the shortest d with <normal, d> = gap such that image + d stays in the box.

    If the box does not reach the hyperplane, d leads to the corner nearest to fulfilling it.
    Entries of weight 0 do not change; in L1, entries of equal weight go the same fraction of their
    way. <normal, d> is exact to the rounding of a float32 sum, about 1e-6 of the gap. The function
    calls no model. The sets and their projections are those of Croce and Hein 2019 (arXiv
    1907.02044, section 2.2).

    Args:
        norm: "linf", "l2" or "l1", in which d is shortest.
        image: [...] float32, within the box.
        normal: [...] float32, the normal of the hyperplane.
        gap: Scalar, b - <normal, image> for the hyperplane <normal, z> = b (passed directly, since
            the difference of two sums would cancel).
        lower: Lower bound of the box.
        upper: Upper bound of the box.

    Returns:
        [...] float32, the step d.

    >>> import jax.numpy as jnp
    >>> from jaxadv.attacks.common.hyperplane import hyperplane_step
    >>> image, normal = jnp.array([0.5, 0.9, 0.5]), jnp.array([1.0, 2.0, 0.0])
    >>> hyperplane_step("linf", image, normal, 0.6, 0.0, 1.0).round(3)
    Array([0.4, 0.1, 0. ], dtype=float32)
    """
    weight, wanted, way = _scaled(normal, gap)
    room = jnp.where(way > 0, upper - image, image - lower)
    room = jnp.where(weight > 0, jnp.clip(room, 0, None), 0)

    if norm == "l1":
        least = smallest(lambda w: jnp.where(weight > w, weight * room, 0).sum() <= wanted)
        full = jnp.where(weight > least, room, 0)
        last = jnp.where(weight == least, room, 0)
        left = (wanted - (weight * full).sum()) / jnp.maximum((weight * last).sum(), 1e-37)
        return way * (full + jnp.clip(left, 0, 1) * last)

    def moved(length: Array) -> Array:
        return jnp.minimum(length if norm == "linf" else length * weight, room)

    return way * moved(smallest(lambda length: (weight * moved(length)).sum() >= wanted))


def free_step(norm: str, normal: Float[Array, "..."], gap: Number) -> Float[Array, "..."]:
    """Return the shortest d with <normal, d> = gap without a box; 0 if the normal is 0.

    In L1 the entries of largest weight move equally. (Moosavi-Dezfooli et al. 2015, section 3.3.)
    """
    weight, wanted, way = _scaled(normal, gap)
    direction = {"linf": weight * 0 + 1, "l2": weight, "l1": (weight >= weight.max()) * weight}[
        norm
    ]
    total = jnp.maximum((weight * direction).sum(), 1e-37)
    return way * direction * jnp.minimum(wanted / total, 1e30)


def nearest_hyperplane(
    norm: str, normals: Float[Array, "P ..."], gaps: Float[Array, " P"]
) -> Int[Array, ""]:
    """Return the index of the nearest hyperplane <normal, d> = gap in the norm, without a box."""
    scale = jnp.maximum(jnp.abs(normals).max(), 1e-37)  # keeps squares finite
    slopes = jax.vmap(get_norm(DUAL[norm]).distance)(normals / scale)
    return jnp.argmin(jnp.abs(gaps) / jnp.maximum(slopes, 1e-30))
