"""Search for the weight c of a distance penalty: the largest c whose minimiser is adversarial."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.core.typing import Number


class Bracket(NamedTuple):
    """Bracket of the weight c for one image; every field is a scalar.

    Attributes:
        c: The value under trial.
        low: Largest c that succeeded (0: none yet).
        high: Smallest c that failed (infinite: none yet).
        margin_low: Margin of the minimiser for `low`.
        margin_high: Margin of the minimiser for `high`.
        distance_low: Distance of the minimiser for `low`.
        distance_high: Distance of the minimiser for `high`.
        run: Number of successes in a row (failures: negative).
        round: Number of values of c that are done.
    """

    c: Float[Array, ""]
    low: Float[Array, ""]
    high: Float[Array, ""]
    margin_low: Float[Array, ""]
    margin_high: Float[Array, ""]
    distance_low: Float[Array, ""]
    distance_high: Float[Array, ""]
    run: Int[Array, ""]
    round: Int[Array, ""]

    @classmethod
    def begin(cls, c: Float[Array, ""]) -> "Bracket":
        """Return the bracket before the first trial."""
        zero, infinite, none = jnp.zeros_like(c), jnp.full_like(c, jnp.inf), jnp.int32(0)
        return cls(c, zero, infinite, zero, zero, infinite, zero, none, none)

    def after(
        self,
        success: Bool[Array, ""] | np.bool_ | bool,
        margin: Number,
        distance: Number,
    ) -> "Bracket":
        """Return the bracket after the trial of c, with the next c.

        c is doubled or halved until both ends are known. After that it is the point at which the
        margin would be 0 if it were linear in log c between the ends (regula falsi; an end that
        stays counts half, after Illinois).

        Args:
            success: bool scalar, whether the minimiser for c is adversarial.
            margin: Margin of that minimiser.
            distance: Distance of that minimiser from the image.

        Returns:
            The new bracket.
        """
        run = jnp.where(success, jnp.maximum(self.run, 0) + 1, jnp.minimum(self.run, 0) - 1)
        low, high = jnp.where(success, self.c, self.low), jnp.where(success, self.high, self.c)
        margin_low = jnp.where(success, margin, self.margin_low / jnp.where(run < -1, 2, 1))
        margin_high = jnp.where(success, self.margin_high / jnp.where(run > 1, 2, 1), margin)
        fraction = margin_high / jnp.maximum(margin_high - margin_low, 1e-30)
        between = high * (low / high) ** jnp.clip(fraction, 0.05, 0.95)
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

    def converged(self, tolerance: Number) -> Bool[Array, ""]:
        """Return whether the ends agree to a relative `tolerance` in distance (at a jump, in c)."""
        agree = self.distance_low <= self.distance_high * (1 + tolerance)
        return (self.low > 0) & (agree | (self.high <= self.low * (1 + tolerance)))
