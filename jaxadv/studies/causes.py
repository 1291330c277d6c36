"""Tests of explanations for adversarial examples and for their transfer between networks.

Szegedy et al. (2013, arXiv 1312.6199) leave open how the blind spots depend on the data and why
images made for one network fool another. Three usual explanations are tested: the input's dimension
(Shafahi et al. 2018, "Are adversarial examples inevitable?", arXiv 1809.02104), too few training
images, and similarity of the two networks, in their gradients (Demontis et al. 2018, arXiv
1809.02861) or their representations (Kornblith et al. 2019, "Similarity of neural network
representations revisited", arXiv 1905.00414).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, Float

from jaxadv.attacks import PGD, MinimalEpsilon
from jaxadv.core.goals import Untargeted
from jaxadv.core.model import Model
from jaxadv.core.result import Result
from jaxadv.core.typing import ArrayLike
from jaxadv.data import Dataset
from jaxadv.engine.verify import predict
from jaxadv.studies.directions import activations, dense_layers
from jaxadv.studies.findings import Curves, Findings, Part, Table, Text, spread
from jaxadv.studies.fit import how_trained
from jaxadv.studies.networks import RECIPES, Network, names_of, network_of
from jaxadv.studies.setting import Setting
from jaxadv.studies.wording import tally

NETWORK = "FC100-100-10"


def resize(images: np.ndarray, factor: float) -> np.ndarray:
    """Return images with sides `factor` times as long.

    Args:
        images: Images [N, H, W, C].
        factor: 2, 3, ...: each pixel is repeated; 1/2, 1/4, ...: squares of pixels are averaged.

    Returns:
        The resized images.

    Raises:
        ValueError: The sides are not divisible.

    Example:
        >>> import numpy as np
        >>> resize(np.arange(4.0).reshape(1, 2, 2, 1), 1 / 2).ravel().tolist()
        [1.5]
    """
    if factor >= 1:
        times = round(factor)
        return images.repeat(times, axis=1).repeat(times, axis=2)
    times = round(1 / factor)
    count, height, width, channels = images.shape
    if height % times or width % times:
        raise ValueError(f"factor={factor:g}: sides of {height} x {width} do not divide by {times}")
    squares = images.reshape(count, height // times, times, width // times, times, channels)
    return squares.mean((2, 4))


def linear_cka(one: Float[Array, "N P"], other: Float[Array, "N Q"]) -> float:
    """Return the linear centred kernel alignment of two representations.

    |Y'X|^2 / (|X'X| |Y'Y|) with centred columns and Frobenius norms, in float64. It is 1 for
    representations that differ by a rotation, a scale and a shift.

    Args:
        one: Representation [N, P] of N images.
        other: Representation [N, Q] of the same images.

    Returns:
        The alignment, in [0, 1].

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> round(linear_cka(x, 5 * x[:, ::-1] + 1), 6)
        1.0
    """
    x, y = (np.asarray(a, np.float64) for a in (one, other))
    x, y = x - x.mean(0), y - y.mean(0)
    scale = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.square(np.linalg.norm(y.T @ x)) / scale)


def margin_gradients(
    model: Model, images: npt.ArrayLike, labels: npt.ArrayLike
) -> Float[Array, "N D"]:
    """Return the gradient in each image of its label's logit minus the largest other logit.

    Args:
        model: The model.
        images: Images [N, H, W, C].
        labels: Labels [N].

    Returns:
        The gradients, flattened.
    """

    def total(images: Array) -> Float[Array, ""]:
        return jax.vmap(lambda y, z: Untargeted(y).margin(z))(labels, model(images)).sum()

    labels, inputs = jnp.asarray(labels), jnp.asarray(images)
    return jax.grad(total)(inputs).reshape(len(inputs), -1)


def cosines(one: ArrayLike, other: ArrayLike) -> Float[np.ndarray, " N"]:
    """Return the cosine similarities [N] of the rows of two arrays [N, ...]; 0 where a row is 0."""
    x, y = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (one, other))
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return (x * y).sum(1) / np.maximum(lengths, 1e-30)


class Fit(NamedTuple):
    """A linear fit of two samples.

    Attributes:
        correlation: Pearson's correlation coefficient.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        p_value: Two-sided p-value.
        slope: Slope of the line y = slope x + intercept.
        intercept: Intercept of that line.
    """

    correlation: float
    low: float
    high: float
    p_value: float
    slope: float
    intercept: float


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's correlation; nan where a sample is constant, as a bootstrap's may be."""
    a, b = a - a.mean(), b - b.mean()
    spread = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / spread) if spread > 0 else np.nan


