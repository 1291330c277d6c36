"""Planted problems: an adversarial image is hidden in each ball, and the attack has to find one.

The binarisation test of Zimmermann et al. 2022 (arXiv 2206.13991), on the logits instead of the
features and in closed form: a linear readout of the logits is laid so that one random point of the
ball is of the other class, and the image and all other points are not.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxadv.core.goals import Goal, Untargeted
from jaxadv.core.losses import cross_entropy
from jaxadv.core.pytree import pytree
from jaxadv.engine.diagnose.finding import Finding, verdict

DEPTH = 0.9  # the readout's threshold: how far from the next point to the planted one
SOLVED = 0.9  # the share of the problems that a sound attack solves


@pytree
class Planted(Untargeted):
    """To raise `readout . logits` above `threshold`, or (`planted` False) any wrong class.

    readout: [N, K]; threshold: [N]; planted: bool [N]. One program then does both.
    """

    readout: Any
    threshold: Any
    planted: Any

    def margin(self, logits: Float[Array, " K"]) -> Float[Array, ""]:
        plain = Untargeted(self.labels).margin(logits)
        return jnp.where(self.planted, self.threshold - self.readout @ logits, plain)


def either_loss(goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
    """The cross-entropy of the label, or of "not found" among the two classes of a problem."""
    two = jnp.stack([goal.margin(logits), jnp.zeros_like(logits[0])])
    hidden = cross_entropy(Untargeted(jnp.int32(0)), two)
    plain = cross_entropy(Untargeted(goal.labels), logits)
    return jnp.where(goal.planted, hidden, plain)  # type: ignore[union-attr]


def plant(labels: np.ndarray, clean: np.ndarray, drawn: np.ndarray) -> tuple[Planted, np.ndarray]:
    """Problems for images [N] with logits `clean` [N, K], from those of points drawn [D, N, K].

    Of each image's points the one that stands out most is planted. The readout has the length that
    it has in a margin, so saturated logits stay saturated. Also the mask [N] of images for which a
    point stands out at all.
    """
    points = np.concatenate([clean[None], drawn]).astype(np.float64)
    count = len(points)
    away = (points - points.mean(0)) * count / (count - 1)  # from the mean of all others
    readout = away * np.sqrt(2) / np.maximum(np.linalg.norm(away, axis=2), 1e-30)[..., None]
    scores = np.einsum("pnk,qnk->pqn", readout, points)  # of point q by the readout of point p
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


def planted_problems(goal: Planted, answers: np.ndarray, posed: np.ndarray) -> Finding:
    """Whether the attack's images, with logits [N, K], solve the problems that were posed [N]."""
    margin = np.asarray(goal.threshold) - (np.asarray(goal.readout) * answers).sum(1)
    solved = float((margin < 0)[posed].mean()) if posed.any() else 1.0
    return verdict(
        "planted problems",
        f"PGD solves only {100 * solved:.0f} % of {posed.sum()} problems in which an adversarial "
        "image was hidden: it is too weak for this model; pass more steps, another loss or "
        "attacks that only ask"
        if solved < SOLVED
        else "",
    )


def with_plain(goal: Planted) -> Planted:
    """The goals [2 N]: first every image's plain one, then the problems planted in the same."""
    plain = dataclasses.replace(goal, planted=np.zeros_like(goal.planted))
    return jax.tree.map(lambda a, b: np.concatenate([a, b]), plain, goal)
