"""StAdv: a flow field moves the pixels."""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxadv.attacks.non_lp.functional import Functional, differences
from jaxadv.attacks.non_lp.resample import places, resample
from jaxadv.core.attack import Problem
from jaxadv.core.pytree import pytree
from jaxadv.core.typing import Number


@pytree
class StAdv(Functional):
    """StAdv (Xiao et al. 2018, arXiv 1801.02612): a smooth flow field moves the pixels.

    Each pixel of the new image is interpolated bilinearly at its own position plus a flow [H, W,
    2]; beyond the edge the edge's values continue. The flow maximises the loss minus `smoothness`
    times its roughness, the sum of the lengths of the differences between neighbouring flows. The
    bound holds by construction; distances are reported in L2. One forward and one backward pass a
    step.

    Attributes:
        norm: "l2", in which distances are reported.
        steps: Gradients per restart.
        restarts: Independent runs; all but the first begin at random flows.
        bound: Largest flow along each axis, in pixels (Laidlaw and Feizi 2019, arXiv 1906.00001:
            0.8 in 32 x 32 images; the paper has no bound but the smoothness).
        smoothness: Weight of the roughness per pixel of difference: 0.003 as in the code of Laidlaw
            and Feizi. The paper's is 0.05, but per half of the side of the image; per pixel that
            would suppress the flow on a robust network.
        step_size: Adam's learning rate, as a fraction of the bound.
        loss: The loss that is maximised: "margin" (the paper's), another name, or a function (goal,
            logits [K]) -> scalar.
        optimizer: A `ja.Optimizer` in place of Adam, or None (the paper uses L-BFGS).

    Raises:
        ValueError: If the loss or the norm is unknown, bound or smoothness is negative, step_size
            is not above 0, or steps or restarts is below 1; in a run, for a start.

    >>> import jax, numpy as np, jaxadv as ja
    >>> lit = ja.Model(lambda side, x: x.mean((1, 3)) @ side, np.eye(8)[:, [3, 2]])
    >>> image = np.zeros((1, 8, 8, 1), np.float32)
    >>> image[:, :, 3] = 1.0
    >>> goal, attack = ja.Untargeted(np.array([0])), ja.StAdv(steps=20)
    >>> result = ja.run(attack, lit, image, goal, key=jax.random.key(0))
    >>> result.success, result.images.max() <= 1
    (array([ True]), np.True_)
    """

    bound: Number = 0.8
    smoothness: Number = 0.003
    bounded_by: ClassVar[str] = "flow"

    def untouched(self, problem: Problem) -> Float[Array, "H W 2"]:
        height, width, _ = problem.image.shape
        return jnp.zeros((height, width, 2), jnp.float32)

    def rendered(self, problem: Problem, shape: Float[Array, "H W 2"]) -> Float[Array, "H W C"]:
        rows, columns = places(problem.image)
        moved = resample(problem.image, rows + shape[..., 0], columns + shape[..., 1])
        return jnp.clip(moved, problem.lower, problem.upper)

    def roughness(self, shape: Float[Array, "H W 2"]) -> Float[Array, ""]:
        return differences(shape, 2)
