"""The experiments of Moosavi-Dezfooli et al. (2016, arXiv 1610.08401) on small networks.

Each study is one function: fooling rates, transfer across networks, and the number of images;
further studies are in `nature`. The paper's networks were trained on ImageNet: their figures are
shown as separate rows.
"""

import jax
import numpy as np

from jaxadv.core.model import Model
from jaxadv.data import Dataset
from jaxadv.data.form import turn_in_class
from jaxadv.engine.result_store import Store, fingerprint
from jaxadv.studies.blind_spots import examples_of
from jaxadv.studies.findings import Curves, Findings, Gallery, Part, Table, Text, spread
from jaxadv.studies.fit import how_trained
from jaxadv.studies.networks import Network, names_of, network_of
from jaxadv.studies.setting import Setting
from jaxadv.studies.universal_words import across_in_words, images_in_words, rates_in_words
from jaxadv.universal.aggregation import UniversalAggregation
from jaxadv.universal.ascent import UniversalAscent
from jaxadv.universal.fooling import judge
from jaxadv.universal.geometry import random_signs
from jaxadv.universal.method import Method
from jaxadv.universal.perturbation import universal_perturbation

NETWORKS = ("LeNet", "FC100-100-10", "FC200-200-10", "FC10(1e-4)")  # the last one is linear
EPSILON = 0.2  # Linf, of digits
DRAWS = 5  # of random signs, the control
METHODS: dict[str, Method] = {
    "gradient ascent": UniversalAscent(),
    "one by one (the paper's)": UniversalAggregation(batch_size=1, epochs=5),
    "in batches": UniversalAggregation(epochs=5),
}
PAPER = ("VGG-F", "CaffeNet", "GoogLeNet", "VGG-16", "VGG-19", "ResNet-152")
PUBLISHED_RATES = {  # on validation images, per cent: L2, Linf
    "CaffeNet": (85.6, 93.3),
    "VGG-F": (87.0, 93.7),
    "VGG-16": (90.3, 78.3),
    "VGG-19": (84.5, 77.8),
    "GoogLeNet": (82.0, 78.9),
    "ResNet-152": (88.5, 84.0),
}
PUBLISHED_ACROSS = (  # Linf, rows: made for
    (93.7, 71.8, 48.4, 42.1, 42.1, 47.4),
    (74.0, 93.3, 47.7, 39.9, 39.9, 48.0),
    (46.2, 43.8, 78.9, 39.2, 39.8, 45.5),
    (63.4, 55.8, 56.5, 78.3, 73.1, 63.4),
    (64.0, 57.2, 53.6, 73.5, 77.8, 58.0),
    (46.3, 46.3, 50.5, 47.0, 45.5, 84.0),
)


def radii(setting: Setting) -> dict[str, float]:
    """Return the radius in each norm: Linf 0.2 for digits, 10/255 for colour images, or as stated.

    The L2 radius is 15/28 of the length of signs of the Linf radius, 3 for digits of 28 x 28
    pixels; the paper's 2,000 is 0.52 of it.
    """
    epsilon, size = setting.radius(EPSILON), setting.train.images[0].size
    return {"linf": epsilon, "l2": epsilon * 15 * size**0.5 / 28}


def split(setting: Setting) -> tuple[Dataset, Dataset]:
    """Return the training images that perturbations are made from, and the held-out test images."""
    return examples_of(setting.train, setting.examples), examples_of(setting.test, 1000)


def perturbation_of(
    setting: Setting,
    network: Network,
    images: np.ndarray,
    norm: str = "linf",
    method: Method | None = None,
    seed: int = 0,
    epsilon: float | None = None,
) -> np.ndarray:
    """Return a perturbation [H, W, C] of the network, stored in the setting's folder."""
    epsilon = radii(setting)[norm] if epsilon is None else epsilon
    method = UniversalAscent() if method is None else method
    store, name = Store(setting.folder / "universal"), f"{network.name}-{seed}-{norm}"
    name += f"-{len(images)}-{type(method).__name__}-{method.batch_size}-{epsilon:g}"
    digest = fingerprint(repr(method), network.model.params, images, norm, epsilon, seed)
    arrays = store.load_arrays(name, digest)
    if arrays is None:
        made = universal_perturbation(
            network.model,
            images,
            epsilon,
            norm,
            method,
            key=jax.random.key(seed),
            progress=lambda done, total, _: setting.progress(name, done, total),
        )
        arrays = {"perturbation": made.perturbation}
        store.save_arrays(name, digest, **arrays)
    return arrays["perturbation"]


