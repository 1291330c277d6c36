"""Units against directions: section 3 of Szegedy et al. (2013, arXiv 1312.6199), with statistics.

The paper looks at the held-out images that stimulate a hidden unit most, argmax <phi(x), e_i>, and
at those of a random direction, argmax <phi(x), v>, and finds both equally meaningful. Here how much
the images of a direction have in common is a number, and numbers are compared.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from jaxadv.core.model import Model
from jaxadv.core.pytree import pytree, static
from jaxadv.studies.findings import Curves, Findings, Gallery, Part, Table, Text
from jaxadv.studies.networks import Network, trained
from jaxadv.studies.setting import Setting

# --- A hidden layer, and the same network in another basis ---


def activations(
    module: Any, variables: Any, images: Float[Array, "N H W C"], layer: str, side: str = "input"
) -> Float[Array, "N n"]:
    """What a layer reads (side="input") or gives (side="output"), flattened; one forward pass.

    module: any Flax linen module in evaluation mode; layer: the name of a submodule that is called
    once ("fc2", or a path "block1/conv2"). What "fc2" reads are the units above "fc1", behind the
    non-linearity; what "fc1" gives, the same units before it. Pure: jit, vmap and grad go through.

    Raises ValueError for another side, and for a layer that is not called exactly once.

    >>> import jax, jax.numpy as jnp
    >>> from jaxadv.models import get_definition
    >>> from jaxadv.studies.units import activations
    >>> module = get_definition("FC")(widths=(16, 12))
    >>> variables = module.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    >>> activations(module, variables, jnp.zeros((5, 28, 28, 1)), "fc3").shape
    (5, 12)
    """
    if side not in ("input", "output"):
        raise ValueError(f"side={side!r}: pass 'input' or 'output'")
    seen: dict[str, list[Array]] = {}

    def look(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        out = method(*args, **kwargs)
        if context.method_name == "__call__":
            kept = args[0] if side == "input" else out
            seen.setdefault("/".join(context.module.path), []).append(kept)
        return out

    with nn.intercept_methods(look):
        module.apply(variables, images)
    if len(found := seen.get(layer, [])) != 1:
        known = ", ".join(sorted(name for name, calls in seen.items() if name and len(calls) == 1))
        raise ValueError(f"layer={layer!r} is called {len(found)} times: pass one of {known}")
    return found[0].reshape(len(images), -1)


def counter_rotated(
    module: Any, variables: Any, layer: str, rotation: Float[Array, "n n"]
) -> Model:
    """The same function with other units: phi -> phi R below a dense layer, whose W becomes R^T W.

    layer: the name of the dense layer that undoes the rotation; rotation: orthogonal. The model's
    params are (rotation, variables), so that a new rotation compiles nothing. Raises ValueError
    where the layer has no kernel of as many rows as the rotation.

    >>> import jax, jax.numpy as jnp
    >>> from jaxadv.models import get_definition
    >>> from jaxadv.studies.units import counter_rotated
    >>> module, images = get_definition("FC")(widths=(16, 12)), jnp.ones((5, 28, 28, 1))
    >>> variables = module.init(jax.random.key(0), images)
    >>> rotation = jax.random.orthogonal(jax.random.key(1), 12)
    >>> model = counter_rotated(module, variables, "fc3", rotation)
    >>> bool(jnp.allclose(model(images), module.apply(variables, images), atol=1e-5))
    True
    """
    params: Any = variables["params"]
    kernel = params.get(layer, {}).get("kernel")
    if kernel is None or kernel.ndim != 2 or len(kernel) != len(rotation):
        shape = None if kernel is None else kernel.shape
        raise ValueError(
            f"layer={layer!r} has a kernel of shape {shape}: a rotation of {len(rotation)} units is "
            "undone in a dense layer that reads them"
        )
    undone = {**params[layer], "kernel": rotation.T @ kernel}
    turned = {**variables, "params": {**params, layer: undone}}
    return Model(_Rotated(module, layer), (rotation, turned))


@pytree
class _Rotated:
    module: Any = static()
    layer: str = static()

    def __call__(self, params: Any, images: Array) -> Array:
        rotation, variables = params

        def turn(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if context.method_name == "__call__" and context.module.path == (self.layer,):
                args = (args[0] @ rotation, *args[1:])
            return method(*args, **kwargs)

        with nn.intercept_methods(turn):
            return self.module.apply(variables, images)


# --- The images of a direction, and what they have in common ---


def top_images(values: Float[Array, "N D"], count: int = 8) -> Int[np.ndarray, "D count"]:
    """Positions of the `count` images with the largest value in each column, the largest first.

    >>> import jax.numpy as jnp
    >>> from jaxadv.studies.units import top_images
    >>> top_images(jnp.array([[0.1, 5.0], [0.3, 4.0], [0.2, 6.0]]), 2).tolist()
    [[1, 2], [2, 0]]
    """
    return np.asarray(lax.top_k(values.T, count)[1])


def purity(labels: Int[np.ndarray, "D k"]) -> Float[np.ndarray, " D"]:
    """The share of the most frequent label in each row: 1 where all are of one class.

    >>> import numpy as np
    >>> from jaxadv.studies.units import purity
    >>> purity(np.array([[3, 3, 3, 3], [3, 3, 5, 8]])).tolist()
    [1.0, 0.5]
    """
    return _frequencies(labels).max(1)


def entropy(labels: Int[np.ndarray, "D k"]) -> Float[np.ndarray, " D"]:
    """Shannon entropy in bits of the labels in each row: 0 where all are of one class.

    >>> import numpy as np
    >>> from jaxadv.studies.units import entropy
    >>> entropy(np.array([[3, 3, 3, 3], [3, 3, 5, 5]])).tolist()
    [0.0, 1.0]
    """
    shares = _frequencies(labels)
    return -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(1) + 0.0


def _frequencies(labels: np.ndarray) -> np.ndarray:
    return (labels[:, :, None] == np.unique(labels)).mean(1)


def similarity(
    vectors: Float[np.ndarray, "N n"], top: Int[np.ndarray, "D k"]
) -> Float[np.ndarray, " D"]:
    """The mean cosine over all pairs of the k images of each row, after the mean of all N images is
    subtracted: 1 for equal images, about 0 for images drawn at random.

    vectors: the images as points in the space that judges: pixels, or features of a network.

    >>> import numpy as np
    >>> from jaxadv.studies.units import similarity
    >>> similarity(np.array([[1.0, 0], [1, 0], [-1, 0], [-1, 0]]), np.array([[0, 1], [0, 2]]))
    array([ 1., -1.])
    """
    centred = vectors - vectors.mean(0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    chosen = (centred / np.maximum(length, 1e-12))[top]
    # |sum of k unit vectors|^2 = k + the cosines of all ordered pairs
    k = top.shape[1]
    return (np.square(chosen.sum(1)).sum(-1) - k) / (k * (k - 1))


class Comparison(NamedTuple):
    """effect: P(x > y) - P(x < y) in [-1, 1]; low, high: its 95 % interval; p: two-sided."""

    effect: float
    low: float
    high: float
    p: float


def compare(x: Any, y: Any) -> Comparison:
    """The test of Mann and Whitney (1947) of samples x [n] and y [m], ties and all.

    The effect is Cliff's delta (the rank-biserial correlation): 0 where neither sample tends to be
    larger, 1 where all of x is above all of y. Its interval is that of DeLong et al. (1988), which
    has no width where the samples do not overlap; p is the normal approximation with corrections
    for ties and for continuity.

    >>> from jaxadv.studies.units import compare
    >>> compare([1, 2, 3, 4], [3, 4, 5, 6]).effect
    -0.75
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n, m = len(x), len(y)
    above = np.sign(x[:, None] - y)
    effect = float(above.mean())
    error = math.sqrt(above.mean(1).var(ddof=1) / n + above.mean(0).var(ddof=1) / m)
    ties = np.unique(np.concatenate([x, y]), return_counts=True)[1].astype(np.float64)
    variance = n * m / 12 * (n + m + 1 - (ties**3 - ties).sum() / ((n + m) * (n + m - 1)))
    distance = max(0.0, abs(effect) * n * m / 2 - 0.5)  # of U = n m (1 + effect) / 2 from its mean
    p = math.erfc(distance / math.sqrt(2 * variance)) if variance > 0 else 1.0
    low, high = max(-1.0, effect - 1.96 * error), min(1.0, effect + 1.96 * error)
    return Comparison(effect, low, high, p)


