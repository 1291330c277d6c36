"""SuperDeepFool: DeepFool, whose outcome is turned until it is orthogonal to the boundary."""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxadv.attacks.crossing import Line
from jaxadv.attacks.deepfool import DeepFool
from jaxadv.attacks.hyperplane import hyperplane_step
from jaxadv.core.attack import Answer, Problem
from jaxadv.core.pytree import pytree, static, where


class SuperDeepFoolState(NamedTuple):
    """image: the iterate [H, W, C]; turned: whether it is a projection's outcome; step: ticks so
    far; line: of the search at the end."""

    image: Any
    turned: Any
    step: Any
    line: Line


@pytree
class SuperDeepFool(DeepFool):
    """SuperDeepFool (Abdolahpourrostam, Abroshan and Moosavi-Dezfooli 2023, arXiv 2303.12481), L2.

    DeepFool goes on until it is across, at x~; with the boundary's normal w there the iterate
    becomes x0 + <w, x~ - x0> / |w|^2 w: as far in the direction of w, and nowhere else. If that is
    across, the walk ends; otherwise DeepFool goes on from there. Where the boundary is round the
    projections fall short of it, each a little nearer, and the walk takes all its steps. At the end
    the line from the image to the nearest adversarial point is halved `search` times.

    steps: gradients in all, of both kinds; classes, overshoot, boxed: as in `DeepFool`. With the
    box, the projection is the point nearest to the image of the hyperplane through x~ and the box
    (the same where the box is not in the way). The authors' code adds each projection to the one
    before it and so ends up to twice as far where the first does not suffice, which only the search
    cures; here each begins at the image, as the formula says. Targeted goals: as in `DeepFool` (the
    paper has none).

    Deterministic. At most `steps` * (classes - 1) backward and `steps + 1 + search` forward passes
    (a projection needs one gradient only, and is counted as the others). Raises ValueError for
    settings not listed here.

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
