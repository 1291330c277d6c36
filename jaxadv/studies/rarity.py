"""The probability that a random perturbation fools a network, down to 1e-9.

Szegedy et al. (2013, arXiv 1312.6199) conjecture that adversarial images are as dense as the
rational numbers among the reals, and yet so improbable that no test set holds one. Monte Carlo
cannot measure this: a probability of 1e-9 takes 1e11 draws. Adaptive multilevel splitting can
(Cerou and Guyader 2007, "Adaptive multilevel splitting for rare event analysis"; for networks Webb
et al. 2018, "A statistical approach to assessing neural network robustness", arXiv 1811.07209).
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import betainc
from jaxtyping import Array, Float

from jaxadv.attacks import LBFGS
from jaxadv.core.goals import Goal, Untargeted
from jaxadv.core.model import Model
from jaxadv.engine.verify import predict
from jaxadv.studies.findings import Curves, Findings, Part, Table, Text
from jaxadv.studies.networks import Network, trained
from jaxadv.studies.setting import Setting

FLOOR = 1e-9
TIMES = np.array([1, 2, 3, 4, 5, 6, 8, 11, 16, 23, 32, 45.0])  # norms over the nearest distance
NOISES = ("sphere", "gaussian")
ACCEPTANCE = 0.3  # target acceptance rate of the chains


class Rarity(NamedTuple):
    """Estimated probabilities of rare events.

    Attributes:
        probability: [N], 0 where rarer than the floor.
        relative_error: [N], estimated standard error over the probability (nan where that is 0).
        runs: [N, runs], the independent estimates.
    """

    probability: Float[Array, " N"]
    relative_error: Float[Array, " N"]
    runs: Float[Array, "N R"]


class _Swarm(NamedTuple):
    """State of the splitting runs of all images.

    Attributes:
        directions: [N, R, P, D], the particles.
        scores: [N, R, P], their scores.
        log_share: [N, R], log of the fraction of all draws above `level`.
        level: [N, R], current level.
        step: [N, R], step length of the chains.
    """

    directions: Any
    scores: Any
    log_share: Any
    level: Any
    step: Any


def perturb_randomly(
    images: Float[Array, "N ..."],
    directions: Float[Array, "N M D"],
    size: Any,
    noise: str = "sphere",
    bounds: Any = (-jnp.inf, jnp.inf),
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
    size = jnp.broadcast_to(jnp.asarray(size, jnp.float32), len(images))[:, None, None]
    if noise == "sphere":
        size = size / jnp.linalg.norm(directions, axis=-1, keepdims=True)
    shape = (*directions.shape[:2], *images.shape[1:])
    return jnp.clip(images[:, None] + (size * directions).reshape(shape), *bounds)


class Splitting(NamedTuple):
    """The effort of adaptive multilevel splitting. runs: independent ones, of so many particles
    each; moves: of every particle at each level; kept: the share that gives the next level; floor:
    the probability below which an estimate is 0."""

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
    size: Any,
    *,
    key: Array,
    noise: str = "sphere",
    clip: Any = False,
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
        >>> from jaxadv.studies.rarity import probability
        >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(100)[:, :2])
        >>> image = jnp.zeros((1, 10, 10, 1)).at[0, 0, 0, 0].set(jnp.sqrt(2.0) * 5)
        >>> found = probability(model, image, ja.Untargeted(jnp.zeros(1, int)), 1.0,
        ...                     key=jax.random.key(0), noise="gaussian")
        >>> bool(1.5e-7 < found.probability[0] < 5e-7)  # 2.9e-7: five standard deviations
        True
    """
    particles, runs, moves, kept, floor = splitting
    if not (0 < kept < 1 and 0 < floor < 1 and particles * kept >= 2 and moves > 0 and runs > 1):
        raise ValueError(
            f"kept={kept}, floor={floor}, particles={particles}, moves={moves}, runs={runs}: pass "
            "shares between 0 and 1, of which particles * kept is at least 2, a move and two runs"
        )
    count, dimension = len(images), math.prod(images.shape[1:])
    killed = particles - round(particles * kept)
    levels = math.ceil(math.log(floor) / math.log(kept))
    bounds = jnp.where(clip, jnp.array(model.bounds), jnp.array([-jnp.inf, jnp.inf]))
    margin = jax.vmap(lambda goal, logits: jax.vmap(goal.margin)(logits))

    def score(directions: Any) -> Any:
        flat = directions.reshape(count, -1, dimension)
        points = perturb_randomly(images, flat, size, noise, bounds)
        logits = model(points.reshape(-1, *images.shape[1:]))
        return -margin(goal, logits.reshape(count, runs * particles, -1)).reshape(
            count, runs, particles
        )

    def select(swarm: _Swarm, key: Any) -> _Swarm:
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
            swarm.log_share + jnp.log(alive.mean(-1)),
            level,
            swarm.step,
        )

    def move(swarm: _Swarm, key: Any) -> tuple[_Swarm, None]:
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

    def unfinished(swarm: _Swarm) -> Any:
        return (swarm.level < 0) & (swarm.log_share > -jnp.inf)

    def climb(state: tuple[Any, _Swarm]) -> tuple[Any, _Swarm]:
        number, swarm = state
        *draws, choice = jax.random.split(jax.random.fold_in(key, number), moves + 1)
        moved, _ = lax.scan(move, swarm, jnp.stack(draws))
        going, raised = unfinished(swarm), select(moved, choice)

        def pick(new: Any, old: Any) -> Any:
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
    each = jnp.exp(swarm.log_share) * (swarm.scores > 0).mean(-1)
    mean = each.mean(1)
    error = each.std(1, ddof=1) / math.sqrt(runs) / mean
    return Rarity(mean, error, each)


