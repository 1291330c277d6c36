"""Adversarial patch: a small square of one image that may take any value, and its position."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxadv.attacks.common.gradient_iteration import Iterate, check_numbers, direction, noise
from jaxadv.core.attack import Answer, Problem
from jaxadv.core.goals import Goal
from jaxadv.core.losses import Loss, get_loss
from jaxadv.core.optimizer import Optimizer
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Key, Number

PLACES = ("searched", "random")


class PatchState(NamedTuple):
    """State of one run of `AdversarialPatch`.

    Attributes:
        image: [H, W, C] float32, the iterate.
        mask: [H, W] bool, the position of the patch; False everywhere before the first gradient.
        optimizer: State of the optax optimizer, or None without one.
        key: Random key of this run.
        step: int32 scalar, gradients taken so far.
    """

    image: Float[Array, "H W C"]
    mask: Bool[Array, "H W"]
    optimizer: PyTree
    key: Key
    step: Int[Array, ""]


def place_gains(gain: Float[Array, "H W"], size: int) -> Float[Array, "h w"]:
    """Sum `gain` over every square window of side `size`.

    Args:
        gain: [H, W] float32, the values to sum.
        size: Side of the window in pixels.

    Returns:
        [H - size + 1, W - size + 1] float32. Entry [r, c] is the sum over the window whose upper
        left corner is at row r, column c.

    >>> import jax.numpy as jnp
    >>> from jaxadv.attacks.non_lp.adversarial_patch import place_gains
    >>> place_gains(jnp.arange(9.0).reshape(3, 3), 2).tolist()
    [[8.0, 12.0], [20.0, 24.0]]
    """
    height, width = gain.shape
    rows = sum(gain[i : height - size + 1 + i] for i in range(size))
    return sum(rows[:, i : width - size + 1 + i] for i in range(size))  # type: ignore[index]


@pytree
class AdversarialPatch(Iterate):
    """Square adversarial patch in a single image (LaVAN, Karmon et al. 2018, arXiv 1801.02608).

    The patch may take any value of the box, and nothing else in the image changes (Brown et al.
    2017, arXiv 1712.09665, applied to a single image). `ja.universal_patch` trains one patch for
    all images and positions; `ja.Masked` confines an attack to a region of any shape.

    The first gradient, taken at the image itself, gives for each entry the increase of the loss if
    the entry moved to a face of the box. The position is chosen by the sum of these gains over the
    square. The patch starts at those faces and then follows the gradient.

    The attack takes no epsilon: the distance is in L0 (array entries) and is at most size * size *
    C. Each restart costs at most `steps` backward and `steps + 1` forward passes, and a run ends at
    its first success.

    Attributes:
        norm: "l0".
        steps: Gradients per restart.
        restarts: Runs per image, which differ in the position of the patch.
        size: Side of the patch in pixels.
        place: "searched" takes the square with the largest sum of gains (optimal for a linear
            model); restart r takes the r-th best square whose corner is at least half a side away
            from those of the earlier restarts. "random" draws a position. A pair (row, column)
            gives the upper left corner of the patch.
        step_size: Length of a sign-gradient step, as a fraction of the side of the box.
        loss: Name of a loss or a function (goal, logits [K]) -> scalar, as in `ja.PGD`.
        optimizer: A `ja.Optimizer`, in the scale of the image, which replaces the sign-gradient
            step; `step_size` is then not used.

    Raises:
        ValueError: If `place` or `loss` is unknown, `size`, `steps` or `restarts` is below 1,
            `step_size` is not a finite number above 0, or the patch does not fit into the image.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> weights = jnp.zeros((16, 2)).at[15].set(jnp.array([-1.0, 1.0]))
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w + jnp.array([0.5, 0]), weights)
    >>> attack, goal = ja.AdversarialPatch(size=2), ja.Untargeted(jnp.array([0]))
    >>> found = ja.run(attack, model, jnp.full((1, 4, 4, 1), 0.1), goal, key=jax.random.key(0))
    >>> found.images[0, 3, :, 0], found.success
    (array([0.1, 0.1, 0.1, 1. ], dtype=float32), array([ True]))
    """

    norm: str = static(default="l0")
    size: int = static(default=5)
    place: str | tuple[int, int] = static(default="searched")
    steps: int = static(default=40)
    step_size: Number = 0.1
    loss: str | Loss = static(default="cross_entropy")
    optimizer: Optimizer | None = None
    norms: ClassVar[tuple[str, ...]] = ("l0",)
    needs_box: ClassVar[bool] = True
    needs_epsilon: ClassVar[bool] = False
    asks_inside: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(size=1)
        get_loss(self.loss)
        check_numbers(self, step_size=np.inf)
        corner = isinstance(self.place, tuple) and len(self.place) == 2
        if self.place not in PLACES and not (corner and min(self.place) >= 0):  # type: ignore[type-var]
            raise ValueError(f"place={self.place!r}: pass one of {PLACES}, or (row, column)")

    def init(self, problem: Problem, key: Array) -> PatchState:
        height, width = problem.image.shape[:2]
        row, column = (0, 0) if isinstance(self.place, str) else self.place
        if row + self.size > height or column + self.size > width:
            raise ValueError(
                f"size={self.size}, place={self.place!r}: the patch must lie within the image's "
                f"{height} x {width} pixels"
            )
        nowhere = jnp.zeros((height, width), bool)
        memory = None if self.optimizer is None else self.optimizer.build().init(problem.image)
        return PatchState(problem.image, nowhere, memory, key, jnp.int32(0))

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        return get_loss(self.loss)(goal, logits)

    def tell(self, problem: Problem, state: PatchState, answer: Answer) -> PatchState:
        gradient = direction(answer.gradients[0, 0], noise(state.key, state.image))
        begun = state.step > 0
        faces = jnp.where(gradient > 0, problem.upper, problem.lower)
        faces = jnp.where(gradient == 0, state.image, faces)
        mask = jnp.where(begun, state.mask, self.chosen(problem, state, gradient, faces))
        moved, memory = self.climb(problem, state, gradient)
        moved = jnp.where(begun, moved, faces)
        moved = jnp.where(mask[..., None], moved, problem.image)
        # Pass a non-finite gradient on to the next query, where the engine checks for it.
        moved = moved + 0 * answer.gradients[0, 0]
        return PatchState(moved, mask, memory, state.key, state.step + 1)

    def climb(self, problem: Problem, state: PatchState, gradient: Array) -> tuple[Array, PyTree]:
        """Take one gradient step inside the box; return the iterate and the optax state."""
        if self.optimizer is None:
            step = self.step_size * problem.sides * jnp.sign(gradient)
            return jnp.clip(state.image + step, problem.lower, problem.upper), None
        import optax

        updates, memory = self.optimizer.build().update(-gradient, state.optimizer, state.image)
        moved: Any = optax.apply_updates(state.image, updates)
        return jnp.clip(moved, problem.lower, problem.upper), memory

    def chosen(
        self, problem: Problem, state: PatchState, gradient: Array, faces: Array
    ) -> Bool[Array, "H W"]:
        """Return the mask [H, W] of the patch of this run."""
        height, width = problem.image.shape[:2]
        gains = place_gains((gradient * (faces - problem.image)).sum(-1), self.size)
        rows, columns = jnp.arange(gains.shape[0]), jnp.arange(gains.shape[1])
        if not isinstance(self.place, str):
            row, column = map(jnp.int32, self.place)
        elif self.place == "random":
            at = jax.random.randint(
                jax.random.fold_in(state.key, 2), (2,), 0, jnp.array(gains.shape)
            )
            row, column = at[0], at[1]
        else:

            def strike(_: Number, gains: Array) -> Array:
                """Exclude the squares whose corner lies less than half a side from the best one."""
                row, column = jnp.unravel_index(gains.argmax(), gains.shape)
                near = jnp.maximum(jnp.abs(rows - row)[:, None], jnp.abs(columns - column))
                return jnp.where(2 * near < self.size, -jnp.inf, gains)

            gains = lax.fori_loop(0, problem.rank, strike, gains)
            row, column = jnp.unravel_index(gains.argmax(), gains.shape)
        down, right = jnp.arange(height) - row, jnp.arange(width) - column
        return ((down >= 0) & (down < self.size))[:, None] & ((right >= 0) & (right < self.size))
