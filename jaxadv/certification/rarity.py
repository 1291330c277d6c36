"""The probability that a random perturbation fools a network, down to 1e-9.

Monte Carlo cannot measure such probabilities: one of 1e-9 takes 1e11 draws. Adaptive multilevel
splitting can (Cerou and Guyader 2007, "Adaptive multilevel splitting for rare event analysis"; for
networks Webb et al. 2018, "A statistical approach to assessing neural network robustness", arXiv
1811.07209).
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import betainc
from jaxtyping import Array, Bool, Float

from jaxadv.core.bounds import two_numbers
from jaxadv.core.goals import Goal
from jaxadv.core.model import Model
from jaxadv.core.random import threefry
from jaxadv.core.typing import ArrayLike, Key, Number

FLOOR = 1e-9


NOISES = ("sphere", "gaussian")


ACCEPTANCE = 0.3  # target acceptance rate of the chains


class Rarity(NamedTuple):
    """Estimated probabilities of rare events.

    Attributes:
        probability: Probabilities [N], 0 where rarer than the floor.
        relative_error: Estimated standard errors over the probabilities, [N] (nan where the
            probability is 0).
        runs: The R independent estimates, [N, R].
    """

    probability: Float[Array, " N"]
    relative_error: Float[Array, " N"]
    runs: Float[Array, "N R"]


class _Swarm(NamedTuple):
    """State of the splitting runs of all images.

    Attributes:
        directions: The particles [N, R, P, D].
        scores: Their scores [N, R, P].
        log_fraction: Log of the fraction of all draws above `level`, [N, R].
        level: Current level [N, R].
        step: Step length of the chains [N, R].
    """

    directions: Float[Array, "N R P D"]
    scores: Float[Array, "N R P"]
    log_fraction: Float[Array, "N R"]
    level: Float[Array, "N R"]
    step: Float[Array, "N R"]


def perturb_randomly(
    images: Float[Array, "N ..."],
    directions: Float[Array, "N M D"],
    size: Number,
    noise: str = "sphere",
    bounds: tuple[float, float] | Float[Array, "2"] = (-jnp.inf, jnp.inf),
) -> Float[Array, "N M ..."]:
    """Return M noisy versions of each image, from standard normal `directions`.

    Args:
        images: Images [N, ...].
        directions: Standard normal vectors [N, M, D].
        size: Number or [N], radius or standard deviation of the noise.
        noise: "sphere": uniform on the L2 sphere of radius `size`; "gaussian": of standard
            deviation `size` in every entry.
        bounds: Box to which the sum is clipped, which shortens the perturbation (default: none).

    Returns:
        The noisy images [N, M, ...].

    Raises:
        ValueError: `noise` is unknown.
    """
    if noise not in NOISES:
        raise ValueError(f"noise={noise!r} is not known: pass one of {', '.join(NOISES)}")
    scale = jnp.broadcast_to(jnp.asarray(size, jnp.float32), len(images))[:, None, None]
    if noise == "sphere":
        scale = scale / jnp.linalg.norm(directions, axis=-1, keepdims=True)
    shape = (*directions.shape[:2], *images.shape[1:])
    return jnp.clip(images[:, None] + (scale * directions).reshape(shape), *bounds)


class Splitting(NamedTuple):
    """The effort of adaptive multilevel splitting.

    Attributes:
        particles: Particles of each run.
        runs: Independent runs, at least 2.
        moves: Moves of every particle at each level.
        kept: Fraction of the particles that survive at each level, which determines the level.
        floor: Probability below which an estimate is 0.
    """

    particles: int = 128
    runs: int = 4
    moves: int = 8
    kept: float = 0.25
    floor: float = FLOOR


@functools.partial(jax.jit, static_argnames=("noise", "splitting"))
def probability(
    model: Model,
    images: Float[Array, "N ..."],
    goal: Goal,
    size: Number,
    *,
    key: Key,
    noise: str = "sphere",
    clip: bool | Bool[Array, ""] = False,
    splitting: Splitting = Splitting(),  # noqa: B008
) -> Rarity:
    """Estimate the probability of reaching the goal by random noise: multilevel splitting.

    Draws are standard normal vectors u; their score is the margin by which they reach the goal. The
    best `kept` of the particles determine the next level and are copied over the others; then all
    make `moves` steps u sqrt(1 - s^2) + s v, v normal, which leave the normal distribution
    invariant and are rejected below the level. The probability is the product of the kept
    fractions. Several independent runs give its standard error, which includes the correlation of
    the chains (but not that all of them may have missed the same far, small region). The same v are
    used for all images: an estimate does not depend on the other images, but the errors of all
    images are correlated.

    Costs at most runs * particles * (1 + moves * log(floor) / log(kept)) forward passes per image;
    no gradient. Pure, jitted, vmapped over images.

    Args:
        model: The model.
        images: float32 [N, H, W, C].
        goal: `Untargeted(labels)` or `Targeted(labels, targets)`, integers [N].
        size: Number or [N], in the scale of the images: radius of the sphere or standard deviation.
        key: JAX random key.
        noise: "sphere": uniform on the L2 sphere; "gaussian": normal in every entry.
        clip: Whether the noisy image is clipped to `model.bounds`.
        splitting: Numbers of particles, runs and moves, the fraction of particles that is kept at
            each level, and the probability below which a run stops.

    Returns:
        The probabilities, their relative errors and the runs.

    Raises:
        ValueError: `noise` is unknown, `kept` or `floor` is not between 0 and 1, `particles * kept`
            is below 2, `moves` is below 1 or `runs` below 2.

    Example:
        >>> import jax, jax.numpy as jnp, jaxadv as ja
        >>> from jaxadv.certification.rarity import probability
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(100)[:, :2])
        >>> image = jnp.zeros((1, 10, 10, 1)).at[0, 0, 0, 0].set(jnp.sqrt(2.0) * 5)
        >>> estimate = probability(model, image, ja.Untargeted(jnp.zeros(1, int)), 1.0,
        ...                        key=jax.random.key(0), noise="gaussian")
        >>> bool(1.5e-7 < estimate.probability[0] < 5e-7)  # 2.9e-7: five standard deviations
        True
    """
    particles, runs, moves, kept, floor = splitting
    if not (0 < kept < 1 and 0 < floor < 1 and particles * kept >= 2 and moves > 0 and runs > 1):
        raise ValueError(
            f"kept={kept}, floor={floor}, particles={particles}, moves={moves}, runs={runs}: pass "
            "fractions between 0 and 1, particles * kept of at least 2, a move and two runs"
        )
    key = threefry(key)
    count, dimension = len(images), math.prod(images.shape[1:])
    killed = particles - round(particles * kept)
    levels = math.ceil(math.log(floor) / math.log(kept))
    bounds = jnp.where(
        clip, jnp.array(two_numbers(model.bounds, "ja.rarity")), jnp.array([-jnp.inf, jnp.inf])
    )
    margin = jax.vmap(lambda goal, logits: jax.vmap(goal.margin)(logits))

    def score(directions: Array) -> Float[Array, "N R P"]:
        flat = directions.reshape(count, -1, dimension)
        points = perturb_randomly(images, flat, size, noise, bounds)
        logits = model(points.reshape(-1, *images.shape[1:]))
        return -margin(goal, logits.reshape(count, runs * particles, -1)).reshape(
            count, runs, particles
        )

    def select(swarm: _Swarm, key: Key) -> _Swarm:
        """Raise the level, at most to 0, and replace the others by copies of the survivors."""
        scores = swarm.scores
        level = jnp.minimum(jnp.sort(scores)[..., killed - 1], 0.0)
        alive = scores > level[..., None]
        survivors = alive.sum(-1, keepdims=True)
        chosen = jnp.floor(jax.random.uniform(key, (runs, particles)) * survivors).astype(int)
        parents = jnp.take_along_axis(jnp.argsort(~alive, stable=True), chosen, -1)
        parents = jnp.where(alive, jnp.arange(particles), parents)
        return _Swarm(
            jnp.take_along_axis(swarm.directions, parents[..., None], 2),
            jnp.take_along_axis(scores, parents, 2),
            swarm.log_fraction + jnp.log(alive.mean(-1)),
            level,
            swarm.step,
        )

    def move(swarm: _Swarm, key: Key) -> tuple[_Swarm, None]:
        fresh = jax.random.normal(key, (runs, particles, dimension))
        step = swarm.step[..., None, None]
        trial = jnp.sqrt(1 - jnp.square(step)) * swarm.directions + step * fresh
        scores = score(trial)
        accepted = scores > swarm.level[..., None]
        step = swarm.step * jnp.exp(accepted.mean(-1) - ACCEPTANCE)
        return swarm._replace(
            directions=jnp.where(accepted[..., None], trial, swarm.directions),
            scores=jnp.where(accepted, scores, swarm.scores),
            step=jnp.minimum(step, 1.0),
        ), None

    def unfinished(swarm: _Swarm) -> Bool[Array, "N R"]:
        return (swarm.level < 0) & (swarm.log_fraction > -jnp.inf)

    def climb(state: tuple[int | Array, _Swarm]) -> tuple[int | Array, _Swarm]:
        number, swarm = state
        *draws, choice = jax.random.split(jax.random.fold_in(key, number), moves + 1)
        moved, _ = lax.scan(move, swarm, jnp.stack(draws))
        going, raised = unfinished(swarm), select(moved, choice)

        def pick(new: Array, old: Array) -> Array:
            return jnp.where(going.reshape(going.shape + (1,) * (new.ndim - 2)), new, old)

        return number + 1, jax.tree.map(pick, raised, swarm)

    first, choice = jax.random.split(jax.random.fold_in(key, 0))
    start = jax.random.normal(first, (runs, particles, dimension))
    start = jnp.broadcast_to(start, (count, *start.shape))
    still = jnp.zeros((count, runs))
    swarm = select(_Swarm(start, score(start), still, still, still + 0.8), choice)
    _, swarm = lax.while_loop(
        lambda state: (state[0] < levels) & unfinished(state[1]).any(), climb, (1, swarm)
    )
    each = jnp.exp(swarm.log_fraction) * (swarm.scores > 0).mean(-1)
    mean = each.mean(1)
    error = each.std(1, ddof=1) / math.sqrt(runs) / mean
    return Rarity(mean, error, each)


def cap_probability(distance: Number, radius: Number, dimension: int) -> Float[Array, "..."]:
    """Return the fraction of a sphere beyond a hyperplane.

    This is the fraction of random perturbations of norm `radius` that would fool if the boundary
    were flat. It is half the regularised incomplete beta function of 1 - (distance / radius)^2 at
    (dimension - 1) / 2 and 1/2 (Li 2011, "Concise formulas for the area and volume of a
    hyperspherical cap"), in float32 accurate to about a thousandth.

    Args:
        distance: Distances of the hyperplane from the sphere's centre, of any shape.
        radius: Radii of the sphere, of a shape that broadcasts with them.
        dimension: Dimension of the space.

    Returns:
        The fractions.

    Example:
        >>> float(cap_probability(1.0, 2.0, 3))  # by Archimedes (1 - 1/2) / 2
        0.25
    """
    inside = jnp.clip(1 - jnp.square(jnp.asarray(distance) / jnp.asarray(radius)), 0.0, 1.0)
    return betainc((dimension - 1) / 2, 0.5, inside) / 2


def norm_at(
    target: float, norms: np.ndarray, probabilities: ArrayLike, dimension: int
) -> Float[np.ndarray, " N"]:
    """Return the norms [N] at which the probability of fooling is `target`; nan where not reached.

    In front of a flat boundary, the cosine at which a cap of that fraction begins is proportional
    to 1 / norm. These cosines are therefore interpolated, and extrapolated below the smallest
    positive probability, though not to norms at which the probability was found to be 0, rarer than
    the floor.

    Args:
        target: Probability, from `FLOOR` to 1/2.
        norms: Rising norms [S, N] of the noise on a sphere.
        probabilities: Probabilities [S, N] at these norms.
        dimension: Dimension of the images.

    Returns:
        The norms [N].
    """
    cosine = np.linspace(0.999, 0, 4000)
    cap = np.asarray(cap_probability(cosine, 1.0, dimension), np.float64)
    cosine, cap = cosine[cap > 1e-30], cap[cap > 1e-30]

    def cap_cosine(fraction: float | np.ndarray) -> np.ndarray:
        return np.asarray(np.interp(np.log(fraction), np.log(cap), cosine))

    def one(norms: np.ndarray, known: np.ndarray) -> float:
        known = np.maximum.accumulate(known)
        inside = known > 0
        if target > known.max():
            return np.nan
        heights, inverse = cap_cosine(known[inside]), 1 / norms[inside]
        heights, inverse = np.append(10 * heights[0], heights), np.append(10 * inverse[0], inverse)
        norm = 1 / np.interp(cap_cosine(target), heights[::-1], inverse[::-1])
        return max(norm, norms[~inside].max(initial=0))

    columns = zip(norms.T, np.asarray(probabilities, np.float64).T, strict=True)
    return np.array([one(*column) for column in columns])
