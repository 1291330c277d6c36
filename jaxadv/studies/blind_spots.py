"""Table 1 of Szegedy et al. (2013, arXiv 1312.6199), section 4.2: minimal adversarial distortions.

The study covers the errors of six networks, the average distortion of minimal adversarial examples
by box-constrained L-BFGS, a check of the claim that one exists for every image of every network,
and controls: noise of the same and of larger distortion, and random search with as many passes as
the attack.
"""

from collections.abc import Sequence

import jax
import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from jaxadv.attacks.minimum_norm.lbfgs import LBFGS
from jaxadv.attacks.noise import GaussianNoise
from jaxadv.core.goals import Targeted, Untargeted
from jaxadv.core.result import Result
from jaxadv.data import Dataset
from jaxadv.engine.verify import predict
from jaxadv.protocols.visibility import visibility
from jaxadv.studies.blind_spots_words import (
    NOISES,
    audit_in_words,
    noise_in_words,
    order_in_words,
    seen_in_words,
)
from jaxadv.studies.findings import Findings, Gallery, Part, Table, Text, spread
from jaxadv.studies.fit import how_trained
from jaxadv.studies.networks import SIX, Network, names_of, network_of, published
from jaxadv.studies.setting import Setting

PUBLISHED_NOISE = (  # errors of `SIX` in per cent under noise of 0.1 and 0.3
    (5.0, 15.6),
    (10.1, 11.3),
    (18.3, 22.7),
    (0.0, 5.0),
    (0.0, 4.3),
    (0.8, 3.1),
)

SEEN = (  # columns of the table of how visible the nearest mistakes are
    "images",
    "distortion",
    "SSIM",
    "SSIM, noise",
    "noise more similar, %",
    "CIEDE2000",
    "CIEDE2000, noise",
    "activations",
    "activations, noise",
)


def distortion(images: npt.ArrayLike, originals: npt.ArrayLike) -> Float[np.ndarray, " N"]:
    """Return the distortion of each image, in float64.

    This is the paper's measure sqrt(mean over pixels of the squared difference), that is, the L2
    distance over the square root of the number of pixels.

    Args:
        images: Images [N, H, W, C].
        originals: Their originals.

    Returns:
        The distortions [N].

    Example:
        >>> import numpy as np
        >>> from jaxadv.studies.blind_spots import distortion
        >>> distortion(np.full((1, 2, 2, 1), 0.75), np.full((1, 2, 2, 1), 0.5))
        array([0.25])
    """
    difference = np.asarray(images, np.float64) - np.asarray(originals, np.float64)
    return np.sqrt(np.square(difference).mean(axis=(1, 2, 3)))


def gaussian(images: np.ndarray, deviation: float, seed: int = 0) -> np.ndarray:
    """Return the images with Gaussian noise, not clipped to the box.

    Clipped to [0, 1], the noise makes a black background brighter and is no longer centred: at 0.3
    softmax regression then errs on half of the digits, and on a fifth otherwise.

    Args:
        images: Images [N, H, W, C].
        deviation: Standard deviation of the noise.
        seed: Seed of the noise.

    Returns:
        The noisy images, float32.
    """
    noise = np.random.default_rng(seed).normal(scale=deviation, size=images.shape)
    return (images + noise).astype(np.float32)


def wrong_classes(labels: np.ndarray, classes: int, seed: int = 0) -> np.ndarray:
    """Return for each label another class, drawn uniformly."""
    offset = np.random.default_rng(seed).integers(1, classes, len(labels))
    return ((labels + offset) % classes).astype(np.int32)


def nearest_mistakes(
    setting: Setting, network: Network, data: Dataset, *, targeted: bool, seed: int = 0
) -> Result:
    """Compute minimal perturbations by L-BFGS, targeted at a random wrong class or untargeted.

    Args:
        setting: The setting, whose folder stores the result.
        network: The network.
        data: The images and labels.
        targeted: Whether each image has a target, drawn at random.
        seed: Seed of the network's training, part of the result's name.

    Returns:
        The result of the attack.
    """
    labels = data.labels
    goal = Untargeted(labels)
    if targeted:
        goal = Targeted(labels, wrong_classes(labels, len(data.classes)))
    name = f"{network.name}-{seed}-{data.name}-{'targeted' if targeted else 'untargeted'}"
    return setting.run(name, LBFGS(), network.model, data.images, goal, ids=data.ids)