def fit_pairs(x: np.ndarray, y: np.ndarray, draws: int = 2000, seed: int = 0) -> Fit:
    """Correlate two matrices [M, M] over ordered pairs of M networks, without their diagonals.

    The interval is a percentile bootstrap over pairs. Pairs have networks in common and are not
    independent: the two-sided p-value is therefore that of Mantel (1967), "The detection of disease
    clustering", which permutes the networks of one matrix, rows and columns alike.

    Args:
        x: The first matrix.
        y: The second matrix.
        draws: Number of bootstrap samples and of permutations.
        seed: Seed of both.

    Returns:
        The correlation with its interval and p-value, and the linear fit.
    """
    random = np.random.default_rng(seed)
    off = ~np.eye(len(x), dtype=bool)
    a, b = x[off], y[off]
    correlation = _pearson(a, b)
    rows = random.integers(len(a), size=(draws, len(a)))
    resampled = [_pearson(a[r], b[r]) for r in rows]
    orders = (random.permutation(len(x)) for _ in range(draws))
    null = np.array([_pearson(x[np.ix_(o, o)][off], b) for o in orders])
    extreme = (np.abs(null) >= abs(correlation) - 1e-12).sum()
    slope, intercept = np.polyfit(a, b, 1)
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Fit(*map(float, (correlation, low, high, (1 + extreme) / (1 + draws), slope, intercept)))


def causes(setting: Setting) -> Findings:
    """Input dimension, the amount of training data, and explanations of transfer."""
    parts = [*_dimension(setting), *_amount(setting), *_transfer(setting)]
    return Findings("szegedy.causes", "Why: dimension, data, and similarity of networks", parts)


def _count(setting: Setting) -> int:
    return min(setting.examples, 50 if setting.quick else 200)


def _correct(setting: Setting, network: Network, test: Dataset) -> Dataset:
    """Return the first images of the test set that the network classifies correctly."""
    first = test.take(slice(2 * _count(setting)))
    right = predict(network.model, first.images).argmax(1) == first.labels
    return first.take(np.flatnonzero(right)[: _count(setting)])


def _nearest(setting: Setting, name: str, network: Network, test: Dataset) -> Result:
    return setting.run(
        f"causes-{name}",
        MinimalEpsilon(PGD(norm="l2", steps=20, step_size=0.2), rounds=8),
        network.model,
        test.images,
        Untargeted(test.labels),
        ids=test.ids,
    )


class _Robustness(NamedTuple):
    """Robustness of networks from several seeds.

    Attributes:
        errors: Test errors in per cent, [seeds].
        distances: For each network, the distances of the nearest adversarial images.
    """

    errors: Float[np.ndarray, " S"]
    distances: list[np.ndarray]

    @property
    def medians(self) -> Float[np.ndarray, " S"]:
        """The median distance of each network."""
        return np.array([np.median(d) for d in self.distances])


def _robustness(setting: Setting, name: str, train: Dataset, test: Dataset) -> _Robustness:
    errors, distances = [], []
    for seed in range(setting.seeds):
        network = network_of(setting, names_of(setting, (NETWORK,))[0], seed, train)
        result = _nearest(setting, f"{name}-{seed}", network, _correct(setting, network, test))
        errors.append(100 * network.error(test))
        distances.append(np.where(result.success, result.distance, np.inf))
    return _Robustness(np.array(errors), distances)


