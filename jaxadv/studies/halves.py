"""Tables 3 and 4 of Szegedy et al. (2013, arXiv 1312.6199), section 4.2: disjoint training sets.

Examples made for a network are classified by another of another shape, and by one that was trained
on the other half of the data, as they are and amplified. How the paper amplified can be read in
more than one way; the study shows each.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from jaxadv.studies.blind_spots import distortion, examples_of, gaussian, nearest_mistakes
from jaxadv.studies.findings import Findings, Part, Table, Text, spread
from jaxadv.studies.networks import names_of, network_of, published
from jaxadv.studies.setting import Setting
from jaxadv.studies.transfer import cross_errors
from jaxadv.studies.wording import fit_in_words, side

NETWORKS = ("FC100-100-10", "FC123-456-10")
HALVES = ("FC100-100-10 on P1", "FC123-456-10 on P1", "FC100-100-10 on P2")
PUBLISHED_HALVES = np.array(
    [  # error on P1, on P2, on the test set; average distortion
        [0, 2.4, 2, 0.062],
        [0, 2.5, 2.1, 0.059],
        [2.3, 0, 2.1, 0.058],
    ]
)
PUBLISHED_TRANSFER = np.array(  # examples as they are; per cent, rows: made for, columns: fed to
    [[100, 26.2, 5.9], [6.25, 100, 5.1], [8.2, 8.2, 100]]
)
PUBLISHED_AMPLIFIED = np.array([[100, 98, 43], [96, 100, 22], [27, 50, 100]])
PUBLISHED_NOISE = np.array([[2.2, 2.6, 2.4], [2.6, 2.8, 2.7]])  # standard deviation 0.06, 0.1
DEVIATION = 0.1  # the distortion that examples are amplified to
ENLARGED = 1.4  # the paper: "on average 40 % larger"
READINGS = (
    f"each image to {DEVIATION:g}",
    f"one factor for all, mean {DEVIATION:g}",
    f"all by {ENLARGED:g}",
)
Titles = tuple[str, str, str]
OFF_DIAGONAL = ~np.eye(3, dtype=bool)


class Amplified(NamedTuple):
    """Amplified perturbations.

    Attributes:
        images: The images with the scaled perturbations, float32.
        factors: Factor of each perturbation, before the box cuts it off.
    """

    images: Float[np.ndarray, "N H W C"]
    factors: Float[np.ndarray, " N"]


def amplify(
    images: npt.ArrayLike, originals: npt.ArrayLike, deviation: float, *, common: bool = False
) -> Amplified:
    """Scale perturbations until their distortion in the box is `deviation`.

    Args:
        images: Perturbed images [N, H, W, C].
        originals: Their originals.
        deviation: Distortion, if the box [0, 1] allows it.
        common: Whether one factor scales all perturbations and brings their mean distortion to
            `deviation`; otherwise each has the factor that its own distortion needs.

    Returns:
        The images and the factors.

    Example:
        >>> import numpy as np
        >>> from jaxadv.studies.halves import amplify
        >>> larger = amplify(np.full((1, 2, 2, 1), 0.55), np.full((1, 2, 2, 1), 0.5), 0.1)
        >>> larger.images.ravel().round(4), larger.factors.round(3)
        (array([0.6, 0.6, 0.6, 0.6], dtype=float32), array([2.]))
    """
    clean = np.asarray(originals, np.float64)
    r = np.asarray(images, np.float64) - clean
    low, high = np.zeros(len(r)), np.full(len(r), 1e4)
    for _ in range(60):  # distortion grows with the factor: bisect
        middle = np.sqrt((low + 1e-6) * high)
        reached = distortion(_scaled(clean, r, middle), clean)
        beyond = (np.full(len(r), reached.mean()) if common else reached) > deviation
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    return Amplified(_scaled(clean, r, low).astype(np.float32), low)


def _scaled(clean: np.ndarray, r: np.ndarray, factors: np.ndarray) -> np.ndarray:
    return np.clip(clean + factors.reshape(-1, 1, 1, 1) * r, 0, 1)


def readings(images: np.ndarray, originals: np.ndarray) -> list[Amplified]:
    """Return the amplified images by each of `READINGS`."""
    clean = np.asarray(originals, np.float64)
    factors = np.full(len(images), ENLARGED)
    enlarged = _scaled(clean, np.asarray(images, np.float64) - clean, factors)
    return [
        amplify(images, originals, DEVIATION),
        amplify(images, originals, DEVIATION, common=True),
        Amplified(enlarged.astype(np.float32), factors),
    ]


def between_training_sets(setting: Setting) -> Findings:
    """Tables 3 and 4: three networks on two disjoint halves of the training set."""
    half = len(setting.train.labels) // 2
    first, second = (
        setting.train.take(np.arange(half)),
        setting.train.take(np.arange(half, 2 * half)),
    )
    data = examples_of(setting.test, setting.examples)
    names = names_of(setting, NETWORKS)
    one, two = names[0], names[-1]  # of one network, two seeds
    again = ", other seed" if one == two else ""
    titles = f"{one} on P1", f"{two} on P1{again}", f"{one} on P2"
    is_papers = titles == HALVES and bool(np.isfinite(published(setting, one)).all())
    recipes = ((one, first, 0), (two, first, 1), (one, second, 2))
    errors = np.zeros((setting.seeds, 3, 4))
    crossed = np.zeros((setting.seeds, 5 + 3 * len(READINGS), 3))
    enlarged = np.zeros((setting.seeds, len(READINGS), 3, 2))
    for seed in range(setting.seeds):
        networks = [
            network_of(setting, name, 3 * seed + number, half)._replace(name=title)
            for title, (name, half, number) in zip(titles, recipes, strict=True)
        ]
        made = [
            nearest_mistakes(setting, network, data, targeted=True, seed=seed).images
            for network in networks
        ]
        larger = [readings(images, data.images) for images in made]
        for row, network in enumerate(networks):
            sets = (first, second, setting.test)
            errors[seed, row, :3] = [100 * network.error(part) for part in sets]
            errors[seed, row, 3] = distortion(made[row], data.images).mean()
            for reading, one in enumerate(larger[row]):
                reached = distortion(one.images, data.images).mean()
                enlarged[seed, reading, row] = one.factors.mean(), reached
        amplified = [of[reading].images for reading in range(len(READINGS)) for of in larger]
        noises = [gaussian(data.images, deviation, seed) for deviation in (0.06, DEVIATION)]
        crossed[seed] = cross_errors(networks, [*made, *amplified, *noises], data.labels)
    parts: list[Part] = [
        Table(
            "Table 3: networks trained on disjoint halves of the training set",
            titles,
            ("error on P1 %", "error on P2 %", "test error %", "distortion"),
            errors.mean(0),
            spread(errors),
            PUBLISHED_HALVES if is_papers else None,
            (".2f", ".2f", ".2f", ".4f"),
        ),
        _crossed(
            titles,
            crossed,
            is_papers,
            f"{len(data.labels)} test images, random targets, {setting.seeds_in_words}",
        ),
        _enlarged(titles, enlarged, is_papers),
        Text(
            halves_in_words(
                titles,
                errors.mean(0),
                crossed.mean(0),
                enlarged.mean(0)[:, :, 0],
                len(data.labels),
                is_papers,
            )
        ),
    ]
    return Findings(
        "szegedy.halves", "Examples made on one half of the data, fed to the other's", parts
    )


def _crossed(titles: Titles, crossed: np.ndarray, is_papers: bool, counts: str) -> Table:
    """Return Table 4, from errors [seeds, rows, networks]."""
    rows = (
        *(f"for {name}" for name in titles),
        *(f"for {name}, {reading}" for reading in READINGS for name in titles),
        "Gaussian noise 0.06",
        f"Gaussian noise {DEVIATION:g}",
    )
    amplified = [PUBLISHED_AMPLIFIED] * len(READINGS)
    return Table(
        "Table 4: error in per cent of networks (columns) on examples made for others (rows)",
        rows,
        titles,
        crossed.mean(0),
        spread(crossed),
        np.concatenate([PUBLISHED_TRANSFER, *amplified, PUBLISHED_NOISE]) if is_papers else None,
        ".1f",
        heat=True,
        note=f"{counts}. The paper amplifies once, to a standard deviation of {DEVIATION:g}"
        + ("; its figures stand below each reading of that." if is_papers else "."),
    )


def _enlarged(titles: Titles, enlarged: np.ndarray, is_papers: bool) -> Table:
    """Return the table of factors, from [seeds, readings, networks, factor and distortion]."""
    rows = tuple(f"{name}, {reading}" for reading in READINGS for name in titles)
    known = np.full((len(READINGS), 3, 2), np.nan)
    known[:, :, 0] = ENLARGED
    known[:, :, 1] = DEVIATION
    return Table(
        "By how much the examples are enlarged",
        rows,
        ("mean factor", "distortion"),
        enlarged.mean(0).reshape(-1, 2),
        None if (over := spread(enlarged)) is None else over.reshape(-1, 2),
        known.reshape(-1, 2) if is_papers else None,
        (".2f", ".4f"),
        note="Means over images; factors before the box cuts a perturbation off. The paper says "
        f"{100 * (ENLARGED - 1):.0f} % on average, but from its distortions to {DEVIATION:g} it is "
        + ", ".join(f"{100 * (DEVIATION / d - 1):.0f}" for d in PUBLISHED_HALVES[:, 3])
        + " %.",
    )


def halves_in_words(
    titles: Sequence[str],
    errors: Float[np.ndarray, "3 4"],
    crossed: Float[np.ndarray, "R 3"],
    factors: Float[np.ndarray, "A 3"],
    count: int,
    is_papers: bool,
) -> str:
    """Return what Tables 3 and 4 show.

    Args:
        titles: The networks.
        errors: Error on P1, on P2 and on the test set in per cent, and distortion, by network.
        crossed: Error in per cent of each network (column), in the order of Table 4.
        factors: Mean factor, by reading and network.
        count: Number of images.
        is_papers: Whether the networks are the paper's, so that its figures are set beside these.

    Returns:
        The paragraph.
    """

    def beside(words: str) -> str:
        return words if is_papers else ""

    plain, amplified = crossed[:3], crossed[3:-2].reshape(len(READINGS), 3, 3)
    noise = crossed[-2:].mean(1)
    more = sum(side(rate, noise[0], count) > 0 for rate in plain[OFF_DIAGONAL])
    sentences = [
        f"Between networks {plain[OFF_DIAGONAL].mean():.1f} % of the examples transfer as they are"
        f"{beside(f' (published: {PUBLISHED_TRANSFER[OFF_DIAGONAL].mean():.1f})')}, in "
        f"{more} of {OFF_DIAGONAL.sum()} pairs more than "
        f"noise of standard deviation 0.06 makes wrong ({noise[0]:.1f} %), beyond their intervals; "
        f"to the network that has seen none of the same images {plain[:2, 2].mean():.1f} %"
        f"{beside(f' ({PUBLISHED_TRANSFER[:2, 2].mean():.1f})')}."
    ]
    low, high = np.sort(PUBLISHED_AMPLIFIED[:2, 2])
    means = amplified[:, OFF_DIAGONAL].mean(1)
    for reading, values, mean, factor in zip(
        READINGS, amplified, means, factors.mean(1), strict=True
    ):
        other = values[:2, 2].mean()
        where = "above" if other > high else "below" if other < low else "within"
        sentences.append(
            f"Amplified, {reading} (mean factor {factor:.2f}): {mean:.1f} %, and {other:.1f} % to "
            f"the network of the other half"
            f"{beside(f', {where} the published {low:g} to {high:g} %')}."
        )
    nearest = int(np.abs(means - PUBLISHED_AMPLIFIED[OFF_DIAGONAL].mean()).argmin())
    closest = (
        f"Over all pairs the published mean is {PUBLISHED_AMPLIFIED[OFF_DIAGONAL].mean():.1f} %; "
        f"the nearest reading is '{READINGS[nearest]}'. "
    )
    sentences.append(
        f"{beside(closest)}Noise of standard deviation {DEVIATION:g} makes {noise[1]:.1f} % wrong."
    )
    own = errors[[0, 1, 2], [0, 0, 1]]
    sentences.append(fit_in_words(dict(zip(titles, own, strict=True))))
    return " ".join(sentences)