# --- The image that a direction likes best ---


def synthesize(
    value: Callable[[Array], Array],
    start: Float[Array, "H W C"],
    bounds: tuple[float, float] = (0.0, 1.0),
    steps: int = 200,
    learning_rate: float = 0.1,
) -> tuple[Float[Array, "H W C"], Float[Array, ""]]:
    """The image in the box that maximises `value`, and its value: Adam, projected after each step.

    value: a differentiable function of one image; start: where the ascent begins. Gradients are
    scaled to a largest entry of one (a saturated unit has hardly any), the learning rate falls to
    nothing along a cosine, and the best image met is returned. `steps + 1` forward passes, `steps` of them
    with a backward pass. Pure: vmap it over directions.

    >>> import jax.numpy as jnp
    >>> from jaxadv.studies.units import synthesize
    >>> weights = jnp.array([[[2.0], [-1.0]]])
    >>> image, best = synthesize(lambda image: (weights * image).sum(), jnp.full((1, 2, 1), 0.5))
    >>> image.ravel().tolist(), float(best)
    ([1.0, 0.0], 2.0)
    """
    adam = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def better(best: Any, image: Array, reached: Array) -> Any:
        return jax.tree.map(lambda new, old: jnp.where(reached > best[1], new, old),
                            (image, reached), best)  # fmt: skip

    def step(state: Any, _: None) -> Any:
        image, memory, best = state
        reached, slope = jax.value_and_grad(value)(image)
        scaled = slope / jnp.maximum(jnp.abs(slope).max(), 1e-30)
        updates, memory = adam.update(-scaled, memory)
        moved: Any = optax.apply_updates(image, updates)
        return (jnp.clip(moved, *bounds), memory, better(best, image, reached)), None

    start = jnp.asarray(start, jnp.float32)
    none_yet = (start, jnp.float32(-jnp.inf))
    (image, _, best), _ = lax.scan(step, (start, adam.init(start), none_yet), None, steps)
    return better(best, image, value(image))


