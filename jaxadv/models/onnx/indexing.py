"""Gathering and scattering entries by their indices."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxadv.models.onnx.node import Node, Operator, library

SCATTERED = {"none": "set", "add": "add", "mul": "multiply", "max": "max", "min": "min"}


def _gather(node: Node, x: Any, indices: Any) -> Any:
    axis = node.get("axis", 0)
    wrapped = library(indices).where(indices < 0, indices + x.shape[axis], indices)
    return library(x, wrapped).take(x, wrapped, axis)


def _along(indices: Any, axis: int) -> tuple[Any, ...]:
    """The index of entries that keep their position in all axes but one."""
    places: list[Any] = list(np.indices(indices.shape, sparse=True))
    places[axis] = indices
    return tuple(places)


def _gather_elements(node: Node, x: Any, indices: Any) -> Any:
    x = x if library(x, indices) is np else jnp.asarray(x)
    return x[_along(indices, node.get("axis", 0))]


def _gather_nd(node: Node, x: Any, indices: Any) -> Any:
    x = x if library(x, indices) is np else jnp.asarray(x)
    batch = node.get("batch_dims", 0)
    rows = np.indices(indices.shape[:batch], sparse=True)
    rest = (1,) * (indices.ndim - 1 - batch)
    places = [row.reshape(*row.shape, *rest) for row in rows]
    return x[(*places, *(indices[..., i] for i in range(indices.shape[-1])))]


def _scatter(node: Node, x: Any, places: tuple[Any, ...], updates: Any) -> Any:
    way = SCATTERED[node.get("reduction", "none")]
    return getattr(jnp.asarray(x).at[places], way)(updates)


def _scatter_elements(node: Node, x: Any, indices: Any, updates: Any) -> Any:
    return _scatter(node, x, _along(indices, node.get("axis", 0)), updates)


def _scatter_nd(node: Node, x: Any, indices: Any, updates: Any) -> Any:
    places = tuple(indices[..., i] for i in range(indices.shape[-1]))
    return _scatter(node, x, places, updates)


OPERATORS: dict[str, Operator] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
}
