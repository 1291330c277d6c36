"""The invariance of units and of random directions, convolutional layers included.

Goodfellow, Le, Saxe, Lee and Ng (2009), Measuring invariances in deep networks, NIPS 22: a unit
fires above a threshold that one input of a hundred exceeds; of the inputs at which it fires,
transformed a little, the fraction at which it still fires is its local firing rate L; over the
global rate G it is the unit's score. We leave the untransformed input out of L, and the threshold
is that of the held-out images themselves.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import ndimage

from jaxadv.studies.directions import Comparison, activations, compare, purity, top_images
from jaxadv.studies.findings import Part, Table, Text
from jaxadv.studies.networks import Network, names_of, network_of
from jaxadv.studies.setting import Setting
from jaxadv.studies.wording import tally

GLOBAL = 0.01  # fraction of the inputs at which a unit fires
BEST = 0.2  # of the units of a layer, whose mean the paper calls the layer's score
TOP = 8  # images whose label purity stands beside the scores
PIXELS, DEGREES = (-2, -1, 1, 2), (-15.0, -7.5, 7.5, 15.0)
WHAT = ("label purity", "translation", "rotation")


def translated(images: np.ndarray) -> list[np.ndarray]:
    """Return the images [N, H, W, C] moved by 1 and 2 pixels in each direction, filled with 0."""
    moves = [(pixels, 0) for pixels in PIXELS] + [(0, pixels) for pixels in PIXELS]
    return [ndimage.shift(images, (0, *move, 0), order=0) for move in moves]


def rotated(images: np.ndarray) -> list[np.ndarray]:
    """Return the images [N, H, W, C] rotated by 7.5 and 15 degrees to either side."""
    return [ndimage.rotate(images, angle, axes=(1, 2), reshape=False, order=1) for angle in DEGREES]


def scores(
    values: Float[np.ndarray, "N n"], moved: Float[np.ndarray, "T N n"]
) -> Float[np.ndarray, " n"]:
    """Return the score L / G of each unit, of one sign.

    Args:
        values: The units' values at N inputs.
        moved: Their values at T transformed versions of each.

    Returns:
        The scores, at most 1 / G, about 1 where a unit forgets what it saw; nan for a unit that is
        constant.

    Example:
        >>> import numpy as np
        >>> from jaxadv.studies.invariance import scores
        >>> values = np.arange(200.0)[:, None]  # two of 200 fire
        >>> scores(values, np.stack([values, -values])).round(6)
        array([50.])
    """
    count = max(1, round(GLOBAL * len(values)))
    threshold = np.partition(values, -count - 1, axis=0)[-count - 1]
    fires = values > threshold
    globally = fires.mean(0)
    again = ((moved > threshold) & fires).sum((0, 1)) / (len(moved) * np.maximum(fires.sum(0), 1))
    return np.where(fires.any(0), again / np.maximum(globally, 1e-12), np.nan)


class Measured(NamedTuple):
    """Units of one layer, or random directions of it.

    Attributes:
        purity: Label purity of the top images of each, [n].
        translation: Invariance score of each under translation, [n].
        rotation: The same under rotation.
    """

    purity: Float[np.ndarray, " n"]
    translation: Float[np.ndarray, " n"]
    rotation: Float[np.ndarray, " n"]


class Layer(NamedTuple):
    """A hidden layer: its units are dense, or channels that are looked for at every place.

    Attributes:
        name: Name of the network and the layer.
        network: The network.
        layer: Name of the layer in its module.
        sigmoid: Whether a sigmoid follows, else a ReLU.
    """

    name: str
    network: Network
    layer: str
    sigmoid: bool

    def features(self, images: np.ndarray) -> Float[Array, "N P n"]:
        """Return the layer's outputs before the nonlinearity at each of P places."""
        module, variables = self.network.linen, self.network.variables
        flat = activations(module, variables, jnp.asarray(images), self.layer, "output")
        width = variables["params"][self.layer]["kernel"].shape[-1]
        return flat.reshape(len(images), -1, width)

    def values(self, images: np.ndarray, basis: Array | None) -> Float[np.ndarray, "2 N n"]:
        """Return the largest value over all places, of directions and of their opposites.

        Args:
            images: Images [N, H, W, C].
            basis: Directions [n, n] of the layer's activations, or None for its units.

        Returns:
            The values of both signs.
        """
        parts = []
        for start in range(0, len(images), 250):
            features = self.features(images[start : start + 250])
            if basis is not None:
                after = jax.nn.sigmoid if self.sigmoid else jax.nn.relu
                features = after(features) @ basis
            parts.append(np.stack([features.max(1), (-features).max(1)]))
        return np.concatenate(parts, 1)


def measure(layer: Layer, basis: Array | None, images: np.ndarray, labels: np.ndarray) -> Measured:
    """Measure label purity and invariance of a layer's units, or of directions.

    Of the two signs of a unit that of the larger score counts, as in the paper.

    Args:
        layer: The layer.
        basis: Directions [n, n], or None for the units.
        images: Held-out images [N, H, W, C].
        labels: Their labels.

    Returns:
        The measurements.
    """
    still = layer.values(images, basis)
    both = []
    for transformed in (translated(images), rotated(images)):
        moved = np.stack([layer.values(some, basis) for some in transformed], 1)
        signs = [scores(one, other) for one, other in zip(still, moved, strict=True)]
        both.append(np.fmax(*signs))
    alike = purity(labels[top_images(jnp.asarray(still[0]), TOP)])
    return Measured(alike, *both)