def control(model: Model, images: np.ndarray, epsilon: float, norm: str = "linf") -> float:
    """Return the fooling rate in per cent of random signs of the same size, mean of `DRAWS`.

    Args:
        model: The model.
        images: Images [N, H, W, C].
        epsilon: The size.
        norm: Norm of the size.

    Returns:
        The rate.
    """
    drawn = (random_signs(images.shape[1:], epsilon, norm, seed) for seed in range(DRAWS))
    return 100 * float(np.mean([judge(model, images, v).rate for v in drawn]))


def picture(perturbation: np.ndarray) -> np.ndarray:
    """Return a perturbation [H, W, C] as an image.

    Grey is 0; the largest entry is black or white.
    """
    return 0.5 + perturbation / (2 * max(np.abs(perturbation).max(), 1e-9))


def rates(setting: Setting) -> Findings:
    """Table 1: the fooling rate of three algorithms in two norms, on images given and held out."""
    data, held_out = split(setting)
    columns = [
        f"{norm} {part}{what}"
        for norm in ("L2", "Linf")
        for part in ("given", "held out")
        for what in ("", ", random signs")
    ]
    first, *_ = METHODS  # the slower two for one network
    names, epsilon = names_of(setting, NETWORKS), radii(setting)
    pairs = [(names[0], how) for how in METHODS] + [(name, first) for name in names[1:]]
    values = np.full((setting.seeds, len(pairs) + len(PAPER), 8), np.nan)
    shown = {}
    for seed in range(setting.seeds):
        for row, (name, how) in enumerate(pairs):
            network = network_of(setting, name, seed)
            for place, norm in enumerate(("l2", "linf")):
                v = perturbation_of(setting, network, data.images, norm, METHODS[how], seed)
                for part, images_of_part in enumerate((data, held_out)):
                    given = images_of_part.images
                    rate = judge(network.model, given, v, norm, epsilon[norm]).rate
                    at = 4 * place + 2 * part
                    values[seed, row, at] = 100 * rate
                    values[seed, row, at + 1] = control(network.model, given, epsilon[norm], norm)
                shown.setdefault((name, how, norm), v)
    published = np.full(values.shape[1:], np.nan)
    for row, name in enumerate(PAPER):
        published[len(pairs) + row, [2, 6]] = PUBLISHED_RATES[name]
    parts: list[Part] = [
        Table(
            "Table 1: fooling rate in %",
            (*(f"{n}, {how}" for n, how in pairs), *(f"{name} (ImageNet)" for name in PAPER)),
            tuple(columns),
            values.mean(0),
            spread(values),
            published,
            ".1f",
            note=f"{len(data.labels)} training images given, {len(held_out.labels)} test images "
            f"held out, {setting.seeds_in_words}; L2 {epsilon['l2']:.3g}, Linf "
            f"{epsilon['linf']:.3g}. "
            "An image is fooled if the answer is not that to the clean image. The paper's networks "
            f"and images are others, at 2,000 and 10 of 255. Random signs: mean of {DRAWS} "
            "perturbations of the same size.",
        ),
        Text(
            rates_in_words(
                tuple(f"{n}, {how}" for n, how in pairs),
                values.mean(0)[: len(pairs)],
                len(held_out.labels),
            )
        ),
        _gallery(shown),
    ]
    parts += how_trained(setting, names, setting.seeds)
    return Findings("universal.rates", "One perturbation for all images", parts)


def _gallery(shown: dict[tuple[str, str, str], np.ndarray]) -> Gallery:
    pairs = list(dict.fromkeys(key[:2] for key in shown))
    images = np.stack(
        [np.stack([picture(shown[(*pair, norm)]) for pair in pairs]) for norm in ("l2", "linf")]
    )
    return Gallery(
        "The perturbations",
        images,
        ("L2", "Linf"),
        tuple(f"{name}, {how}" for name, how in pairs),
        note="Grey is no change; black and white are the largest entry of each.",
    )


