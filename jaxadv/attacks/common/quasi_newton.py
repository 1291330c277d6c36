"""L-BFGS in a box: the curvature pairs and the step that they give; vectors are flat [n].

The function is curvature / 2 * |x - x0|^2 + loss(x): a known quadratic and a loss known by its
gradients only. The pairs describe the loss alone, so they stay valid when `curvature` changes, and
the inverse Hessian without pairs, 1 / curvature, is exact wherever the loss is linear (the
cross-entropy of a network of rectifiers and K classes is curved in at most K - 1 directions).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxadv.core.typing import Number

LEAST_CURVATURE = 0.1  # of the quadratic's: a pair with less gives no descent or too long a step


class Memory(NamedTuple):
    """The last M curvature pairs of L-BFGS, in a ring buffer.

    Attributes:
        steps: [M, n], the steps.
        changes: [M, n], the change of the loss's gradient over each step.
        count: int32 scalar, number of pairs ever written.
    """

    steps: Float[Array, "M n"]
    changes: Float[Array, "M n"]
    count: Int[Array, ""]

    @classmethod
    def empty(cls, pairs: int, like: Float[Array, " n"]) -> "Memory":
        """Return a memory without pairs."""
        none = jnp.zeros((pairs, like.size), like.dtype)
        return cls(none, none, jnp.int32(0))

    def add(self, step: Float[Array, " n"], change: Float[Array, " n"]) -> "Memory":
        """Return the memory with one more pair in place of the oldest; skip steps of length 0."""
        pairs = self.steps.shape[0]
        moved = (step != 0).any()
        place = jnp.where(moved, self.count % pairs, pairs)
        return Memory(
            self.steps.at[place].set(step, mode="drop"),
            self.changes.at[place].set(change, mode="drop"),
            self.count + moved,
        )

    def newton(
        self, gradient: Float[Array, " n"], free: Bool[Array, " n"], curvature: Number
    ) -> Float[Array, " n"]:
        """Return the inverse Hessian on the free variables times the gradient (0 for the others).

        This is the two-loop recursion (Nocedal 1980) on pairs restricted to the free variables. A
        pair without enough curvature there is skipped, so the matrix is positive definite.

        Args:
            gradient: [n] float, the gradient of the whole function.
            free: [n] bool, the variables that may move.
            curvature: Scalar, the curvature of the quadratic.

        Returns:
            [n] float.
        """
        back = jnp.arange(self.steps.shape[0])  # from the newest to the oldest
        order = (self.count - 1 - back) % len(back)
        steps = jnp.where(free, self.steps[order], 0)
        changes = jnp.where(free, self.changes[order], 0) + curvature * steps
        bends = (steps * changes).sum(1)
        enough = bends > LEAST_CURVATURE * curvature * jnp.square(steps).sum(1)
        enough &= back < self.count
        inverses = jnp.where(enough, 1 / jnp.where(enough, bends, 1), 0)

        def backward(vector: Array, pair: tuple[Array, ...]) -> tuple[Array, Array]:
            step, change, inverse = pair
            along = inverse * (step @ vector)
            return vector - along * change, along

        def forward(vector: Array, pair: tuple[Array, ...]) -> tuple[Array, None]:
            step, change, inverse, along = pair
            return vector + (along - inverse * (change @ vector)) * step, None

        vector = jnp.where(free, gradient, 0)
        vector, alongs = lax.scan(backward, vector, (steps, changes, inverses))
        pairs = (steps, changes, inverses, alongs)
        return lax.scan(forward, vector / curvature, pairs, reverse=True)[0]
