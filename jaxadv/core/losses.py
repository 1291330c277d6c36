"""Losses that gradient attacks maximise: functions (goal, logits [K]) -> scalar, one image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxadv.core.goals import Evading, Goal, Targeted, others

Loss = Callable[[Goal, Float[Array, " K"]], Float[Array, ""]]


def cross_entropy(goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
    """Cross-entropy of the label (of the target, negated, when targeted; where images can be
    rejected, of the label and the rejecting class as one).

    Written as softplus(logsumexp of the other logits - z_label): the same number, but its gradient
    does not cancel in float32 once the network is sure (the usual form loses it at a gap of 17
    between logits, this one at 87).
    """
    odds = log_odds(goal, logits)
    return -jax.nn.softplus(-odds) if isinstance(goal, Targeted) else jax.nn.softplus(odds)


def log_odds(goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
    """The log-odds that the goal is met: against the label, or for the target.

    The cross-entropy rises with it, and it does not level off where the network is sure.
    """
    if isinstance(goal, Evading):
        refused = logits[goal.rejected]
        rest = jax.nn.logsumexp(others(others(logits, goal.labels), goal.rejected))
        return rest - jnp.logaddexp(logits[goal.labels], refused)
    wanted = goal.targets if isinstance(goal, Targeted) else goal.labels
    odds = jax.nn.logsumexp(others(logits, wanted)) - logits[wanted]
    return -odds if isinstance(goal, Targeted) else odds


def margin(goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
    """The negated margin (Carlini and Wagner 2016, arXiv 1608.04644): positive once adversarial."""
    return -goal.margin(logits)


def largest_logits(logits: Float[Array, " K"], count: int) -> list[Float[Array, ""]]:
    """The `count` largest logits, the largest first."""
    found = []
    for _ in range(count):
        best = jnp.argmax(logits)
        found.append(logits[best])
        logits = logits.at[best].set(-jnp.inf)
    return found


def spread(goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""] | None:
    """What `dlr` divides by: the largest logit less the third (targeted: less the mean of the third
    and the fourth); None where there are too few, and a ratio would be constant.

    A rejecting class counts as one with the label: else the ratio is constant where both lead.
    """
    seen, count = goal.merged(logits), logits.shape[-1]
    if isinstance(goal, Targeted):
        if count - (goal.rejected is not None) < 4:
            return None
        z1, _, z3, z4 = largest_logits(seen, 4)
        return z1 - (z3 + z4) / 2 + 1e-12
    if goal.ways(count) < 2:
        return None
    z1, _, z3 = largest_logits(seen, 3)
    return z1 - z3 + 1e-12


def dlr(goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
    """Difference of logits ratio, and its targeted form (Croce and Hein 2020, arXiv 2003.01690).

    Invariant to the scale of the logits. Of two classes (targeted: three) the ratio is constant
    where it matters, and the margin takes its place.
    """
    scale = spread(goal, logits)
    if scale is None:
        return -goal.margin(logits)
    if isinstance(goal, Targeted):
        seen = goal.merged(logits)
        return (seen[goal.targets] - seen[goal.labels]) / scale
    return -goal.margin(logits) / scale


def logit(goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
    """The logit of the label (where images can be rejected: of the class to be left), negated; the
    target's when targeted (Zhao et al. 2020, arXiv 2012.11207).

    On an ensemble of log-probabilities this is the mean of the members' cross-entropies.
    """
    if isinstance(goal, Targeted):
        return logits[goal.targets]
    return -goal.merged(logits)[goal.labels]


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "log_odds": log_odds,
    "margin": margin,
    "dlr": dlr,
    "logit": logit,
}


def get_loss(loss: str | Loss) -> Loss:
    """The loss of that name; a function (goal, logits [K]) -> scalar is returned as it is."""
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r} is not known: pass one of {sorted(LOSSES)} or a function")
    return LOSSES[loss]