def cap_probability(distance: Any, radius: Any, dimension: int) -> Array:
    """Return the fraction of a sphere beyond a hyperplane.

    This is the fraction of random perturbations of norm `radius` that would fool if the boundary
    were flat. It is half the regularised incomplete beta function of 1 - (distance / radius)^2 at
    (dimension - 1) / 2 and 1/2 (Li 2011, "Concise formulas for the area and volume of a
    hyperspherical cap"), in float32 accurate to about a thousandth.

    Args:
        distance: Distance of the hyperplane from the sphere's centre.
        radius: Radius of the sphere.
        dimension: Dimension of the space.

    Returns:
        The fraction.

    Example:
        >>> float(cap_probability(1.0, 2.0, 3))  # by Archimedes (1 - 1/2) / 2
        0.25
    """
    inside = jnp.clip(1 - jnp.square(jnp.asarray(distance) / jnp.asarray(radius)), 0.0, 1.0)
    return betainc((dimension - 1) / 2, 0.5, inside) / 2


def norm_at(
    share: float, norms: np.ndarray, probabilities: np.ndarray, dimension: int
) -> np.ndarray:
    """Return the norms [N] at which the probability of fooling is `share`; nan where not reached.

    In front of a flat boundary, the cosine at which a cap of that fraction begins is proportional
    to 1 / norm. These cosines are therefore interpolated, and extrapolated below the smallest
    positive probability, though not to norms at which the probability was found to be 0, rarer than
    the floor.

    Args:
        share: Probability, from `FLOOR` to 1/2.
        norms: Rising norms [S, N] of the noise on a sphere.
        probabilities: Probabilities [S, N] at these norms.
        dimension: Dimension of the images.

    Returns:
        The norms [N].
    """
    cosine = np.linspace(0.999, 0, 4000)
    cap = np.asarray(cap_probability(cosine, 1.0, dimension), np.float64)
    cosine, cap = cosine[cap > 1e-30], cap[cap > 1e-30]

    def begins(share: Any) -> Any:
        return np.interp(np.log(share), np.log(cap), cosine)

    def one(norms: np.ndarray, known: np.ndarray) -> float:
        known = np.maximum.accumulate(known)
        inside = known > 0
        if share > known.max():
            return np.nan
        heights, inverse = begins(known[inside]), 1 / norms[inside]
        heights, inverse = np.append(10 * heights[0], heights), np.append(10 * inverse[0], inverse)
        found = 1 / np.interp(begins(share), heights[::-1], inverse[::-1])
        return max(found, norms[~inside].max(initial=0))

    columns = zip(norms.T, np.asarray(probabilities, np.float64).T, strict=True)
    return np.array([one(*column) for column in columns])


class _Measured(NamedTuple):
    """Measurements of one network.

    Attributes:
        nearest: [N], distance of the nearest adversarial image.
        times: [S], multiples of that distance.
        norms: [S, N], norms of the noise.
        probability: [S, N], probabilities of fooling.
        errors: [S, N], their relative standard errors.
    """

    nearest: np.ndarray
    times: np.ndarray
    norms: np.ndarray
    probability: np.ndarray
    errors: np.ndarray


