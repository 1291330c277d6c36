"""Types that several layers use in their annotations."""

import jax
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

Number = float | int | np.number | np.ndarray | jax.Array
"""One number: of Python, of numpy, or an array without axes, which may be traced."""

Numbers = Number | list | tuple
"""One number, or one for each image [N]."""

ArrayLike = np.ndarray | jax.Array
"""An array of numpy or of JAX."""

Key = PRNGKeyArray
"""A JAX random key, typed (`jax.random.key`) or not (`jax.random.PRNGKey`)."""

Params = PyTree
"""The parameters of a model, in the form that its function takes."""

Devices = list[jax.Device] | tuple[jax.Device, ...] | None
"""The devices of a run; None is all of them."""
