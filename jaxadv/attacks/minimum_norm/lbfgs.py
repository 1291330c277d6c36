"""The attack of Szegedy et al. (2013): box-constrained L-BFGS and a line search for c.

For one c the minimiser of c |r|^2 + loss(x + r) in the box is found by projected L-BFGS; the search
looks for the largest c whose minimiser is adversarial. Both are state: a tick queries one value and
one gradient, and no image waits for the line search of another.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxadv.attacks.common.penalty_bracket import Bracket
from jaxadv.attacks.common.quasi_newton import Memory
from jaxadv.core.attack import Answer, Attack, Needs, Problem, across
from jaxadv.core.goals import Goal
from jaxadv.core.losses import log_odds
from jaxadv.core.pytree import pytree, static, where
from jaxadv.core.typing import Number

DECREASE = 1e-4  # Armijo: fraction of the linear model's decrease that a step must give
FLATTER = 0.8  # if rounding hides the decrease: fraction of the slope that may remain
STALLED = 4  # trials in a row without a relevant decrease: a kink, or rounding
ROUGHEST = 0.3  # largest residual, as a fraction of |r|, at which the outcome of a c is used


class LBFGSState(NamedTuple):
    """State of one run of `LBFGS`; points are flat vectors [n] in the attack's precision.

    Attributes:
        iterate: [n], the last accepted point.
        loss: Scalar, the loss at `iterate`.
        gradient: [n], the gradient of the loss at `iterate`.
        margin: Scalar, the margin at `iterate`.
        adversarial: bool scalar, whether `iterate` is adversarial.
        trial: [n], the next query.
        result: [n], the minimiser of the largest c that succeeded.
        memory: Curvature pairs of L-BFGS.
        bracket: The search for c.
        reach: Scalar, the distance of the boundary in a linear model.
        steps: int32 scalar, trials for this c.
        rejected: int32 scalar, trials in a row that were rejected.
        stalled: int32 scalar, trials in a row without a relevant decrease.
        last: bool scalar, whether the search is over and `trial` is its result.
        done: bool scalar, whether that result was queried too.
    """

    iterate: Float[Array, " n"]
    loss: Float[Array, ""]
    gradient: Float[Array, " n"]
    margin: Float[Array, ""]
    adversarial: Bool[Array, ""]
    trial: Float[Array, " n"]
    result: Float[Array, " n"]
    memory: Memory
    bracket: Bracket
    reach: Float[Array, ""]
    steps: Int[Array, ""]
    rejected: Int[Array, ""]
    stalled: Int[Array, ""]
    last: Bool[Array, ""]
    done: Bool[Array, ""]


@pytree
class LBFGS(Attack):
    """Box-constrained L-BFGS (Szegedy et al. 2013, arXiv 1312.6199): the smallest r in L2.

    The attack minimises c |r|^2 + loss(x + r) over the box and searches for the largest c whose
    minimiser is adversarial. The loss is -log P(goal): targeted, the cross-entropy with the target,
    as in the paper; untargeted, -log(1 - p_label), which unlike the negated cross-entropy of the
    label is bounded below and has a vanishing gradient once the image is adversarial. For a linear
    model of two classes the result is exact. The attack is deterministic; `start` replaces the
    image as the first point.

    The search for a c begins where the one for the last c ended, with its curvature pairs.
    Implementations that call SciPy begin each c at the image, and need 10 to 20 times the gradients
    for distances that are equal (smooth networks) or a little larger (rectifiers).

    A tick costs one forward and one backward pass; a run takes 15 to 160 ticks on MNIST networks
    and at most `ticks`, and one forward pass for the result. The image returned is the nearest
    adversarial query; with `keep="last"` it is the paper's, the minimiser of the largest c that
    succeeded. The paper's distortion is `result.distance / sqrt(n)` for n pixel values.

    Attributes:
        penalty: "squared" for c |r|^2, which is smooth and used by implementations, or "norm" for
            the paper's c |r|. With "norm" each step takes its tangent quadratic, smoothed below a
            tenth of a linear model's distance; far from the boundary loss and penalty are both
            straight lines, the minimiser jumps as c changes, and some distances come out a few per
            cent larger.
        loss: "cross_entropy", or "margin" for softplus(margin), which sees only the largest other
            class and finds nearer images where a network is unsure among many classes.
        memory: Number of curvature pairs that L-BFGS keeps.
        rounds: Largest number of values of c.
        iterations: Largest number of gradients for each c.
        tolerance: Relative accuracy of the distance at which the search for c ends. A minimiser is
            computed as accurately as that needs (a distance errs by the square of its minimiser's
            error), and less accurately where the outcome of its c is clear. Below about 3e-4 it
            needs float64, since a float32 loss does not resolve its minimum further.
        initial_c: First value of c (None: the c of a linear model's boundary).
        precision: "float32", or "float64" for model and optimizer (needs jax_enable_x64; queries
            are rounded to float32 all the same).

    Raises:
        ValueError: If `penalty`, `loss` or `precision` is unknown, `memory`, `rounds` or
            `iterations` is below 1, `tolerance` or `initial_c` is not a finite number above 0, or
            `precision` is "float64" without jax_enable_x64.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> weights = jnp.array([[9.0, 0.0]] * 4)
    >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, weights)
    >>> images, goal = jnp.full((1, 2, 2, 1), 0.6), ja.Untargeted(jnp.array([0]))
    >>> ja.run(ja.LBFGS(), model, images, goal, key=jax.random.key(0)).distance.round(3)
    array([0.2])
    """

    penalty: str = static(default="squared")
    loss: str = static(default="cross_entropy")
    memory: int = static(default=10)
    rounds: int = static(default=30)
    iterations: int = static(default=50)
    tolerance: Number = 1e-3
    initial_c: Number | None = None
    precision: str = static(default="float32")
    norm: ClassVar[str] = "l2"
    norms: ClassVar[tuple[str, ...]] = ("l2",)
    needs_epsilon: ClassVar[bool] = False
    keep: ClassVar[str] = "distance"
    asks_inside: ClassVar[bool] = False
    pauses: ClassVar[bool] = False

    def __post_init__(self) -> None:
        known = {
            "penalty": ("squared", "norm"),
            "loss": ("cross_entropy", "margin"),
            "precision": ("float32", "float64"),
        }
        for field, values in known.items():
            if getattr(self, field) not in values:
                raise ValueError(f"{field}={getattr(self, field)!r}: pass one of {values}")
        self.check_least(memory=1, rounds=1, iterations=1)
        for field in ("tolerance", "initial_c"):
            value = getattr(self, field)
            if isinstance(value, np.floating) and not 0 < value < np.inf:
                raise ValueError(f"{field}={value}: pass a number above 0")
        if self.precision == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
            raise ValueError(
                "precision='float64' needs 64-bit types: call "
                "jax.config.update('jax_enable_x64', True) right after the imports"
            )

    @property
    def gradients(self) -> int:
        return self.rounds * self.iterations + 1

    @property
    def ticks(self) -> int:
        return self.rounds * self.iterations + 2

    def gap(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        """Return the gap: log-odds against the goal, or the margin; the loss is its softplus."""
        return goal.margin(logits) if self.loss == "margin" else -log_odds(goal, logits)

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        return -jax.nn.softplus(self.gap(goal, logits))

    def init(self, problem: Problem, key: Array) -> LBFGSState:
        dtype = jnp.dtype(self.precision)
        start = problem.image if problem.start is None else problem.start
        start = start.ravel().astype(dtype)
        zero, none, no = jnp.zeros((), dtype), jnp.int32(0), jnp.bool_(False)
        return LBFGSState(
            iterate=start,
            loss=zero,
            gradient=jnp.zeros_like(start),
            margin=zero,
            adversarial=no,
            trial=start,
            result=start,
            memory=Memory.empty(self.memory, start),
            bracket=Bracket.begin(zero + 1),
            reach=zero,
            steps=none,
            rejected=none,
            stalled=none,
            last=no,
            done=no,
        )

    def ask(self, problem: Problem, state: LBFGSState) -> Float[Array, "Q ..."]:
        return state.trial.reshape(1, *problem.image.shape)

    def needs(self, problem: Problem, state: LBFGSState) -> Needs:
        return Needs(jnp.ones(1, bool), ~state.last[None])

    def tell(self, problem: Problem, state: LBFGSState, answer: Answer) -> LBFGSState:
        first = (state.bracket.round == 0) & (state.steps == 0)
        image = problem.image.ravel().astype(state.trial.dtype)
        logits = answer.logits[0].astype(image.dtype)
        gradient = -answer.gradients[0, 0].ravel().astype(image.dtype)
        gap = self.gap(problem.goal, logits)
        loss, margin = jax.nn.softplus(gap), problem.goal.margin(logits)
        clean_margin = jnp.abs(problem.goal.margin(problem.clean_logits)).astype(image.dtype) + 1e-6
        c, reach = self.linear(problem, gradient / jax.nn.sigmoid(gap), clean_margin)
        bracket, reach = where(first, (Bracket.begin(c), reach), (state.bracket, state.reach))

        # Is the trial accepted? `gain` is the decrease, without the cancellation of two values.
        before, after, step = (
            state.iterate - image,
            state.trial - image,
            state.trial - state.iterate,
        )
        curvature = self._curvature(bracket.c, _length(before), reach)
        curvature_after = self._curvature(bracket.c, _length(after), reach)
        slope = step @ (state.gradient + curvature * before)
        slope_after = step @ (gradient + curvature_after * after)
        gain = state.loss - loss - curvature / 2 * (step @ (before + after))
        flatter = jnp.abs(slope_after) <= FLATTER * jnp.abs(slope)
        accepted = first | (gain >= -DECREASE * slope) | ((gain >= -1e-6 * state.loss) & flatter)
        bent = (curvature_after - curvature) * after  # the part of the norm that is not quadratic
        memory = state.memory.add(step, gradient - state.gradient + bent)  # rejected ones count too
        iterate, loss, gradient, margin, adversarial = where(
            accepted,
            (state.trial, loss, gradient, margin, across(problem.goal, answer.logits[0])),
            (state.iterate, state.loss, state.gradient, state.margin, state.adversarial),
        )

        # Is this the minimiser? It satisfies x + r = clip(x - gradient / curvature). Far from the
        # boundary a rough one suffices (not for the norm, whose minimisers are ill-conditioned).
        distance = _length(iterate - image)
        curvature = self._curvature(bracket.c, distance, reach)
        residual = _length(self._clip(problem, image - gradient / curvature) - iterate)
        exact = jnp.sqrt(self.tolerance / 10)
        plain = jnp.abs(margin) / clean_margin if self.penalty == "squared" else exact
        worth = curvature / 2 * jnp.square(exact * distance)
        rejected = jnp.where(accepted, 0, state.rejected + 1)
        stalled = jnp.where(first | (accepted & (gain > worth)), 0, state.stalled + 1)
        steps = state.steps + 1
        over = residual <= jnp.clip(plain, exact, ROUGHEST) * distance
        over = ~first & (over | (stalled >= STALLED) | (steps >= self.iterations))
        turned = bracket.after(adversarial, margin, distance)
        result = jnp.where(over & (adversarial | (turned.low == 0)), iterate, state.result)
        bracket = where(over, turned, bracket)
        last = over & (bracket.converged(self.tolerance) | (bracket.round >= self.rounds))
        rejected, stalled, steps = where(over, (jnp.int32(0),) * 3, (rejected, stalled, steps))

        # A rejection changes the next direction; from the second in a row it halves the step.
        longest = reach * 0.5 ** jnp.maximum(rejected - 1, 0).astype(reach.dtype)
        curvature = self._curvature(bracket.c, distance, reach)
        trial = self._propose(problem, iterate, gradient, memory, curvature, longest)
        return LBFGSState(
            iterate=iterate,
            loss=loss,
            gradient=gradient,
            margin=margin,
            adversarial=adversarial,
            trial=jnp.where(last, result, trial),
            result=result,
            memory=memory,
            bracket=bracket,
            reach=reach,
            steps=steps,
            rejected=rejected,
            stalled=stalled,
            last=last,
            done=state.last,
        )

    def done(self, problem: Problem, state: LBFGSState) -> Bool[Array, ""]:
        return state.done

    def linear(
        self, problem: Problem, slope: Float[Array, " n"], margin: Float[Array, ""]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return the first c and the distance of the boundary, both according to a linear model.

        At the boundary the gradient of the loss is half of `slope`, so that 2 c distance = |slope|
        / 2 (c = |slope| / 2 for the penalty "norm").

        Args:
            problem: The problem of this image.
            slope: [n] float, the gradient of the gap at the image.
            margin: Scalar, the absolute margin at the image.

        Returns:
            Scalars c and distance.
        """
        blocked = _blocked(problem.image.ravel(), slope, problem)
        length = jnp.maximum(_length(jnp.where(blocked, 0, slope)), 1e-6)
        reach = margin / length
        c = length / 2 if self.penalty == "norm" else length / (4 * reach)
        if self.initial_c is not None:
            c = jnp.asarray(self.initial_c, slope.dtype)
        return c, reach

    def _curvature(self, c: Array, distance: Array, reach: Array) -> Array:
        """Return the k for which k r is the penalty's gradient (c |r|: its tangent quadratic's)."""
        if self.penalty == "squared":
            return 2 * c
        return c / jnp.maximum(distance, 0.1 * reach)

    def _propose(
        self,
        problem: Problem,
        iterate: Array,
        gradient: Array,
        memory: Memory,
        curvature: Array,
        longest: Array,
    ) -> Float[Array, " n"]:
        """Return the next trial: a Newton step of the free variables, or a gradient step."""
        total = gradient + curvature * (iterate - problem.image.ravel())
        free = ~_blocked(iterate, total, problem)

        def reached(step: Array) -> Array:
            fraction = jnp.minimum(longest / jnp.maximum(_length(step), 1e-30), 1)
            return self._clip(problem, iterate - fraction * step)

        trial = reached(memory.newton(total, free, curvature))
        uphill = total @ (trial - iterate) >= 0  # the box has reversed the step
        return jnp.where(uphill, reached(jnp.where(free, total / curvature, 0)), trial)

    def _clip(self, problem: Problem, point: Array) -> Array:
        """Return the nearest point of the box, rounded to float32 as the queries are."""
        point = jnp.clip(point, *_flat_box(problem))
        return point.astype(jnp.float32).astype(point.dtype)


def _flat_box(problem: Problem) -> tuple[Array, Array]:
    """Return the ends of the box as those of a flat image."""
    if problem.lower.ndim == 0:
        return problem.lower, problem.upper
    return problem.lower.ravel(), problem.upper.ravel()


def _length(vector: Float[Array, " n"]) -> Float[Array, ""]:
    return jnp.sqrt(vector @ vector)


def _blocked(point: Array, gradient: Array, problem: Problem) -> Bool[Array, " n"]:
    """Return the mask of variables that the box keeps from following the negative gradient."""
    lower, upper = _flat_box(problem)
    low, high = point <= lower, point >= upper
    return (low & (gradient > 0)) | (high & (gradient < 0))
