"""The search for the weight c of a penalty: the largest that an adversarial image still bears."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Bracket(NamedTuple):
    """The largest c that succeeded and the smallest that failed; scalars, one image.

    c: under trial; low, high: the two ends (0 and infinite: not known yet), with the margins and
    the distances of what was found there; run: successes in a row (failures: negative); round:
    values of c that are done.
    """

    c: Any
    low: Any
    high: Any
    margin_low: Any
    margin_high: Any
    distance_low: Any
    distance_high: Any
    run: Any
    round: Any

    @classmethod
    def begin(cls, c: Float[Array, ""]) -> "Bracket":
        """Before the first c is done."""
        zero, infinite, none = jnp.zeros_like(c), jnp.full_like(c, jnp.inf), jnp.int32(0)
        return cls(c, zero, infinite, zero, zero, infinite, zero, none, none)

    def after(self, success: Any, margin: Any, distance: Any) -> "Bracket":
        """With the outcome of c taken in, and the next c to be tried.

        Doubled or halved until both ends are known; then where the margin would be 0 if it were
        linear in log c between them (regula falsi; an end that stays counts half: Illinois).
        """
        run = jnp.where(success, jnp.maximum(self.run, 0) + 1, jnp.minimum(self.run, 0) - 1)
        low, high = jnp.where(success, self.c, self.low), jnp.where(success, self.high, self.c)
        margin_low = jnp.where(success, margin, self.margin_low / jnp.where(run < -1, 2, 1))
        margin_high = jnp.where(success, self.margin_high / jnp.where(run > 1, 2, 1), margin)
        share = margin_high / jnp.maximum(margin_high - margin_low, 1e-30)
        between = high * (low / high) ** jnp.clip(share, 0.05, 0.95)
        beyond = jnp.where(success, 2 * self.c, self.c / 2)
        return Bracket(
            c=jnp.where((low > 0) & (high < jnp.inf), between, beyond),
            low=low,
            high=high,
            margin_low=margin_low,
            margin_high=margin_high,
            distance_low=jnp.where(success, distance, self.distance_low),
            distance_high=jnp.where(success, self.distance_high, distance),
            run=run,
            round=self.round + 1,
        )

    def settled(self, tolerance: Any) -> Bool[Array, ""]:
        """Whether the ends agree to the relative `tolerance` in distance (or, at a jump, in c)."""
        agree = self.distance_low <= self.distance_high * (1 + tolerance)
        return (self.low > 0) & (agree | (self.high <= self.low * (1 + tolerance)))
