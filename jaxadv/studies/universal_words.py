"""What the studies of universal perturbations show, in words.

Every rate is set against that of random signs of the same size on the same images: a claim is shown
where the two 95 % intervals do not overlap.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from jaxadv.studies.wording import side, tally, with_interval


def _above(rates: np.ndarray, controls: np.ndarray, count: int) -> list[bool]:
    pairs = zip(rates.ravel(), controls.ravel(), strict=True)
    return [side(float(rate), float(control), count) > 0 for rate, control in pairs]


def rates_in_words(names: Sequence[str], values: Float[np.ndarray, "R 8"], count: int) -> str:
    """Return in which rows one perturbation fools more held-out images than random signs.

    Args:
        names: The rows, without the paper's.
        values: Rates in per cent: for L2, then Linf, given, its control, held out, its control.
        count: Number of images held out.

    Returns:
        The paragraph.
    """
    sentences = []
    for norm, at in (("L2", 2), ("Linf", 6)):
        rates, controls = values[:, at], values[:, at + 1]
        sentences.append(
            f"In {norm} one perturbation fools {rates.min():.1f} to {rates.max():.1f} % of the "
            f"images held out, random signs {controls.min():.1f} to {controls.max():.1f} %; more "
            f"than random signs is shown in {tally(names, _above(rates, controls, count), 'rows')}."
        )
    return " ".join(sentences)


def across_in_words(
    rates: Float[np.ndarray, "R M"], published: Float[np.ndarray, "P P"], count: int
) -> str:
    """Return whether a perturbation made for one network fools others too, whatever the network.

    Args:
        rates: Rates in per cent of the perturbation for each network (rows) on each (columns), and
            in the last row of random signs.
        published: The published rates.
        count: Number of images held out.

    Returns:
        The paragraph.
    """
    size = rates.shape[1]
    if size == 1:
        return (
            f"On its own network a perturbation fools {with_interval(float(rates[0, 0]), count)}, "
            f"random signs of the same size {with_interval(float(rates[1, 0]), count)}; there is "
            "no other network here."
        )
    off = ~np.eye(size, dtype=bool)
    controls = np.broadcast_to(rates[-1], (size, size))
    above = sum(_above(rates[:-1][off], controls[off], count))
    below = sum(_above(controls[off], rates[:-1][off], count))
    own = sum(_above(np.diag(rates), rates[-1], count))
    verdict = "is shown here" if above == off.sum() else "is neither shown nor refuted here"
    if below:
        pairs = f"in {below} of {off.sum()} pairs"
        verdict = f"is refuted here: {pairs} it fools less than random signs"
    return (
        f"On other networks than its own a perturbation fools {rates[:-1][off].mean():.1f} % on "
        f"average (the paper: {published[~np.eye(len(published), dtype=bool)].mean():.0f}), random "
        f"signs of the same size {rates[-1].mean():.1f} %. More than random signs, beyond 95 % "
        f"intervals, it fools of its own network in {own} of {size} cases, of another in {above} "
        f"of {off.sum()} pairs: that it fools whatever the network {verdict}."
    )


def images_in_words(
    names: Sequence[str], numbers: Sequence[int], rates: Float[np.ndarray, "M C"], count: int
) -> str:
    """Return whether one image of each class is enough to fool more than random signs do.

    Args:
        names: The networks.
        numbers: The numbers of images given; the first is one of each class.
        rates: Rates in per cent by network and number, and in the last column of random signs.
        count: Number of images held out.

    Returns:
        The paragraph.
    """
    each, fewest = [], []
    for name, row in zip(names, rates, strict=True):
        each.append(
            f"{name} {with_interval(float(row[0]), count)}, from {numbers[-1]} images "
            f"{row[-2]:.1f} %, random signs {with_interval(float(row[-1]), count)}"
        )
        enough = _above(row[:-1], np.full(len(numbers), row[-1]), count)
        first = f"{numbers[enough.index(True)]} images" if any(enough) else "no number tried"
        fewest.append(f"{name} from {first}")
    shown = tally(names, _above(rates[:, 0], rates[:, -1], count))
    refuted = tally(names, _above(rates[:, -1], rates[:, 0], count))
    return (
        f"From one image of each class ({numbers[0]}) the perturbation fools of the images held "
        f"out, with 95 % intervals: {'; '.join(each)}. That one image of each class is enough to "
        f"fool more than random signs is shown for {shown} ({', '.join(fewest)}), refuted, as it "
        f"fools less, for {refuted}. The paper: with "
        "500 images, fewer than ImageNet has classes, more than 30 % for GoogLeNet (from 10,000: "
        "78.9 %)."
    )


def radii_in_words(
    names: Sequence[str],
    epsilons: Float[np.ndarray, " E"],
    rates: Float[np.ndarray, "M 2 E"],
    count: int,
) -> str:
    """Return from which radius on a perturbation fools more than random signs, and half of all.

    Args:
        names: The networks.
        epsilons: The radii, rising.
        rates: Rates in per cent by network, of the perturbation and of random signs, by radius.
        count: Number of images held out.

    Returns:
        The paragraph.
    """

    def first(holds: Sequence[bool]) -> str:
        beyond = [f"{e:.3g}" for at, e in enumerate(epsilons) if all(holds[at:])]
        return f"from {beyond[0]} on" if beyond else "at no radius from which on it stays so"

    sentences = []
    for name, (ours, signs) in zip(names, rates, strict=True):
        gain = int((ours - signs).argmax())
        sentences.append(
            f"{name}: more than random signs of the same size, beyond 95 % intervals, are fooled "
            f"{first(_above(ours, signs, count))}; half of the images by the perturbation "
            f"{first([bool(rate >= 50) for rate in ours])}, by random signs "
            f"{first([bool(rate >= 50) for rate in signs])}. The gap is widest at "
            f"{epsilons[gain]:.3g}: {with_interval(float(ours[gain]), count)} against "
            f"{with_interval(float(signs[gain]), count)}."
        )
    return " ".join(sentences)


def diversity_in_words(names: Sequence[str], rows: Float[np.ndarray, "M 4"], count: int) -> str:
    """Return whether several perturbations differ, and whether they fool more than random signs.

    Args:
        names: The methods.
        rows: Mean rate in per cent, its spread, that of random signs, and the largest cosine.
        count: Number of images held out.

    Returns:
        The paragraph.
    """
    rates, signs, cosines = rows[:, 0], rows[:, 2], rows[:, 3]
    return (
        f"The largest cosine between two perturbations is {cosines.min():.2f} to "
        f"{cosines.max():.2f}, below the paper's 0.1 for {tally(names, cosines < 0.1, 'methods')}. "
        f"They fool {rates.min():.1f} to {rates.max():.1f} %, random signs of the same size "
        f"{signs[0]:.1f} %: more is shown for "
        f"{tally(names, _above(rates, signs, count), 'methods')}."
    )


def labels_in_words(
    names: Sequence[str], rows: Float[np.ndarray, "M 4"], classes: int, count: int
) -> str:
    """Return whether few classes take most of the fooled images, beside random signs.

    Args:
        names: The networks.
        rows: Fooled images in per cent, the number of classes that take 80 % of them, and both for
            random signs.
        classes: Number of classes.
        count: Number of images held out.

    Returns:
        The paragraph.
    """
    fooled, few, by_chance, few_by_chance = rows.T
    return (
        f"80 % of the fooled images go to fewer than half of the {classes} classes in "
        f"{tally(names, (2 * few < classes) & (fooled > 0))}, and to fewer classes than random "
        f"signs send theirs to in {tally(names, few < few_by_chance)}; the perturbation fools more "
        f"than random signs in {tally(names, _above(fooled, by_chance, count))}."
    )


def geometry_in_words(
    half: tuple[int, int], dimensions: int, rates: Float[np.ndarray, " 3"], count: int
) -> str:
    """Return whether normals lie in a subspace, and random vectors of it fool more than others.

    Args:
        half: Dimensions that hold 90 % of the normals, and of as many random vectors.
        dimensions: Number of dimensions of the whole space, or of images if that is less.
        rates: Mean rate in per cent of random vectors of the subspace, of the whole space, and of
            random signs, all of one length.
        count: Number of images held out.

    Returns:
        The paragraph.
    """
    subspace, space, signs = map(float, rates)
    lie = "lie closer together than" if half[0] < half[1] else "do not lie closer together than"
    more = side(subspace, space, count) > 0 and side(subspace, signs, count) > 0
    return (
        f"{half[0]} of {dimensions} dimensions hold 90 % of the normals, of as many random vectors "
        f"{half[1]}: the normals {lie} chance. A random vector of their first dimensions fools "
        f"{with_interval(subspace, count)}, one of the whole space {with_interval(space, count)}, "
        f"random signs {with_interval(signs, count)}: that the subspace fools more is "
        f"{'shown' if more else 'not shown'}."
    )


def lengths_in_words(length: float, rates: Mapping[str, float], count: int) -> str:
    """Return whether the universal perturbation fools more than each control of its length.

    Args:
        length: The length.
        rates: Rates in per cent by name, of "universal" and of the controls.
        count: Number of images held out.

    Returns:
        The paragraph.
    """
    controls = [name for name in rates if name != "universal"]
    above = [side(rates["universal"], rates[name], count) > 0 for name in controls]
    best = max(controls, key=lambda name: rates[name])
    return (
        f"At length {length:.3g} the universal perturbation fools "
        f"{with_interval(rates['universal'], count)}, the best control, {best}, "
        f"{with_interval(rates[best], count)}. Beyond 95 % intervals it fools more than "
        f"{tally(controls, above, 'controls')}."
    )


def data_free_in_words(
    names: Sequence[str], ways: Sequence[str], rates: Float[np.ndarray, "M W"], count: int
) -> str:
    """Return whether perturbations made without images fool more than random signs.

    Args:
        names: The networks.
        ways: The ways; the first is random signs.
        rates: Rates in per cent.
        count: Number of images held out.

    Returns:
        The paragraph.
    """
    signs = rates[:, 0]
    sentences = [
        f"{way} {rates[:, at].min():.1f} to {rates[:, at].max():.1f} %, more than random signs in "
        f"{tally(names, _above(rates[:, at], signs, count))}"
        for at, way in enumerate(ways)
        if at
    ]
    return (
        f"Random signs fool {signs.min():.1f} to {signs.max():.1f} %; {'; '.join(sentences)} "
        "(beyond 95 % intervals)."
    )
