"""Carlini-Wagner attacks: the least perturbation in tanh space by Adam, in L2, Linf and L0."""

from typing import TYPE_CHECKING, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxadv.attacks.common.penalty_rounds import Rounds, RoundsState, Weight
from jaxadv.attacks.common.tanh_space import TanhSpace
from jaxadv.core.attack import Answer, Problem
from jaxadv.core.norms import largest
from jaxadv.core.pytree import pytree, static, where
from jaxadv.core.typing import Number

if TYPE_CHECKING:  # optax is imported where it is used: it would be a third of `import jaxadv`
    import optax

PAPER = {  # rounds (Linf and L0: no limit in the paper), learning_rate, initial_c, largest_c
    "l2": (9, 0.01, 1e-3, np.inf),
    "linf": (200, 5e-3, 1e-5, 20.0),
    "l0": (500, 0.01, 1e-3, 2e6),
}
TINY = (
    1e-12  # Adam's epsilon: with the usual 1e-8 a small c would not move pixels where tanh is flat
)
WITHIN = 1e-4  # Linf: an excess over tau below this fraction of c counts as 0
FRACTION = 0.3  # L0: of n changed entries FRACTION * sqrt(n) are fixed at a time, at least one


class Task(NamedTuple):
    """Parameters of the current round of `CW`.

    Attributes:
        begin: [H, W, C] float32, the w at which the round begins.
        weight: The search for c (Linf and L0: `low` is the c that succeeded last).
        tau: float32 scalar, the threshold of the Linf penalty.
        factor: float32 scalar, the factor of tau after a success.
        refined: int32 scalar, how often `factor` was moved nearer to 1.
        free: [H, W, C] bool, the entries that may change in L0.
    """

    begin: Float[Array, "H W C"]
    weight: Weight
    tau: Float[Array, ""]
    factor: Float[Array, ""]
    refined: Int[Array, ""]
    free: Bool[Array, "H W C"]


class CWState(NamedTuple):
    """State of one run of `CW`.

    Attributes:
        w: [H, W, C] float32, the iterate in tanh space.
        adam: State of the optax optimizer.
        task: Parameters of the current round.
        progress: Progress of the rounds and the best image so far.
    """

    w: Float[Array, "H W C"]
    adam: PyTree
    task: Task
    progress: RoundsState


