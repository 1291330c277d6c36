"""Planted problems: an adversarial image is hidden in each ball, and the attack has to find it.

This is the binarisation test of Zimmermann et al. 2022 (arXiv 2206.13991), on the logits instead of
the features and in closed form: a linear readout of the logits is chosen so that one random point
of the ball is of the other class, and the image and all other points are not.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxadv.core.goals import Goal, Untargeted
from jaxadv.core.losses import cross_entropy
from jaxadv.core.pytree import pytree
from jaxadv.core.typing import ArrayLike
from jaxadv.engine.diagnose.finding import Finding, verdict

DEPTH = 0.9  # the threshold's place between the next point (0) and the planted one (1)
SOLVED = 0.9  # fraction of the problems that a sound attack solves


@pytree
class Planted(Untargeted):
    """The goal to raise `readout . logits` above `threshold`, or any wrong class.

    One compiled program serves both goals.

    Attributes:
        readout: Readouts of the logits, float32 [N, K].
        threshold: Thresholds, float32 [N].
        planted: Whether the goal is the planted problem, bool [N]; if False, any wrong class.
    """

    readout: Float[ArrayLike, "*N K"]
    threshold: Float[ArrayLike, "*N"]
    planted: Bool[ArrayLike, "*N"]

    def margin(self, logits: Float[Array, " K"]) -> Float[Array, ""]:
        plain = Untargeted(self.labels).margin(logits)
        return jnp.where(self.planted, self.threshold - self.readout @ logits, plain)


def either_loss(goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
    """Return the cross-entropy of the label, or of "not found" in the two-class planted problem."""
    two = jnp.stack([goal.margin(logits), jnp.zeros_like(logits[0])])
    hidden = cross_entropy(Untargeted(jnp.int32(0)), two)
    plain = cross_entropy(Untargeted(goal.labels), logits)
    return jnp.where(goal.planted, hidden, plain)  # type: ignore[union-attr]


def plant(labels: np.ndarray, clean: np.ndarray, drawn: np.ndarray) -> tuple[Planted, np.ndarray]:
    """Build one planted problem for each image.

    For each image the drawn point that stands out most is planted. The readout is scaled to the
    length that it has in a margin, so saturated logits stay saturated.

    Args:
        labels: Classes [N] of the images.
        clean: Logits [N, K] of the images.
        drawn: Logits [D, N, K] of random points of each image's ball.

    Returns:
        The goals, and the mask [N] of images for which any point stands out.
    """
    points = np.concatenate([clean[None], drawn]).astype(np.float64)
    count = len(points)
    away = (points - points.mean(0)) * count / (count - 1)  # from the mean of all others
    readout = away * np.sqrt(2) / np.maximum(np.linalg.norm(away, axis=2), 1e-30)[..., None]
    scores = np.einsum("pnk,qnk->pqn", readout, points)  # of point q under the readout of point p
    own = scores[np.arange(count), np.arange(count)].copy()
    scores[np.arange(count), np.arange(count)] = -np.inf
    gap = (own - scores.max(1))[1:]  # the image itself is not planted
    best, images = gap.argmax(0) + 1, np.arange(clean.shape[0])
    threshold = own[best, images] - (1 - DEPTH) * gap.max(0)
    goal = Planted(
        labels=labels,
        readout=readout[best, images].astype(np.float32),
        threshold=threshold.astype(np.float32),
        planted=np.ones(len(labels), bool),
    )
    scale = np.abs(points).max((0, 2))
    return goal, gap.max(0) > 1e-4 * scale


def planted_problems(goal: Planted, logits: np.ndarray, posed: np.ndarray) -> Finding:
    """Check whether the attack's images, with logits [N, K], solve the problems `posed` [N]."""
    margin = np.asarray(goal.threshold) - (np.asarray(goal.readout) * logits).sum(1)
    solved = float((margin < 0)[posed].mean()) if posed.any() else 1.0
    return verdict(
        "planted problems",
        f"PGD solves only {100 * solved:.0f} % of {posed.sum()} problems in which an adversarial "
        "image was hidden: it is too weak for this model; pass more steps, another loss or "
        "attacks without gradients"
        if solved < SOLVED
        else "",
    )


def with_plain(goal: Planted) -> Planted:
    """Return goals [2 N]: the untargeted goal of every image, then the planted ones."""
    plain = dataclasses.replace(goal, planted=np.zeros_like(goal.planted))
    return jax.tree.map(lambda a, b: np.concatenate([a, b]), plain, goal)
