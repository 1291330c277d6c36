"""SparseFool: changes the fewest entries that cross a boundary found by DeepFool."""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.attacks.common.boundary_walk import Line
from jaxadv.attacks.common.hyperplane import hyperplane_step
from jaxadv.attacks.minimum_norm.deepfool import DeepFool
from jaxadv.core.attack import Answer, Problem
from jaxadv.core.pytree import pytree, static, where
from jaxadv.core.typing import Number


class SparseFoolState(NamedTuple):
    """State of one run of `SparseFool`.

    Attributes:
        image: [H, W, C] float32, the next query.
        base: [H, W, C] float32, the last sparse solution.
        sparse: bool scalar, whether `image` is that solution with overshoot; else it is an iterate
            of DeepFool.
        step: int32 scalar, ticks so far.
        line: State of the line search at the end.
    """

    image: Float[Array, "H W C"]
    base: Float[Array, "H W C"]
    sparse: Bool[Array, ""]
    step: Int[Array, ""]
    line: Line


@pytree
class SparseFool(DeepFool):
    """SparseFool (Modas, Moosavi-Dezfooli and Frossard 2018, arXiv 1811.02248): least L1.

    From x_i DeepFool in L2 finds a point x_B across the boundary, and the normal w there. The next
    x_i is the L1-nearest point to x_i, in the box, of the hyperplane through x_i + reach * (x_B -
    x_i) that is orthogonal to w: entries of largest weight go to the edge of the box, one after the
    other. The query is x_i with overshoot, measured from the image. The walk ends when the query is
    adversarial. The attack is deterministic.

    Implementations move one entry at a time by a fraction of 1e-3 too far, in a loop; here the
    linear problem is solved exactly. Targeted goals are supported too (paper: none). A run costs at
    most `steps * (classes - 1)` backward and `steps + 1 + search` forward passes.

    Attributes:
        norm: "l1" or "l0", in which the nearest image is chosen.
        steps: Largest number of gradients, of DeepFool's steps and of normals together (the
            authors' code has at most 20 rounds of 50 + 1).
        search: As in `DeepFool`.
        classes: As in `DeepFool`.
        overshoot: As in `DeepFool`.
        boxed: As in `DeepFool`.
        pullbacks: Gradients per step; set by the engine.
        reach: The paper's lambda, how far a solution goes beyond the boundary (1 is the sparsest
            and slowest; the authors' code has 3).

    Raises:
        ValueError: If `norm` is neither "l1" nor "l0", `reach` is below 1, or a field of `DeepFool`
            is out of its range.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(4)[:, :2])
    >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.7)
    >>> goal, attack = ja.Untargeted(jnp.array([0])), ja.SparseFool(reach=1)
    >>> ja.run(attack, model, images, goal, key=jax.random.key(0)).distance.round(1)
    array([0.2])
    """

    norm: str = static(default="l1")
    steps: int = static(default=100)
    reach: Number = 3.0
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
        """Return the step from x_i to the hyperplane beyond x_B, the state's image, in L1."""
        gap = self.reach * (normal * (state.image - state.base)).sum()
        return hyperplane_step("l1", state.base, normal, gap, problem.lower, problem.upper)
