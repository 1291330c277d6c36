"""The basis of the discrete cosine transform (DCT-II)."""

import numpy as np
from jaxtyping import Float


def cosines(size: int, count: int) -> Float[np.ndarray, "N F"]:
    """Return the first basis vectors of the orthonormal DCT-II, as columns.

    Args:
        size: The length of the vectors.
        count: The number of vectors, those of the lowest frequencies.

    Returns:
        float32 [size, count].

    >>> from jaxadv.core.dct import cosines
    >>> waves = cosines(8, 3)
    >>> np.allclose(waves.T @ waves, np.eye(3), atol=1e-6)
    True
    """
    place, frequency = np.arange(size)[:, None] + 0.5, np.arange(count)
    scale = np.sqrt(np.where(frequency == 0, 1, 2) / size)
    return (scale * np.cos(np.pi * place * frequency / size)).astype(np.float32)
