"""Lanes as few arrays: the compiled loop carries one array of rows in place of a leaf each.

Compilation takes the longer the more arrays a loop has, whatever their size. The bits of all small
leaves of a lane lie side by side in one row of integers; large leaves, the images, stay apart.
"""

import math
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, PyTree, Shaped

T = TypeVar("T")

SMALL = 64  # the most entries of a leaf that lies in the row
_BITS = (jnp.dtype("float32"), jnp.dtype("uint32"))  # dtypes whose bits are read as integers


class Packed(NamedTuple):
    """N packed pytrees.

    Attributes:
        row: The bits of all small leaves.
        apart: The large leaves.
    """

    row: Int[Array, "N F"]
    apart: tuple[Shaped[Array, "N ..."], ...]


class Layout:
    """Where the leaves of a pytree lie in its packed form.

    Attributes:
        structure: The structure of the pytree.
        leaves: Shape and dtype of each leaf of one pytree.
        key: Random keys; leaves of their dtype are packed as their data.
    """

    def __init__(self, one: PyTree, key: Array) -> None:
        self.leaves, self.structure = jax.tree.flatten(one)
        self.key = key

    def _is_key(self, leaf: jax.ShapeDtypeStruct) -> bool:
        typed = jnp.issubdtype(self.key.dtype, jax.dtypes.prng_key)
        return typed and leaf.dtype == self.key.dtype

    def _width(self, leaf: jax.ShapeDtypeStruct) -> int:
        """Return the number of integers that a leaf takes in the row (0: it stays apart)."""
        size = math.prod(leaf.shape)
        if self._is_key(leaf):
            one = jax.ShapeDtypeStruct((), self.key.dtype)
            data = jax.eval_shape(jax.random.key_data, one)
            return size * math.prod(data.shape)
        packable = leaf.dtype in (*_BITS, jnp.dtype("int32"), jnp.dtype(bool))
        return size if packable and size <= SMALL else 0

    def pack(self, tree: PyTree) -> Packed:
        """Return N pytrees, every leaf with a leading axis N, in packed form."""
        row, apart, place, total = jnp.int32(0), [], 0, sum(map(self._width, self.leaves))
        for leaf, one in zip(jax.tree.leaves(tree), self.leaves, strict=True):
            width = self._width(one)
            if not width:
                apart.append(leaf)
                continue
            if self._is_key(one):
                leaf = jax.random.key_data(leaf)
            bits = leaf.dtype in _BITS
            leaf = lax.bitcast_convert_type(leaf, jnp.int32) if bits else leaf.astype(jnp.int32)
            column = leaf.reshape(leaf.shape[0], width)
            # A concatenation is a kernel of its own and makes one of each leaf; this is one in all.
            row |= lax.pad(column, jnp.int32(0), ((0, 0, 0), (place, total - place - width, 0)))
            place += width
        return Packed(row, tuple(apart))

    def unpack(self, packed: Packed) -> PyTree:
        """Return N pytrees in their own form; inverse of `pack`."""
        leaves, place, apart = [], 0, iter(packed.apart)
        for one in self.leaves:
            width = self._width(one)
            if not width:
                leaves.append(next(apart))
                continue
            column = lax.slice_in_dim(packed.row, place, place + width, axis=1)
            place += width
            if self._is_key(one):
                data = lax.bitcast_convert_type(column, jnp.uint32)
                data = data.reshape(len(column), *one.shape, -1)
                leaves.append(jax.random.wrap_key_data(data, impl=jax.random.key_impl(self.key)))
                continue
            column = column.reshape(len(column), *one.shape)
            bits = one.dtype in _BITS
            leaves.append(
                lax.bitcast_convert_type(column, one.dtype) if bits else column.astype(one.dtype)
            )
        return jax.tree.unflatten(self.structure, leaves)

    def read(self, row: np.ndarray) -> PyTree:
        """Return pytrees whose rows [..., N, F] are numpy's, and whose leaves all lie in them."""
        leaves, place = [], 0
        for one in self.leaves:
            column = np.ascontiguousarray(row[..., place : place + self._width(one)])
            place += self._width(one)
            values = column.view(one.dtype) if one.dtype in _BITS else column.astype(one.dtype)
            leaves.append(values.reshape(*row.shape[:-1], *one.shape))
        return jax.tree.unflatten(self.structure, leaves)


def take_rows(tree: T, index: Int[Array, " S"]) -> T:
    """Return rows `index` of every leaf; the places are within bounds."""
    return jax.tree.map(lambda leaf: leaf.at[index].get(mode="promise_in_bounds"), tree)


def put_rows(tree: T, index: Int[Array, " S"], new: T) -> T:
    """Replace rows `index` of every leaf; places out of bounds are left out."""
    return jax.tree.map(lambda leaf, rows: leaf.at[index].set(rows, mode="drop"), tree, new)
