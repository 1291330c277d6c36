"""Which training lowers the test error, and how near mistakes are inside the network.

Szegedy et al. (2013, arXiv 1312.6199), section 4.2: pools of adversarial examples at the image and
at hidden layers, beside dropout and weight decay alone.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxadv.attacks.minimum_norm.lbfgs import LBFGS
from jaxadv.core.goals import Untargeted
from jaxadv.data import Dataset
from jaxadv.studies.blind_spots import distortion, examples_of, nearest_mistakes
from jaxadv.studies.findings import Findings, Part, Table, Text
from jaxadv.studies.networks import Network, trained
from jaxadv.studies.pool_training import Method, body, head_model, train_with
from jaxadv.studies.setting import Setting
from jaxadv.studies.wording import fit_in_words, side, tally

METHODS = (
    Method("weight decay"),
    Method("dropout 0.2", dropout=0.2),
    Method("noise 0.1", noise=0.1),
    Method("hard negatives", mining=True),
    Method("PGD, Linf 0.1", epsilon=0.1),
    Method("pool, image", layers=((0, 1.5),), learning_rate=1e-2),
    Method("pool, layer 1", layers=((1, 0.3),), learning_rate=1e-2),
    Method("pool, layer 2", layers=((2, 0.3),), learning_rate=1e-2),
    Method("pools, all layers", layers=((0, 1.5), (1, 0.3), (2, 0.3)), learning_rate=1e-2),
    Method("fresh, image", fresh=((0, 1.5),), learning_rate=1e-2),
    Method("fresh, layer 1", fresh=((1, 0.3),), learning_rate=1e-2),
    Method("fresh, layer 2", fresh=((2, 0.3),), learning_rate=1e-2),
    Method("fresh, all layers", fresh=((0, 1.5), (1, 0.3), (2, 0.3)), learning_rate=1e-2),
)
PUBLISHED = {"weight decay": 1.6, "dropout 0.2": 1.3, "pools, all layers": 1.2}  # test error, %


def training(setting: Setting) -> Findings:
    """Adversarial training with pools: does it bring the 100-100-10 network below 1.2 % test error?

    The study also reports minimal perturbations at each layer.
    """
    data = examples_of(setting.test, setting.examples)
    values = np.zeros((setting.seeds, len(METHODS), 3))
    for seed in range(setting.seeds):
        for row, method in enumerate(METHODS):
            network = train_with(setting, method, seed)
            result = nearest_mistakes(setting, network, data, targeted=False, seed=seed)
            distances = distortion(result.images, data.images)
            values[seed, row] = (
                100 * network.error(setting.train),
                100 * network.error(setting.test),
                np.median(distances[distances > 0]),
            )
    mean, spread = values.mean(0), values.std(0)
    published = np.full(mean.shape, np.nan)
    for row, method in enumerate(METHODS):
        published[row, 1] = PUBLISHED.get(method.name, np.nan)
    names = tuple(method.name for method in METHODS)
    parts: list[Part] = [
        Table(
            f"A sigmoid network 100-100-10, trained by {len(METHODS)} methods",
            names,
            ("training error %", "test error %", "median distortion"),
            mean,
            spread,
            published,
            (".2f", ".2f", ".4f"),
            note=f"Mean and standard deviation over {setting.seeds_in_words}, all with the same "
            "weight decay; distortion of minimal adversarial examples (L-BFGS, any class) of "
            f"{len(data.labels)} test images. The paper says 'below 1.2' for pools at all layers. "
            "Fresh: made by one gradient step for every batch.",
        ),
        Text(pool_in_words(mean, spread, len(setting.test.labels))),
    ]
    parts.append(_by_layer(setting, trained(setting, "FC100-100-10"), data))
    return Findings("szegedy.pool", "Adversarial training with a pool, at any layer", parts)


def pool_in_words(
    mean: Float[np.ndarray, "M 3"], spread: Float[np.ndarray, "M 3"], count: int
) -> str:
    """Return whether the pools reach the published error, and how many are better than others.

    Args:
        mean: Training error and test error in per cent, and distortion, of `METHODS`.
        spread: Their standard deviations over seeds.
        count: Number of test images.

    Returns:
        The paragraph.
    """
    names, test = [method.name for method in METHODS], mean[:, 1]
    kinds = {
        "pools": [i for i, method in enumerate(METHODS) if method.layers],
        "kinds of fresh examples": [i for i, method in enumerate(METHODS) if method.fresh],
    }
    aim, best = PUBLISHED["pools, all layers"], int(test.argmin())
    words = [
        f"Weight decay alone gives {test[0]:.2f} % (the paper: 1.6), dropout {test[1]:.2f} % (1.3)."
    ]
    for what, rows in kinds.items():
        titles, errors = [names[i] for i in rows], test[rows]
        below = "is" if errors.min() < aim else "is not"
        better = [np.array([side(one, test[i], count) < 0 for one in errors]) for i in (0, 1)]
        words.append(
            f"The best of the {what} gives {errors.min():.2f} %: that {below} below the paper's "
            f"{aim:g} %. Shown to be better than weight decay alone, by 95 % intervals that do not "
            f"overlap, are {tally(titles, better[0], what)}, better than dropout "
            f"{tally(titles, better[1], what)}; among single layers the lowest error has "
            f"{titles[int(errors[:3].argmin())]}."
        )
    words += [
        f"The lowest of all has '{names[best]}': {test[best]:.2f} % +- {spread[best, 1]:.2f}.",
        fit_in_words(dict(zip(names, map(float, mean[:, 0]), strict=True))),
    ]
    return " ".join(words)


def _by_layer(setting: Setting, network: Network, data: Dataset) -> Table:
    """Return the minimal perturbations of each layer's activations, relative to their length."""
    params, rows = network.variables["params"], []
    for layer in range(len(params)):
        inside = np.asarray(body(params, jnp.asarray(data.images), layer))
        result = setting.run(
            f"{network.name}-layer-{layer}",
            LBFGS(),
            head_model(params, layer),
            inside.reshape(len(inside), 1, 1, -1),
            Untargeted(data.labels),
        )
        distances = result.distance[result.success & (result.distance > 0)]
        length = np.linalg.norm(inside, axis=1)
        rows.append(
            (
                100 * result.success.mean(),
                np.median(distances),
                np.median(length),
                np.median(distances) / np.median(length),
            )
        )
    return Table(
        f"Minimal perturbations at the layers of {network.name}",
        ("image", *(f"layer {i}" for i in range(1, len(params)))),
        ("success %", "distance (L2)", "length (L2)", "relative"),
        np.array(rows),
        formats=(".1f", ".3f", ".2f", ".3f"),
        note="Medians over images that were classified right. Activations stay in [0, 1].",
    )
