"""64-bit types of JAX, switched on or off for a while."""

from contextlib import AbstractContextManager
from typing import Any

import jax


def x64(on: bool = True) -> AbstractContextManager[Any]:
    """Return a context in which JAX computes in float64, or in float32."""
    return (jax if hasattr(jax, "enable_x64") else jax.experimental).enable_x64(on)  # type: ignore[attr-defined]
