"""StAdv: pixels flow to where their neighbours were; no value is added."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxadv.attacks.beyond.functional import Functional, differences
from jaxadv.attacks.beyond.resample import places, resample
from jaxadv.core.attack import Problem
from jaxadv.core.pytree import pytree


@pytree
class StAdv(Functional):
    """StAdv (Xiao et al. 2018, arXiv 1801.02612): a smooth flow field moves the pixels.

    Each pixel of the new image is read off, bilinearly, at its own place plus a flow of its own [H,
    W, 2]; beyond the edge stands the edge. The flow climbs the loss less `smoothness` times its
    roughness, the summed lengths of the differences between neighbours' flows.

    bound: the largest flow along each axis, in pixels (Laidlaw and Feizi 2019, arXiv 1906.00001:
    0.8 in 32 x 32 images; the paper: none but the smoothness); smoothness: for each pixel of
    difference, 0.003 as in their code (the paper's 0.05 as well, but of half of the image's side;
    for each pixel it would hold a robust network's flow back altogether); steps: gradients;
    step_size: Adam's learning rate, as a share of the bound, or any `optimizer` (the paper:
    L-BFGS); loss: "margin" (the paper's), or another; restarts: all but the first begin at random
    flows. One forward and one backward pass a step. The bound holds by construction;
    distances are told in L2. Raises ValueError for settings out of range.

    >>> import jax, numpy as np, jaxadv as ja
    >>> lit = ja.Model(lambda side, x: x.mean((1, 3)) @ side, np.eye(8)[:, [3, 2]])
    >>> image = np.zeros((1, 8, 8, 1), np.float32)
    >>> image[:, :, 3] = 1.0
    >>> goal, attack = ja.Untargeted(np.array([0])), ja.StAdv(steps=20)
    >>> result = ja.run(attack, lit, image, goal, key=jax.random.key(0))
    >>> result.success, result.images.max() <= 1
    (array([ True]), np.True_)
    """

    bound: Any = 0.8
    smoothness: Any = 0.003
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
