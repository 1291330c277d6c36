"""Convolutions of stride one, each in the form that XLA's CPU backend runs fastest.

The backend has one fast convolution, and does not use it with few output channels or without
padding. All forms compute the same sums. `python -m benchmarks.speed.engine f` prints their speed.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn
from jax.typing import DTypeLike

FEWEST = 4  # up to this many output channels, products are made first and shifted after
DEEP = 16  # up to this many channels are few
LARGEST = 64  # spatial entries of a kernel; larger ones (gradients of weights) are left alone

Edges = Sequence[tuple[int, int]]


class Shaped(Protocol):
    """An array or the abstract value of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...


def is_simple(eqn: JaxprEqn) -> bool:
    """Return whether this is a 2-D convolution of floats without groups or holes in the kernel."""
    p = eqn.params
    grouped = p["feature_group_count"] > 1 or p["batch_group_count"] > 1
    out: Any = eqn.outvars[0].aval
    floats = jnp.issubdtype(out.dtype, jnp.floating)
    return len(p["window_strides"]) == 2 and floats and not grouped and max(p["rhs_dilation"]) == 1


def has_form(eqn: JaxprEqn) -> bool:
    """Return whether `convolve` gives this convolution another form in a program with gradients.

    The convolution has stride one and the canonical layout.
    """
    operands: list[Any] = [atom.aval for atom in eqn.invars]
    image, kernel = operands
    return _form(image, kernel, eqn.params["padding"], True, eqn.params["precision"]) is not None


def kind_of(params: dict[str, Any]) -> tuple[Any, Any]:
    """Return the last two arguments of `convolve` from a convolution's parameters."""
    return params["precision"], params["preferred_element_type"]


def convolve(
    image: jax.Array,
    kernel: jax.Array,
    padding: Edges,
    gradients: bool,
    precision: lax.PrecisionLike = None,
    preferred: DTypeLike | None = None,
) -> jax.Array:
    """Convolve images [N, H, W, C] by a kernel [h, w, C, D] with stride one.

    Args:
        image: Images [N, H, W, C].
        kernel: Kernel [h, w, C, D].
        padding: Padding (low, high) of H and of W; negative padding cuts off.
        gradients: Whether the program differentiates. If not, XLA fuses whole networks, which the
            form with a column more would break up.
        precision: As of lax.conv_general_dilated.
        preferred: Preferred element type, as of lax.conv_general_dilated.

    Returns:
        The convolution [N, H', W', D].
    """
    form = _form(image, kernel, padding, gradients, precision)
    image = pad(image, [(min(low, 0), min(high, 0)) for low, high in padding])
    padding = [(max(low, 0), max(high, 0)) for low, high in padding]
    if form is None:
        return _plain(image, kernel, padding, precision, preferred)
    return form(image, kernel, padding)


def _form(
    image: Shaped, kernel: Shaped, padding: Edges, gradients: bool, precision: lax.PrecisionLike
) -> Callable[..., jax.Array] | None:
    """Return the function that computes this convolution fast, or None for the backend's own."""
    known = image.dtype == kernel.dtype == jnp.float32 and precision is None
    height, width, channels, outputs = kernel.shape
    if not known or not 1 < height * width <= LARGEST:
        return None
    if outputs <= FEWEST and channels > outputs:
        return _shifted
    narrow = channels <= DEEP and outputs <= DEEP
    uneven = 1 < channels < 8 and outputs <= 2 * DEEP
    columns = image.shape[2] + sum(padding[1]) - width + 1
    if (narrow or uneven) and width > 2 and columns >= 8:
        count = 4 if max(channels, outputs) <= 8 else 2
        return functools.partial(_folded, count=count)
    bare = all(low <= 0 and high <= 0 for low, high in padding)
    if gradients and bare and (channels >= 2 * DEEP or (channels >= DEEP and outputs > DEEP)):
        return _bordered
    return None


def pad(array: jax.Array, edges: Edges) -> jax.Array:
    """Pad H and W of an array [N, H, W, ...] with zeros, or cut them where an edge is negative."""
    around = [(0, 0), *edges, *[(0, 0)] * (array.ndim - 3)]
    return lax.pad(array, jnp.zeros((), array.dtype), [(*edge, 0) for edge in around])


def _plain(
    image: jax.Array,
    kernel: jax.Array,
    padding: Edges,
    precision: lax.PrecisionLike = None,
    preferred: DTypeLike | None = None,
) -> jax.Array:
    return lax.conv_general_dilated(
        image,
        kernel,
        (1, 1),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
        preferred_element_type=preferred,
    )


def _bordered(image: jax.Array, kernel: jax.Array, padding: Edges) -> jax.Array:
    """Convolve without padding: add a column of zeros, and drop the column that it makes."""
    return _plain(image, kernel, [(0, 0), (1, 0)])[:, :, 1:]


def _folded(image: jax.Array, kernel: jax.Array, padding: Edges, count: int) -> jax.Array:
    """Convolve with `count` neighbours of a row as one pixel of `count` times the channels.

    The kernel is laid out once for each neighbour, with zeros between its copies.
    """
    (rows, (left, right)), (height, width, channels, outputs) = padding, kernel.shape
    columns = image.shape[2] + left + right - width + 1
    groups, reach = -(-columns // count), -(-(width + count - 1) // count)
    ample = (groups + reach - 1) * count
    image = pad(image, [(0, 0), (left, ample - image.shape[2] - left)])
    image = image.reshape(*image.shape[:2], ample // count, count * channels)
    spare = reach * count - width
    copies = [
        jnp.pad(kernel, ((0, 0), (place, spare - place), (0, 0), (0, 0))) for place in range(count)
    ]
    kernel = jnp.stack(copies, 3).reshape(height, reach, count * channels, count * outputs)
    convolved = _plain if any(rows) else _bordered
    out = convolved(image, kernel, [rows, (0, 0)])
    return out.reshape(*out.shape[:2], groups * count, outputs)[:, :, :columns]


def _shifted(image: jax.Array, kernel: jax.Array, padding: Edges) -> jax.Array:
    """Multiply every pixel by every entry of the kernel, then add each product at its place."""
    (height, width, channels, outputs), (n, rows, columns, _) = kernel.shape, image.shape
    (top, bottom), (left, right) = padding
    weights = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    products = (image.reshape(-1, channels) @ weights).reshape(n, rows, columns, -1)
    total = jnp.zeros((), image.dtype)
    for entry in range(height * width):
        up, back = divmod(entry, width)
        edges = [(top - up, bottom - height + 1 + up), (left - back, right - width + 1 + back)]
        part = products[..., entry * outputs : (entry + 1) * outputs]
        total = total + pad(part, edges)
    return total