def total_variation(image: Float[Array, "H W C"]) -> Float[Array, ""]:
    """The mean absolute difference of neighbouring pixels, down and across.

    >>> import jax.numpy as jnp
    >>> from jaxadv.studies.units import total_variation
    >>> float(total_variation(jnp.array([[[0.0], [1.0]], [[0.0], [1.0]]])))
    0.5
    """
    down, across = jnp.abs(jnp.diff(image, axis=0)), jnp.abs(jnp.diff(image, axis=1))
    return (down.mean() + across.mean()) / 2


# --- The study ---

NETWORKS = ("FC100-100-10", "FC200-200-10", "AE400-10")
JUDGE = "FC123-456-10"  # the network whose features judge: none of those, of other widths
SHOWN = "FC100-100-10 layer 2"  # the layer that is shown in pictures
TOP, ROWS = 8, 8  # top images of a direction, directions in a picture
SMOOTHNESS = 20.0  # what total variation costs a smooth synthesised image, in standard deviations
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
    """One hidden layer of a trained network and what it does on the held-out images.

    bases: by kind the directions [n, D] of the units, of Gaussian draws and of a rotation; values:
    by kind [N, D], for all `KINDS`; reader: the layer that reads it, writer: that gives it.
    """

    name: str
    network: Network
    writer: str
    reader: str
    bases: Mapping[str, Array]
    values: Mapping[str, Array]

    def reading(self, kind: str) -> tuple[str, str]:
        """The layer and side of `activations` at which directions of that kind are taken.

        Units before the sigmoid: the same order of images, without the ties where float32 rounds
        it to one.
        """
        return (self.writer, "output") if kind == "units" else (self.reader, "input")