def error(network: Network, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the percentage of misclassified images."""
    logits = predict(network.model, images)
    return 100 * float((logits.argmax(1) != labels).mean())


def examples_of(data: Dataset, count: int) -> Dataset:
    """Return `count` images, spread evenly over the data set."""
    return data.take(np.linspace(0, len(data.labels) - 1, min(count, len(data.labels))).astype(int))


def distortions(setting: Setting) -> Findings:
    """Table 1: training and test error and average minimal distortion of six networks."""
    data = examples_of(setting.train, setting.examples)
    names = names_of(setting, SIX)
    values = np.zeros((setting.seeds, len(names), 6))
    seen = np.zeros((setting.seeds, len(names), len(SEEN)))
    failures, shown = [], {}
    for seed in range(setting.seeds):
        for row, name in enumerate(names):
            network = network_of(setting, name, seed)
            numbers = [100 * network.error(setting.train), 100 * network.error(setting.test)]
            for targeted in (True, False):
                result = nearest_mistakes(setting, network, data, targeted=targeted, seed=seed)
                numbers.append(distortion(result.images, data.images)[result.success].mean())
                if targeted:
                    numbers.append(100 * result.success.mean())
                    if seed == 0:
                        shown[name] = result
                kind = "targeted" if targeted else "untargeted"
                failures += [
                    f"{name}, seed {seed}, {kind}: image {data.ids[i]}"
                    for i in np.flatnonzero(~result.success)
                ]
            values[seed, row, :5] = numbers
            values[seed, row, 5] = result.backward.mean()
            seen[seed, row] = _seen(network, data, result, seed)
    known = np.full((len(names), 6), np.nan)
    known[:, :3] = [published(setting, name) for name in names]
    known[np.isfinite(known[:, 2]), 3] = 100
    parts: list[Part] = [
        Table(
            "Table 1: errors and average minimal distortion",
            names,
            (
                "training error %",
                "test error %",
                "distortion, random target",
                "success %",
                "distortion, any class",
                "gradients, any class",
            ),
            values.mean(0),
            spread(values),
            known,
            (".2f", ".2f", ".4f", ".1f", ".4f", ".0f"),
            note=f"Minimal perturbations of {len(data.labels)} training images in the box, mean "
            f"and standard deviation over {setting.seeds_in_words}. The paper asks for a class; we "
            "draw it at random, and beside it give the nearest mistake of any class. A gradient is "
            "one forward and one backward pass. Each of ours is the nearest adversarial image met "
            "in a search for c that ends within 0.1 %; the paper does not say how finely.",
        ),
        Text(audit_in_words(failures, 2 * setting.seeds * len(names) * len(data.labels))),
        Text(order_in_words(names, values.mean(0)[:, 2], values.mean(0)[:, 0], known[:, [2, 0]])),
        _seen_table(names, seen, data),
        Text(seen_in_words(names, seen.mean(0))),
    ]
    rows = np.arange(len(data.labels))[:: max(1, len(data.labels) // 8)][:8]
    for name in names_of(setting, ("FC10(1e-4)", "FC100-100-10", "AE400-10")):
        parts.append(_pictures(f"Adversarial examples for {name}", data, shown[name], rows))
    return Findings("szegedy.distortion", f"The nearest mistake of {len(names)} networks", parts)


def _seen(network: Network, data: Dataset, result: Result, seed: int) -> list[float]:
    """Return the row of `SEEN` of the nearest mistakes of one network."""
    changed = result.success & (result.distance > 0)
    images, originals = result.images[changed], data.images[changed]
    noise = gaussian(np.zeros_like(originals), 1, seed)
    sizes = distortion(images, originals) / distortion(noise, np.zeros_like(noise))
    noisy = originals + noise * sizes[:, None, None, None].astype(np.float32)
    found, random = (visibility(network.model, x, originals) for x in (images, noisy))
    return [
        float(changed.sum()),
        float(np.median(found.distortion)),
        float(np.median(found.ssim)),
        float(np.median(random.ssim)),
        100 * float((random.ssim > found.ssim).mean()),
        float(np.median(found.ciede2000)),
        float(np.median(random.ciede2000)),
        float(np.median(found.activations)),
        float(np.median(random.activations)),
    ]


def _seen_table(names: Sequence[str], seen: np.ndarray, data: Dataset) -> Table:
    grey = data.images.shape[-1] != 3
    colours = (
        "CIEDE2000, the difference of colours, is left out: of grey images only the lightness "
        "differs."
        if grey
        else "CIEDE2000 is the mean difference of colours; about 1 can just be seen."
    )
    shown = [i for i, name in enumerate(SEEN) if not (grey and "CIEDE2000" in name)]
    return Table(
        "How visible the nearest mistakes are, of any class, beside noise of the same distortion",
        tuple(names),
        tuple(SEEN[i] for i in shown),
        seen.mean(0)[:, shown],
        seen.std(0)[:, shown],
        formats=tuple(
            (".0f", ".4f", ".3f", ".3f", ".1f", ".2f", ".2f", ".4f", ".4f")[i] for i in shown
        ),
        note="Medians over the images that are not misclassified as they are. SSIM (Wang et al. "
        "2004) is 1 for equal images; the noise is "
        f"Gaussian, not clipped. {colours} Activations: mean squared difference of the normalised "
        "activations of all layers of the attacked network itself, which is not the published "
        "LPIPS.",
    )


def _pictures(title: str, data: Dataset, result: Result, rows: np.ndarray) -> Gallery:
    """Return the paper's figure 5: image, adversarial image, ten times the difference."""
    difference = 0.5 + 5 * (result.images[rows] - data.images[rows])
    images = np.stack([data.images[rows], result.images[rows], np.clip(difference, 0, 1)])
    empty = tuple("" for _ in rows)
    distortions = tuple(f"{d:.3f}" for d in distortion(result.images[rows], data.images[rows]))
    return Gallery(
        title,
        images,
        ("image", "adversarial", "difference x 10"),
        tuple(data.classes[label] for label in data.labels[rows]),
        captions=(empty, distortions, empty),
        note="Below the adversarial image its distortion; grey is no difference.",
    )


def noise(setting: Setting) -> Findings:
    """Random controls: noise of several sizes, and random search at the attack's distance.

    The noise has the distortion that suffices for the attack, or more; the random search has as
    many forward passes as the attack.
    """
    data = examples_of(setting.test, setting.examples)
    columns = (
        "adversarial",
        "no noise",
        *(f"noise {d:g}" for d in NOISES),
        "noise 0.3, cut off",
        "same distance",
        "random search",
    )
    names = names_of(setting, SIX)
    values = np.zeros((setting.seeds, len(names), len(columns)))
    known = np.full(values.shape[1:], np.nan)
    for row, name in enumerate(names):
        _, test_error, distortion_there = published(setting, name)
        if np.isfinite(distortion_there):
            known[row, [0, 1, 3, 4]] = 100, test_error, *PUBLISHED_NOISE[SIX.index(name)]
    budgets = np.zeros((setting.seeds, len(names)))
    for seed in range(setting.seeds):
        for row, name in enumerate(names):
            network = network_of(setting, name, seed)
            result = nearest_mistakes(setting, network, data, targeted=False, seed=seed)
            draws = int(np.ceil((result.forward + result.backward).mean()))
            budgets[seed, row] = draws
            errors = [100 * result.success.mean()]
            noisy = [data.images, *(gaussian(data.images, d, seed) for d in NOISES)]
            noisy.append(gaussian(data.images, 0.3, seed).clip(0, 1))
            errors += [error(network, images, data.labels) for images in noisy]
            for count in (1, draws):
                tried = setting.run(
                    f"{name}-{seed}-noise-{count}",
                    GaussianNoise(norm="l2", draws=count),
                    network.model,
                    data.images,
                    Untargeted(data.labels),
                    np.maximum(result.distance, 1e-6),
                    ids=data.ids,
                    key=jax.random.key(seed),
                )
                errors.append(100 * tried.success.mean())
            values[seed, row] = errors
    readable = np.stack([data.images[:8], *(gaussian(data.images[:8], d) for d in NOISES)])
    parts: list[Part] = [
        Table(
            "Error in per cent under random noise",
            names,
            columns,
            values.mean(0),
            spread(values),
            known,
            ".1f",
            note=f"{len(data.labels)} test images, {setting.seeds_in_words}. The noise may leave "
            "the box, as the paper's must (its distortion is the standard deviation); clipped to "
            "it, it brightens the background. 'same distance': one Gaussian draw at each image's "
            "own adversarial distance; 'random search': as many draws as the attack had forward "
            f"and backward passes ({budgets.mean():.0f} on average), an error if any one succeeds. "
            "Misclassified images count as errors.",
        ),
        Text(noise_in_words(names, values.mean(0), len(data.labels))),
        Gallery(
            "Noise of growing standard deviation",
            readable.clip(0, 1),
            ("image", *(f"{d:g}" for d in NOISES)),
            tuple(data.classes[label] for label in data.labels[:8]),
        ),
    ]
    parts += how_trained(setting, names, setting.seeds)
    return Findings("szegedy.noise", "Random noise as a control", parts)