def _layers(setting: Setting, seed: int) -> Iterator[Layer]:
    """Yield the hidden layers that are measured: those that a nonlinearity follows at once.

    A network with batch normalisation between the two has none.
    """
    own = ("FC100-100-10",) if setting.quick else ("FC100-100-10", "FC200-200-10")
    for name in names_of(setting, (*own, "LeNet")):
        network = network_of(setting, name, seed)
        if "batch_stats" in network.variables:
            continue
        sigmoid = getattr(network.linen, "activation", "relu") == "sigmoid"
        params = network.variables["params"]
        weighted = [layer for layer in params if "kernel" in params[layer]]
        for layer in sorted(weighted)[:-1]:  # conv1, conv2, fc1, ...; the last gives the logits
            yield Layer(f"{name} {layer}", network, layer, sigmoid)


def invariance_parts(setting: Setting) -> list[Part]:
    """Return the table of invariances beside label purities, and its sentences.

    Args:
        setting: The setting.

    Returns:
        A paragraph and the table.
    """
    images, labels = np.asarray(setting.test.images)[:1000], setting.test.labels[:1000]
    found: dict[tuple[str, str], list[Measured]] = {}
    for seed in range(setting.seeds):
        layers = list(_layers(setting, seed))
        for number, layer in enumerate(layers):
            setting.progress("invariance", number, len(layers))
            width = layer.features(images[:1]).shape[-1]
            key = jax.random.fold_in(jax.random.key(100 + seed), number)
            random = jax.random.normal(key, (width, width))
            for kind, basis in (("units", None), ("random directions", random)):
                same = layer.network.variables, images, basis, kind, layer.layer
                kept = setting.keep(
                    f"invariance/{layer.name.replace(' ', '-')}-{kind}-{seed}",
                    same,
                    lambda layer=layer, basis=basis: measure(
                        layer, basis, images, labels
                    )._asdict(),
                )
                found.setdefault((layer.name, kind), []).append(Measured(**kept))
    if not found:
        return [Text("No layer is followed at once by a nonlinearity: invariance is not measured.")]
    pooled = {
        where: Measured(*map(np.concatenate, zip(*each, strict=True)))
        for where, each in found.items()
    }
    places = list(dict.fromkeys(place for place, _ in pooled))
    tests = {
        place: [
            compare(one[np.isfinite(one)], two[np.isfinite(two)])
            for one, two in zip(
                pooled[place, "units"], pooled[place, "random directions"], strict=True
            )
        ]
        for place in places
    }
    rows = []
    for one in pooled.values():
        row = [len(one.purity), one.purity.mean()]
        for score in (one.translation, one.rotation):
            row += [np.nanmean(score), best(score)]
        rows.append(row)
    table = Table(
        "Label purity and invariance, of units and of as many random directions",
        tuple(f"{place}: {kind}" for place, kind in pooled),
        (
            "number",
            "label purity",
            "translation, mean",
            "translation, best fifth",
            "rotation, mean",
            "rotation, best fifth",
        ),
        np.array(rows),
        formats=(".0f", ".3f", ".1f", ".1f", ".1f", ".1f"),
        note=f"Of a convolutional layer a unit is a channel, its value the largest in the image; a "
        f"random direction mixes the channels at every place. Purity: of the {TOP} top images. "
        f"Invariance (Goodfellow et al. 2009): a unit fires at {100 * GLOBAL:g} % of "
        f"{len(images):,} held-out images; of those, moved by 1 or 2 pixels, or rotated by 7.5 or "
        f"15 degrees, it still fires at a fraction L, and the score is L over {GLOBAL:g}, at most "
        f"{1 / GLOBAL:.0f}, and 1 by chance. Rotation interpolates between pixels, which lowers "
        "the largest values, of the first layers above all.",
    )
    return [Text(invariance_in_words(tests)), table]


def best(values: np.ndarray) -> float:
    """Return the mean of the largest fifth."""
    kept = np.sort(values[np.isfinite(values)])[::-1]
    return float(kept[: max(1, round(BEST * len(kept)))].mean()) if len(kept) else np.nan


def invariance_in_words(tests: Mapping[str, Sequence[Comparison]]) -> str:
    """Return in which layers units are purer or more invariant than random directions, or less.

    Args:
        tests: For each layer the comparisons of units with random directions, one for each of
            `WHAT`.

    Returns:
        The paragraph.
    """
    places, level = list(tests), 0.05 / (len(tests) * len(WHAT))
    words = []
    for number, what in enumerate(WHAT):
        title = what if not number else f"invariance to {what}"
        sides = [
            [test[number].p < level and sign * test[number].effect > 0 for test in tests.values()]
            for sign in (1, -1)
        ]
        more, less = (tally(places, holds, "layers") for holds in sides)
        words.append(f"more {title} in {more}, less in {less}")
    return (
        f"Beside as many random directions of their layer, units have {'; '.join(words)} (Mann and "
        f"Whitney, p < 0.05 over {len(tests) * len(WHAT)} tests, Bonferroni); elsewhere no "
        "difference is shown."
    )