def _slope(
    x: np.ndarray, measured: list[_Robustness], scale: Callable[[list[float]], np.ndarray]
) -> tuple[float, float, float]:
    """Return the slope of scale(mean of the medians) over x, and its 95 % interval.

    The interval is a bootstrap over seeds and over the images of each.

    Args:
        x: Positions, one for each element of `measured`.
        measured: Robustness of the networks at these positions.
        scale: Function that is applied to the means of the medians.

    Returns:
        The slope and both ends of its interval.
    """
    random = np.random.default_rng(0)

    def resampled(robustness: _Robustness) -> float:
        samples = robustness.distances
        chosen = random.integers(len(samples), size=len(samples))
        medians = [np.median(random.choice(samples[i], len(samples[i]))) for i in chosen]
        return float(np.mean(medians))

    slope = np.polyfit(x, scale([float(each.medians.mean()) for each in measured]), 1)[0]
    draws = [np.polyfit(x, scale([resampled(each) for each in measured]), 1)[0] for _ in range(500)]
    return slope, *np.percentile(draws, [2.5, 97.5])


def _fixed(setting: Setting, what: str) -> str:
    name = names_of(setting, (NETWORK,))[0]
    return f"{name}, {setting.seeds_in_words}, {_count(setting)} images each; {what}"


def _dimension(setting: Setting) -> list[Part]:
    train, full_test = setting.train.take(slice(5000 if setting.quick else 20000)), setting.test
    side = setting.test.images.shape[1]
    factors = [f for f in (1 / 4, 1 / 2, 1, 2) if side * f == int(side * f)]
    factors = factors[1:3] if setting.quick else factors
    rows, values, spread, robustnesses = [], [], [], []
    for factor in factors:
        small, test = (d._replace(images=resize(d.images, factor)) for d in (train, full_test))
        robustness = _robustness(setting, f"side-{side * factor:g}", small, test)
        other = _nearest_other(test.take(slice(_count(setting))), small.take(slice(5000)))
        dimension = test.images[0].size
        columns = np.outer(robustness.medians, [1, dimension**-0.5, 100 / other])
        columns = np.column_stack([robustness.errors, columns])
        rows.append("x".join(map(str, test.images.shape[1:3])))
        values.append([dimension, *columns.mean(0), other])
        spread.append([0, *columns.std(0), 0])
        robustnesses.append(robustness)
    values = np.array(values)
    slope, low, high = _slope(np.log(values[:, 0]), robustnesses, np.log)
    ratio = values[:, 4]
    table = Table(
        "Distance to the boundary against the input's dimension",
        tuple(rows),
        (
            "dimension",
            "test error %",
            "median L2",
            "L2 / sqrt(dimension)",
            "% of other class",
            "nearest other class",
        ),
        values,
        np.array(spread),
        formats=(".0f", ".2f", ".3f", ".4f", ".1f", ".2f"),
        note=_fixed(
            setting,
            "pixels averaged or repeated. Nearest other class: the median L2 from "
            "a test image to the nearest of 5,000 training images of another class; % of it: how "
            "far the boundary lies on that way, which does not depend on the scale.",
        ),
    )
    text = Text(dimension_in_words((slope, low, high), dict(zip(rows, ratio, strict=True))))
    return [table, text]


def _nearest_other(test: Dataset, train: Dataset) -> float:
    """Return the median L2 distance of test images to the nearest other-class training image."""
    images, others = (d.images.reshape(len(d.images), -1).astype(np.float64) for d in (test, train))
    squares = np.square(images).sum(1)[:, None] - 2 * images @ others.T + np.square(others).sum(1)
    squares[test.labels[:, None] == train.labels] = np.inf
    return float(np.median(np.sqrt(squares.min(1))))


def _amount(setting: Setting) -> list[Part]:
    count = len(setting.train.labels)
    sizes = [n for n in (1000, 5000, 20000, 60000) if n < count] + [min(count, 60000)]
    sizes = sizes[:2] if setting.quick else sizes
    measured = []
    for size in sizes:
        # Equally many steps for all sizes: fewer images are each seen more often.
        rows = np.resize(np.arange(size), sizes[-1])
        measured.append(
            _robustness(setting, f"train-{size}", setting.train.take(rows), setting.test)
        )
    slope, low, high = _slope(np.log2(sizes), measured, np.asarray)
    values = np.array([np.column_stack([each.errors, each.medians]) for each in measured])
    table = Table(
        "Distance to the boundary against the training set",
        tuple(f"{n:,}" for n in sizes),
        ("test error %", "median L2"),
        values.mean(1),
        spread(values.swapaxes(0, 1)),
        formats=(".2f", ".3f"),
        note=_fixed(
            setting, "as many steps for all sizes: the first images of the training set, repeated."
        ),
    )
    text = Text(amount_in_words(sizes, values.mean(1), (slope, low, high)))
    return [table, text]


