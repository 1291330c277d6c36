"""Operator norms of layers: how far each can enlarge a perturbation, measured in the L2 norm.

Szegedy et al. 2013 (arXiv 1312.6199), section 4.3. Power iteration gives a lower bound that
converges, for any layer; the singular values of a matrix and the Fourier formula of a convolution
give upper bounds, in float64.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax
from jaxtyping import Array, Float


def operator_norm(
    layer: Callable[[Array], Array],
    shape: Sequence[int],
    *,
    at: npt.ArrayLike | None = None,
    iterations: int = 300,
    tolerance: float = 1e-6,
) -> float:
    """Compute a layer's largest singular value, from below, by power iteration.

    The result is |J v| for a unit vector v and the Jacobian J of the layer: never above the norm
    except for float32 rounding (1e-6 of it), and close to it where the two largest singular values
    are well separated or nearly equal.

    Args:
        layer: Differentiable function of one float32 array of `shape`, such as a dense layer or a
            convolution of any stride and padding.
        shape: Shape of the input.
        at: Point of linearisation (default 0; an affine layer is the same everywhere).
        iterations: Maximum number of iterations, each one product with the Jacobian and one with
            its transpose.
        tolerance: Stop when three iterations in a row gain less than this fraction.

    Returns:
        The norm.

    Raises:
        ValueError: `iterations` is below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> round(operator_norm(lambda x: x @ jnp.diag(jnp.array([3.0, 4.0])) + 1, (2,)), 4)
        4.0
    """
    if iterations < 1:
        raise ValueError(f"iterations={iterations}: pass at least 1")
    at = jnp.zeros(shape, jnp.float32) if at is None else jnp.asarray(at, jnp.float32)
    out, pull = jax.vjp(layer, at)

    @jax.jit
    def step(
        pull: Callable[[Array], tuple[Array]], vector: Array
    ) -> tuple[Float[Array, ""], Array]:
        vector = vector / jnp.maximum(jnp.linalg.norm(vector), 1e-30)
        (image,) = jax.linear_transpose(lambda y: pull(y)[0], out)(vector)
        return jnp.linalg.norm(image), pull(image)[0]

    vector = np.random.default_rng(0).standard_normal(at.shape, np.float32)
    largest, idle = 0.0, 0
    for _ in range(iterations):
        gain, vector = step(pull, vector)
        idle = idle + 1 if gain <= largest * (1 + tolerance) else 0
        largest = max(largest, float(gain))
        if idle == 3:
            break
    return largest


def matrix_norm(matrices: npt.ArrayLike) -> float:
    """Return the largest singular value of a matrix, or of any of a stack, in float64.

    Args:
        matrices: Matrix [m, n], or stack [..., m, n].

    Returns:
        The norm.

    Example:
        >>> matrix_norm([[0.0, 2.0], [1.0, 0.0]])
        2.0
    """
    matrices = np.asarray(matrices)
    matrices = matrices.astype(np.complex128 if np.iscomplexobj(matrices) else np.float64)
    turned = matrices.conj().swapaxes(-1, -2)
    tall = matrices.shape[-2] > matrices.shape[-1]
    gram = turned @ matrices if tall else matrices @ turned
    return math.sqrt(max(float(np.linalg.eigvalsh(gram).max()), 0.0))


def circular_norm(
    kernel: npt.ArrayLike, size: Sequence[int], stride: Sequence[int] | int = 1
) -> float:
    """Return the norm of a circular convolution with a stride, by the Fourier transform.

    For stride s, in two dimensions, it is the largest norm over the frequencies xi in [0, N / s)^2
    of the matrices D x C s^2

        A(xi) = s^-1 [ w^(xi + l N / s) ],  l in {0, ..., s - 1}^2,

    w^ the discrete Fourier transform (a plain sum) of the kernel. Departure from the paper, which
    has s^-2: that is too small by the factor s. A frequency of the output is indeed s^-2 times the
    sum of those that alias to it, but the norm of an output with s^2 times fewer pixels restores s.

    Args:
        kernel: [*space, C, D], with one or more spatial axes.
        size: Spatial size of the image, a multiple of the stride in every axis.
        stride: Stride in every axis, or one number for all.

    Returns:
        The norm.

    Raises:
        ValueError: `size` or `stride` does not fit the kernel's axes, or `size` is not a multiple
            of the stride or is smaller than the kernel.

    Example:
        >>> import numpy as np
        >>> circular_norm(np.ones((3, 3, 1, 1)), (6, 6))  # the sum of a constant image's nine
        9.0
    """
    kernel = np.asarray(kernel, np.float64)
    rank = kernel.ndim - 2
    strides = (stride,) * rank if isinstance(stride, int) else tuple(stride)
    if len(size) != rank or len(strides) != rank:
        raise ValueError(f"size={tuple(size)}, stride={strides}: the kernel has {rank} axes")
    for n, step, width in zip(size, strides, kernel.shape, strict=False):
        if n % step or n < width:
            raise ValueError(
                f"size={tuple(size)}: pass multiples of the stride {strides} that are no smaller "
                f"than the kernel, {kernel.shape[:rank]}"
            )
    space = tuple(range(rank))
    spectrum = np.fft.fftn(kernel, tuple(size), space)
    folded = [part for n, s in zip(size, strides, strict=True) for part in (s, n // s)]
    spectrum = spectrum.reshape(*folded, *kernel.shape[rank:])
    order = (*range(1, 2 * rank, 2), *range(0, 2 * rank, 2), 2 * rank, 2 * rank + 1)
    spectrum = spectrum.transpose(order)
    spectrum = spectrum[: size[0] // strides[0] // 2 + 1]  # a real kernel: the rest is conjugate
    blocks = spectrum.reshape(math.prod(spectrum.shape[:rank]), -1, kernel.shape[-1])
    return matrix_norm(blocks) / math.sqrt(math.prod(strides))


def convolution_bound(
    kernel: npt.ArrayLike,
    size: Sequence[int],
    stride: Sequence[int] | int = 1,
    padding: Sequence[tuple[int, int]] | None = None,
) -> float:
    """Return an upper bound of the norm of a convolution with zero padding.

    This is the smaller of two bounds. (1) Such a convolution is part of a circular one on an image
    of the padded size, rounded up to a multiple of the stride: the rest of that image is zero, and
    the rest of its output is discarded, so `circular_norm` bounds it. (2) The convolution extracts
    patches, which repeats a pixel in every patch that contains it (`pooling_norm`), and multiplies
    each by one matrix: exact where patches do not overlap.

    Args:
        kernel: [*space, C, D].
        size: Spatial size of the image.
        stride: Stride in every axis, or one number for all.
        padding: (before, after) for every spatial axis (default none).

    Returns:
        The bound.

    Example:
        >>> import numpy as np
        >>> convolution_bound(np.ones((3, 3, 1, 1)), (9, 9), padding=[(1, 1), (1, 1)])
        9.0
    """
    kernel = np.asarray(kernel, np.float64)
    reach, rank = kernel.shape[:-2], kernel.ndim - 2
    strides = (stride,) * rank if isinstance(stride, int) else tuple(stride)
    edges = [(0, 0)] * rank if padding is None else [(max(a, 0), max(b, 0)) for a, b in padding]
    padded = [n + a + b for n, (a, b) in zip(size, edges, strict=True)]
    torus = [-(-n // s) * s for n, s in zip(padded, strides, strict=True)]
    patches = matrix_norm(kernel.reshape(-1, kernel.shape[-1]))
    shared = pooling_norm(size, reach, strides, edges)
    return min(circular_norm(kernel, torus, strides), patches * shared)


def sum_bound(layer: Callable[[Array], Array], shape: Sequence[int]) -> float:
    """Return an upper bound of the norm of an affine layer with nonnegative coefficients.

    This is sqrt(largest row sum * largest column sum) of its matrix (Schur's test), which is exact
    for all layers that copy, move, cut out or add up entries.

    Args:
        layer: Function of one float32 array of `shape`.
        shape: Shape of the input.

    Returns:
        The bound.

    Example:
        >>> sum_bound(lambda x: x.sum(1), (2, 9))
        3.0
    """
    ones = jnp.ones(shape, jnp.float32)
    out, pull = jax.vjp(layer, ones)
    rows = out - layer(jnp.zeros_like(ones))
    return math.sqrt(float(rows.max()) * float(pull(jnp.ones_like(out))[0].max()))


def pooling_norm(
    size: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]] | None = None,
    dilation: Sequence[int] | None = None,
) -> float:
    """Return the largest gain of max-pooling: sqrt(most windows that share one pixel).

    It is 1 where windows do not overlap, as the paper assumes for all; 2 for AlexNet's 3 x 3
    windows with stride 2. The bound is attained where one pixel is the maximum of all its windows.

    Args:
        size: Spatial size of the image.
        window: Size of the window in every axis.
        stride: Stride in every axis.
        padding: (before, after) for every axis (default none).
        dilation: Dilation of the window in every axis (default none).

    Returns:
        The gain.

    Example:
        >>> pooling_norm((6, 6), (2, 2), (2, 2)), pooling_norm((7, 7), (3, 3), (2, 2))
        (1.0, 2.0)
    """
    edges = [(0, 0)] * len(size) if padding is None else list(padding)

    def windows(x: Array) -> Array:
        return lax.reduce_window(
            x, 0.0, lax.add, tuple(window), tuple(stride), edges, None, dilation
        )

    out, pull = jax.vjp(windows, jnp.ones(tuple(size)))
    return math.sqrt(float(pull(jnp.ones_like(out))[0].max()))


def contrast_norm(epsilon: float, exponent: float) -> float:
    """Return the Lipschitz constant of x / (epsilon + |x|^2)^exponent: epsilon^-exponent.

    It is attained at 0. Across |x| the Jacobian is (epsilon + |x|^2)^-exponent, along it that times
    (epsilon + (1 - 2 exponent) |x|^2) / (epsilon + |x|^2), which is between -1 and 1.

    Args:
        epsilon: Constant of the normalisation, above 0.
        exponent: Exponent from 0 to 1 (the paper: 0.5 to 1).

    Returns:
        The constant.

    Raises:
        ValueError: `epsilon` is not above 0, or `exponent` is outside [0, 1].

    Example:
        >>> contrast_norm(0.25, 0.5)
        2.0
    """
    if not (epsilon > 0 and 0 <= exponent <= 1):
        raise ValueError(
            f"epsilon={epsilon}, exponent={exponent}: pass epsilon above 0 and an exponent in 0..1"
        )
    return epsilon**-exponent