def units(setting: Setting) -> Findings:
    """The experiment szegedy.units: do units mean more than random directions of their layer?"""
    images, labels = setting.test.images, np.asarray(setting.test.labels)
    counts = [k for k in (2, 4, 8, 16, 32, 64, 128, 256) if k <= len(labels) // 4]
    names = NETWORKS[:1] if setting.quick else NETWORKS
    common: dict[tuple[str, str], list[np.ndarray]] = {}  # (layer, kind): [statistic, D] per seed
    curves: dict[str, list[np.ndarray]] = {}
    turned: dict[str, list[tuple[float, ...]]] = {}
    pictures: list[Part] = []
    for seed in range(setting.seeds):
        judge = trained(setting, JUDGE, seed)
        spaces = (
            np.asarray(images).reshape(len(labels), -1),
            np.asarray(activations(judge.module, judge.variables, images, "fc3")),
        )
        for number, name in enumerate(names):
            setting.progress("units", seed * len(names) + number, setting.seeds * len(names))
            for hidden in _hidden_layers(setting, name, seed):
                tops = {kind: top_images(v, counts[-1]) for kind, v in hidden.values.items()}
                for kind, top in tops.items():
                    few = top[:, :TOP]
                    found = [purity(labels[few]), entropy(labels[few])]
                    found += [similarity(space, few) for space in spaces]
                    common.setdefault((hidden.name, kind), []).append(np.stack(found))
                    if hidden.name == SHOWN:
                        deep = [purity(labels[top[:, :k]]).mean() for k in counts]
                        curves.setdefault(kind, []).append(np.array(deep))
                turned.setdefault(hidden.name, []).append(_turn(setting, hidden))
                if hidden.name == SHOWN and seed == 0:
                    pictures = [_gallery(setting, hidden, tops, kind) for kind in hidden.bases]
                    pictures += _synthesised(setting, hidden, tops, judge)
    places = list(turned)
    tests = {
        pair: {place: _tests(common, place, *pair) for place in places} for pair in PAIRS
    }
    return Findings(
        "szegedy.units",
        "Units and directions",
        [
            Text(_verdict(tests)),
            *pictures[:3],
            _coherence(common),
            Curves(
                f"Label purity of the top images, {SHOWN}", "top images", "label purity",
                {kind: np.array([counts, np.mean(c, 0)]) for kind, c in curves.items()},
                log="x", dashed=tuple(KINDS)[3:],
            ),
            *(_test_table(pair, tests[pair]) for pair in PAIRS),
            _turn_table(turned),
            *pictures[3:],
        ],
    )  # fmt: skip


def _hidden_layers(setting: Setting, name: str, seed: int) -> Iterator[Hidden]:
    network = trained(setting, name, seed)
    images = jnp.asarray(setting.test.images)
    start = network.module.init(jax.random.key(1000 + seed), images[:1])
    for layer in range(1, len(network.variables["params"])):
        mark = jax.random.fold_in(jax.random.key(seed), 10 * NETWORKS.index(name) + layer)
        keys = jax.random.split(mark, 4)
        count = 100 if setting.quick else 200
        writer, reader = f"fc{layer}", f"fc{layer + 1}"
        phi = activations(network.module, network.variables, images, reader)
        bases = {
            "units": jnp.eye(phi.shape[1]),
            "random directions": jax.random.normal(keys[0], (phi.shape[1], count)),
            "rotated basis": jax.random.orthogonal(keys[1], phi.shape[1]),
        }
        flat = images.reshape(len(images), -1)
        values = {
            "units": activations(network.module, network.variables, images, writer, "output"),
            "random directions": phi @ bases["random directions"],
            "rotated basis": phi @ bases["rotated basis"],
            "random images": jax.random.uniform(keys[2], (len(images), count)),
            "units, untrained": activations(network.module, start, images, writer, "output"),
            "random directions of pixels":
                flat @ jax.random.normal(keys[3], (flat.shape[1], count)),
        }  # fmt: skip
        yield Hidden(f"{name} layer {layer}", network, writer, reader, bases, values)


def _tests(common: Any, place: str, one: str, two: str) -> list[Comparison]:
    """One comparison for each statistic, over the directions of all seeds."""
    pooled = (np.concatenate(common[place, kind], 1) for kind in (one, two))
    return [compare(x, y) for x, y in zip(*pooled, strict=True)]


def _coherence(common: Mapping[tuple[str, str], list[np.ndarray]]) -> Table:
    each = np.array([[s.mean(1) for s in found] for found in common.values()])  # [row, seed, 4]
    return Table(
        f"What the {TOP} top images of a direction have in common",
        tuple(f"{place}: {kind}" for place, kind in common), STATISTICS, each.mean(1),
        spread=each.std(1, ddof=1) if each.shape[1] > 1 else None, formats=".3f",
        note=f"Means over directions and seeds, entropy in bits. Cosines are means over pairs, "
        f"after the mean of all held-out images is subtracted; features are those of the last "
        f"hidden layer of {JUDGE}. " + "; ".join(f"{k}: {v}" for k, v in KINDS.items()) + ".",
    )  # fmt: skip


def _test_table(pair: tuple[str, str], tests: Mapping[str, list[Comparison]]) -> Table:
    return Table(
        f"{pair[0].capitalize()} against {pair[1]}",
        tuple(f"{place}: {what}" for place in tests for what in STATISTICS),
        ("effect", "95 % from", "to", "p"),
        np.array([test for place in tests.values() for test in place]),
        formats=("+.2f", "+.2f", "+.2f", ".1e"),
        note="Mann-Whitney, two-sided, directions of all seeds together. Effect: the share of pairs "
        "in which the first is larger, less the share in which it is smaller.",
    )


def _turn(setting: Setting, hidden: Hidden) -> tuple[float, ...]:
    """How the counter-rotated network differs from the network."""
    network, rotation = hidden.network, hidden.bases["rotated basis"]
    model = counter_rotated(network.module, network.variables, hidden.reader, rotation)
    images, labels = jnp.asarray(setting.test.images), np.asarray(setting.test.labels)
    before, after = np.asarray(network.model(images)), np.asarray(model(images))
    one, two = before.argmax(1), after.argmax(1)
    return (
        np.abs(before - after).max(), np.abs(before).max(), (one != two).mean() * 100,
        (one != labels).mean() * 100, (two != labels).mean() * 100,
        np.square(rotation).max(0).mean() * 100,
    )  # fmt: skip


def _turn_table(turned: Mapping[str, list[tuple[float, ...]]]) -> Table:
    return Table(
        "A layer rotated, and turned back by the next",
        tuple(turned),
        ("largest change of a logit", "largest logit", "decisions changed, %", "test error, %",
         "after, %", "largest share of one old unit in a new one, %"),
        np.array([np.mean(rows, 0) for rows in turned.values()]),
        formats=(".1e", ".1f", ".2f", ".2f", ".2f", ".1f"),
        note="The function is the same up to float32 rounding; its units are those called rotated "
        "basis above.",
    )  # fmt: skip


def _gallery(
    setting: Setting, hidden: Hidden, tops: Mapping[str, np.ndarray], kind: str
) -> Gallery:
    few = tops[kind][:ROWS, :TOP]
    shares = purity(np.asarray(setting.test.labels)[few])
    return Gallery(
        f"Top images: {kind}, {hidden.name}",
        np.asarray(setting.test.images)[few],
        tuple(f"{i + 1}: purity {share:.2f}" for i, share in enumerate(shares)),
        note=f"Held-out images, one direction a row: the first {len(few)}, not chosen.",
    )


def _synthesised(
    setting: Setting, hidden: Hidden, tops: Mapping[str, np.ndarray], judge: Network
) -> list[Part]:
    images, labels = jnp.asarray(setting.test.images), np.asarray(setting.test.labels)
    module, variables, model = hidden.network.module, hidden.network.variables, hidden.network.model
    start = images.mean(0)
    pictures: dict[str, Any] = {}
    numbers: dict[str, list[float]] = {}
    for kind, basis in hidden.bases.items():
        basis = basis[:, :100]
        values = np.asarray(hidden.values[kind])[:, : basis.shape[1]]
        mean, deviation = values.mean(0), values.std(0)
        best = tops[kind][: basis.shape[1], :TOP]
        common = np.array([np.bincount(labels[row]).argmax() for row in best])

        def score(variables: Any, image: Array, direction: Any) -> Array:
            """<phi(x), v> in standard deviations from its mean."""
            v, mean, deviation = direction
            phi = activations(module, variables, image[None], *hidden.reading(kind))[0]
            return (phi @ v - mean) / deviation

        @jax.jit
        def ascend(variables: Any, directions: Any, smoothness: Array) -> Any:
            def one(direction: Any) -> Any:
                def value(image: Array) -> Array:
                    worth = score(variables, image, direction)
                    return worth - smoothness * total_variation(image)

                image, _ = synthesize(value, start)
                return image, score(variables, image, direction)

            return jax.vmap(one)(directions)

        pictures[f"{kind}: best held-out"] = images[best[:ROWS, 0]]
        for name, smoothness in (("synthesised", 0.0), ("synthesised, smooth", SMOOTHNESS)):
            made, scores = ascend(variables, (basis.T, mean, deviation), jnp.float32(smoothness))
            agree = [100 * (np.asarray(m(made)).argmax(1) == common).mean()
                     for m in (model, judge.model)]  # fmt: skip
            held_out = ((values.max(0) - mean) / deviation).mean()
            pictures[f"{kind}: {name}"] = made[:ROWS]
            numbers[f"{kind}: {name}"] = [held_out, float(scores.mean()), *agree]
    return [
        Gallery(
            f"The image that a direction likes best, {hidden.name}",
            np.array(list(pictures.values())), tuple(pictures),
            note="The best of the held-out images, the best in the whole box, and the best where "
            f"{SMOOTHNESS:g} times the mean difference of neighbouring pixels is subtracted.",
        ),
        Table(
            f"Synthesised images, {hidden.name}", tuple(numbers),
            ("best held-out", "synthesised", "class of the top images, %", f"for {JUDGE}, %"),
            np.array(list(numbers.values())), formats=(".2f", ".2f", ".0f", ".0f"),
            note="Values <phi(x), v> (of units before the sigmoid) in standard deviations from the "
            "mean of the held-out images; then how often the synthesised image gets the most "
            "frequent label of its direction's top images, from its own network and from another.",
        ),
    ]  # fmt: skip


def _verdict(tests: Mapping[tuple[str, str], Mapping[str, list[Comparison]]]) -> str:
    return "draft"
