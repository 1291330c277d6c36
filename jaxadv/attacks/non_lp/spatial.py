"""Rotations and translations: the worst of a grid of them, or of a few random ones."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.attacks.non_lp.resample import places, resample
from jaxadv.core.attack import Answer, Attack, Needs, Problem
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Number


class SpatialState(NamedTuple):
    """State of the search over transformations.

    Attributes:
        drawn: [draws, 3], random transformations in the units of `grid` (None: the grid).
        queried: Integer scalar, transformations queried so far.
    """

    drawn: Float[Array, "draws 3"] | None
    queried: Int[Array, ""]


def turned(
    image: Float[Array, "H W C"], degrees: Number, down: Number, right: Number, outside: Number
) -> Float[Array, "H W C"]:
    """Rotate an image anticlockwise about its centre, then translate it (bilinearly).

    Args:
        image: [H, W, C].
        degrees: Angle of the rotation.
        down: Downward translation in pixels.
        right: Translation to the right in pixels.
        outside: Value of what enters from beyond the image.

    Returns:
        The transformed image [H, W, C].
    """
    height, width, _ = image.shape
    rows, columns = places(image)
    rows, columns = rows - (height - 1) / 2 - down, columns - (width - 1) / 2 - right
    cosine, sine = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    return resample(
        image,
        cosine * rows + sine * columns + (height - 1) / 2,
        cosine * columns - sine * rows + (width - 1) / 2,
        outside,
    )


def grid(angles: int, shifts: int) -> np.ndarray:
    """All (angle, down, right) of an even grid, as fractions of the largest, the smallest first."""
    angle, shift = (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in (angles, shifts))
    every = np.stack(np.meshgrid(angle, shift, shift, indexing="ij"), -1).reshape(-1, 3)
    size = np.abs(every)
    return every[np.lexsort((size.sum(1), size.max(1)))].astype(np.float32)


@pytree
class Spatial(Attack):
    """Rotation and translation (Engstrom et al. 2017, arXiv 1712.02779): decision-based, no ball.

    The image is rotated by at most `rotation` degrees about its centre and translated by at most
    `translation` pixels down and right (bilinear; the lower end of the box enters from beyond). The
    paper's grid of `angles` times `shifts` times `shifts` is queried from the smallest
    transformation to the largest; `draws` = k queries k random ones instead (the paper's
    worst-of-k). The first success is kept. The bounds hold by construction; distances are reported
    in L2. One forward pass a query: an image costs a multiple of `batch`, or the whole grid.

    Attributes:
        norm: "l2", in which distances are reported.
        rotation: Largest angle in degrees, from 0 to 180.
        translation: Largest translation in pixels along each axis.
        angles: Angles of the grid.
        shifts: Translations of the grid along each axis.
        draws: Number of random transformations; 0: the grid.
        batch: Images queried per tick; all of them are counted.
        restarts: Independent runs, with `draws` only.

    Raises:
        ValueError: If angles, shifts, batch or restarts is below 1, draws is negative, restarts is
            above 1 without draws, or rotation or translation is outside its range; in a run, for a
            start.

    >>> import jax, numpy as np, jaxadv as ja
    >>> lit = ja.Model(lambda side, x: (x - 0.5).mean((1, 3)) @ side, np.eye(8)[:, [3, 4]])
    >>> image = np.zeros((1, 8, 8, 1), np.float32)
    >>> image[:, :, 3] = 1.0
    >>> goal, attack = ja.Untargeted(np.array([0])), ja.Spatial(rotation=0, translation=1)
    >>> ja.run(attack, lit, image, goal, key=jax.random.key(0)).images[0, 0, :, 0]
    array([0., 0., 0., 0., 1., 0., 0., 0.], dtype=float32)
    """

    norm: str = static(default="l2")
    rotation: Number = 30.0
    translation: Number = 3.0
    angles: int = static(default=31)
    shifts: int = static(default=5)
    draws: int = static(default=0)
    batch: int = static(default=25)
    restarts: int = static(default=1)
    norms: ClassVar[tuple[str, ...]] = ("l2",)
    pullbacks: ClassVar[int] = 0
    label_only: ClassVar[bool] = True
    needs_box: ClassVar[bool] = True
    needs_epsilon: ClassVar[bool] = False
    bounded_by: ClassVar[str] = "rotation and translation"

    def __post_init__(self) -> None:
        self.check_norm()
        self.check_least(angles=1, shifts=1, draws=0, batch=1, restarts=1)
        if self.restarts > 1 and not self.draws:
            raise ValueError(f"restarts={self.restarts}: the grid stays the same; pass 1, or draws")
        for field, most in (("rotation", 180.0), ("translation", np.inf)):
            value = getattr(self, field)
            if isinstance(value, np.floating) and not (0 <= value <= most and value < np.inf):
                raise ValueError(f"{field}={value}: pass a number from 0 to {most}")

    @property
    def count(self) -> int:
        """Number of transformations that a run tries."""
        return self.draws or self.angles * self.shifts**2

    @property
    def queries(self) -> int:  # type: ignore[override]
        return min(self.batch, self.count)

    @property
    def ticks(self) -> int:
        return -(-self.count // self.queries)

    @property
    def passes(self) -> int:
        return self.entries * self.count

    def init(self, problem: Problem, key: Array) -> SpatialState:
        if problem.start is not None:
            raise ValueError("start: Spatial begins at the image itself; pass none")
        drawn = jax.random.uniform(key, (self.draws, 3), minval=-1.0) if self.draws else None
        return SpatialState(drawn, jnp.int32(0))

    def numbers(self, state: SpatialState) -> Array:
        """Indices [Q] of the transformations of the next queries."""
        return state.queried + jnp.arange(self.queries)

    def ask(self, problem: Problem, state: SpatialState) -> Float[Array, "Q ..."]:
        every = jnp.asarray(grid(self.angles, self.shifts)) if state.drawn is None else state.drawn
        fractions = every[jnp.minimum(self.numbers(state), self.count - 1)]

        def one(fraction: Array) -> Array:
            moves = self.translation * fraction[1:]
            image = turned(
                problem.image, self.rotation * fraction[0], moves[0], moves[1], problem.lower
            )
            return jnp.clip(image, problem.lower, problem.upper)

        return jax.vmap(one)(fractions)

    def needs(self, problem: Problem, state: SpatialState) -> Needs:
        wanted = self.numbers(state) < self.count
        return Needs(wanted, jnp.zeros_like(wanted))

    def tell(self, problem: Problem, state: SpatialState, answer: Answer) -> SpatialState:
        return state._replace(queried=state.queried + self.queries)

    def done(self, problem: Problem, state: SpatialState) -> Bool[Array, ""]:
        return state.queried >= self.count
