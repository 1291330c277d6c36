"""What an attack wants: a wrong answer, or a certain one.

A goal is a pytree. With a leading axis it holds the goals of a batch; an attack sees one image's.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxadv.core.pytree import pytree


def others(logits: Float[Array, " K"], label: Any) -> Float[Array, " K"]:
    """The logits of the other classes: that of `label` is minus infinity."""
    return jnp.where(jnp.arange(logits.shape[-1]) == label, -jnp.inf, logits)


def _margin(logits: Float[Array, " K"], label: Any) -> Float[Array, ""]:
    return logits[label] - others(logits, label).max()


@pytree
class Untargeted:
    """Any class but the right one.

    labels: integers [N] (one image: a scalar), the true classes.
    """

    labels: Any
    targeted = False

    def margin(self, logits: Float[Array, " K"]) -> Float[Array, ""]:
        """The label's logit less the largest other one: negative when the image is adversarial."""
        return _margin(logits, self.labels)


@pytree
class Targeted:
    """One chosen wrong class.

    labels: integers [N], the true classes; targets: integers [N], the classes wanted.
    """

    labels: Any
    targets: Any
    targeted = True

    def margin(self, logits: Float[Array, " K"]) -> Float[Array, ""]:
        """The largest other logit less the target's: negative when the image is adversarial."""
        return -_margin(logits, self.targets)


Goal = Untargeted | Targeted
