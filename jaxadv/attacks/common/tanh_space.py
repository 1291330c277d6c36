"""Carlini and Wagner's change of variables: image = middle + side / 2 * tanh(w).

Where an image lies on a face of the box, tanh is flat, and its pixel could not leave. The tanh is
therefore that of a slightly larger box, and w is limited to the image's box.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxadv.core.attack import Problem

INNER = 0.95  # tanh(w) at the faces: a slope of 0.1 there, against 1 in the middle
LIMIT = float(np.arctanh(INNER))


class TanhSpace(NamedTuple):
    """Change of variables between images and w.

    Attributes:
        image: [H, W, C] float32, the original image, which `origin` maps to exactly.
        origin: [H, W, C] float32, the w of the original image.
        half: float32, half of the side of the larger box, a scalar or one for each feature.
    """

    image: Float[Array, "..."]
    origin: Float[Array, "..."]
    half: Float[Array, "..."]

    @classmethod
    def around(cls, problem: Problem) -> "TanhSpace":
        """Return the space of the problem's box."""
        middle, half = (problem.lower + problem.upper) / 2, problem.sides / 2
        if half.ndim:  # a feature that may not change has no side
            half = jnp.maximum(half, 1e-30)
        origin = jnp.arctanh(jnp.clip((problem.image - middle) / half, -1, 1) * INNER)
        return cls(problem.image, origin, half / INNER)

    def enter(self, image: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the w of an image."""
        place = jnp.tanh(self.origin) + (image - self.image) / self.half
        return jnp.arctanh(jnp.clip(place, -INNER, INNER))

    def leave(self, problem: Problem, w: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the image of w, clipped to the box."""
        moved = self.image + self.half * (jnp.tanh(w) - jnp.tanh(self.origin))
        return jnp.clip(moved, problem.lower, problem.upper)

    def slope(self, w: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the derivative of `leave`."""
        return self.half * (1 - jnp.square(jnp.tanh(w)))

    def within(self, w: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the nearest w whose image is in the box."""
        return jnp.clip(w, -LIMIT, LIMIT)
