"""The attack interface: an attack is a pure state machine for one image, driven by ask and tell.

The engine calls the model: it sends the queries of many images through the network in one batch,
pulls back the attack's cotangents, counts every pass, keeps the best image queried and calls
`tell`.
"""

import zlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxadv.core.bounds import Bounds, Ends
from jaxadv.core.goals import Goal, others
from jaxadv.core.norms import NORMS, Norm, get_norm, mean_side
from jaxadv.core.precision import x64
from jaxadv.core.pytree import pytree
from jaxadv.core.typing import Key, Number, Numbers

State = PyTree
KEEPS = ("first", "distance", "loss", "last")
WIDE = 1000.0  # a box with longer sides is cut to what epsilon reaches
CLEAR = 1e-6  # of the largest logit: float32 logits differ by this much between batch sizes


@pytree
class Problem:
    """Everything that an attack is given about its one image.

    Attributes:
        image: The clean image, [H, W, C] float32.
        goal: The goal of the attack on this image.
        epsilon: Radius of the ball, in the unit of the norm and in the scale of the image; infinite
            where the attack takes none.
        lower: The smallest value of the box, a scalar, or [H, W, C] where features have ranges of
            their own.
        upper: The largest value of the box, as `lower`.
        clean_logits: The model's output for `image`, [K].
        rank: Index of this run among the restarts and targets of the image.
        start: Another image to start from, [H, W, C], or None.
        extra: Any further pytree that the caller passes to the attack, or None.
    """

    image: Float[Array, "H W C"]
    goal: Goal
    epsilon: Float[Array, ""]
    lower: Float[Array, "..."]
    upper: Float[Array, "..."]
    clean_logits: Float[Array, " K"]
    rank: Int[Array, ""]
    start: Float[Array, "H W C"] | None = None
    extra: PyTree = None

    @property
    def sides(self) -> Float[Array, "..."]:
        """The side of the box, or of each feature, in the shape of `lower`; 0 where it is fixed."""
        return self.upper - self.lower

    @property
    def side(self) -> Float[Array, ""]:
        """The side of the box, or the mean side of free features: the unit of lengths in it."""
        return mean_side(self.lower, self.upper)

    def box_at(
        self, rows: Int[Array, " P"], columns: Int[Array, " P"]
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Return the ends of the box at pixels [P]: scalars, or [P, C]."""
        if self.lower.ndim == 0:
            return self.lower, self.upper
        return self.lower[rows, columns], self.upper[rows, columns]


class Needs(NamedTuple):
    """What the attack needs of the model in this tick.

    Attributes:
        answers: Mask [Q] of the queries whose logits the attack will use.
        gradients: Mask [Q] of the queries whose gradients the attack will use.
    """

    answers: Bool[Array, " Q"]
    gradients: Bool[Array, " Q"]


class Answer(NamedTuple):
    """What the engine passes to `tell`.

    Attributes:
        logits: The model's outputs, [Q, K]; one-hot labels for attacks that are `label_only`.
        gradients: The pulled-back cotangents, [Q, P, H, W, C], or None if P (pull-backs) is 0.
        adversarial: Whether each query fulfils the goal and lies within epsilon, [Q].
        used: The mask [Q] that `used` returned: which of the logits count.
    """

    logits: Float[Array, "Q K"]
    gradients: Any
    adversarial: Bool[Array, " Q"]
    used: Bool[Array, " Q"]


class Attack:
    """Base class of all attacks; a subclass is a frozen `pytree` that overrides what it needs.

    An attack is written for one image, without a batch axis. `init` does not call the model; a loop
    that calls the model is written as a state, with one iteration per tick. Every query must lie in
    the box and, where an epsilon is given, in the ball (see `asks_inside`).

    Attributes:
        queries: Number of images queried per tick.
        pullbacks: Number of gradients computed per query; 0 for attacks that use outputs only.
        restarts: Number of independent runs per image.
        targets: Number of classes at which an attack aims one after the other, if the goal names no
            target; 0 for none.
        norm: The norm of distances and of epsilon.
        norms: The norms that the attack supports.
        needs_epsilon: Whether the attack needs an epsilon.
        keep: Which image the engine returns: that of the "first" success, the one of least
            "distance", the one of highest "loss", or the "last".
        asks_inside: False for an attack that may query images outside the box or the ball; the
            engine then tests each image before it counts.
        label_only: True for a decision-based attack, which must have no pull-backs; it receives
            `label_of` every output, that of the clean image included, in place of the logits.
        needs_box: Whether the settings are fractions of the box wherever no epsilon limits it, so
            that the box must have finite bounds.
        bounded_by: What bounds the images if they lie in no ball, such as "rotation and
            translation". Such an attack takes no epsilon and keeps its bounds by construction;
            `norm` is then only the norm in which its distances are reported.
        simple_norms: The norms in which a tick does so little with single pixels that, on CPUs, its
            program runs as fast if it is compiled in a simpler way, which takes 60 % of the time.
        precision: The dtype of the state, and of the logits and gradients that the attack receives:
            "float32" or "float64".
    """

    queries: ClassVar[int] = 1
    pullbacks: ClassVar[int] = 1
    restarts: int = 1
    targets: int = 0
    norm: str = "linf"
    norms: ClassVar[tuple[str, ...]] = tuple(NORMS)
    needs_epsilon: ClassVar[bool] = True
    keep: ClassVar[str] = "first"
    asks_inside: ClassVar[bool] = True
    label_only: ClassVar[bool] = False
    needs_box: ClassVar[bool] = False
    bounded_by: ClassVar[str] = ""
    simple_norms: ClassVar[tuple[str, ...]] = ()
    precision: str = "float32"

    @property
    def name(self) -> str:
        """The name of the attack; its hash is part of every random key."""
        return type(self).__name__

    @property
    def geometry(self) -> Norm:
        """The norm in which distances and epsilon are measured."""
        return get_norm(self.norm)

    def check_norm(self) -> None:
        """Raise ValueError unless the attack supports its `norm`."""
        get_norm(self.norm)
        if self.norm not in self.norms:
            raise ValueError(f"norm={self.norm!r}: {self.name} knows {', '.join(self.norms)}")

    def check_least(self, **least: int) -> None:
        """Raise ValueError where one of these settings is below its lower bound."""
        for field, bound in least.items():
            if getattr(self, field) < bound:
                raise ValueError(f"{field}={getattr(self, field)}: pass {bound} or more")

    def _missing(self, method: str) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__} defines no {method}")

    @property
    def entries(self) -> int:
        """Number of queue entries of one image, in rank order: restarts times targets (if any)."""
        return self.restarts * max(self.targets, 1)

    @property
    def ticks(self) -> int:
        """Upper bound of the number of ticks of one run on one image."""
        raise self._missing("ticks")

    @property
    def gradients(self) -> int:
        """Number of ticks of one run to its end that take gradients, or 0 if it is not known."""
        return 0

    @property
    def passes(self) -> int:
        """Upper bound of the number of forward and backward passes of all runs on one image."""
        return self.entries * self.ticks * self.queries * (1 + self.pullbacks)

    def specialize(self, goal: Goal, classes: int) -> "Attack":
        """Return the attack specialised to a goal and a number of classes; by default itself.

        Args:
            goal: The goal of the run.
            classes: The number of classes of the model.

        Raises:
            ValueError: If the attack does not support this goal with this number of classes.
        """
        return self

    def project(self, problem: Problem, image: Array, radius: Number | None = None) -> Array:
        """Return the nearest point of the box and the ball of this radius (by default epsilon)."""
        radius = problem.epsilon if radius is None else radius
        return self.geometry.project(image, problem.image, radius, problem.lower, problem.upper)

    def init(self, problem: Problem, key: Array) -> State:
        """Return the state before the first tick, without a call of the model."""
        raise self._missing("init(problem, key)")

    def ask(self, problem: Problem, state: State) -> Float[Array, "Q ..."]:
        """Return the queries of this tick, [queries, H, W, C], which go through the model."""
        raise self._missing("ask(problem, state)")

    def needs(self, problem: Problem, state: State) -> Needs:
        """Return what this tick needs of the model; by default every output and every gradient."""
        every = jnp.ones(self.queries, bool)
        return Needs(every, every & (self.pullbacks > 0))

    def used(
        self, problem: Problem, state: State, logits: Float[Array, "Q K"], read: Bool[Array, " Q"]
    ) -> Bool[Array, " Q"]:
        """Return the mask of the queries that a sequential attack would have issued.

        An attack may issue queries speculatively: all midpoints of the next bisection steps, or
        many draws of which the first success ends the tick. The other queries are discarded: the
        engine does not count them, keep their images or pass them to `tell`.

        Args:
            problem: The problem of this image.
            state: The state before the tick.
            logits: The outputs for all queries, [Q, K].
            read: The mask of outputs that `needs` returned, [Q].

        Returns:
            A mask [Q], by default `read`.
        """
        return read

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        """Return the loss that the attack maximises, and by which `keep="loss"` selects."""
        return -goal.margin(logits)

    def cotangents(
        self, problem: Problem, state: State, logits: Float[Array, "Q K"]
    ) -> Float[Array, "Q P K"]:
        """Return the vectors [queries, pullbacks, K] to pull back; default: the loss's gradient."""
        gradient = jax.vmap(jax.grad(lambda z: self.objective(problem.goal, z)))(logits)
        return gradient[:, None]

    def tell(self, problem: Problem, state: State, answer: Answer) -> State:
        """Return the state after the outputs of the model."""
        raise self._missing("tell(problem, state, answer)")

    def done(self, problem: Problem, state: State) -> Bool[Array, ""]:
        """Return whether the run has ended."""
        raise self._missing("done(problem, state)")


def types_of(attack: Attack) -> AbstractContextManager[Any]:
    """Return the context in which the methods of an attack are traced.

    With `jax_enable_x64`, literals, random draws and sums would widen the state of an attack
    written in float32; its methods are therefore traced as if 64-bit types were off. The model is
    not: it is called with the types that the user chose.

    Args:
        attack: The attack; with `precision="float64"` the context changes nothing.

    Returns:
        A context manager.
    """
    if attack.precision == "float64":
        return nullcontext()
    return x64(False)


def label_of(logits: Float[Array, "*Q K"]) -> Float[Array, "*Q K"]:
    """Return what a `label_only` attack receives in place of logits: 1 at the predicted class."""
    return jax.nn.one_hot(logits.argmax(-1), logits.shape[-1], dtype=logits.dtype)


def across(goal: Goal, logits: Float[Array, " K"]) -> Bool[Array, ""]:
    """Return whether logits fulfil the goal by more than rounding error, at any distance."""
    return goal.margin(logits) < -CLEAR * jnp.abs(logits).max()


def safe_epsilon(norm: str, epsilon: Numbers) -> np.ndarray | Array:
    """Return the float32 radius that attacks are given for the epsilon that a user states.

    Epsilon is reduced by a factor of 1 - 1e-6 (L0: rounded down), so that no image leaves the
    stated ball when its distance is recomputed in float64; projections take care of the rounding of
    single values.

    Args:
        norm: The name of the norm.
        epsilon: The stated radius, a number or an array [...], which may be traced.

    Returns:
        The radius [...], traced where `epsilon` is.
    """
    traced = isinstance(epsilon, jax.Array)
    xp, precise = (jnp, jnp.float32) if traced else (np, np.float64)
    radius = xp.asarray(epsilon, precise)
    radius = xp.floor(radius) if norm == "l0" else radius * (1 - 1e-6)
    return xp.asarray(xp.maximum(radius, 0), xp.float32)


def reachable_box(norm: str, image: Array, epsilon: Number, bounds: Bounds) -> tuple[Array, Array]:
    """Return the smallest and largest value that an attack within epsilon may give to `image`.

    Settings are fractions of the box, which has no meaning where the box is unbounded or far wider
    than the values in it. A box with sides longer than `WIDE` is therefore cut to what the ball
    reaches (an L0 ball reaches everything). Where features have ranges of their own, each of them
    is cut by itself.

    Args:
        norm: Name of the norm of the ball.
        image: The clean image.
        epsilon: Radius of the ball.
        bounds: The (smallest, largest) value that the model accepts.

    Returns:
        The lower and the upper bound, float32 scalars, or in the shape of the image.
    """
    lower, upper = bounds
    if isinstance(lower, Ends) or isinstance(upper, Ends):
        return _reachable_ranges(norm, image, epsilon, bounds)
    lower, upper = map(jnp.float32, (lower, upper))
    if norm == "l0" or bounds[1] - bounds[0] <= WIDE:
        return lower, upper
    return jnp.maximum(lower, image.min() - epsilon), jnp.minimum(upper, image.max() + epsilon)


def _reachable_ranges(
    norm: str, image: Array, epsilon: Number, bounds: Bounds
) -> tuple[Array, Array]:
    lower, upper = (jnp.broadcast_to(np.asarray(end), image.shape) for end in bounds)
    if norm == "l0":
        return lower, upper
    reach = jnp.where(epsilon > 0, epsilon, 1.0)  # a side is to be above 0
    wide = upper - lower > WIDE
    least, most = jnp.maximum(lower, image - reach), jnp.minimum(upper, image + reach)
    return jnp.where(wide, least, lower), jnp.where(wide, most, upper)


def check_targets(targets: int, goal: Goal) -> None:
    """Raise ValueError if an attack is to choose its own targets but the goal names one."""
    if targets and goal.targeted:
        raise ValueError(
            f"targets={targets}: the goal names a target for each image already; pass targets=0, "
            "or ja.Untargeted(labels)"
        )


def runner_up_class(problem: Problem, place: Number, count: int) -> Int[Array, ""]:
    """Return the wrong class with the `place`-th largest clean logit.

    The rejection class, if there is one, is not among the wrong classes.

    Args:
        problem: The problem of this image.
        place: Rank of the class, from 0.
        count: Number of ranks that may be requested (static).

    Returns:
        The class, an integer scalar.
    """
    wrong = others(problem.goal.merged(problem.clean_logits), problem.goal.labels)
    return jax.lax.top_k(wrong, count)[1][place]


def attack_key(attack: Attack, key: Key, example: Number, rank: Number) -> Array:
    """Return the random key of a run, which depends on seed, example id, rank and attack alone."""
    key = jax.random.fold_in(jax.random.fold_in(key, example), rank)
    return jax.random.fold_in(key, zlib.crc32(attack.name.encode()))
