"""Gathering and scattering entries by their indices."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxadv.core.typing import ArrayLike
from jaxadv.models.pytorch.node import Operator, operators

Indices = Sequence[ArrayLike | None]


def _where(indices: Indices) -> tuple[Any, ...]:
    return tuple(slice(None) if index is None else index for index in indices)


def _index(x: ArrayLike, indices: Indices) -> ArrayLike:
    return jnp.asarray(x)[_where(indices)]


def _index_put(
    x: ArrayLike, indices: Indices, values: ArrayLike, accumulate: bool = False
) -> Array:
    places = jnp.asarray(x).at[_where(indices)]
    return places.add(values) if accumulate else places.set(values)


def _along(index: ArrayLike, dim: int) -> tuple[ArrayLike, ...]:
    """Return the index of entries that keep their position in all axes but one."""
    places: list[ArrayLike] = list(np.indices(index.shape, sparse=True))
    places[dim] = index
    return tuple(places)


def _gather(x: ArrayLike, dim: int, index: ArrayLike, *, sparse_grad: bool = False) -> ArrayLike:
    return jnp.asarray(x)[_along(index, dim)]


def _scatter(
    x: ArrayLike, dim: int, index: ArrayLike, source: Any, *, reduce: str | None = None
) -> Array:
    places = _along(index, dim)
    if np.ndim(source):
        source = source[tuple(slice(n) for n in index.shape)]
    operation = {None: "set", "add": "add", "multiply": "multiply"}[reduce]
    return getattr(jnp.asarray(x).at[places], operation)(source)


def _scatter_add(x: ArrayLike, dim: int, index: ArrayLike, source: ArrayLike) -> Array:
    return _scatter(x, dim, index, source, reduce="add")


def _select_scatter(x: ArrayLike, source: ArrayLike, dim: int, index: int) -> Array:
    place: list[Any] = [slice(None)] * x.ndim
    place[dim] = index
    return jnp.asarray(x).at[tuple(place)].set(source)


def _slice_scatter(
    x: ArrayLike,
    source: ArrayLike,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Array:
    place = [slice(None)] * x.ndim
    place[dim] = slice(start, end, step)
    return jnp.asarray(x).at[tuple(place)].set(source)


OPERATORS: dict[str, Operator] = operators(
    {
        "embedding": lambda weight, indices, *_: jnp.take(weight, indices, 0),
        "gather": _gather,
        "index": _index,
        "index_put": _index_put,
        "index_select": lambda x, dim, index: jnp.take(x, index, dim),
        "scatter": _scatter,
        "scatter_add": _scatter_add,
        "select_scatter": _select_scatter,
        "slice_scatter": _slice_scatter,
    }
)
