"""The attack of Szegedy et al. (2013): box-constrained L-BFGS, and a line search for c.

For one c the minimiser of c |r|^2 + loss(x + r) in the box is found by projected L-BFGS; the search
wants the largest c whose minimiser is adversarial. Both are state: a tick asks for one value and
one gradient, and no image waits for another's line search.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxadv.attacks.bracket import Bracket
from jaxadv.attacks.quasi_newton import Memory
from jaxadv.core.attack import Answer, Attack, Problem, Reads, across
from jaxadv.core.goals import Goal
from jaxadv.core.losses import log_odds
from jaxadv.core.pytree import pytree, static, where

DECREASE = 1e-4  # Armijo's constant: the share of the linear model's decrease that a step must give
FLATTER = 0.8  # or, where rounding hides the decrease: the share of the slope that may be left
STALLED = 4  # trials in a row without a decrease worth having: a kink, or rounding
ROUGHEST = 0.3  # the largest residual, as a share of |r|, at which the outcome of a c is read


class LBFGSState(NamedTuple):
    """iterate: the last accepted point [n], with the loss, its gradient [n], the margin and whether
    it is adversarial; trial: the point asked [n]; found: the minimiser of the largest succeeding c;
    reach: how far a linear model has the boundary; steps: trials for this c; rejected, stalled:
    trials in a row that were refused, that gained nothing worth having; last: the search is over
    and `trial` is its answer; done: that was asked too."""

    iterate: Any
    loss: Any
    gradient: Any
    margin: Any
    adversarial: Any
    trial: Any
    found: Any
    memory: Memory
    bracket: Bracket
    reach: Any
    steps: Any
    rejected: Any
    stalled: Any
    last: Any
    done: Any


@pytree
class LBFGS(Attack):
    """Box-constrained L-BFGS (Szegedy et al. 2013, arXiv 1312.6199): the smallest r in L2.

    Minimises c |r|^2 + loss(x + r) over the box and searches the largest c whose minimiser is
    adversarial. The loss is -log P(goal): targeted the cross-entropy with the target, as in the
    paper; untargeted -log(1 - p_label), which unlike the negated cross-entropy of the label is
    bounded below, and stops pulling once the image is across. For a linear model of two classes the
    answer is exact.

    penalty: "squared" for c |r|^2 (smooth, what implementations use), "norm" for the paper's c |r|
    (each step takes its tangent quadratic; smoothed below a tenth of a linear model's distance; far
    from the boundary loss and penalty are both straight lines, the minimiser jumps as c changes,
    and some distances come out a few per cent larger).
    loss: "cross_entropy", or "margin" for softplus(margin), which sees only the largest other
    class: nearer answers where a network is unsure among many. memory: pairs that L-BFGS keeps;
    rounds: most values of c; iterations: most gradients for each; tolerance: relative accuracy of
    the distance, at which the search for c ends; a minimiser is as exact as that needs (a distance
    errs by the square of its minimiser's error), and less where the outcome of its c is plain
    (below about 3e-4 it needs float64: a float32 loss does not show its minimum more exactly).
    initial_c: where to begin (None: c of a linear model's boundary). precision: "float32", or
    "float64" for model and optimiser (needs jax_enable_x64; the images asked are rounded to float32
    all the same).

    A c begins where the last one ended, with its memory of curvature; implementations that call
    SciPy begin each c at the image, and need 10 to 20 times the gradients for distances that are
    equal (smooth networks) or a little larger (rectifiers). `start` replaces the image as the first
    point. Deterministic. One forward and one backward pass a tick, 15 to 160 of them on MNIST
    networks and at most `ticks`, and one forward pass for the answer. The image returned is the
    nearest adversarial one ever asked; with `keep="last"` the paper's, the minimiser of the largest
    succeeding c. The paper's distortion is `result.distance / sqrt(n)` for n pixel values. Raises
    ValueError for settings that are not listed here.

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
    tolerance: Any = 1e-3
    initial_c: Any = None
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
    def ticks(self) -> int:
        return self.rounds * self.iterations + 2

    def gap(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        """The log-odds against the goal (loss="margin": the margin); the loss is its softplus."""
        return goal.margin(logits) if self.loss == "margin" else -log_odds(goal, logits)

    def objective(self, goal: Goal, logits: Float[Array, " K"]) -> Float[Array, ""]:
        return -jax.nn.softplus(self.gap(goal, logits))

    def init(self, problem: Problem, key: Array) -> LBFGSState:
        dtype = jnp.dtype(self.precision)
        start = problem.image if problem.start is None else problem.start
        start = start.ravel().astype(dtype)
        zero, none, no = jnp.zeros((), dtype), jnp.int32(0), jnp.bool_(False)
        return LBFGSState(
            iterate=start, loss=zero, gradient=jnp.zeros_like(start), margin=zero, adversarial=no,
            trial=start, found=start, memory=Memory.empty(self.memory, start),
            bracket=Bracket.begin(zero + 1), reach=zero, steps=none, rejected=none, stalled=none,
            last=no, done=no,
        )  # fmt: skip

    def ask(self, problem: Problem, state: LBFGSState) -> Float[Array, "Q ..."]:
        return state.trial.reshape(1, *problem.image.shape)

    def reads(self, problem: Problem, state: LBFGSState) -> Reads:
        return Reads(jnp.ones(1, bool), ~state.last[None])

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
        memory = state.memory.add(step, gradient - state.gradient + bent)  # refused ones teach too
        iterate, loss, gradient, margin, adversarial = where(
            accepted,
            (state.trial, loss, gradient, margin, across(problem.goal, answer.logits[0])),
            (state.iterate, state.loss, state.gradient, state.margin, state.adversarial),
        )

        # Is this the minimiser? It fulfils x + r = clip(x - gradient / curvature). Far from the
        # boundary a rough one will do (not of the norm, whose minimisers are ill-conditioned).
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
        found = jnp.where(over & (adversarial | (turned.low == 0)), iterate, state.found)
        bracket = where(over, turned, bracket)
        last = over & (bracket.settled(self.tolerance) | (bracket.round >= self.rounds))
        rejected, stalled, steps = where(over, (0, 0, 0), (rejected, stalled, steps))

        # A refusal changes the next direction; from the second in a row the step is halved too.
        longest = reach * 0.5 ** jnp.maximum(rejected - 1, 0).astype(reach.dtype)
        curvature = self._curvature(bracket.c, distance, reach)
        trial = self._propose(problem, iterate, gradient, memory, curvature, longest)
        return LBFGSState(
            iterate=iterate, loss=loss, gradient=gradient, margin=margin, adversarial=adversarial,
            trial=jnp.where(last, found, trial), found=found, memory=memory, bracket=bracket,
            reach=reach, steps=steps, rejected=rejected, stalled=stalled, last=last,
            done=state.last,
        )  # fmt: skip

    def done(self, problem: Problem, state: LBFGSState) -> Bool[Array, ""]:
        return state.done

    def linear(self, problem: Problem, slope: Float[Array, " n"], margin: Any) -> tuple[Any, Any]:
        """The first c, and the distance: those of a boundary where a linear model has it.

        slope: the gap's gradient at the image. At the boundary the loss's is half of it, so
        2 c distance = |slope| / 2 (c = |slope| / 2 for the penalty "norm").
        """
        blocked = _blocked(problem.image.ravel(), slope, problem)
        length = jnp.maximum(_length(jnp.where(blocked, 0, slope)), 1e-6)
        reach = margin / length
        c = length / 2 if self.penalty == "norm" else length / (4 * reach)
        if self.initial_c is not None:
            c = jnp.asarray(self.initial_c, slope.dtype)
        return c, reach

    def _curvature(self, c: Array, distance: Array, reach: Array) -> Array:
        """k such that k r is the penalty's gradient: of c |r| that of its tangent quadratic."""
        if self.penalty == "squared":
            return 2 * c
        return c / jnp.maximum(distance, 0.1 * reach)

    def _propose(
        self, problem: Problem, iterate: Array, gradient: Array, memory: Memory, curvature: Array,
        longest: Array,
    ) -> Float[Array, " n"]:  # fmt: skip
        """The next trial: a Newton step of the variables that are free to move, or a plain one."""
        total = gradient + curvature * (iterate - problem.image.ravel())
        free = ~_blocked(iterate, total, problem)

        def reached(step: Array) -> Array:
            share = jnp.minimum(longest / jnp.maximum(_length(step), 1e-30), 1)
            return self._clip(problem, iterate - share * step)

        trial = reached(memory.newton(total, free, curvature))
        uphill = total @ (trial - iterate) >= 0  # the box has turned the step around
        return jnp.where(uphill, reached(jnp.where(free, total / curvature, 0)), trial)

    def _clip(self, problem: Problem, point: Array) -> Array:
        """The nearest point of the box, in float32's grid: what is asked is what is kept."""
        point = jnp.clip(point, problem.lower, problem.upper)
        return point.astype(jnp.float32).astype(point.dtype)


def _length(vector: Float[Array, " n"]) -> Float[Array, ""]:
    return jnp.sqrt(vector @ vector)


def _blocked(point: Array, gradient: Array, problem: Problem) -> Bool[Array, " n"]:
    """Which variables the box keeps from following the negative gradient."""
    low, high = point <= problem.lower, point >= problem.upper
    return (low & (gradient > 0)) | (high & (gradient < 0))
