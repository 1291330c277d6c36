"""The contract: an attack is a small, pure state machine for one image that asks and is told.

The engine calls the model. It sends what a fleet of images asks through the network in one batch,
pulls the attack's cotangents back, counts every pass, keeps the best image ever asked, and tells.
"""

import zlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.core.goals import Goal, others
from jaxadv.core.norms import NORMS, Norm, get_norm
from jaxadv.core.pytree import pytree

State = Any
KEEPS = ("first", "distance", "loss", "last")
WIDE = 1000.0  # a box with longer sides is cut to what epsilon reaches
CLEAR = 1e-6  # of the largest logit: within that, another batch may round to another answer


@pytree
class Problem:
    """All that an attack is given about its one image.

    image: [H, W, C] float32; goal: what is wanted; epsilon: radius of the ball, in the norm's own
    unit and in the scale of the image (infinite where the attack takes none); lower, upper: the
    box; clean_logits [K]: the model's answer to `image`; rank: which restart or target this is;
    start: another image to begin from, or None; extra: whatever pytree an attack was promised.
    """

    image: Any
    goal: Goal
    epsilon: Any
    lower: Any
    upper: Any
    clean_logits: Any
    rank: Any
    start: Any = None
    extra: Any = None


class Reads(NamedTuple):
    """Which of the answers [queries] and gradients [queries] of this tick the attack will read."""

    answers: Bool[Array, " Q"]
    gradients: Bool[Array, " Q"]


class Answer(NamedTuple):
    """What the engine tells: logits [Q, K], gradients [Q, P, H, W, C] (None if P is 0).

    adversarial [Q]: whether the image fulfils the goal, within epsilon; used [Q]: the mask that
    `hears` gave.
    """

    logits: Float[Array, "Q K"]
    gradients: Any
    adversarial: Bool[Array, " Q"]
    used: Bool[Array, " Q"]


class Attack:
    """Base of all attacks; a subclass is a frozen `pytree` that overrides what it needs.

    Written for one image, without a batch axis. `init` calls no model; loops that call the model
    are state, one tick an iteration. Every image asked must lie in the box and, where an epsilon is
    given, in the ball (an attack that asks elsewhere sets `asks_inside = False`, and the engine
    then tests each image before it counts). One that is `label_only` (and has no pull-backs) gets
    `label_of` every answer, the clean image's too, in place of the logits. One whose images lie in
    no ball (rotated, recoloured) says what they are `bounded_by`: it takes no epsilon and keeps its
    bounds by construction; `norm` is only what its distances are told in.
    """

    queries: ClassVar[int] = 1  # images asked per tick
    pullbacks: ClassVar[int] = 1  # gradients asked per image (0: answers only)
    restarts: Any = 1
    targets: Any = 0  # classes that an attack without a goal's target aims at, one after the other
    norm: Any = "linf"
    norms: ClassVar[tuple[str, ...]] = tuple(NORMS)  # those that the attack knows
    needs_epsilon: ClassVar[bool] = True
    keep: ClassVar[str] = "first"
    asks_inside: ClassVar[bool] = True
    label_only: ClassVar[bool] = False  # told the predicted class and no more
    bounded_by: ClassVar[str] = ""  # by what, if by no ball: "rotation and translation"
    precision: Any = "float32"  # of its state, and of the logits and gradients that it is told

    @property
    def name(self) -> str:
        """The attack's name; its hash is part of every random key."""
        return type(self).__name__

    @property
    def geometry(self) -> Norm:
        """The norm in which distances and epsilon are measured."""
        return get_norm(self.norm)

    def check_norm(self) -> None:
        """ValueError where the norm is none that the attack knows."""
        get_norm(self.norm)
        if self.norm not in self.norms:
            raise ValueError(f"norm={self.norm!r}: {self.name} knows {', '.join(self.norms)}")

    def check_least(self, **least: int) -> None:
        """ValueError where one of these settings is less than so much."""
        for field, bound in least.items():
            if getattr(self, field) < bound:
                raise ValueError(f"{field}={getattr(self, field)}: pass {bound} or more")

    def _missing(self, method: str) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__} defines no {method}")

    @property
    def entries(self) -> int:
        """The queue entries of one image, in rank order: its restarts, times targets if any."""
        return self.restarts * max(self.targets, 1)

    @property
    def ticks(self) -> int:
        """The most ticks that one run on one image can take."""
        raise self._missing("ticks")

    @property
    def passes(self) -> int:
        """The most forward and backward passes that all runs on one image can take."""
        return self.entries * self.ticks * self.queries * (1 + self.pullbacks)

    def prepared(self, goal: Goal, classes: int) -> "Attack":
        """The attack as it is run towards a goal of this kind, on so many classes; default: itself.

        Raises ValueError where the two do not go together.
        """
        return self

    def project(self, problem: Problem, image: Array, radius: Any = None) -> Array:
        """The nearest point of the box and the ball of this radius (default: epsilon)."""
        radius = problem.epsilon if radius is None else radius
        return self.geometry.project(image, problem.image, radius, problem.lower, problem.upper)

    def init(self, problem: Problem, key: Array) -> State:
        """The state before the first tick. Calls no model."""
        raise self._missing("init(problem, key)")

    def ask(self, problem: Problem, state: State) -> Float[Array, "Q ..."]:
        """The images [queries, H, W, C] to send through the model."""
        raise self._missing("ask(problem, state)")

    def reads(self, problem: Problem, state: State) -> Reads:
        """What this tick needs of the model; default: every answer and every gradient."""
        every = jnp.ones(self.queries, bool)
        return Reads(every, every & (self.pullbacks > 0))

    def hears(
        self, problem: Problem, state: State, logits: Float[Array, "Q K"], read: Bool[Array, " Q"]
    ) -> Bool[Array, " Q"]:
        """Which of the answers that `reads` named would have been asked for one after the other.

        An attack may ask ahead: all middles of the next halvings, many draws of which the first
        that succeeds ends the tick. The others are neither counted, kept nor told. Default: `read`.
        """
        return read

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        """The loss that the attack maximises, and by which `keep="loss"` chooses."""
        return -goal.margin(logits)

    def cotangents(
        self, problem: Problem, state: State, logits: Float[Array, "Q K"]
    ) -> Float[Array, "Q P K"]:
        """The vectors to pull back, [queries, pullbacks, K]; default: the loss's gradient."""
        gradient = jax.vmap(jax.grad(lambda z: self.objective(problem.goal, z)))(logits)
        return gradient[:, None]

    def tell(self, problem: Problem, state: State, answer: Answer) -> State:
        """The state after the answers."""
        raise self._missing("tell(problem, state, answer)")

    def done(self, problem: Problem, state: State) -> Bool[Array, ""]:
        """Whether nothing more is to be asked."""
        raise self._missing("done(problem, state)")


