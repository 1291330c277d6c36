"""Section 3 of Szegedy et al. (2013, arXiv 1312.6199): units and directions, with statistics.

The paper compares the held-out images that stimulate a hidden unit most with those of a random
direction of its layer, and finds both equally meaningful. The study shows the same pictures, and
tests what the images of a direction have in common; the mathematics is in
`jaxadv.studies.directions`.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxadv.core.typing import Params
from jaxadv.studies.directions import (
    Comparison,
    activations,
    compare,
    counter_rotated,
    dense_layers,
    entropy,
    principal_components,
    purity,
    similarity,
    synthesize,
    top_images,
)
from jaxadv.studies.findings import Curves, Findings, Gallery, Part, Table, Text
from jaxadv.studies.fit import how_trained
from jaxadv.studies.invariance import invariance_parts
from jaxadv.studies.networks import Network, names_of, network_of, trained
from jaxadv.studies.setting import Setting

NETWORKS = ("FC100-100-10", "FC200-200-10", "AE400-10")
JUDGE = "FC123-456-10"  # its features measure similarity: another network, of other widths
TOP, ROWS = 8, 8  # top images of a direction, directions in a picture
COMPONENTS, REACH = 50, 2.0  # of the box of likely images; its half-width in standard deviations
KINDS = {
    "units": "single units of the trained network",
    "random directions": "Gaussian v: the image with the largest <phi(x), v>",
    "rotated basis": "the units after a random orthogonal matrix",
    "random images": "the null: images permuted against activations",
    "units, untrained": "single units of the network before training",
    "random directions of pixels": "Gaussian v on the image itself: no network at all",
}
STATISTICS = ("label purity", "label entropy", "cosine of pixels", "cosine of features")
PAIRS = (
    ("units", "random directions"),
    ("units", "rotated basis"),
    ("random directions", "random images"),
    ("units", "units, untrained"),
    ("random directions", "random directions of pixels"),
)


class Hidden(NamedTuple):
    """One hidden layer of a trained network and its activations on the held-out images.

    Attributes:
        name: Name of the network and layer.
        network: The network.
        writer: Dense layer whose output the units are, before the nonlinearity; None where another
            kind of layer writes them.
        reader: Dense layer whose input the units are.
        bases: By kind, the directions [n, D]: the units, Gaussian draws and a rotation.
        values: By kind, for all `KINDS`, the values [N, D] of the images along the directions.
    """

    name: str
    network: Network
    writer: str | None
    reader: str
    bases: Mapping[str, Float[Array, "n D"]]
    values: Mapping[str, Float[Array, "N D"]]

    def reading(self, kind: str) -> tuple[str, str]:
        """Return the layer and side of `activations` at which directions of a kind are taken.

        Units are taken before the sigmoid: the order of the images is the same, without the ties
        where float32 rounds it to one.

        Args:
            kind: A key of `bases`.

        Returns:
            The layer, and "input" or "output".
        """
        if kind == "units" and self.writer is not None:
            return self.writer, "output"
        return self.reader, "input"


def units(setting: Setting) -> Findings:
    """Section 3: are single units more meaningful than random directions of their layer?"""
    images, labels = jnp.asarray(setting.test.images), np.asarray(setting.test.labels)
    counts = [k for k in (2, 4, 8, 16, 32, 64, 128, 256) if k <= len(labels) // 4]
    names = names_of(setting, NETWORKS[:1] if setting.quick else NETWORKS)
    shown = _layers_of(network_of(setting, names[0]), images)[-1].name  # in pictures
    common: dict[tuple[str, str], list[np.ndarray]] = {}  # (layer, kind): [statistic, D] per seed
    curves: dict[str, list[np.ndarray]] = {}
    turned: dict[str, list[tuple[float, ...]]] = {}
    pictures: list[Part] = []
    for seed in range(setting.seeds):
        judge = trained(setting, JUDGE, seed)
        spaces = (
            np.asarray(images).reshape(len(labels), -1),
            np.asarray(activations(judge.linen, judge.variables, images, "fc3")),
        )
        for number, name in enumerate(names):
            setting.progress("units", seed * len(names) + number, setting.seeds * len(names))
            for hidden in _hidden_layers(setting, name, seed):
                tops = {kind: top_images(v, counts[-1]) for kind, v in hidden.values.items()}
                for kind, top in tops.items():
                    few = top[:, :TOP]
                    statistics = [purity(labels[few]), entropy(labels[few])]
                    statistics += [similarity(space, few) for space in spaces]
                    common.setdefault((hidden.name, kind), []).append(np.stack(statistics))
                    if hidden.name == shown:
                        deep = [purity(labels[top[:, :k]]).mean() for k in counts]
                        curves.setdefault(kind, []).append(np.array(deep))
                turned.setdefault(hidden.name, []).append(_turn(setting, hidden))
                if hidden.name == shown and seed == 0:
                    pictures = [_gallery(setting, hidden, tops, kind) for kind in hidden.bases]
                    pictures += _synthesised(setting, hidden, tops, judge)
    places = list(turned)
    tests = {pair: {place: _tests(common, place, *pair) for place in places} for pair in PAIRS}
    return Findings(
        "szegedy.units",
        "Units and directions",
        [
            *map(Text, units_in_words(tests)),
            *pictures[:3],
            _coherence(common),
            Curves(
                f"Label purity of the top images, {shown}",
                "top images",
                "label purity",
                {kind: np.array([counts, np.mean(c, 0)]) for kind, c in curves.items()},
                log="x",
                dashed=tuple(KINDS)[3:],
            ),
            *(_test_table(pair, tests[pair]) for pair in PAIRS),
            _turn_table(turned),
            *invariance_parts(setting),
            *pictures[3:],
            *how_trained(setting, tuple(dict.fromkeys((*names, JUDGE))), setting.seeds),
        ],
    )


class Place(NamedTuple):
    """A hidden layer: its name, the dense layer that writes its units (or None), and the reader."""

    name: str
    writer: str | None
    reader: str


def _layers_of(network: Network, images: Array) -> list[Place]:
    """Return the hidden layers that a dense layer reads.

    Raises:
        ValueError: There are none.
    """
    widths = dense_layers(network.linen, network.variables, images)
    readers = list(widths)
    pairs = list(zip([None, *readers], readers, strict=False))
    if readers and widths[readers[0]] == images[0].size:  # the first one reads the pixels
        pairs = pairs[1:]
    if not pairs:
        raise ValueError(f"{network.name} has no hidden layer that a dense layer reads")
    return [
        Place(f"{network.name} layer {number}", *pair) for number, pair in enumerate(pairs, start=1)
    ]


def _hidden_layers(setting: Setting, name: str, seed: int) -> Iterator[Hidden]:
    network = network_of(setting, name, seed)
    images, module = jnp.asarray(setting.test.images), network.linen
    start = module.init(jax.random.key(1000 + seed), images[:1])
    first = 10 * names_of(setting, NETWORKS).index(name)
    for layer, (title, writer, reader) in enumerate(_layers_of(network, images), start=1):
        layer_key = jax.random.fold_in(jax.random.key(seed), first + layer)
        keys = jax.random.split(layer_key, 4)
        count = 100 if setting.quick else 200
        where = (reader, "input") if writer is None else (writer, "output")
        phi = activations(module, network.variables, images, reader)
        bases = {
            "units": jnp.eye(phi.shape[1]),
            "random directions": jax.random.normal(keys[0], (phi.shape[1], count)),
            "rotated basis": jax.random.orthogonal(keys[1], phi.shape[1]),
        }
        flat = images.reshape(len(images), -1)
        values = {
            "units": activations(module, network.variables, images, *where),
            "random directions": phi @ bases["random directions"],
            "rotated basis": phi @ bases["rotated basis"],
            "random images": jax.random.uniform(keys[2], (len(images), count)),
            "units, untrained": activations(module, start, images, *where),
            "random directions of pixels": flat
            @ jax.random.normal(keys[3], (flat.shape[1], count)),
        }
        yield Hidden(title, network, writer, reader, bases, values)


def _tests(
    common: Mapping[tuple[str, str], list[np.ndarray]], place: str, one: str, two: str
) -> list[Comparison]:
    """Return one comparison for each statistic, over the directions of all seeds."""
    pooled = (np.concatenate(common[place, kind], 1) for kind in (one, two))
    return [compare(x, y) for x, y in zip(*pooled, strict=True)]


def _coherence(common: Mapping[tuple[str, str], list[np.ndarray]]) -> Table:
    means = np.array(
        [[s.mean(1) for s in samples] for samples in common.values()]
    )  # [row, seed, 4]
    return Table(
        f"What the {TOP} top images of a direction have in common",
        tuple(f"{place}: {kind}" for place, kind in common),
        STATISTICS,
        means.mean(1),
        spread=means.std(1, ddof=1) if means.shape[1] > 1 else None,
        formats=".3f",
        note=f"Means over directions and seeds, entropy in bits. Cosines are means over pairs, "
        f"after the mean of all held-out images is subtracted; features are those of the last "
        f"hidden layer of {JUDGE}. " + "; ".join(f"{k}: {v}" for k, v in KINDS.items()) + ".",
    )


def _test_table(pair: tuple[str, str], tests: Mapping[str, list[Comparison]]) -> Table:
    return Table(
        f"{pair[0].capitalize()} against {pair[1]}",
        tuple(f"{place}: {what}" for place in tests for what in STATISTICS),
        ("effect", "95 % from", "to", "p"),
        np.array([test for place in tests.values() for test in place]),
        formats=("+.2f", "+.2f", "+.2f", ".1e"),
        note="Mann-Whitney, two-sided, directions of all seeds together. Effect: the "
        "fraction of pairs in which the first is larger, less that in which it is smaller.",
    )


def _turn(setting: Setting, hidden: Hidden) -> tuple[float, ...]:
    """Return how the counter-rotated network differs from the network."""
    network, rotation = hidden.network, hidden.bases["rotated basis"]
    model = counter_rotated(network.linen, network.variables, hidden.reader, rotation)
    images, labels = jnp.asarray(setting.test.images), np.asarray(setting.test.labels)
    before, after = np.asarray(network.model(images)), np.asarray(model(images))
    one, two = before.argmax(1), after.argmax(1)
    return (
        np.abs(before - after).max(),
        np.abs(before).max(),
        (one != two).mean() * 100,
        (one != labels).mean() * 100,
        (two != labels).mean() * 100,
        np.square(rotation).max(0).mean() * 100,
    )


def _turn_table(turned: Mapping[str, list[tuple[float, ...]]]) -> Table:
    return Table(
        "A layer rotated, and turned back by the next",
        tuple(turned),
        (
            "largest change of a logit",
            "largest logit",
            "decisions changed, %",
            "test error, %",
            "after, %",
            "largest fraction of one old unit in a new one, %",
        ),
        np.array([np.mean(rows, 0) for rows in turned.values()]),
        formats=(".1e", ".1f", ".2f", ".2f", ".2f", ".1f"),
        note="The function is the same up to float32 rounding; its units are those called rotated "
        "basis above.",
    )


def _gallery(
    setting: Setting, hidden: Hidden, tops: Mapping[str, np.ndarray], kind: str
) -> Gallery:
    few = tops[kind][:ROWS, :TOP]
    purities = purity(np.asarray(setting.test.labels)[few])
    return Gallery(
        f"Top images: {kind}, {hidden.name}",
        np.asarray(setting.test.images)[few],
        tuple(f"{i + 1}: purity {value:.2f}" for i, value in enumerate(purities)),
        note=f"Held-out images, one direction a row: the first {len(few)}, not chosen.",
    )


def _synthesised(
    setting: Setting, hidden: Hidden, tops: Mapping[str, np.ndarray], judge: Network
) -> list[Part]:
    images, labels = jnp.asarray(setting.test.images), np.asarray(setting.test.labels)
    module, variables, model = hidden.network.linen, hidden.network.variables, hidden.network.model
    mean_image, components = principal_components(images, COMPONENTS)
    pictures: dict[str, Any] = {}
    numbers: dict[str, list[float]] = {}
    for kind, basis in hidden.bases.items():
        basis = basis[:, : 24 if setting.quick else 100]
        values = np.asarray(hidden.values[kind])[:, : basis.shape[1]]
        mean, deviation = values.mean(0), values.std(0)
        best = tops[kind][: basis.shape[1], :TOP]
        common = np.array([np.bincount(labels[row]).argmax() for row in best])
        pictures[f"{kind}: best held-out"] = images[best[:ROWS, 0]]
        held_out = float(((values.max(0) - mean) / deviation).mean())
        for name, likely in (("any image", None), ("likely image", components)):
            made, reached = _ascend(
                module,
                *hidden.reading(kind),
                variables,
                (basis.T, jnp.asarray(mean), jnp.asarray(deviation)),
                mean_image,
                likely,
            )
            agree = [
                100 * (np.asarray(m(made)).argmax(1) == common).mean() for m in (model, judge.model)
            ]
            pictures[f"{kind}: {name}"] = made[:ROWS]
            numbers[f"{kind}: {name}"] = [held_out, float(reached.mean()), *agree]
    return [
        Gallery(
            f"The image that maximises a direction, {hidden.name}",
            np.array(list(pictures.values())),
            tuple(pictures),
            note="The best of the held-out images; the best in the whole box; the best within "
            f"{REACH:g} standard deviations along each of the first {COMPONENTS} principal "
            "components of the held-out images.",
        ),
        Table(
            f"Synthesised images, {hidden.name}",
            tuple(numbers),
            ("best held-out", "synthesised", "class of the top images, %", f"for {JUDGE}, %"),
            np.array(list(numbers.values())),
            formats=(".2f", ".2f", ".0f", ".0f"),
            note="Values <phi(x), v> (of units before the sigmoid) in standard deviations from the "
            "mean of the held-out images; then how often the synthesised image gets the most "
            "frequent label of its direction's top images, from its own network and from another.",
        ),
    ]


@partial(jax.jit, static_argnums=(0, 1, 2))
def _ascend(
    module: nn.Module,
    layer: str,
    side: str,
    variables: Params,
    directions: tuple[Array, Array, Array],
    start: Array,
    components: Array | None,
) -> tuple[Array, Array]:
    """Return for each direction the image that maximises it, and <phi(x), v> for that image.

    Args:
        module: The Flax linen module.
        layer: Name of the layer.
        side: "input" or "output" of the layer.
        variables: Variables of the module.
        directions: The directions [D, n], and for each the mean and the standard deviation [D] of
            the values of the images.
        start: Image at which the ascent begins.
        components: Principal components, to whose box the images are restricted (None: the box of
            all images).

    Returns:
        The images and their values, in standard deviations from the mean.
    """

    def ascend(direction: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        v, mean, deviation = direction

        def score(image: Array) -> Array:
            phi = activations(module, variables, image[None], layer, side)[0]
            return (phi @ v - mean) / deviation

        if components is None:
            return synthesize(score, start)
        axes: Array = components

        def likely(z: Array) -> Array:
            return jnp.clip(start + jnp.tensordot(z, axes, 1), 0, 1)

        z, reached = synthesize(
            lambda z: score(likely(z)),
            jnp.zeros(len(axes)),
            (-REACH, REACH),
            learning_rate=0.2 * REACH,
        )
        return likely(z), reached

    return jax.vmap(ascend)(directions)


def units_in_words(tests: Mapping[tuple[str, str], Mapping[str, list[Comparison]]]) -> list[str]:
    """Return for each pair of kinds of directions in how many tests which has more in common.

    Args:
        tests: The comparisons, one for each of `STATISTICS`, by pair of kinds and by layer.

    Returns:
        The paragraphs.
    """
    paragraphs = [
        "The paper finds no difference between single units and random directions, by eye. "
        f"Measured with {len(STATISTICS)} statistics, each tested in each hidden layer, at p < "
        "0.05 over the number of tests of a pair (Bonferroni):"
    ]
    for (one, two), places in tests.items():
        level = 0.05 / (len(places) * len(STATISTICS))
        gains = {
            (place, what): test.effect * (-1 if what == "label entropy" else 1)
            for place, layer in places.items()
            for what, test in zip(STATISTICS, layer, strict=True)
            if test.p < level
        }
        counts = []
        for kind, sign in ((one, 1), (two, -1)):
            larger = {where: gain for where, gain in gains.items() if sign * gain > 0}
            if larger:
                layers = list(dict.fromkeys(place for place, _ in larger))
                where = "every layer" if len(layers) == len(places) else ", ".join(layers)
                counts.append(
                    f"those of {kind} have more in common in {len(larger)} "
                    f"(effect up to {max(map(abs, larger.values())):.2f}; {where})"
                )
        rest = len(places) * len(STATISTICS) - len(gains)
        counts += [f"no difference is shown in {rest}"] if rest else []
        paragraphs.append(f"Top images of {one} and {two}: {', '.join(counts)}.")
    paragraphs.append(
        "What the images of untrained units and of random directions of the pixels have in common "
        "is not learned; only the difference from them is. The directions of one network are not "
        "independent draws: p may be too small."
    )
    return paragraphs
