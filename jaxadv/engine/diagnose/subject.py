"""What the checks query and attack: the images that the model classifies correctly."""

import functools
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from jaxadv.core.attack import Attack, safe_epsilon
from jaxadv.core.bounds import Bounds, fitted
from jaxadv.core.goals import Goal
from jaxadv.core.norms import get_norm
from jaxadv.core.result import Result
from jaxadv.engine.run import run_rows
from jaxadv.engine.session import Rows, Session
from jaxadv.engine.verify import margins, predict


class Subject(NamedTuple):
    """Images that the model classifies correctly, and the threat model.

    Attributes:
        session: The session of these images [N, H, W, C] and of the goal of any wrong class.
        labels: Integers [N], their classes.
        clean: Floats [N, K], their logits.
        norm: Norm of the evaluation's threat model.
        epsilon: Radius of the evaluation's threat model.
    """

    session: Session
    labels: np.ndarray
    clean: np.ndarray
    norm: str
    epsilon: float

    @classmethod
    def of(
        cls, session: Session, right: np.ndarray, logits: np.ndarray, norm: str, epsilon: float
    ) -> "Subject":
        """Return the subject of the images at the integers `right` [N], given all their logits."""
        own = session._replace(clean_logits=logits).of(right)
        return cls(own, np.asarray(own.goal.labels), logits[right], norm, epsilon)

    def query(self, images: np.ndarray) -> np.ndarray:
        """Return the logits [N, K]."""
        return predict(self.session.model, images, self.session.devices)

    def margin(self, images: np.ndarray) -> np.ndarray:
        """Return the margins [N]."""
        return margins(self.session.goal, self.query(images))

    def margins(self, points: np.ndarray) -> np.ndarray:
        """Return the margins [D, N] of points [D, N, H, W, C]; equal batches compile once."""
        return np.stack([self.margin(piece) for piece in points])

    def draw(self, radius: float, count: int) -> np.ndarray:
        """Draw points [count, N, H, W, C] from the balls of this radius."""
        images = self.session.images
        bounds = fitted(self.session.model.bounds, images.shape[1:])
        inner, keys = safe_epsilon(self.norm, radius), jax.random.split(self.session.key, count)
        drawn = [_point(self.norm, images, inner, bounds, key) for key in keys]
        return np.stack([np.asarray(piece) for piece in drawn])

    def one_step(self, gradient: np.ndarray) -> np.ndarray:
        """Return the images [N, H, W, C] of the fast gradient method along the gradient."""
        images = self.session.images
        bounds = fitted(self.session.model.bounds, images.shape[1:])
        inner = safe_epsilon(self.norm, self.epsilon)
        return np.asarray(_one_step(self.norm, images, gradient, inner, bounds))

    def attack(
        self,
        attack: Attack,
        places: np.ndarray,
        radii: np.ndarray,
        goal: Goal | None = None,
        keep: str = "first",
    ) -> Result:
        """Attack the images.

        Args:
            attack: The attack.
            places: Integers [M]; row i attacks image places[i], counted through several copies of
                the images if the goal has several.
            radii: Floats [M], the radius of each row.
            goal: A goal of the images or of copies of them, default: any wrong class.
            keep: What is kept of a row: "first" (success) or "loss" (the highest).

        Returns:
            The result of the rows.
        """
        session, goal = self.session, goal or self.session.goal
        copies = len(goal.labels) // len(session.images)
        own = session.of(np.tile(np.arange(len(session.images)), copies))
        own = own._replace(goal=goal, lanes=session.width(1, len(places)))
        return run_rows(own, attack, Rows(places, radii), keep=keep)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _point(norm: str, images: Array, radius: Array, bounds: Bounds, key: Array) -> Array:
    """Draw a point [N, H, W, C] uniformly from each image's ball."""

    def one(image: Array, key: Array) -> Array:
        point = get_norm(norm).random(key, image, radius, *bounds)
        return get_norm(norm).project(point, image, radius, *bounds)

    return jax.vmap(one)(images, jax.random.split(key, len(images)))


@functools.partial(jax.jit, static_argnums=(0, 4))
def _one_step(norm: str, images: Array, gradient: Array, radius: Array, bounds: Bounds) -> Array:
    """Return images [N, H, W, C] of the fast gradient method: one step as long as the radius."""

    def one(image: Array, gradient: Array) -> Array:
        direction = get_norm(norm).steepest(gradient, image, *bounds, 0.01)
        return get_norm(norm).project(image + radius * direction, image, radius, *bounds)

    return jax.vmap(one)(images, gradient)
