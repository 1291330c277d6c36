"""Norms: distances, projections onto the ball within the box, steepest ascent, random points.

All functions take one image. `radius` is in the unit of the norm (L0 counts array entries, not
pixels), `lower` and `upper` are the box, and the centre lies inside it. No function sorts: a
threshold is found by a fixed number of bisections, which on a CPU costs a thirtieth of a sort and a
cumulative sum.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxadv.core.random import draw, normal_like

Image = Float[Array, "..."]
Side = TypeVar("Side", float, jax.Array, np.ndarray)
ROUNDING = 2.0**-23  # the relative distance of neighbouring float32 numbers


@runtime_checkable
class Norm(Protocol):
    """The interface of the four norms.

    Attributes:
        name: "linf", "l2", "l1" or "l0".
        order: The order p of the norm, as `np.linalg.norm` takes it.
    """

    name: ClassVar[str]
    order: ClassVar[float]

    def distance(self, delta: Image) -> Float[Array, ""]:
        """Return the length of `delta`."""
        ...

    def project(self, image: Image, centre: Image, radius, lower, upper) -> Image:
        """Return the nearest point (Euclidean) in the intersection of ball and box."""
        ...

    def steepest(self, gradient: Image, image: Image, lower, upper, fraction) -> Image:
        """Return the unit-length direction of steepest ascent.

        In L1 and L0, entries at the border of the box that cannot follow their gradient are left
        out.

        Args:
            gradient: The gradient of the loss.
            image: The current image.
            lower: The smallest value of the box.
            upper: The largest value of the box.
            fraction: The fraction of the entries that a step moves in L1 and L0 (Linf and L2 move
                all).

        Returns:
            The direction, in the shape of the image.
        """
        ...

    def random(self, key: Array, centre: Image, radius, lower, upper) -> Image:
        """Return a uniform draw from the ball (L0: random entries with uniform values)."""
        ...


def flat(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of arrays of one shape that passes them to `function` as vectors.

    XLA's reduction loops over [28, 28, 1] take up to forty times as long as over [784].
    """

    @functools.wraps(function)
    def on_vectors(*arguments: Any) -> Any:
        shape = max((np.shape(argument) for argument in arguments), key=len)
        vectors = (jnp.ravel(a) if shape and np.shape(a) == shape else a for a in arguments)
        return jnp.reshape(function(*vectors), shape)

    return on_vectors


@flat
def largest(values: Image, count) -> Bool[Array, "..."]:
    """Return the mask of the `count` largest of non-negative `values`; among equal ones, the first.

    It takes 32 bisections on the bit patterns, which order non-negative floats as their values do.

    Args:
        values: An array of non-negative floats, of any shape.
        count: The number of entries, which may be traced.

    Returns:
        A boolean mask in the shape of `values`.
    """
    bits = lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)
    count = jnp.asarray(count, jnp.int32)

    def halve(_, interval):
        low, high, bits = interval  # more than count entries exceed low, at most count exceed high
        middle = low + (high - low) // 2
        many = (bits > middle).sum() > count
        # Never so, but then the loop's bits are computed once: again elsewhere, XLA may round the
        # values they come from otherwise, and more than `count` would exceed the threshold.
        bits = jnp.where(low > high, 0, bits)
        return jnp.where(many, middle, low), jnp.where(many, high, middle), bits

    start = (jnp.int32(-1), jnp.int32(np.float32(np.inf).view(np.int32)), bits)
    _, threshold, bits = lax.fori_loop(0, 32, halve, start)
    above = bits > threshold
    tied = (bits == threshold).ravel()
    spare = count - above.sum()
    first = (lax.associative_scan(jnp.add, tied.astype(jnp.int32)) <= spare) & tied
    return above | first.reshape(values.shape)


def _room(gradient: Image, image: Image, lower, upper) -> Image:
    """Return the gradient where the box still lets the image follow it, and 0 elsewhere.

    Within a thousandth of the box from its border, an entry counts as at the border: an entry that
    a projection has moved off the border by a rounding error would otherwise take all of every L1
    step, and no other entry would ever get one.
    """
    hair = 1e-3 * (upper - lower)
    up, down = (gradient > 0) & (image >= upper - hair), (gradient < 0) & (image <= lower + hair)
    return jnp.where(up | down, 0.0, gradient)


def _move(centre: Image, by: Image, lower, upper) -> Image:
    """Return centre + by within the box, rounded towards the centre to stay inside the ball."""
    moved = centre + by
    moved = jnp.where(jnp.abs(moved - centre) > jnp.abs(by), jnp.nextafter(moved, centre), moved)
    return jnp.clip(moved, lower, upper)


