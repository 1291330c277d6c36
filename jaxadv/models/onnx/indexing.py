"""Gathering and scattering entries by their indices."""

import jax.numpy as jnp
import numpy as np

from jaxadv.core.typing import ArrayLike
from jaxadv.models.onnx.node import Node, Operator, library

SCATTERED = {"none": "set", "add": "add", "mul": "multiply", "max": "max", "min": "min"}


def _gather(node: Node, x: ArrayLike, indices: ArrayLike) -> ArrayLike:
    axis = node.get("axis", 0)
    wrapped = library(indices).where(indices < 0, indices + x.shape[axis], indices)
    return library(x, wrapped).take(x, wrapped, axis)


def _along(indices: ArrayLike, axis: int) -> tuple[ArrayLike, ...]:
    """Return the index of entries that keep their position in all axes but one."""
    places: list[ArrayLike] = list(np.indices(indices.shape, sparse=True))
    places[axis] = indices
    return tuple(places)


def _gather_elements(node: Node, x: ArrayLike, indices: ArrayLike) -> ArrayLike:
    x = x if library(x, indices) is np else jnp.asarray(x)
    return x[_along(indices, node.get("axis", 0))]


def _gather_nd(node: Node, x: ArrayLike, indices: ArrayLike) -> ArrayLike:
    x = x if library(x, indices) is np else jnp.asarray(x)
    batch = node.get("batch_dims", 0)
    rows = np.indices(indices.shape[:batch], sparse=True)
    rest = (1,) * (indices.ndim - 1 - batch)
    places = [row.reshape(*row.shape, *rest) for row in rows]
    return x[(*places, *(indices[..., i] for i in range(indices.shape[-1])))]


def _scatter(
    node: Node, x: ArrayLike, places: tuple[ArrayLike, ...], updates: ArrayLike
) -> ArrayLike:
    operation = SCATTERED[node.get("reduction", "none")]
    return getattr(jnp.asarray(x).at[places], operation)(updates)


def _scatter_elements(
    node: Node, x: ArrayLike, indices: ArrayLike, updates: ArrayLike
) -> ArrayLike:
    return _scatter(node, x, _along(indices, node.get("axis", 0)), updates)


def _scatter_nd(node: Node, x: ArrayLike, indices: ArrayLike, updates: ArrayLike) -> ArrayLike:
    places = tuple(indices[..., i] for i in range(indices.shape[-1]))
    return _scatter(node, x, places, updates)


OPERATORS: dict[str, Operator] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
}
