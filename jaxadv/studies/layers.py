"""Bounds and measurements of each layer's gain (section 4.3 of Szegedy et al. 2013).

The study covers the norms of all layers and their product, the distance that it certifies for every
image, and the gain of adversarial and of random perturbations, measured layer by layer.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int
from scipy import stats

from jaxadv.attacks.gradient_based.pgd import BIM
from jaxadv.attacks.wrappers.minimal_epsilon import MinimalEpsilon
from jaxadv.certification.lipschitz import (
    Spectrum,
    certified_distance,
    layer_outputs,
    local_norms,
    spectrum,
)
from jaxadv.core.goals import Untargeted
from jaxadv.core.model import Model
from jaxadv.studies.findings import Curves, Findings, Part, Table, Text
from jaxadv.studies.fit import how_trained
from jaxadv.studies.layer_norms import factor_table, spectra_table, table_5
from jaxadv.studies.layers_words import LastLayer, factor_in_words, layers_in_words
from jaxadv.studies.networks import names_of, network_of
from jaxadv.studies.setting import Setting

NETWORKS = ("FC10(1e-4)", "FC100-100-10", "LeNet", "FC200-200-10", "AE400-10")


def layers(setting: Setting) -> Findings:
    """Section 4.3: the largest gain of each layer, and its gain on perturbations.

    Networks are trained on the setting's images, with seed 0: `NETWORKS` (quick: the first three),
    or those that it gives. A torch state dict of torchvision's AlexNet, setting.folder /
    "alexnet.safetensors" (or .npz), fills Table 5's rows; without one they show the published
    figures only.

    Args:
        setting: The setting.

    Returns:
        The findings.
    """
    names = names_of(setting, NETWORKS[:3] if setting.quick else NETWORKS)
    models = {name: network_of(setting, name).model for name in names}
    image_shape = setting.test.images.shape[1:]
    spectra = {}
    for number, (name, model) in enumerate(models.items()):
        setting.progress("norms", number, len(models))
        spectra[name] = spectrum(model, image_shape, 100 if setting.quick else 300)
    gains = {name: _gains(setting, name, model) for name, model in models.items()}
    certificates, inside = _certificates(models, spectra, gains)
    weights = [setting.folder / f"alexnet.{kind}" for kind in ("safetensors", "npz")]
    alexnet = next((path for path in weights if path.is_file()), None)
    factor = factor_table()
    parts: list[Part] = [
        Text(
            "The norm of a layer is the most by which it enlarges a perturbation (L2); of a "
            "network, at most the product of its layers' norms, L. Norms are bracketed: from below "
            "by power iteration on the layer as it is (stride, zeros around the image), from above "
            "by singular values or the Fourier formula on an image that wraps around. L below is "
            "a product of upper bounds, with 1/4 for a sigmoid and 1 for a rectifier."
        ),
        factor,
        Text(factor_in_words(factor.values)),
        table_5(alexnet),
        spectra_table("Norms of the layers", spectra),
        certificates,
        _gain_table(gains, spectra),
        *(
            _curves(name, gains[name], spectra[name])
            for name in models
            if len(gains[name].adversarial) > 1
        ),
        Text(layers_in_words(_last_layer(gains, spectra), inside)),
    ]
    parts += how_trained(setting, names)
    return Findings("szegedy.layers", "Spectral analysis of unstability", parts)


class Gains(NamedTuple):
    """Gains of perturbations for the images with an adversarial example.

    Attributes:
        images: Images [N, H, W, C] for which the attack succeeded.
        labels: Their labels [N].
        distances: L2 distances of their adversarial examples, [N].
        adversarial: By layer, |change of its output| / |r| for adversarial perturbations r.
        random: The same for random perturbations of equal L2 size.
        local: Norms of the logits' Jacobian at the images, [N].
    """

    images: Float[np.ndarray, "N H W C"]
    labels: Int[np.ndarray, " N"]
    distances: Float[np.ndarray, " N"]
    adversarial: Mapping[str, Float[np.ndarray, " N"]]
    random: Mapping[str, Float[np.ndarray, " N"]]
    local: Float[np.ndarray, " N"]


def amplification(
    model: Model, images: npt.ArrayLike, perturbations: npt.ArrayLike
) -> dict[str, Float[np.ndarray, " N"]]:
    """Return |change of a layer's output| / |perturbation| for each dense layer and convolution.

    Outputs are taken before the bias and the activation; the last are the logits. Costs two model
    calls.

    Args:
        model: The model.
        images: Images [N, H, W, C].
        perturbations: Perturbations of the same shape.

    Returns:
        The gains [N] by name of the layer.

    Raises:
        ValueError: A perturbation is 0, or the shapes differ.

    Example:
        >>> import jax.numpy as jnp, jaxadv as ja
        >>> model = ja.Model(lambda w, x: 3 * (x.reshape(len(x), -1) @ w), jnp.eye(4))
        >>> gain = amplification(model, jnp.zeros((2, 2, 2, 1)), jnp.ones((2, 2, 2, 1)))
        >>> [float(value.mean()) for value in gain.values()]
        [1.0]
    """
    originals, moves = (np.asarray(array, np.float32) for array in (images, perturbations))
    sizes = np.linalg.norm(moves.reshape(len(moves), -1), axis=1)
    if originals.shape != moves.shape or not (sizes > 0).all():
        raise ValueError(
            f"perturbations {moves.shape}, {(sizes == 0).sum()} of them 0: pass one that is not 0 "
            f"for each of the images {originals.shape}"
        )
    before, after = layer_outputs(model, originals), layer_outputs(model, originals + moves)
    return {name: np.linalg.norm(after[name] - before[name], axis=1) / sizes for name in before}


def _gains(setting: Setting, name: str, model: Model) -> Gains:
    """Return gains of minimal L2 perturbations, and of Gaussian ones of equal size.

    The Gaussian perturbations are not clipped to the box.
    """
    count = min(setting.examples, 60 if setting.quick else 200)
    images, labels = setting.test.images[:count], setting.test.labels[:count]
    steps, rounds = (10, 5) if setting.quick else (20, 8)
    attack = MinimalEpsilon(BIM(norm="l2", steps=steps, step_size=0.2), rounds=rounds, largest=8.0)
    result = setting.run(f"layers-{name}", attack, model, images, Untargeted(labels))
    fooled = np.asarray(result.success) & (np.asarray(result.distance) > 0)
    images, labels = images[fooled], labels[fooled]
    moves = np.asarray(result.images)[fooled] - images
    sizes = np.sqrt(np.square(moves).sum((1, 2, 3), keepdims=True))
    noise = np.random.default_rng(0).standard_normal(moves.shape)
    noise *= sizes / np.sqrt(np.square(noise).sum((1, 2, 3), keepdims=True))
    return Gains(
        images,
        labels,
        sizes.ravel(),
        amplification(model, images, moves),
        amplification(model, images, noise),
        local_norms(model, images),
    )


def _certificates(
    models: Mapping[str, Model], spectra: Mapping[str, Spectrum], gains: Mapping[str, Gains]
) -> tuple[Table, int]:
    """Return the certified beside the attacked distances, and the number of attacks inside them."""
    values, inside = [], 0
    for name, model in models.items():
        gain, constant = gains[name], spectra[name].constant
        certified = certified_distance(model, gain.images, gain.labels, constant)
        broken = int((gain.distances < certified).sum())
        inside += broken
        tightness = np.median(certified / gain.distances)
        values.append(
            [
                constant,
                np.median(gain.local),
                np.median(certified),
                certified.max(),
                np.median(gain.distances),
                100 * tightness,
                broken,
                len(certified),
            ]
        )
    columns = (
        "L, product of norms",
        "gain at the image (median)",
        "certified distance (median)",
        "largest",
        "adversarial distance (median)",
        "certified of adversarial, %",
        "adversarial inside",
        "images",
    )
    return Table(
        "What the product of norms certifies",
        tuple(models),
        columns,
        np.array(values),
        formats=(".4g", ".3g", ".3g", ".3g", ".3g", ".3g", ".0f", ".0f"),
        note="Distances in L2 (over the square root of the number of pixels: the paper's "
        "distortion); certified: margin / (sqrt(2) L); gain at the image: the norm of the logits' "
        "Jacobian there. Images that the network gets right and for which the attack found an "
        "adversarial one.",
    ), inside


def _gain_table(gains: Mapping[str, Gains], spectra: Mapping[str, Spectrum]) -> Table:
    """Return the gains from image to logits of both kinds, with intervals and p-values."""
    values = []
    for name, gain in gains.items():
        ours, noise = (list(kind.values())[-1] for kind in (gain.adversarial, gain.random))
        ratio = np.log(ours / np.maximum(noise, 1e-12))
        low, high = _interval(ratio)
        p = float(np.asarray(stats.wilcoxon(ratio))[1]) if len(ratio) > 5 else math.nan
        values.append(
            [
                np.median(ours),
                np.median(noise),
                math.exp(np.median(ratio)),
                low,
                high,
                p,
                np.median(ours / gain.local),
                100 * np.median(ours) / spectra[name].constant,
            ]
        )
    columns = (
        "adversarial",
        "random",
        "ratio",
        "from",
        "to (95 %)",
        "p (Wilcoxon)",
        "adversarial of gain at the image",
        "adversarial of L, %",
    )
    return Table(
        "Gain from image to logits, medians over images",
        tuple(gains),
        columns,
        np.array(values),
        note="Adversarial perturbations are the smallest found; random ones are Gaussian and as "
        "long, image by image. The interval is of the median ratio, by 2,000 bootstraps.",
    )


def _interval(logs: np.ndarray) -> tuple[float, float]:
    rows = np.random.default_rng(0).integers(0, len(logs), (2000, len(logs)))
    low, high = np.percentile(np.median(logs[rows], axis=1), [2.5, 97.5])
    return math.exp(low), math.exp(high)


def _curves(name: str, gains: Gains, norms: Spectrum) -> Curves:
    """Return the gain from the image to each layer: measured, and the bound."""
    names = list(gains.adversarial)
    number = np.arange(1, len(names) + 1)
    bounds = {layer.name: layer.through for layer in norms.layers}
    middle = {
        "adversarial": [np.median(gains.adversarial[layer]) for layer in names],
        "random": [np.median(gains.random[layer]) for layer in names],
        "product of norms": [bounds[layer] for layer in names],
    }
    lines = {kind: np.array([number, values], np.float64) for kind, values in middle.items()}
    return Curves(
        f"Gain of a perturbation, layer by layer: {name}",
        "layer",
        "|change of the layer's output| / |perturbation|",
        lines,
        log="y",
        dashed=("random", "product of norms"),
        note=f"Layers: {', '.join(names)}, before the activation; medians over "
        f"{len(gains.images)} images.",
    )


def _last_layer(
    gains: Mapping[str, Gains], spectra: Mapping[str, Spectrum]
) -> dict[str, LastLayer]:
    found = {}
    for name, gain in gains.items():
        layers: Sequence[str] = list(gain.adversarial)
        ratios, steps = ratios_by_layer(gain)
        attained = float(np.median(gain.adversarial[layers[-1]]) / spectra[name].constant)
        found[name] = LastLayer(len(layers), ratios[0], ratios[-1], attained, ratios, steps)
    return found


def ratios_by_layer(gain: Gains) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return how much stronger adversarial perturbations arrive at each layer than random ones.

    Args:
        gain: The gains of a network.

    Returns:
        The medians over images, and whether the ratio rises (1) or falls (-1) from each layer to
        the next over the images (Wilcoxon, p < 0.05, Bonferroni), or neither is shown (0).
    """
    logs = [
        np.log(np.maximum(gain.adversarial[layer], 1e-12) / np.maximum(gain.random[layer], 1e-12))
        for layer in gain.adversarial
    ]
    steps = []
    for before, after in itertools.pairwise(logs):
        change = after - before
        p = float(np.asarray(stats.wilcoxon(change))[1]) if len(change) > 5 else 1.0
        is_shown = p < 0.05 / (len(logs) - 1)
        steps.append(int(np.sign(np.median(change))) if is_shown else 0)
    return tuple(math.exp(np.median(one)) for one in logs), tuple(steps)
