"""SparseFool: moves the fewest entries that take the image across a boundary found by DeepFool."""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxadv.attacks.crossing import Line
from jaxadv.attacks.deepfool import DeepFool
from jaxadv.attacks.hyperplane import hyperplane_step
from jaxadv.core.attack import Answer, Problem
from jaxadv.core.pytree import pytree, static, where


class SparseFoolState(NamedTuple):
    """image: asked next [H, W, C]; base: the last sparse solution [H, W, C]; sparse: whether
    `image` is that, overshot, or a point of DeepFool's; step: ticks; line: of the final search."""

    image: Any
    base: Any
    sparse: Any
    step: Any
    line: Line


@pytree
class SparseFool(DeepFool):
    """SparseFool (Modas, Moosavi-Dezfooli and Frossard 2018, arXiv 1811.02248): least L1.

    From x_i DeepFool in L2 finds a point x_B across the boundary, and the normal w there. The next
    x_i is the L1-nearest point to x_i, in the box, of the hyperplane through x_i + reach * (x_B -
    x_i) that is orthogonal to w: entries of largest weight go to the edge of the box, one after the
    other. What is asked is overshot from the image. The walk ends when that is across.

    norm: "l1" or "l0", in which the nearest image is chosen; reach: the paper's lambda, how far
    beyond the boundary (1 is the sparsest and slowest, the authors' code has 3); steps: gradients
    in all, of DeepFool's steps and of normals (the authors' code has at most 20 rounds of 50 + 1).
    classes, overshoot, boxed, search: as in `DeepFool`. Targeted goals too (paper: none).

    The implementations move one entry at a time by a share of 1e-3 too far, in a loop; here the
    linear problem is solved exactly. Deterministic. At most `steps` * (classes - 1) backward and
    `steps + 1 + search` forward passes. Raises ValueError for settings not listed here.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(4)[:, :2])
    >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.7)
    >>> goal, attack = ja.Untargeted(jnp.array([0])), ja.SparseFool(reach=1)
    >>> ja.run(attack, model, images, goal, key=jax.random.key(0)).distance.round(1)
    array([0.2])
    """

    norm: str = static(default="l1")
    steps: int = static(default=100)
    reach: Any = 3.0
    norms: ClassVar[tuple[str, ...]] = ("l1", "l0")

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.reach, np.floating) and not 1 <= self.reach < np.inf:
            raise ValueError(f"reach={self.reach}: pass a number from 1 on")

    def init(self, problem: Problem, key: Array) -> SparseFoolState:
        start, none = self.begin(problem), jnp.int32(0)
        return SparseFoolState(start, start, jnp.bool_(False), none, Line.begin(problem))

    def ends(
        self, problem: Problem, state: SparseFoolState, across: Bool[Array, ""]
    ) -> Bool[Array, ""]:
        return across & state.sparse

    def walk(
        self, problem: Problem, state: SparseFoolState, answer: Answer, across: Array
    ) -> SparseFoolState:
        base = state.base + self.linear_solver(problem, state, answer.gradients[0, 0])
        sparse = problem.image + (1 + self.overshoot) * (base - problem.image)
        dense = state.image + self.step("l2", problem, state, answer)
        image, base = where(across, (sparse, base), (dense, state.base))
        return state._replace(image=image, base=base, sparse=across)

    def linear_solver(
        self, problem: Problem, state: SparseFoolState, normal: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        """From x_i to the hyperplane beyond x_B, the state's image, in the fewest entries."""
        gap = self.reach * (normal * (state.image - state.base)).sum()
        return hyperplane_step("l1", state.base, normal, gap, problem.lower, problem.upper)
