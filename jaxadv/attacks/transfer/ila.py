"""The intermediate level attack: along the change that another attack made in a hidden layer."""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxadv.attacks.gradient import GradientAttack, GradientState
from jaxadv.core.attack import Answer, Problem
from jaxadv.core.pytree import pytree, static


class ILAState(NamedTuple):
    """image: the iterate; optimizer: optax's state; step: gradients so far; direction: in the
    answers [K + 1 + F] of the model, zero but for the features."""

    image: Any
    optimizer: Any
    step: Any
    direction: Any


@pytree
class ILA(GradientAttack):
    """Intermediate level attack with projection (Huang et al. 2019, arXiv 1907.10823).

    Begins where another attack ended, and makes the change of one hidden layer larger along the
    direction that this attack gave it: maximises (f(x) - f(image)) . (f(start) - f(image)).
    It is run on a model that shows its features, on the images of the other attack:

        surrogate = ja.from_features(features, head, params)
        made = ja.run(ja.MIFGSM(), surrogate, images, goal, 8 / 255, key=key)
        ja.run(ja.ILA(classes=10), surrogate, images, goal, 8 / 255, start=made.images, key=key)

    classes: the logits that the model has before its features; the other fields are those of
    `ja.BIM` (loss is not used). `steps` backward and `steps + 1` forward passes. Raises ValueError
    where no start is given.

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
        return ILAState(*start, jnp.zeros_like(problem.clean_logits))

    def direction(
        self, problem: Problem, state: ILAState, answer: Float[Array, " K"]
    ) -> Float[Array, " K"]:
        """The change of the features from the image to the start, asked in the first tick."""
        clean = problem.clean_logits
        change = (answer - answer[self.classes]) - (clean - clean[self.classes])
        change = jnp.where(jnp.arange(len(clean)) > self.classes, change, 0.0)
        return jnp.where(state.step == 0, change, state.direction)

    def cotangents(
        self, problem: Problem, state: ILAState, logits: Float[Array, "Q K"]
    ) -> Float[Array, "Q P K"]:
        return self.direction(problem, state, logits[0])[None, None]

    def tell(self, problem: Problem, state: ILAState, answer: Answer) -> ILAState:
        direction = self.direction(problem, state, answer.logits[0])
        return ILAState(*self.climb(problem, state, answer.gradients[0, 0]), direction)
