"""How rarely random perturbations fool a network, beside the distance of the nearest mistake.

Szegedy et al. (2013, arXiv 1312.6199) conjecture that adversarial images are as dense as the
rational numbers among the reals, and yet so improbable that no test set holds one. The
probabilities are those of `jaxadv.certification.rarity`.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxadv.attacks import LBFGS
from jaxadv.certification.rarity import FLOOR, cap_probability, norm_at, probability
from jaxadv.core.goals import Untargeted
from jaxadv.core.typing import ArrayLike
from jaxadv.engine.verify import predict
from jaxadv.studies.findings import Curves, Findings, Part, Table, Text
from jaxadv.studies.fit import how_trained
from jaxadv.studies.networks import Network, names_of, network_of
from jaxadv.studies.setting import Setting

TIMES = np.array([1, 2, 3, 4, 5, 6, 8, 11, 16, 23, 32, 45.0])  # norms over the nearest distance


class Measured(NamedTuple):
    """Measurements of one network.

    Attributes:
        nearest: Distance of the nearest adversarial image, [N].
        times: Multiples of that distance, [S].
        norms: Norms of the noise, [S, N].
        probability: Probabilities of fooling, [S, N].
        errors: Their relative standard errors, [S, N].
    """

    nearest: Float[np.ndarray, " N"]
    times: Float[np.ndarray, " S"]
    norms: Float[np.ndarray, "S N"]
    probability: Float[ArrayLike, "S N"]
    errors: Float[np.ndarray, "S N"]


def rarity(setting: Setting) -> Findings:
    """The probability that random perturbations fool, and the distance of the nearest mistake."""
    own = ("FC100-100-10",) if setting.quick else ("FC10(1e-4)", "FC100-100-10", "AE400-10")
    names = names_of(setting, own)
    rows, curves, words = [], [], []
    dimension = setting.test.images[0].size
    for name in names:
        network = network_of(setting, name)
        free, boxed = (_measure(setting, network, clip) for clip in (False, True))
        flat = free._replace(probability=cap_probability(free.nearest, free.norms, dimension))
        curves.append(_curves(name, free, boxed, flat))
        words.append(Text(rarity_in_words(name, free, boxed)))
        for kind, measured in (("no box", free), ("no box, flat", flat), ("box", boxed)):
            norms, nearest = (measured.norms, np.asarray(measured.probability)), measured.nearest
            reached = [norm_at(target, *norms, dimension) for target in (FLOOR, 1e-6, 1e-3)]
            ratio = np.nanmedian(reached[0] / nearest)
            rows.append((f"{name}, {kind}", *map(np.nanmedian, (nearest, *reached)), ratio))
    table = Table(
        "Norm of the nearest adversarial image, and of random perturbations that fool as rarely",
        tuple(row[0] for row in rows),
        ("nearest adversarial", "1 in 10^9", "1 in 10^6", "1 in 10^3", "1 in 10^9 over nearest"),
        np.array([row[1:] for row in rows]),
        formats=".2f",
        note="L2, medians over images that the network gets right. Box: both the attack and the "
        "noise are held in it, the noise by clipping (the norm stated is the one before), "
        "which shortens it and, on a black background, only brightens. Flat: were the boundary a "
        "plane at the nearest adversarial image.",
    )
    fit = how_trained(setting, names)
    title = "How often a random perturbation fools, down to one in a thousand million"
    return Findings("szegedy.rarity", title, [table, *words, *curves, *fit])


def _measure(setting: Setting, network: Network, clip: bool) -> Measured:
    count, test = min(setting.examples, 4 if setting.quick else 8), setting.test.take(slice(100))
    right = predict(network.model, test.images).argmax(1)
    test = test.take(np.flatnonzero(right == test.labels)[:count])
    # Noise that may leave the box is compared with a worst case that may leave it too.
    model = network.model if clip else dataclasses.replace(network.model, bounds=(-10.0, 11.0))
    attack = LBFGS(loss="margin")  # cross-entropy gives farther minimisers when unsure
    name = f"rarity-{network.name}-{'box' if clip else 'free'}"
    worst = setting.run(name, attack, model, test.images, Untargeted(test.labels), ids=test.ids)
    fooled = np.flatnonzero(worst.success)  # all, unless the network cannot be fooled
    images, goal = jnp.asarray(test.images[fooled]), Untargeted(jnp.asarray(test.labels[fooled]))
    nearest, times = worst.distance[fooled], TIMES[::2] if setting.quick else TIMES
    norms, estimates = nearest * times[:, None], []
    for number, size in enumerate(jnp.asarray(norms, jnp.float32)):
        key = jax.random.key(number)

        def estimate(size: Array = size, key: Array = key) -> dict[str, Array]:
            measured = probability(network.model, images, goal, size, key=key, clip=clip)
            return {"probability": measured[0], "error": measured[1]}

        same = network.model.params, images, size, clip
        estimates.append(setting.keep(f"{name}-{number}", same, estimate))
        setting.progress(name, number + 1, len(times))
    probabilities, errors = (
        np.array([one[key] for one in estimates]) for key in ("probability", "error")
    )
    return Measured(nearest, times, norms, probabilities, errors)


def _curves(name: str, free: Measured, boxed: Measured, flat: Measured) -> Part:
    def line(probabilities: ArrayLike) -> np.ndarray:
        values = np.asarray(probabilities, np.float64)
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


def rarity_in_words(name: str, free: Measured, boxed: Measured) -> str:
    """Return how rarely random perturbations fool, and what clipping to the box changes.

    Args:
        name: Name of the network.
        free: Measurements without the box.
        boxed: Measurements in the box.

    Returns:
        The paragraph.
    """

    def rare(measured: Measured) -> str:
        norms = zip(measured.times, np.asarray(measured.probability), strict=True)
        images = [f"{(p < FLOOR).sum()} ({t:.0f})" for t, p in norms if t <= 8]
        return f"{', '.join(images)} of {len(measured.nearest)} images"

    difference = np.asarray(boxed.probability) - np.asarray(free.probability)
    more, less = (100 * float((sign * difference > 0).mean()) for sign in (1, -1))
    often = "more" if more > less else "less" if less > more else "as"
    return (
        f"{name}: the nearest adversarial image found lies at L2 {np.median(boxed.nearest):.2f} "
        f"in the box, at {np.median(free.nearest):.2f} without it (medians). Random perturbations "
        "of the stated multiple (in brackets) of that norm fool with a probability of less than "
        f"{FLOOR:g}: "
        f"{rare(free)}; clipped to the box {rare(boxed)}. Clipped noise fools {often} often: it is "
        f"likelier to in {more:.0f} % of the images and norms, less likely to in {less:.0f} %."
    )