def rarity(setting: Setting) -> Findings:
    """The probability that random perturbations fool, and the distance of the nearest mistake."""
    names = ("FC100-100-10",) if setting.quick else ("FC10(1e-4)", "FC100-100-10", "AE400-10")
    rows, curves, words = [], [], []
    dimension = setting.test.images[0].size
    for name in names:
        network = trained(setting, name)
        free, boxed = (_measure(setting, network, clip) for clip in (False, True))
        flat = free._replace(probability=cap_probability(free.nearest, free.norms, dimension))
        curves.append(_curves(name, free, boxed, flat))
        words.append(_words(name, free, boxed))
        for kind, found in (("no box", free), ("no box, flat", flat), ("box", boxed)):
            norms = found.norms, np.asarray(found.probability)
            reached = [norm_at(share, *norms, dimension) for share in (FLOOR, 1e-6, 1e-3)]
            ratio = np.nanmedian(reached[0] / found.nearest)
            rows.append((f"{name}, {kind}", *map(np.nanmedian, (found.nearest, *reached)), ratio))
    table = Table(
        "Norm of the nearest adversarial image, and of random perturbations that fool as rarely",
        tuple(row[0] for row in rows),
        ("nearest adversarial", "1 in 10^9", "1 in 10^6", "1 in 10^3", "1 in 10^9 over nearest"),
        np.array([row[1:] for row in rows]),
        formats=".2f",
        note="L2, medians over images that the network gets right. Box: both the attack and the "
        "noise are held in it, the noise by clipping (the norm stated is the one before). Flat: "
        "were the boundary a plane at the nearest adversarial image.",
    )
    title = "How often a random perturbation fools, down to one in a thousand million"
    return Findings("szegedy.rarity", title, [table, *words, *curves])


def _measure(setting: Setting, network: Network, clip: bool) -> _Measured:
    count, test = min(setting.examples, 4 if setting.quick else 8), setting.test.take(slice(100))
    right = predict(network.model, test.images).argmax(1)
    test = test.take(np.flatnonzero(right == test.labels)[:count])
    # Noise that may leave the box is compared with a worst case that may leave it too.
    model = network.model if clip else dataclasses.replace(network.model, bounds=(-10.0, 11.0))
    attack = LBFGS(loss="margin")  # cross-entropy gives farther minimisers when unsure
    name = f"rarity-{network.name}-{'box' if clip else 'free'}"
    worst = setting.run(name, attack, model, test.images, Untargeted(test.labels), ids=test.ids)
    found = np.flatnonzero(worst.success)  # all, unless the network cannot be fooled
    images, goal = jnp.asarray(test.images[found]), Untargeted(jnp.asarray(test.labels[found]))
    nearest, times = worst.distance[found], TIMES[::2] if setting.quick else TIMES
    norms, estimates = nearest * times[:, None], []
    for number, size in enumerate(jnp.asarray(norms, jnp.float32)):
        key = jax.random.key(number)
        estimates.append(probability(network.model, images, goal, size, key=key, clip=clip))
        jax.block_until_ready(estimates[-1])
        setting.progress(name, number + 1, len(times))
    shares, errors, _ = (np.array(each) for each in zip(*estimates, strict=True))
    return _Measured(nearest, times, norms, shares, errors)


def _curves(name: str, free: _Measured, boxed: _Measured, flat: _Measured) -> Part:
    def line(values: Any) -> np.ndarray:
        values = np.asarray(values, np.float64)
        return np.stack([free.times, np.where(values >= FLOOR, values, np.nan)])

    lines = {
        "worst case": line(np.ones(len(free.times))),
        "random, no box": line(free.probability.mean(1)),
        "its median image": line(np.median(free.probability, 1)),
        "were boundaries flat": line(flat.probability.mean(1)),
        "random, clipped to the box": line(boxed.probability.mean(1)),
    }
    errors = np.nanmedian(np.concatenate([free.errors, boxed.errors]))
    return Curves(
        f"{name}: worst case and chance",
        "L2 norm of the perturbation, over that of the image's nearest adversarial one",
        "probability of fooling",
        lines,
        log="xy",
        dashed=("were boundaries flat",),
        note=f"Means over {len(free.nearest)} images, nearest at L2 {np.median(free.nearest):.2f} "
        f"without, {np.median(boxed.nearest):.2f} with the box (medians); median relative "
        f"standard error of an estimate {errors:.2f}; nothing is drawn below {FLOOR:g}.",
    )


def _words(name: str, free: _Measured, boxed: _Measured) -> Part:
    def rare(found: _Measured) -> str:
        norms = zip(found.times, found.probability, strict=True)
        images = [f"{(p < FLOOR).sum()} ({t:.0f})" for t, p in norms if t <= 8]
        return f"{', '.join(images)} of {len(found.nearest)} images"

    more = np.median(boxed.probability - free.probability) > 0
    return Text(
        f"{name}: the nearest adversarial image found lies at L2 {np.median(boxed.nearest):.2f} "
        f"in the box, at {np.median(free.nearest):.2f} without it (medians). Random perturbations "
        f"of so many times (in brackets) that norm fool with a probability of less than {FLOOR:g}: "
        f"{rare(free)}; clipped to the box {rare(boxed)}. "
        + (
            "Clipped noise fools more often, as it is no longer centred: on a black background it "
            "only brightens."
            if more
            else "Clipped noise fools less often: it is shorter than the norm stated."
        )
    )