class Linf:
    """The Linf norm, max |delta|."""

    name: ClassVar[str] = "linf"
    order: ClassVar[float] = np.inf

    def distance(self, delta: Image) -> Float[Array, ""]:
        return jnp.abs(delta).max()

    def project(self, image: Image, centre: Image, radius, lower, upper) -> Image:
        # Less what rounding may add to the difference of a float32 value from the centre's.
        reach = jnp.maximum(radius - ROUNDING * jnp.abs(centre), 0)
        return jnp.clip(
            image, jnp.maximum(centre - reach, lower), jnp.minimum(centre + reach, upper)
        )

    def steepest(self, gradient: Image, image: Image, lower, upper, fraction) -> Image:
        return jnp.sign(gradient)

    def random(self, key: Array, centre: Image, radius, lower, upper) -> Image:
        noise = draw(jax.random.uniform, key, centre.shape, dtype=centre.dtype, minval=-1.0)
        return centre + radius * noise


class L2:
    """The L2 norm, sqrt(sum delta^2)."""

    name: ClassVar[str] = "l2"
    order: ClassVar[float] = 2.0

    def distance(self, delta: Image) -> Float[Array, ""]:
        return jnp.sqrt(jnp.square(delta).sum())

    @flat
    def project(self, image: Image, centre: Image, radius, lower, upper) -> Image:
        # The solution is clip(centre + s * delta), s in [0, 1], on the sphere. s grows while
        # entries are fixed at the box and the rest is rescaled to what of the radius is left:
        # every iterate is inside the ball, and few are needed until nothing more is fixed.
        delta = image - centre
        delta = delta / jnp.maximum(jnp.abs(delta).max() / 1e15, 1)  # the square is to stay finite
        room = jnp.square(jnp.clip(jnp.where(delta > 0, upper - centre, centre - lower), 0, None))
        square = jnp.square(delta)

        def fix(_, s2):
            free = s2 * square < room
            left = jnp.square(radius) - jnp.where(free, 0.0, room).sum()
            total = jnp.where(free, square, 0.0).sum()
            grown = jnp.clip(left, 0, None) / jnp.maximum(total, 1e-30)
            return jnp.clip(jnp.maximum(grown, s2), 0.0, 1.0)

        total = jnp.maximum(square.sum(), 1e-30)
        s2 = lax.fori_loop(0, 10, fix, jnp.minimum(jnp.square(radius) / total, 1.0))
        return _move(centre, jnp.sqrt(s2) * delta, lower, upper)

    def steepest(self, gradient: Image, image: Image, lower, upper, fraction) -> Image:
        # Scaled first: the square of a float32 gradient of 1e-20 would be 0.
        gradient = gradient / jnp.maximum(jnp.abs(gradient).max(), 1e-37)
        return gradient / jnp.maximum(self.distance(gradient), 1e-12)

    def random(self, key: Array, centre: Image, radius, lower, upper) -> Image:
        direction, length = jax.random.split(key)
        noise = normal_like(direction, centre)
        scale = jax.random.uniform(length) ** (1 / centre.size) / self.distance(noise)
        return centre + radius * scale * noise


class L1:
    """The L1 norm, sum |delta|."""

    name: ClassVar[str] = "l1"
    order: ClassVar[float] = 1.0

    def distance(self, delta: Image) -> Float[Array, ""]:
        return jnp.abs(delta).sum()

    @flat
    def project(self, image: Image, centre: Image, radius, lower, upper) -> Image:
        # Soft thresholding, cut at the box: |delta| -> min(max(|delta| - t, 0), room).
        delta = image - centre
        size = jnp.abs(delta)
        room = jnp.clip(jnp.where(delta > 0, upper - centre, centre - lower), 0, None)

        def shrink(threshold):
            return jnp.minimum(jnp.maximum(size - threshold, 0.0), room)

        def halve(_, interval):
            low, high = interval
            middle = (low + high) / 2
            inside = shrink(middle).sum() <= radius
            return jnp.where(inside, low, middle), jnp.where(inside, middle, high)

        outside = shrink(0.0).sum() > radius
        _, threshold = lax.fori_loop(0, 30, halve, (jnp.float32(0.0), size.max()))
        shrunk = shrink(jnp.where(outside, threshold, 0.0))
        return _move(centre, jnp.sign(delta) * shrunk, lower, upper)

    def steepest(self, gradient: Image, image: Image, lower, upper, fraction) -> Image:
        gradient = _room(gradient, image, lower, upper)
        count = jnp.maximum(jnp.ceil(fraction * gradient.size), 1)
        chosen = jnp.sign(gradient) * largest(jnp.abs(gradient), count)
        return chosen / jnp.maximum(jnp.abs(chosen).sum(), 1.0)

    def random(self, key: Array, centre: Image, radius, lower, upper) -> Image:
        sizes, signs, slack = jax.random.split(key, 3)
        size = draw(jax.random.exponential, sizes, centre.shape, dtype=centre.dtype)
        sign = draw(jax.random.rademacher, signs, centre.shape, dtype=centre.dtype)
        return centre + radius * sign * size / (size.sum() + jax.random.exponential(slack))


