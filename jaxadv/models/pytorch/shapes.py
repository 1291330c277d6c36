"""Operators that move, repeat or create entries without computing with them."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxadv.core.typing import ArrayLike
from jaxadv.models.pytorch.node import ChannelsLast, Operator, Value, operators, plain

FLOATS = "float32"  # the type of all floats
Sizes = Sequence[int]


def _expand(x: ArrayLike, sizes: Sizes, *, implicit: bool = False) -> ArrayLike:
    shape = (1,) * (len(sizes) - x.ndim) + x.shape
    wanted = [n if size == -1 else size for n, size in zip(shape, sizes, strict=True)]
    return jnp.broadcast_to(x, wanted)


def _squeeze(x: ArrayLike, dim: int | Sizes | None = None) -> ArrayLike:
    if dim is None:
        return x.squeeze()
    axes = (dim,) if isinstance(dim, int) else dim
    return x.squeeze(tuple(axis for axis in axes if x.shape[axis] == 1))


def _transpose(x: ArrayLike, dim0: int, dim1: int) -> ArrayLike:
    return jnp.swapaxes(x, dim0, dim1)


def _slice(
    x: ArrayLike, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> ArrayLike:
    index = [slice(None)] * x.ndim
    index[dim] = slice(start, end, step)
    return x[tuple(index)]


def _sliced(x: Value, dim: int = 0, *bounds: Any) -> Value:
    """Slice in the order of axes in which the value is held."""
    if not isinstance(x, ChannelsLast):
        return _slice(x, dim, *bounds)
    return ChannelsLast(_slice(x.array, _held(dim, x.ndim), *bounds))


def _concatenate(tensors: Sequence[Value], dim: int = 0) -> Value:
    """Concatenate in the order of axes in which the values are held."""
    tensors = [x for x in tensors if x.shape != (0,)]  # torch leaves these out
    if all(isinstance(x, ChannelsLast) for x in tensors):
        return ChannelsLast(
            jnp.concatenate([x.array for x in tensors], _held(dim, tensors[0].ndim))
        )
    return jnp.concatenate([plain(x) for x in tensors], dim)


def _mean(
    x: Value, dim: int | Sizes | None = None, keepdim: bool = False, *, dtype: str | None = None
) -> Value:
    """Mean over the axes of a value in the order in which it is held."""
    if not isinstance(x, ChannelsLast) or not dim:
        axes = None if dim is None or dim == () else dim
        return jnp.mean(plain(x), axes, keepdims=keepdim)
    axes = {axis % x.ndim for axis in ((dim,) if isinstance(dim, int) else dim)}
    y = jnp.mean(x.array, tuple(_held(axis, x.ndim) for axis in axes), keepdims=True)
    if keepdim:
        return ChannelsLast(y)
    return plain(ChannelsLast(y)).squeeze(tuple(axes))


def _held(axis: int, rank: int) -> int:
    """Return the axis of [N, space..., C] that is this axis of [N, C, space...]."""
    axis = axis % rank
    return 0 if axis == 0 else rank - 1 if axis == 1 else axis - 1


def _split(x: ArrayLike, sizes: int | Sizes, dim: int = 0) -> tuple[ArrayLike, ...]:
    if isinstance(sizes, int):
        ends = list(range(sizes, x.shape[dim], sizes))
    else:
        ends = list(itertools.accumulate(sizes))[:-1]
    return tuple(jnp.split(x, ends, dim))


def _chunk(x: ArrayLike, chunks: int, dim: int = 0) -> tuple[ArrayLike, ...]:
    return _split(x, -(-x.shape[dim] // chunks), dim)


def _select(x: ArrayLike, dim: int, index: int) -> ArrayLike:
    return lax.index_in_dim(jnp.asarray(x), index, dim, keepdims=False)


def _roll(x: ArrayLike, shifts: int | Sizes, dims: int | Sizes = ()) -> ArrayLike:
    return jnp.roll(x, shifts, dims if dims != () else None)


def _repeat(x: ArrayLike, repeats: Sizes) -> ArrayLike:
    return jnp.tile(x, repeats)


def _windowed(x: ArrayLike, dimension: int, size: int, step: int) -> ArrayLike:
    """Return the slices of an axis, [..., number, ..., size], as Tensor.unfold does."""
    axis = dimension % x.ndim
    starts = range(0, x.shape[axis] - size + 1, step)
    return jnp.stack(
        [jnp.moveaxis(_slice(x, axis, start, start + size), axis, -1) for start in starts], axis
    )


def _cast(x: ArrayLike, *, dtype: str | None = None) -> ArrayLike:
    floats = dtype == FLOATS and jnp.issubdtype(x.dtype, jnp.floating)
    return x if dtype is None or floats else x.astype(dtype)


def _arange(*ends: float, dtype: str | None = None) -> np.ndarray:
    kind = dtype or (FLOATS if any(isinstance(end, float) for end in ends) else "int64")
    return np.arange(*ends).astype(kind)


def _full(size: Sizes, value: Any, *, dtype: str | None = None) -> ArrayLike:
    kind = dtype or (FLOATS if isinstance(value, float) else None)
    return jnp.full(tuple(size), value, kind)


def _filled(value: float, kind: str = FLOATS) -> Any:
    return lambda size, *, dtype=None: np.full(tuple(size), value, dtype or kind)


def _filled_like(value: float) -> Any:
    return lambda x, *, dtype=None: np.full(x.shape, value, dtype or x.dtype)


def _new_filled(value: float) -> Any:
    return lambda x, size, *, dtype=None: np.full(tuple(size), value, dtype or x.dtype)


def _eye(n: int, m: int | None = None, *, dtype: str | None = None) -> np.ndarray:
    return np.eye(n, m, dtype=dtype or FLOATS)


def _as_strided(
    x: Array, size: Sizes, stride: Sizes, storage_offset: int | None = None
) -> ArrayLike:
    """Gather entries of contiguous storage."""
    places = np.full((1,) * len(size), storage_offset or 0)
    for axis, (n, step) in enumerate(zip(size, stride, strict=True)):
        places = places + np.arange(n).reshape(-1, *(1,) * (len(size) - 1 - axis)) * step
    return jnp.take(x.ravel(), places)


def _same(x: Value, **_: object) -> Value:
    return x


OPERATORS: dict[str, Operator] = (
    operators(
        {
            "_reshape_copy": lambda x, size: x.reshape(size),
            "_unsafe_view": lambda x, size: x.reshape(size),
            "arange": _arange,
            "as_strided": _as_strided,
            "chunk": _chunk,
            "diagonal": lambda x, offset=0, dim1=0, dim2=1: jnp.diagonal(x, offset, dim1, dim2),
            "empty": _filled(0),
            "empty_like": _filled_like(0),
            "expand": _expand,
            "eye": _eye,
            "flatten": lambda x, start=0, end=-1: x.reshape(
                *x.shape[:start],
                math.prod(x.shape[start : end % x.ndim + 1]),
                *x.shape[end % x.ndim + 1 :],
            ),
            "flip": lambda x, dims: jnp.flip(x, dims),
            "full": _full,
            "full_like": lambda x, value, *, dtype=None: jnp.full(x.shape, value, dtype or x.dtype),
            "linspace": lambda start, end, steps, *, dtype=None: np.linspace(
                start, end, steps, dtype=dtype or FLOATS
            ),
            "new_empty": _new_filled(0),
            "new_full": lambda x, size, value, *, dtype=None: jnp.full(
                size, value, dtype or x.dtype
            ),
            "new_ones": _new_filled(1),
            "new_zeros": _new_filled(0),
            "ones": _filled(1),
            "ones_like": _filled_like(1),
            "permute": lambda x, dims: jnp.transpose(x, dims),
            "repeat": _repeat,
            "reshape": lambda x, size: x.reshape(size),
            "roll": _roll,
            "scalar_tensor": lambda value, *, dtype=None: np.asarray(value, dtype or FLOATS),
            "select": _select,
            "split": _split,
            "split_with_sizes": _split,
            "squeeze": _squeeze,
            "stack": lambda tensors, dim=0: jnp.stack(tensors, dim),
            "t": jnp.transpose,
            "transpose": _transpose,
            "tril": jnp.tril,
            "triu": jnp.triu,
            "unbind": lambda x, dim=0: tuple(jnp.moveaxis(x, dim, 0)),
            "unfold": _windowed,
            "unsqueeze": lambda x, dim: jnp.expand_dims(x, dim),
            "view.default": lambda x, size: x.reshape(size),
            "zeros": _filled(0),
            "zeros_like": _filled_like(0),
        }
    )
    | operators(
        {
            "_to_copy": _cast,
            "alias": _same,
            "clone": _same,
            "contiguous": _same,
            "copy": lambda x, source, non_blocking=False: jnp.broadcast_to(source, x.shape).astype(
                x.dtype
            ),
            "detach": lax.stop_gradient,
            "detach_": lax.stop_gradient,
            "lift_fresh_copy": _same,
            "to.dtype": lambda x, dtype, *_: _cast(x, dtype=dtype),
        },
        "pointwise",
    )
    | operators({"cat": _concatenate, "mean.dim": _mean, "slice": _sliced}, "held")
)
