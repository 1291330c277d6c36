"""Sparse-PGD: gradient ascent on what few pixels change into, and on which pixels they are."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.attacks.common.gradient_iteration import Iterate, check_numbers
from jaxadv.attacks.score_based.sparse_rs import allowed_pixels
from jaxadv.core.attack import Answer, Problem
from jaxadv.core.goals import Goal
from jaxadv.core.losses import Loss, get_loss
from jaxadv.core.norms import largest
from jaxadv.core.pytree import pytree, static
from jaxadv.core.random import draw, normal_like
from jaxadv.core.typing import Key, Number


class SparsePGDState(NamedTuple):
    """State of one run of `SparsePGD`.

    Attributes:
        image: [H, W, C] float32, the iterate: the image plus the magnitude at the chosen pixels.
        magnitude: [H, W, C] float32, the change of each entry, if its pixel is chosen.
        mask: [H, W] float32, the continuous mask; the pixels with the largest values are chosen.
        unchanged: int32 scalar, for how many steps the same pixels were chosen.
        key: The random key of this run.
        step: int32 scalar, gradients taken so far.
    """

    image: Float[Array, "H W C"]
    magnitude: Float[Array, "H W C"]
    mask: Float[Array, "H W"]
    unchanged: Int[Array, ""]
    key: Key
    step: Int[Array, ""]


@pytree
class SparsePGD(Iterate):
    """Sparse-PGD (Zhong et al. 2024, arXiv 2405.05075): gradient ascent in L0, on k pixels.

    The perturbation is a magnitude of every entry times a mask of k pixels, those with the largest
    values of a continuous mask. A step moves the magnitude along the sign of its gradient, and the
    continuous mask along its gradient, through a sigmoid, scaled to a fixed length. If the same
    pixels are chosen `patience` times in a row, the continuous mask is drawn anew.

    Epsilon is the number of array entries, as everywhere in L0: k pixels of C channels are an
    epsilon of C * k. The authors' code switches to the margin near the boundary; here the loss is
    one and the same. Each restart costs at most `steps` backward and `steps + 1` forward passes.

    Attributes:
        norm: "l0".
        steps: Gradients per restart.
        restarts: Independent random starts.
        loss: As in `PGD`.
        unprojected: Take the gradient of the magnitude through the continuous mask, so that pixels
            that are not chosen move too, and not through the mask of k pixels. The paper runs both.
        step_size: Step of the magnitude, in sides of the box.
        mask_step: Step of the continuous mask, in square roots of the number of pixels.
        patience: Steps with the same pixels after which the mask is drawn anew.

    Raises:
        ValueError: If `norm` is not "l0", `loss` is unknown, `steps`, `restarts` or `patience` is
            below 1, or `step_size` or `mask_step` is not a finite number above 0.

    >>> import jaxadv as ja
    >>> both = [ja.SparsePGD(steps=300), ja.SparsePGD(steps=300, unprojected=False)]
    """

    norm: str = static(default="l0")
    steps: int = static(default=300)
    loss: str | Loss = static(default="cross_entropy")
    unprojected: bool = static(default=True)
    step_size: Number = 0.25
    mask_step: Number = 0.25
    patience: int = static(default=3)
    norms: ClassVar[tuple[str, ...]] = ("l0",)
    needs_box: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        get_loss(self.loss)
        self.check_least(patience=1)
        check_numbers(self, step_size=np.inf, mask_step=np.inf)

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        return get_loss(self.loss)(goal, logits)

    def init(self, problem: Problem, key: Array) -> SparsePGDState:
        sizes, places, later = jax.random.split(key, 3)
        image, mask = problem.image, normal_like(places, problem.image[..., 0])
        if problem.start is None:
            noise = draw(jax.random.uniform, sizes, image.shape, dtype=image.dtype, minval=-1.0)
            magnitude = _within(problem, problem.sides * noise)
        else:  # first the pixels that the start changes
            magnitude = _within(problem, problem.start - image)
            moved = jnp.abs(magnitude).sum(-1) > 0
            mask = jnp.where(moved, jnp.abs(mask), -jnp.abs(mask))
        zero = jnp.int32(0)
        return self._state(problem, magnitude, mask, zero, later, zero)

    def tell(self, problem: Problem, state: SparsePGDState, answer: Answer) -> SparsePGDState:
        gradient, chosen = answer.gradients[0, 0], _chosen(problem, state.mask)
        # A sigmoid is above 0: through it, every entry has the sign of its gradient.
        moving = True if self.unprojected else chosen[..., None]
        along = jnp.where(moving, jnp.sign(gradient), 0.0)
        magnitude = state.magnitude + self.step_size * problem.sides * along

        slope = (gradient / jnp.maximum(jnp.abs(gradient).max(), 1e-37) * state.magnitude).sum(-1)
        slope = slope * jax.nn.sigmoid(state.mask) * jax.nn.sigmoid(-state.mask)
        slope = slope / jnp.maximum(jnp.abs(slope).max(), 1e-37)
        slope = slope / jnp.maximum(jnp.linalg.norm(slope), 1.0)
        mask = state.mask + self.mask_step * np.sqrt(slope.size) * slope

        anew = state.unchanged >= self.patience
        fresh = normal_like(jax.random.fold_in(state.key, state.step), mask)
        mask = jnp.where(anew, fresh, mask)
        magnitude = jnp.where(anew, state.magnitude, _within(problem, magnitude))
        same = ~anew & (_chosen(problem, mask) == chosen).all()
        unchanged = jnp.where(same, state.unchanged + 1, 0)
        return self._state(problem, magnitude, mask, unchanged, state.key, state.step + 1)

    def _state(
        self,
        problem: Problem,
        magnitude: Array,
        mask: Array,
        unchanged: Array,
        key: Key,
        step: Array,
    ) -> SparsePGDState:
        moved = jnp.clip(problem.image + magnitude, problem.lower, problem.upper)
        image = jnp.where(_chosen(problem, mask)[..., None], moved, problem.image)
        return SparsePGDState(image, magnitude, mask, unchanged, key, step)


def _within(problem: Problem, magnitude: Array) -> Float[Array, "H W C"]:
    """The nearest magnitude with which every entry stays in the box."""
    return jnp.clip(magnitude, problem.lower - problem.image, problem.upper - problem.image)


def _chosen(problem: Problem, mask: Array) -> Bool[Array, "H W"]:
    """The pixels with the largest values; softplus is positive and, unlike sigmoid, has no ties."""
    return largest(jax.nn.softplus(mask), allowed_pixels(problem))
