"""Tests of explanations for adversarial examples and for their transfer between networks.

Szegedy et al. (2013, arXiv 1312.6199) leave open how the blind spots depend on the data and why
images made for one network fool another. Three usual explanations are tested: the input's dimension
(Shafahi et al. 2018, "Are adversarial examples inevitable?", arXiv 1809.02104), too few training
images, and similarity of the two networks (`jaxadv.studies.similarity`).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxadv.attacks import PGD, MinimalEpsilon
from jaxadv.core.goals import Untargeted
from jaxadv.core.result import Result
from jaxadv.data import Dataset
from jaxadv.engine.verify import predict
from jaxadv.studies.causes_words import amount_in_words, dimension_in_words, reasons_in_words
from jaxadv.studies.findings import Curves, Findings, Part, Table, Text, spread
from jaxadv.studies.fit import how_trained
from jaxadv.studies.networks import RECIPES, Network, names_of, network_of
from jaxadv.studies.setting import Setting
from jaxadv.studies.similarity import fit_pairs, moved_to, transfer_explained

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
    attacked = np.array([moved_to(images, test.images, norm) for images in nearest])
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