def features(network: Network, images: np.ndarray) -> Array:
    """Return the input [N, units] of the last dense layer of a linen network.

    This is the last hidden layer's activations, or the pixels if there is no hidden layer.
    """
    inputs = jnp.asarray(images)
    last = list(dense_layers(network.linen, network.variables, inputs))[-1]
    return activations(network.linen, network.variables, inputs, last)


def transfer_explained(
    networks: list[Network], attacked: np.ndarray, nearest: np.ndarray, test: Dataset
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the transfer rates between networks, and the measures that may explain them.

    Args:
        networks: The M networks.
        attacked: Images made for each network, all of one norm, [M, N, H, W, C].
        nearest: The nearest adversarial images of each network, [M, N, H, W, C].
        test: The N original images.

    Returns:
        The fraction [M, M] of the images made for one network (row) that fool another (column), and
        by name the explanations, each [M, M]. "flat boundaries" is the fraction of images that
        would fool if each network's boundary were the plane through its own nearest adversarial
        image.
    """
    predicted = np.array([[np.asarray(n.model(a)).argmax(1) for n in networks] for a in attacked])
    rate = (predicted != test.labels).mean(2)
    slopes = [margin_gradients(n.model, test.images, test.labels) for n in networks]
    seen = [features(n, test.images) for n in networks]
    moved = (attacked - test.images).reshape(*attacked.shape[:2], -1).astype(np.float64)
    to = (nearest - test.images).reshape(*nearest.shape[:2], -1).astype(np.float64)
    beyond = np.einsum("and,bnd->abn", moved, to) >= np.square(to).sum(2)
    return rate, {
        "gradient cosine": np.array([[cosines(a, b).mean() for b in slopes] for a in slopes]),
        "CKA of features": np.array([[linear_cka(a, b) for b in seen] for a in seen]),
        "flat boundaries": beyond.mean(2),
    }


def amplify(images: np.ndarray, originals: np.ndarray, norm: float) -> np.ndarray:
    """Return the images moved away from their originals to one L2 distance.

    Args:
        images: Images [N, ...].
        originals: Their originals.
        norm: The distance, before clipping to [0, 1].

    Returns:
        The images, float32; an image equal to its original stays there.
    """
    moved = (images - originals).astype(np.float64)
    lengths = np.sqrt(np.square(moved).sum(tuple(range(1, moved.ndim)), keepdims=True))
    return np.clip(originals + norm * moved / np.maximum(lengths, 1e-30), 0, 1).astype(np.float32)


def _transfer(setting: Setting, distortion: float = 0.07) -> list[Part]:
    names = names_of(setting, tuple(RECIPES)[:4] if setting.quick else tuple(RECIPES))
    networks = [network_of(setting, name) for name in names]
    test = setting.test.take(slice(2 * _count(setting)))
    for network in networks:
        right = predict(network.model, test.images).argmax(1) == test.labels
        test = test.take(np.flatnonzero(right))
    test = test.take(slice(_count(setting)))
    nearest = [_nearest(setting, n.name, n, test).images for n in networks]
    norm = distortion * test.images[0].size ** 0.5
    attacked = np.array([amplify(images, test.images, norm) for images in nearest])
    rate, reasons = transfer_explained(networks, attacked, np.array(nearest), test)
    fits = {name: fit_pairs(values, rate) for name, values in reasons.items()}
    off, pairs = ~np.eye(len(rate), dtype=bool), len(rate) * (len(rate) - 1)
    table = Table(
        f"Correlations with transfer, over {pairs} ordered pairs of networks",
        tuple(fits),
        ("correlation", "95 % from", "to", "p (Mantel)", "slope", "intercept"),
        np.array(list(fits.values())),
        formats=".3g",
        note="Interval: bootstrap over pairs. p: the networks permuted, as pairs share networks.",
    )
    heat = Table(
        "Transfer rate in %",
        names,
        names,
        100 * rate,
        formats=".0f",
        heat=True,
        note="Rows: made for, columns: fed to; the nearest adversarial images, moved on "
        f"to L2 {norm:.2f} (distortion {distortion:g}), of {len(test.labels)} images that "
        "all networks get right.",
    )
    curves = []
    for name, values in reasons.items():
        ends = np.array([values[off].min(), values[off].max()])
        line = np.stack([ends, fits[name].slope * ends + fits[name].intercept])
        lines = {"pairs": np.stack([values[off], rate[off]]), "fit": line}
        curves.append(
            Curves(
                f"Transfer and {name}",
                name,
                "transfer rate",
                lines,
                dashed=("fit",),
                points=("pairs",),
            )
        )
    error = float(np.abs(reasons["flat boundaries"] - rate)[off].mean())
    text = Text(reasons_in_words(fits, error))
    fit = how_trained(setting, names)
    return [heat, table, text, *curves, *fit]


def dimension_in_words(slope: tuple[float, float, float], ratio: Mapping[str, float]) -> str:
    """Return how the distance grows with the dimension.

    Args:
        slope: The exponent and both ends of its 95 % interval.
        ratio: Distance in per cent of that to another class, by size of the images.

    Returns:
        The paragraph.
    """
    power, low, high = slope
    scale = "is compatible" if low <= 0.5 <= high else "is not compatible"
    cost = "is compatible" if low <= 0 <= high else "is not compatible"
    (first, at_first), *_, (last, at_last) = ratio.items()
    change = "nearer" if at_last < at_first else "no nearer"
    return (
        f"The L2 distance grows as the dimension to the power {power:.2f} (95 % interval "
        f"{low:.2f} to {high:.2f}). That {scale} with 1/2, which a mere change of scale gives, and "
        f"{cost} with 0, to which a cost of dimension of its own would bring it down. Relative to "
        f"the distance between classes, it is {at_first:.1f} % at {first} and {at_last:.1f} % at "
        f"{last}: {change} in more dimensions."
    )


def amount_in_words(
    sizes: Sequence[int], values: Float[np.ndarray, "S 2"], slope: tuple[float, float, float]
) -> str:
    """Return whether more training images move the boundary away.

    Args:
        sizes: Numbers of training images.
        values: Test error in per cent and median distance, by size.
        slope: Change of the distance with each doubling, and both ends of its 95 % interval.

    Returns:
        The paragraph.
    """
    change, low, high = slope
    shown = "farther" if low > 0 else "nearer" if high < 0 else "neither farther nor nearer"
    return (
        f"From {sizes[0]:,} to {sizes[-1]:,} training images the test error goes from "
        f"{values[0, 0]:.2f} to {values[-1, 0]:.2f} %, the median distance of the nearest "
        f"adversarial image from {values[0, 1]:.2f} to {values[-1, 1]:.2f}: {change:+.3f} with "
        f"each doubling (95 % interval {low:+.3f} to {high:+.3f}). With more data the boundary is "
        f"shown to lie {shown}."
    )


def reasons_in_words(fits: Mapping[str, Fit], error: float) -> str:
    """Return what transfer correlates with, and what is not told apart from chance.

    Args:
        fits: The correlations with transfer, by explanation.
        error: Mean absolute error of the prediction of flat boundaries, as a fraction.

    Returns:
        The paragraph.
    """
    best = max(fits, key=lambda name: np.nan_to_num(fits[name].correlation))
    names = list(fits)
    shown = [fit.p_value < 0.05 for fit in fits.values()]
    return (
        f"Transfer correlates most with {best} (r = {fits[best].correlation:.2f}, 95 % interval "
        f"{fits[best].low:.2f} to {fits[best].high:.2f}). A correlation at p < 0.05 is shown for "
        f"{tally(names, shown, 'explanations')}. Flat boundaries, a prediction without fitted "
        f"parameters, has a mean absolute error of {100 * error:.0f} percentage points."
    )