def across(setting: Setting) -> Findings:
    """Table 2: the fooling rates on other networks of a perturbation made for one network."""
    data, held_out = split(setting)
    names, epsilon = names_of(setting, NETWORKS), radii(setting)["linf"]
    size = len(names)
    values = np.full((setting.seeds, size + 1, size), np.nan)
    for seed in range(setting.seeds):
        networks = [network_of(setting, name, seed) for name in names]
        values[seed, -1] = [
            control(network.model, held_out.images, epsilon) for network in networks
        ]
        for row, maker in enumerate(networks):
            v = perturbation_of(setting, maker, data.images, seed=seed)
            for column, network in enumerate(networks):
                values[seed, row, column] = 100 * judge(network.model, held_out.images, v).rate
    empty = np.full((len(PAPER), len(PAPER)), np.nan)
    parts: list[Part] = [
        Table(
            f"Fooling rate in % (Linf {epsilon:.3g}); rows: made for",
            (*names, "random signs"),
            names,
            values.mean(0),
            spread(values),
            None,
            ".1f",
            heat=True,
            note=f"{len(held_out.labels)} images held out, {setting.seeds_in_words}, gradient "
            f"ascent; random signs of the same size: mean of {DRAWS}.",
        ),
        Table(
            "The paper's table 2 (Linf 10 of 255, ImageNet)",
            PAPER,
            PAPER,
            empty,
            None,
            np.array(PUBLISHED_ACROSS),
            ".1f",
        ),
        Text(across_in_words(values.mean(0), np.array(PUBLISHED_ACROSS), len(held_out.labels))),
    ]
    parts += how_trained(setting, names, setting.seeds)
    return Findings("universal.across", "One perturbation for all networks", parts)


def counts(setting: Setting) -> list[int]:
    """Return the numbers of images to compare: one for each class, then more."""
    classes, most = len(setting.train.classes), min(setting.examples, len(setting.train.labels))
    return [n for n in (classes, 2 * classes, 5 * classes, 100, 200, 500) if n <= most]


def images_needed(setting: Setting) -> Findings:
    """The fooling rate on held-out images against the number of images given, from one a class."""
    _, held_out = split(setting)
    numbers = sorted(set(counts(setting)))
    order = np.argsort(turn_in_class(setting.train.labels), kind="stable")
    names, epsilon = names_of(setting, NETWORKS[:2]), radii(setting)["linf"]
    values = np.zeros((setting.seeds, len(names), len(numbers) + 1))
    for seed in range(setting.seeds):
        for row, name in enumerate(names):
            network = network_of(setting, name, seed)
            values[seed, row, -1] = control(network.model, held_out.images, epsilon)
            for column, number in enumerate(numbers):
                images = setting.train.images[order[:number]]
                epochs = max(20, 3000 // number)
                method = UniversalAscent(epochs=epochs)
                v = perturbation_of(setting, network, images, method=method, seed=seed)
                values[seed, row, column] = 100 * judge(network.model, held_out.images, v).rate
    mean = values.mean(0)
    lines = {name: np.array([numbers, mean[row, :-1]]) for row, name in enumerate(names)}
    for row, name in enumerate(names):
        flat = np.full(len(numbers), mean[row, -1])
        lines[f"{name}, random signs"] = np.array([numbers, flat])
    parts: list[Part] = [
        Curves(
            "Fooling rate on images held out",
            "images given",
            "fooling rate in %",
            lines,
            log="x",
            dashed=tuple(lines)[len(names) :],
        ),
        Table(
            "Fooling rate in % against the number of images",
            names,
            (*(f"{n} images" for n in numbers), "random signs"),
            mean,
            spread(values),
            None,
            ".1f",
        ),
        Text(images_in_words(names, numbers, mean, len(held_out.labels))),
    ]
    parts += how_trained(setting, names, setting.seeds)
    return Findings("universal.images", "How many images it takes", parts)
