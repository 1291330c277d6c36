"""ReColorAdv: one map of colours for the whole image, so that equal colours stay equal."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from jaxadv.attacks.non_lp.colours import from_luv, to_luv
from jaxadv.attacks.non_lp.functional import Functional, differences
from jaxadv.core.attack import Problem
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Number

SPACES = ("cieluv", "rgb")
SPAN = np.array([100, 200, 200], np.float32)  # ranges of L*, u*, v*, and where their 0 lies
MIDDLE = np.array([0, 0.5, 0.5], np.float32)


@pytree
class ReColorAdv(Functional):
    """ReColorAdv (Laidlaw and Feizi 2019, arXiv 1906.00001): a smooth function of the colour.

    Every colour moves by the value of a grid over the colour space, linear between its nodes:
    pixels of one colour keep one colour. The moves maximise the loss minus `smoothness` times their
    roughness, the sum of the lengths of the differences between neighbouring nodes. The box is
    taken as black to white in sRGB. The bound holds by construction; distances are reported in L2.
    One forward and one backward pass a step.

    Attributes:
        norm: "l2", in which distances are reported.
        steps: Gradients per restart.
        restarts: Independent runs; all but the first begin at random moves.
        bound: Largest move of a node along each axis, as a fraction: 0.06 (the paper's) is 6 units
            of L* and 12 of u* and v*.
        smoothness: Weight of the roughness.
        step_size: Adam's learning rate, as a fraction of the bound.
        loss: The loss that is maximised: a name, or a function (goal, logits [K]) -> scalar.
        optimizer: A `ja.Optimizer` in place of Adam, or None.
        space: "cieluv", where distances are nearly perceptual, or "rgb", the channels as they are.
            Of grey images (one channel) only the lightness moves.
        resolution: Nodes along each of the three axes.

    Raises:
        ValueError: If the loss, the norm or the space is unknown, resolution is not three integers
            of 2 or more, bound or smoothness is negative, step_size is not above 0, or steps or
            restarts is below 1; in a run, for images of other than 1 or 3 channels and for a start.

    >>> import jax, numpy as np, jaxadv as ja
    >>> warm = ja.Model(lambda w, x: x.mean((1, 2)) @ w, np.array([[1.0, -1], [0, 0], [-1, 1]]))
    >>> image = np.full((1, 4, 4, 3), 0.5, np.float32)
    >>> image[..., 0] = 0.52
    >>> result = ja.run(ja.ReColorAdv(), warm, image, ja.Untargeted([0]), key=jax.random.key(0))
    >>> result.success, np.ptp(result.images, axis=(1, 2)).max()  # it is still one colour
    (array([ True]), np.float32(0.0))
    """

    bound: Number = 0.06
    space: str = static(default="cieluv")
    resolution: tuple[int, ...] = static(default=(16, 32, 32))
    bounded_by: ClassVar[str] = "change of colours"
    needs_box: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.space not in SPACES:
            raise ValueError(f"space={self.space!r}: pass one of {SPACES}")
        if len(self.resolution) != 3 or min(self.resolution) < 2:
            raise ValueError(f"resolution={self.resolution}: pass three integers, 2 or more each")

    def untouched(self, problem: Problem) -> Float[Array, "..."]:
        channels = problem.image.shape[-1]
        if channels not in (1, 3):
            raise ValueError(f"images have {channels} channels: ReColorAdv takes 1 or 3")
        return jnp.zeros((*self.resolution[:channels], channels), jnp.float32)

    def rendered(self, problem: Problem, shape: Float[Array, "..."]) -> Float[Array, "H W C"]:
        side = problem.sides
        colours = self._enter((problem.image - problem.lower) / side)
        nodes = np.array(shape.shape[:-1], np.float32) - 1
        where = list(jnp.moveaxis(colours * nodes, -1, 0))
        moves = jax.vmap(
            lambda axis: map_coordinates(axis, where, order=1, mode="nearest"), -1, -1
        )(shape)
        return jnp.clip(
            problem.lower + side * self._leave(colours + moves), problem.lower, problem.upper
        )

    def roughness(self, shape: Float[Array, "..."]) -> Float[Array, ""]:
        return differences(shape, shape.ndim - 1)

    def _enter(self, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        """Map channels in [0, 1] to the axes of the colour space, each about 0 to 1."""
        if self.space == "rgb":
            return image
        grey = image.shape[-1] == 1
        luv = to_luv(jnp.repeat(image, 3, -1) if grey else image)
        return luv[..., :1] / 100 if grey else luv / SPAN + MIDDLE

    def _leave(self, colours: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        """Map the axes of the colour space back to channels in [0, 1]."""
        if self.space == "rgb":
            return colours
        if colours.shape[-1] == 1:
            neutral = jnp.zeros((*colours.shape[:-1], 2), colours.dtype)
            return from_luv(jnp.concatenate([100 * colours, neutral], -1))[..., :1]
        return from_luv((colours - MIDDLE) * SPAN)