@pytree
class CW(Rounds):
    """Carlini-Wagner attack (Carlini and Wagner 2016, arXiv 1608.04644): least L2, Linf or L0.

    A round takes at most `steps` steps of Adam in tanh space on penalty + c * max(margin +
    confidence, 0). Distances are in sides of the box, so that the constants fit every box. The
    attack is deterministic; `start` replaces the image as the first point.

    In L2 the penalty is the squared distance. c is multiplied by ten, from `initial_c`, until a
    round succeeds, and then found by bisection; every round starts at the image.

    In Linf the penalty is the sum of the excess over a threshold tau. Once the iterate is
    adversarial within tau, tau becomes `decrease` times the distance reached, and the next round
    continues from there; a round that fails is repeated with twice the c, up to `largest_c`.

    In L0 the penalty is that of L2 on the free entries. Once the iterate is adversarial, entries
    are fixed to the image's values: the unchanged ones, and of the n others the 0.3 sqrt(n) of
    least |gradient * change| (as in the authors' code; the paper fixes one). The next round
    continues from there, or with twice the c. Entries are counted, not pixels.

    Where implementations clip the image by 1e-6 before the arctanh, pixels on a face of the box
    leave it after some 500 steps, or never. Here the tanh is that of a larger box, and 9 rounds of
    100 steps come within one per cent of 9 rounds of 1000. The authors end Linf at tau = 1 / 256,
    above the distances of many networks; here only c ends it.

    Each step costs one forward and one backward pass, at most `rounds * steps` in all, and the
    final image one more forward pass. With a confidence above 0 the nearest image that has it is
    returned (`keep="last"`), and the others count as failures.

    Attributes:
        steps: Largest number of steps of a round (the authors' code takes 10,000 in L2). `steps *
            learning_rate` bounds how far a round moves in tanh space, where the distance from face
            to face is 3.7.
        rounds: Largest number of rounds; in L2, values of c (None: 9 in L2, 200 in Linf, 500 in L0;
            the authors limit it in L2 only).
        learning_rate: Learning rate of Adam in tanh space (None: the authors' value for the norm).
        initial_c: First value of c (None: the authors' value for the norm).
        confidence: Required distance beyond the boundary, in logits.
        abort_early: End a round when, within a tenth of it, neither the lowest loss has fallen by
            a fraction of 1e-4 nor a nearer adversarial image has been found; decided for each image
            on its own (implementations compare single losses, summed over the batch).
        norm: "l2", "linf" or "l0".
        largest_c: c above which the search ends (None: the authors' value for the norm).
        decrease: Factor of tau after a success in Linf.
        refinements: How often, in Linf after the largest c has failed, the gap between the factor
            of tau and 1 is halved to attempt a smaller decrease (paper: 0, which leaves up to a
            tenth of the distance).

    Raises:
        ValueError: If `norm` is unknown, `steps` or `rounds` is below 1, `learning_rate`,
            `initial_c` or `largest_c` is not above 0, `confidence` or `refinements` is below 0, or
            `decrease` is not in (0, 1).

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.eye(4)[:, :2])
    >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.7)
    >>> goal = ja.Untargeted(jnp.array([0]))
    >>> ja.run(ja.CW(norm="l2"), model, images, goal, key=jax.random.key(0)).distance.round(3)
    array([0.141])
    """

    norm: str = static(default="l2")
    rounds: int | None = static(default=None)
    learning_rate: Number | None = None
    initial_c: Number | None = None
    largest_c: Number | None = None
    decrease: Number = 0.9
    refinements: int = static(default=3)
    norms: ClassVar[tuple[str, ...]] = tuple(PAPER)

    def __post_init__(self) -> None:
        self.check_norm()
        fields = ("rounds", "learning_rate", "initial_c", "largest_c")
        for field, value in zip(fields, PAPER[self.norm], strict=True):
            if getattr(self, field) is None:
                object.__setattr__(self, field, np.float32(value) if field != "rounds" else value)
        super().__post_init__()
        if isinstance(self.largest_c, np.floating) and not self.largest_c > 0:
            raise ValueError(f"largest_c={self.largest_c}: pass a number above 0")
        if isinstance(self.decrease, np.floating) and not 0 < self.decrease < 1:
            raise ValueError(f"decrease={self.decrease}: pass a number between 0 and 1")
        self.check_least(refinements=0)

    def adam(self) -> "optax.GradientTransformation":
        """Return the optimizer of a round."""
        import optax

        assert self.learning_rate is not None
        return optax.adam(jnp.asarray(self.learning_rate), eps=TINY)

    def init(self, problem: Problem, key: Array) -> CWState:
        assert self.initial_c is not None
        start = problem.image if problem.start is None else problem.start
        w = TanhSpace.around(problem).enter(start)
        one, weight = jnp.float32(1), Weight.begin(self.initial_c)
        factor = one * self.decrease
        task = Task(w, weight, one, factor, jnp.int32(0), jnp.ones(w.shape, bool))
        return CWState(w, self.adam().init(w), task, RoundsState.begin(problem.image))

    def iterate(self, problem: Problem, state: CWState) -> Float[Array, "..."]:
        """Return the image of w; fixed entries are exactly those of the original."""
        image = TanhSpace.around(problem).leave(problem, state.w)
        return jnp.where(state.task.free, image, problem.image)

    def ask(self, problem: Problem, state: CWState) -> Float[Array, "Q ..."]:
        image = self.iterate(problem, state)
        return jnp.where(state.progress.last, state.progress.best, image)[None]

    def tell(self, problem: Problem, state: CWState, answer: Answer) -> CWState:
        task, space = state.task, TanhSpace.around(problem)
        image, side = self.iterate(problem, state), problem.side
        delta, slope = (image - problem.image) / side, -side * answer.gradients[0, 0]
        lacking, success = self.shortfall(problem.goal, answer.logits[0])
        penalty, pull = self.penalty(delta, task)

        # Linf and L0 end a round at its first success; L2 continues for the nearest one.
        progress = self.seen(state.progress, success, image, self.geometry.distance(delta))
        ends = {"l2": False, "linf": success & (penalty <= WITHIN * task.weight.c), "l0": success}
        loss = penalty + task.weight.c * lacking
        progress, over = self.stepped(progress, loss, ends[self.norm])
        reached = progress.reached if self.norm == "l2" else ends[self.norm]

        total = pull + jnp.where(lacking > 0, task.weight.c, 0) * slope
        total = jnp.where(task.free, total * space.slope(state.w) / side, 0)
        updates, adam = self.adam().update(total, state.adam, state.w)
        w = space.within(state.w + updates)  # type: ignore[operator]
        following = getattr(self, f"after_{self.norm}")(task, reached, state.w, delta, slope)
        task = where(over, following, task)
        w, adam = where(over, (task.begin, self.adam().init(task.begin)), (w, adam))
        exhausted = (task.weight.c > self.largest_c) | ~task.free.any()
        progress = progress._replace(
            reached=progress.reached & ~over, last=progress.last | exhausted
        )
        return CWState(w, adam, task, progress)

    def penalty(
        self, delta: Float[Array, "..."], task: Task
    ) -> tuple[Float[Array, ""], Float[Array, "..."]]:
        """Return the penalty that stands for the distance, and its gradient [H, W, C]."""
        if self.norm == "linf":
            excess = jnp.abs(delta) - task.tau
            return jnp.maximum(excess, 0).sum(), jnp.sign(delta) * (excess > 0)
        return jnp.square(delta).sum(), 2 * delta

    def after_l2(
        self,
        task: Task,
        reached: Bool[Array, ""],
        w: Float[Array, "..."],
        delta: Float[Array, "..."],
        slope: Float[Array, "..."],
    ) -> Task:
        """Return the task of the next round in L2: the next c of the search."""
        return task._replace(weight=task.weight.after(reached))

    def after_linf(
        self,
        task: Task,
        reached: Bool[Array, ""],
        w: Float[Array, "..."],
        delta: Float[Array, "..."],
        slope: Float[Array, "..."],
    ) -> Task:
        """Return the task of the next round in Linf: a smaller tau, twice c, or another factor."""
        assert self.largest_c is not None
        c, low = task.weight.c, task.weight.low
        weight = task.weight._replace(
            c=jnp.where(reached, c, 2 * c), low=jnp.where(reached, c, low)
        )
        distance = jnp.minimum(task.tau, jnp.abs(delta).max())
        again = (weight.c > self.largest_c) & (task.refined < self.refinements) & (low > 0)
        factor = jnp.where(again, (1 + task.factor) / 2, task.factor)
        tau = jnp.where(reached, task.factor * distance, task.tau)
        return task._replace(
            begin=jnp.where(reached, w, task.begin),
            weight=weight._replace(c=jnp.where(again, low, weight.c)),
            tau=jnp.where(again, task.tau / task.factor * factor, tau),
            factor=factor,
            refined=task.refined + again,
        )

    def after_l0(
        self,
        task: Task,
        reached: Bool[Array, ""],
        w: Float[Array, "..."],
        delta: Float[Array, "..."],
        slope: Float[Array, "..."],
    ) -> Task:
        """Return the task of the next round in L0: fewer free entries, or twice the c."""
        changed = task.free & (delta != 0)
        count = changed.sum()
        fixed = jnp.maximum(jnp.floor(FRACTION * jnp.sqrt(count)), 1)
        free = largest(jnp.where(changed, jnp.abs(slope * delta), 0), count - fixed) & changed
        c = task.weight.c
        return task._replace(
            begin=jnp.where(reached, w, task.begin),
            weight=task.weight._replace(c=jnp.where(reached, c, 2 * c)),
            free=jnp.where(reached, free, task.free),
        )