def types_of(attack: Attack) -> AbstractContextManager[Any]:
    """The context in which the methods of an attack are traced.

    With `jax_enable_x64`, literals, draws and sums would widen the state of an attack written in
    float32; its methods are therefore traced as if 64-bit types were off. The model is not: it is
    called with the types that the user chose.
    """
    if attack.precision == "float64":
        return nullcontext()
    return (jax if hasattr(jax, "enable_x64") else jax.experimental).enable_x64(False)


def label_of(logits: Float[Array, "*Q K"]) -> Float[Array, "*Q K"]:
    """All that an attack that is `label_only` is shown of logits: 1 at the predicted class."""
    return jax.nn.one_hot(logits.argmax(-1), logits.shape[-1], dtype=logits.dtype)


def across(goal: Goal, logits: Float[Array, " K"]) -> Bool[Array, ""]:
    """Whether logits fulfil the goal by more than rounding, at whatever distance."""
    return goal.margin(logits) < -CLEAR * jnp.abs(logits).max()


def safe_epsilon(norm: str, epsilon: Any) -> Any:
    """The float32 radius that attacks are given for the epsilon [...] that a user states.

    Smaller by a millionth: so no image leaves the stated ball when its distance is recomputed in
    float64. What rounding does to single values, projections see to. Traced where epsilon is.
    """
    traced = isinstance(epsilon, jax.Array)
    xp, precise = (jnp, jnp.float32) if traced else (np, np.float64)
    radius = xp.asarray(epsilon, precise)
    radius = xp.floor(radius) if norm == "l0" else radius * (1 - 1e-6)
    return xp.asarray(xp.maximum(radius, 0), xp.float32)


def reachable_box(
    norm: str, image: Array, epsilon: Any, bounds: tuple[float, float]
) -> tuple[Array, Array]:
    """The least and the largest value that an attack within epsilon may give to `image`.

    Settings are fractions of the box, which means nothing where a box is unbounded or far wider
    than the values in it: such a box is cut to what the ball reaches (L0 reaches everything).
    """
    lower, upper = map(jnp.float32, bounds)
    if norm == "l0" or bounds[1] - bounds[0] <= WIDE:
        return lower, upper
    return jnp.maximum(lower, image.min() - epsilon), jnp.minimum(upper, image.max() + epsilon)


def check_targets(targets: int, goal: Goal) -> None:
    """ValueError where an attack is to choose targets itself and the goal names one."""
    if targets and goal.targeted:
        raise ValueError(
            f"targets={targets}: the goal names a target for each image already; pass targets=0, "
            "or ja.Untargeted(labels)"
        )


def likeliest_wrong(problem: Problem, place: Any, count: int) -> Int[Array, ""]:
    """The wrong class that the clean image's answer ranks at `place` (0: the first) of `count`; one
    that rejects is not among them."""
    wrong = others(problem.goal.merged(problem.clean_logits), problem.goal.labels)
    return jax.lax.top_k(wrong, count)[1][place]


def attack_key(attack: Attack, key: Array, example: Any, rank: Any) -> Array:
    """The random key of one image's run: a function of seed, example id, rank and attack alone."""
    key = jax.random.fold_in(jax.random.fold_in(key, example), rank)
    return jax.random.fold_in(key, zlib.crc32(attack.name.encode()))
