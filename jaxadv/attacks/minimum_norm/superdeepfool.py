"""SuperDeepFool: DeepFool whose result is turned until it is orthogonal to the boundary."""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxadv.attacks.common.boundary_walk import Line
from jaxadv.attacks.common.hyperplane import hyperplane_step
from jaxadv.attacks.minimum_norm.deepfool import DeepFool
from jaxadv.core.attack import Answer, Problem
from jaxadv.core.pytree import pytree, static, where


class SuperDeepFoolState(NamedTuple):
    """State of one run of `SuperDeepFool`.

    Attributes:
        image: [H, W, C] float32, the iterate.
        turned: bool scalar, whether `image` is the result of a projection.
        step: int32 scalar, ticks so far.
        line: State of the line search at the end.
    """

    image: Float[Array, "H W C"]
    turned: Bool[Array, ""]
    step: Int[Array, ""]
    line: Line


@pytree
class SuperDeepFool(DeepFool):
    """SuperDeepFool (Abdolahpourrostam, Abroshan and Moosavi-Dezfooli 2023, arXiv 2303.12481), L2.

    DeepFool runs until it is across the boundary, at x~. With the normal w of the boundary there,
    the iterate becomes x0 + <w, x~ - x0> / |w|^2 w: as far in the direction of w, and nowhere else.
    If that point is adversarial, the walk ends; otherwise DeepFool continues from there. Where the
    boundary is curved, the projections fall short of it, each by a little less, and the walk takes
    all its steps. At the end the line from the image to the nearest adversarial point is halved
    `search` times. The attack is deterministic.

    With the box, the projection is the point, nearest to the image, of the hyperplane through x~
    within the box (the same where the box is not active). The authors' code adds each projection to
    the one before and so ends up to twice as far where the first does not suffice, which only the
    search corrects; here each begins at the image, as in the formula. Targeted goals work as in
    `DeepFool` (the paper has none). A run costs at most `steps * (classes - 1)` backward and `steps
    + 1 + search` forward passes (a projection needs one gradient only, and is counted as the
    others).

    Attributes:
        norm: "l2".
        steps: Largest number of steps, of DeepFool and projections together.
        search: Halvings of the line to the image at the end.
        classes: As in `DeepFool`.
        overshoot: As in `DeepFool`.
        boxed: As in `DeepFool`.
        pullbacks: Gradients per step; set by the engine.

    Raises:
        ValueError: If `norm` is not "l2", or a field of `DeepFool` is out of its range.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(4)[:, :2])
    >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.7)
    >>> goal = ja.Untargeted(jnp.array([0]))
    >>> ja.run(ja.SuperDeepFool(), model, images, goal, key=jax.random.key(0)).distance.round(2)
    array([0.14])
    """

    steps: int = static(default=100)
    search: int = static(default=10)
    norms: ClassVar[tuple[str, ...]] = ("l2",)

    def init(self, problem: Problem, key: Array) -> SuperDeepFoolState:
        none = jnp.int32(0)
        return SuperDeepFoolState(self.begin(problem), jnp.bool_(False), none, Line.begin(problem))

    def ends(
        self, problem: Problem, state: SuperDeepFoolState, across: Bool[Array, ""]
    ) -> Bool[Array, ""]:
        return across & state.turned

    def walk(
        self, problem: Problem, state: SuperDeepFoolState, answer: Answer, across: Array
    ) -> SuperDeepFoolState:
        normal, original = answer.gradients[0, 0], problem.image  # towards the class reached
        gap = (normal * (state.image - original)).sum()
        box = problem.lower, problem.upper
        turned = original + hyperplane_step(self.norm, original, normal, gap, *box)
        onward = state.image + self.step(self.norm, problem, state, answer)
        return state._replace(image=where(across, turned, onward), turned=across)