class L0:
    """The L0 "norm", the number of array entries that differ."""

    name: ClassVar[str] = "l0"
    order: ClassVar[float] = 0.0

    def distance(self, delta: Image) -> Float[Array, ""]:
        return (delta != 0).sum().astype(jnp.float32)

    @flat
    def project(self, image: Image, centre: Image, radius, lower, upper) -> Image:
        # Keep the entries whose change saves the most squared distance, |image - centre|^2 less
        # |image - inside|^2. As a product it neither cancels nor overflows, and XLA rounds it
        # alike wherever it computes it again (a difference of squares it may fuse in one place).
        inside = jnp.clip(image, lower, upper)
        saved = (inside - centre) * (2 * image - inside - centre)
        return jnp.where(largest(saved, jnp.floor(radius)), inside, centre)

    def steepest(self, gradient: Image, image: Image, lower, upper, fraction) -> Image:
        gradient = _room(gradient, image, lower, upper)
        count = jnp.maximum(jnp.ceil(fraction * gradient.size), 1)
        return jnp.sign(gradient) * largest(jnp.abs(gradient), count) * (upper - lower)

    def random(self, key: Array, centre: Image, radius, lower, upper) -> Image:
        places, values = jax.random.split(key)
        chosen = largest(draw(jax.random.uniform, places, centre.shape), jnp.floor(radius))
        noise = draw(jax.random.uniform, values, centre.shape, dtype=centre.dtype)
        return jnp.where(chosen, lower + noise * (upper - lower), centre)


NORMS: dict[str, Norm] = {norm.name: norm for norm in (Linf(), L2(), L1(), L0())}


def get_norm(norm: str) -> Norm:
    """Return the norm of that name: "linf", "l2", "l1" or "l0"."""
    if not isinstance(norm, str) or norm not in NORMS:
        raise ValueError(f"norm={norm!r} is not known: pass one of {sorted(NORMS)}")
    return NORMS[norm]


def distance64(norm: str, images: np.ndarray, originals: np.ndarray) -> np.ndarray:
    """Return the float64 distances [N] of images [N, ...] from their originals."""
    return _length64(norm, _delta64(images, originals))


def distances64(images: np.ndarray, originals: np.ndarray) -> dict[str, np.ndarray]:
    """Return the distances of `distance64` in every norm, by name."""
    delta = _delta64(images, originals)
    return {norm: _length64(norm, delta) for norm in NORMS}


def _delta64(images: np.ndarray, originals: np.ndarray) -> np.ndarray:
    """Return the absolute differences [N, D] in float64."""
    delta = images.astype(np.float64)
    delta -= originals
    np.abs(delta, out=delta)
    return delta.reshape(len(delta), math.prod(delta.shape[1:]))  # -1 cannot stand for no images


def _length64(norm: str, delta: np.ndarray) -> np.ndarray:
    if norm == "l0":
        return np.count_nonzero(delta, axis=1).astype(np.float64)
    return np.linalg.norm(delta, get_norm(norm).order, axis=1)


def mean_side(lower: Any, upper: Any) -> Any:
    """Return the side of a box, or the mean side of the features that may change."""
    sides = upper - lower
    return sides.sum() / jnp.maximum((sides > 0).sum(), 1) if jnp.ndim(sides) else sides


def diameter(norm: str, size: int, span: Side) -> Side:
    """Return the largest distance of two images with `size` entries in a box with sides `span`.

    span: one side for all entries, or the side of each, an array of their shape.
    """
    if isinstance(span, np.ndarray) and span.ndim:
        return _length64(norm, span.reshape(1, -1).astype(np.float64))[0]
    if isinstance(span, jax.Array) and span.ndim:
        return get_norm(norm).distance(span)
    if norm == "l0":
        return span * 0 + float(size)
    return span * {"linf": 1.0, "l2": size**0.5, "l1": float(size)}[norm]
