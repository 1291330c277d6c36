"""Arrays that are part of a converted program, which must be hashable."""

from typing import NamedTuple

import numpy as np


class Tensor(NamedTuple):
    """An array as a hashable value.

    Attributes:
        dtype: Name of its numpy type.
        shape: Its shape.
        data: Its bytes in C order.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: np.ndarray) -> "Tensor":
        """Return the value of an array."""
        return cls(array.dtype.name, array.shape, array.tobytes())

    def array(self) -> np.ndarray:
        """Return the array; it cannot be written to."""
        return np.frombuffer(self.data, self.dtype).reshape(self.shape)
