"""The intermediate level attack, which amplifies another attack's change of a hidden layer."""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxadv.attacks.common.gradient import GradientAttack, GradientState
from jaxadv.core.attack import Answer, Problem
from jaxadv.core.pytree import pytree, static


class ILAState(NamedTuple):
    """State of the intermediate level attack.

    Attributes:
        image: [H, W, C], the iterate.
        optimizer: State of the optax optimiser.
        step: Integer scalar, gradients taken so far.
        direction: [K + 1 + F], the direction in the model's outputs, zero except at the features.
    """

    image: Float[Array, "H W C"]
    optimizer: PyTree
    step: Int[Array, ""]
    direction: Float[Array, " K+1+F"]


@pytree
class ILA(GradientAttack):
    """Intermediate level attack with projection (Huang et al. 2019, arXiv 1907.10823).

    The attack begins where another attack ended and enlarges the change of one hidden layer along
    the direction which that attack gave it: it maximises (f(x) - f(image)) . (f(start) - f(image)).
    It is run on a model that outputs its features, on the images of the other attack:

        surrogate = ja.from_features(features, head, params)
        made = ja.run(ja.MIFGSM(), surrogate, images, goal, 8 / 255, key=key)
        ja.run(ja.ILA(classes=10), surrogate, images, goal, 8 / 255, start=made.images, key=key)

    `steps` backward and `steps + 1` forward passes per restart. The result is the last iterate.

    Attributes:
        norm: "linf", "l2", "l1" or "l0".
        steps: Gradients per restart.
        restarts: Independent runs.
        step_size: Step length as a fraction of epsilon.
        loss: Not used.
        random_start: Whether to add a uniform draw from the ball to the start.
        optimizer: A `ja.Optimizer` in place of steepest ascent, or None.
        sparsity: In L1 and L0, the fraction of the entries that one step moves.
        classes: Number of logits that the model outputs before its features.

    Raises:
        ValueError: If classes is below 2, steps or restarts is below 1, step_size is not a finite
            number above 0, or the norm is unknown; in a run, if no start is given.

    >>> import jaxadv as ja
    >>> attack = ja.ILA(classes=10, steps=10)
    """

    steps: int = static(default=10)
    classes: int = static(default=10)
    keep: ClassVar[str] = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(classes=2)

    def init(self, problem: Problem, key: Array) -> ILAState:
        if problem.start is None:
            raise ValueError("start: pass the images that another attack made; ILA goes on there")
        start: GradientState = super().init(problem, key)
        features = jnp.zeros_like(problem.clean_logits)
        return ILAState(start.image, start.optimizer, start.step, features)

    def direction(
        self, problem: Problem, state: ILAState, logits: Float[Array, " K"]
    ) -> Float[Array, " K"]:
        """The change of the features from the image to the start, which the first tick queries."""
        clean = problem.clean_logits
        change = (logits - logits[self.classes]) - (clean - clean[self.classes])
        change = jnp.where(jnp.arange(len(clean)) > self.classes, change, 0.0)
        return jnp.where(state.step == 0, change, state.direction)

    def cotangents(
        self, problem: Problem, state: ILAState, logits: Float[Array, "Q K"]
    ) -> Float[Array, "Q P K"]:
        return self.direction(problem, state, logits[0])[None, None]

    def tell(self, problem: Problem, state: ILAState, answer: Answer) -> ILAState:
        direction = self.direction(problem, state, answer.logits[0])
        return ILAState(*self.climb(problem, state, answer.gradients[0, 0]), direction)
