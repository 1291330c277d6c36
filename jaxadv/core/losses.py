"""Losses that gradient attacks maximise: functions (goal, logits [K]) -> scalar, for one image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxadv.core.goals import Classes, Evading, Goal, Targeted, logit_of, others

Loss = Callable[[Goal, Float[Array, " K"]], Float[Array, ""]]


def cross_entropy(goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
    """Cross-entropy of the label; for targeted goals, the negated cross-entropy of the target.

    Where images can be rejected, the label and the rejection class count as one class. The loss is
    computed as softplus(logsumexp of the other logits - z_label), which has the same value as the
    usual form, but its gradient does not cancel in float32 on confident networks (the usual form
    loses it at a gap of 17 between logits, this one at 87).

    Args:
        goal: The goal for this image.
        logits: The logits [K].

    Returns:
        The loss, a scalar.
    """
    odds = log_odds(goal, logits)
    return -jax.nn.softplus(-odds) if isinstance(goal, Targeted) else jax.nn.softplus(odds)


def log_odds(goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
    """Log-odds that the goal is met: against the label, or for the target.

    The cross-entropy is an increasing function of it; unlike the cross-entropy, it does not level
    off where the network is confident.
    """
    if isinstance(goal, Evading):
        refused = logit_of(logits, goal.rejected)
        rest = jax.nn.logsumexp(others(others(logits, goal.labels), goal.rejected))
        return rest - jnp.logaddexp(logit_of(logits, goal.labels), refused)
    wanted = goal.targets if isinstance(goal, Targeted) else goal.labels
    odds = jax.nn.logsumexp(others(logits, wanted)) - logit_of(logits, wanted)
    return -odds if isinstance(goal, Targeted) else odds


def margin(goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
    """The negated margin (Carlini and Wagner 2016, arXiv 1608.04644): positive if adversarial."""
    return -goal.margin(logits)


def probability_margin(goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
    """The margin of the probabilities (Xie et al. 2024, arXiv 2411.15210), without saturation.

    The paper's loss is L = p_w - p_y, the largest probability of another class minus the label's
    (for targeted goals: the target's minus the largest other one). In float32, L and its gradient
    stand still where the network is confident. The value here is log((1 + L) / (1 - L)), which
    increases with L and therefore has the same order and the same direction of steepest ascent, and
    whose gradient has no such limit; L is tanh of half of it. With two classes it is the margin of
    the logits. Where images can be rejected, the probabilities are those of the merged logits.

    Args:
        goal: The goal for this image.
        logits: The logits [K].

    Returns:
        The loss, a scalar: positive if adversarial.
    """
    seen = goal.merged(logits)
    named = goal.targets if isinstance(goal, Targeted) else goal.labels
    rival = jnp.argmax(others(seen, named))
    gains, loses = (named, rival) if isinstance(goal, Targeted) else (rival, named)

    def log_sum(twice: Classes, left_out: Classes) -> Float[Array, ""]:
        """Log of 1 + p_twice - p_left_out, up to a term that both sums have."""
        doubled = jnp.where(jnp.arange(seen.shape[-1]) == twice, seen + jnp.log(2.0), seen)
        return jax.nn.logsumexp(others(doubled, left_out))

    return log_sum(gains, loses) - log_sum(loses, gains)


def largest_logits(logits: Float[Array, " K"], count: int) -> list[Float[Array, ""]]:
    """Return the `count` largest logits, the largest first."""
    largest = []
    for _ in range(count):
        best = jnp.argmax(logits)
        largest.append(logit_of(logits, best))
        logits = others(logits, best)
    return largest


def spread(goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""] | None:
    """Return the denominator of `dlr`: the largest logit minus the third largest.

    For targeted goals it is the largest logit minus the mean of the third and the fourth. A
    rejection class counts as one class with the label, because otherwise the ratio is constant
    where these two lead.

    Args:
        goal: The goal for this image.
        logits: The logits [K].

    Returns:
        A positive scalar, or None if there are so few classes that the ratio would be constant.
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

    The loss is invariant to the scale of the logits. With two classes (targeted: three) the ratio
    is constant where it matters, and the margin takes its place.
    """
    scale = spread(goal, logits)
    if scale is None:
        return -goal.margin(logits)
    if isinstance(goal, Targeted):
        seen = goal.merged(logits)
        return (logit_of(seen, goal.targets) - logit_of(seen, goal.labels)) / scale
    return -goal.margin(logits) / scale


def logit(goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
    """The negated logit of the label; for targeted goals the logit of the target.

    Zhao et al. 2020, arXiv 2012.11207. Where images can be rejected, the larger of the label's and
    the rejection class's logit counts. On an ensemble of log-probabilities the loss is the mean of
    the members' cross-entropies.

    Args:
        goal: The goal for this image.
        logits: The logits [K].

    Returns:
        The loss, a scalar.
    """
    if isinstance(goal, Targeted):
        return logit_of(logits, goal.targets)
    return -logit_of(goal.merged(logits), goal.labels)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "log_odds": log_odds,
    "margin": margin,
    "probability_margin": probability_margin,
    "dlr": dlr,
    "logit": logit,
}


def get_loss(loss: str | Loss) -> Loss:
    """Return the loss of that name; a function (goal, logits [K]) -> scalar is returned itself."""
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r} is not known: pass one of {sorted(LOSSES)} or a function")
    return LOSSES[loss]
