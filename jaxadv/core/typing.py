"""Types that several layers use in their annotations."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

Number = float | int | np.number | np.ndarray | jax.Array
"""One number: of Python, of numpy, or an array without axes, which may be traced."""

Numbers = Number | Sequence
"""One number, or one for each image [N]."""

ArrayLike = np.ndarray | jax.Array
"""An array of numpy or of JAX."""

Key = PRNGKeyArray
"""A JAX random key, typed (`jax.random.key`) or not (`jax.random.PRNGKey`)."""

Params = PyTree
"""The parameters of a model, in the form that its function takes."""

Devices = list[jax.Device] | tuple[jax.Device, ...] | None
"""The devices of a run; None is all of them."""

Index = int | slice | list | np.integer | np.ndarray | jax.Array
"""Which rows of an array: one, several, or a mask of them."""

ChosenDevices = tuple[jax.Device, ...]
"""The devices of a run, after None is replaced by all of them."""
