"""Transfer attacks: momentum, and gradients averaged over views of the image.

Projected gradient ascent along the gradient of several views of the iterate, pulled back through
the views. Each published attack is one choice of these settings; they can be combined freely.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxadv.attacks.common.gradient import GradientAttack, GradientState
from jaxadv.attacks.transfer.views import FORMS, profile, resize_and_pad, smooth
from jaxadv.core.attack import Answer, Needs, Problem
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import ArrayLike, Key, Number


class TransferState(NamedTuple):
    """State of a transfer attack.

    Attributes:
        image: [H, W, C], the iterate.
        optimizer: State of the optax optimiser.
        step: Integer scalar, gradients taken so far.
        key: The random key of this run.
        momentum: [H, W, C], the accumulated gradient g (None where not used).
        variance: [H, W, C], the variance term v of the last step (None where not used).
    """

    image: Float[Array, "H W C"]
    optimizer: PyTree
    step: Int[Array, ""]
    key: Key
    momentum: Float[Array, "H W C"] | None
    variance: Float[Array, "H W C"] | None


@pytree
class Transfer(GradientAttack):
    """Gradient ascent with any combination of the published techniques for transferable examples.

    With the default settings this is `ja.BIM`. The step is the optimiser's, in any norm; in L2 and
    L1 momentum is scaled to the length of a step. Views are queried as they are, also outside of
    box and ball. The result is the last iterate, also where the surrogate is fooled earlier
    (`keep="last"`); `ja.run(..., judge=target)` judges it on the target network.

    (1 + neighbours) * scales * max(mixed, 1) forward and backward passes a step, and one forward
    pass for the last iterate.

    Attributes:
        norm: "linf", "l2", "l1" or "l0".
        steps: Gradient steps per restart.
        restarts: Independent runs.
        step_size: Step length as a fraction of epsilon.
        loss: The loss that is maximised: a name, or a function (goal, logits [K]) -> scalar.
        random_start: Whether to begin at a uniform draw from the ball.
        optimizer: A `ja.Optimizer` in place of steepest ascent, or None.
        sparsity: In L1 and L0, the fraction of the entries that one step moves.
        decay: Momentum g <- decay * g + gradient / mean |gradient| (Dong et al. 2017, arXiv
            1710.06081); None: no momentum.
        nesterov: Whether the gradient is taken one step of g ahead (Lin et al. 2019, arXiv
            1908.06281).
        diversity: Probability with which a view is resized and padded (Xie et al. 2018, arXiv
            1803.06978); None: never.
        resize: Smallest factor of the resizing, in (0, 1).
        kernel: Side in pixels, an odd number, of a kernel that smooths the gradient (Dong et al.
            2019, arXiv 1904.02884); 0: no kernel.
        kernel_form: "gaussian", "linear" or "uniform".
        scales: Number of views image / 2^i, i < scales (Lin et al. 2019).
        neighbours: Number of neighbours whose mean gradient corrects that of the next step (Wang
            and He 2021, arXiv 2103.15571).
        neighbourhood: Radius within which neighbours are drawn, in epsilons.
        mixed: Number of views to which a `portion` of another image is added (Wang et al. 2021,
            arXiv 2102.00436); 0: none.
        portion: Weight of the other image.
        mixed_images: [M, H, W, C], the images that are mixed in; needed where mixed is not 0.
        mixed_labels: Integers [M], their classes: only images of another class are drawn; None:
            all.

    Raises:
        ValueError: If the norm, the loss or kernel_form is unknown, steps, restarts or scales is
            below 1, step_size is not a finite number above 0, kernel is even, resize or diversity
            is out of range, nesterov is set without decay, or mixed without mixed_images.

    >>> import jaxadv as ja
    >>> attack = ja.Transfer(decay=1.0, diversity=0.5, kernel=5, scales=5)
    >>> attack.queries
    5
    """

    steps: int = static(default=10)
    decay: Number | None = None
    nesterov: bool = static(default=False)
    diversity: Number | None = None
    resize: float = static(default=0.9)
    kernel: int = static(default=0)
    kernel_form: str = static(default="gaussian")
    scales: int = static(default=1)
    neighbours: int = static(default=0)
    neighbourhood: Number = 1.5
    mixed: int = static(default=0)
    portion: Number = 0.2
    mixed_images: ArrayLike | None = None
    mixed_labels: ArrayLike | None = None
    keep: ClassVar[str] = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(scales=1, neighbours=0, mixed=0, kernel=0)
        if self.kernel and self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel}: pass an odd number, so that it has a centre")
        if self.kernel_form not in FORMS:
            raise ValueError(f"kernel_form={self.kernel_form!r}: pass one of {FORMS}")
        if not 0 < self.resize < 1:
            raise ValueError(f"resize={self.resize}: pass a fraction between 0 and 1")
        if isinstance(self.diversity, np.floating) and not 0 <= self.diversity <= 1:
            raise ValueError(f"diversity={self.diversity}: pass a probability, or None")
        if self.nesterov and self.decay is None:
            raise ValueError("nesterov=True looks ahead along the momentum: pass decay too")
        if self.mixed and self.mixed_images is None:
            raise ValueError(
                f"mixed={self.mixed}: pass mixed_images [M, H, W, C], the images to be mixed in"
            )

    @property
    def views(self) -> int:
        """Number of views of one point."""
        return self.scales * max(self.mixed, 1)

    @property
    def queries(self) -> int:  # type: ignore[override]
        return (1 + self.neighbours) * self.views

    @property
    def passes(self) -> int:
        return self.entries * (self.steps * self.queries * 2 + 1)

    @property
    def asks_inside(self) -> bool:  # type: ignore[override]
        return self.queries == 1 and not self.mixed and not self.nesterov and self.diversity is None

    def init(self, problem: Problem, key: Array) -> TransferState:
        start: GradientState = super().init(problem, key)
        zero = jnp.zeros_like(start.image)
        momentum = None if self.decay is None else zero
        variance = zero if self.neighbours else None
        ahead = jax.random.fold_in(key, 1)
        return TransferState(start.image, start.optimizer, start.step, ahead, momentum, variance)

    def ask(self, problem: Problem, state: TransferState) -> Float[Array, "Q ..."]:
        # The first query of the last tick is the iterate itself, which is kept and judged.
        images = self.views_of(problem, state, self.points(problem, state))
        final = jnp.where(state.step < self.steps, images[0], state.image)
        return images.at[0].set(final)

    def needs(self, problem: Problem, state: TransferState) -> Needs:
        stepping = jnp.broadcast_to(state.step < self.steps, self.queries)
        return Needs(stepping | (jnp.arange(self.queries) == 0), stepping)

    def points(self, problem: Problem, state: TransferState) -> Float[Array, "P ..."]:
        """Points at which gradients are taken: the iterate or a step ahead, then neighbours."""
        centre = state.image
        if self.nesterov:
            assert self.decay is not None  # checked on construction
            assert state.momentum is not None
            centre = centre + self.step_size * problem.epsilon * self.decay * state.momentum
        if not self.neighbours:
            return centre[None]
        radius = self.neighbourhood * problem.epsilon
        keys = jax.random.split(self.key(state, 0), self.neighbours)
        around = jax.vmap(
            lambda key: self.geometry.random(key, state.image, radius, problem.lower, problem.upper)
        )(keys)
        return jnp.concatenate([centre[None], around])

    def key(self, state: TransferState, use: int) -> Array:
        """The random key of this step for one use."""
        return jax.random.fold_in(jax.random.fold_in(state.key, state.step), use)

    def views_of(
        self, problem: Problem, state: TransferState, points: Float[Array, "P ..."]
    ) -> Float[Array, "Q ..."]:
        """Queries of these points: the views of each point in turn."""
        views = points[:, None]
        if self.mixed:
            chosen = self.choose(problem, self.key(state, 1), (len(points), self.mixed))
            mixed = jnp.asarray(self.mixed_images)[chosen]
            views = views + self.portion * mixed.reshape(*chosen.shape, *points.shape[1:])
        halves = 2.0 ** -jnp.arange(self.scales).reshape(-1, 1, *(1,) * state.image.ndim)
        views = (halves * views[:, None]).reshape(-1, *state.image.shape)
        if self.diversity is None:
            return views
        # Few, large draws: a random function of its own for each takes XLA seconds to compile.
        draws = jax.random.uniform(self.key(state, 2), (len(views), 4))
        return jax.vmap(lambda v, d: resize_and_pad(v, d, self.diversity, self.resize))(
            views, draws
        )

    def choose(self, problem: Problem, key: Array, shape: tuple[int, ...]) -> Array:
        """Indices of the images that are mixed in, drawn independently."""
        if self.mixed_labels is None:
            return jax.random.randint(key, shape, 0, jnp.asarray(self.mixed_images).shape[0])
        other = jnp.asarray(self.mixed_labels) != problem.goal.labels
        return jax.random.categorical(key, jnp.where(other, 0.0, -jnp.inf), shape=shape)

    def tell(self, problem: Problem, state: TransferState, answer: Answer) -> TransferState:
        points = self.points(problem, state)
        _, pull_back = jax.vjp(lambda p: self.views_of(problem, state, p), points)
        here, *around = pull_back(answer.gradients[:, 0])[0] / self.views
        gradient, variance, momentum = here, state.variance, state.momentum
        if self.neighbours:
            gradient = here + state.variance
            variance = sum(around) / self.neighbours - here
        if self.kernel:
            gradient = smooth(gradient, profile(self.kernel, self.kernel_form))
        if self.decay is not None:
            step = jnp.abs(gradient).mean() * self.geometry.distance(jnp.ones_like(gradient))
            assert state.momentum is not None
            gradient = momentum = state.momentum * self.decay + gradient / jnp.maximum(step, 1e-30)
        moved = self.climb(problem, state, gradient)
        return TransferState(*moved, state.key, momentum, variance)
