"""What the gains of layers show, in words."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxadv.studies.wording import tally


def factor_in_words(norms: Float[np.ndarray, "3 3"]) -> str:
    """Return which formula agrees with the singular values, at the strides 1, 2 and 4.

    Args:
        norms: Largest singular value, and the formulas with s^-1 and s^-2, by stride.

    Returns:
        The paragraph.
    """
    exact, ours, paper = norms.T
    strides = tuple(f"stride {s}" for s in (1, 2, 4))
    low = exact > paper * (1 + 1e-6)
    words = (
        "The paper's formula for a convolution of stride s has the factor s^-2. With s^-1 it gives "
        f"the largest singular value of the whole matrix at {_at(strides, np.isclose(exact, ours))}"
        f", with s^-2 at {_at(strides, np.isclose(exact, paper))}."
    )
    if low.any():
        worst = int((exact / paper).argmax())
        words += (
            f" With s^-2 the bound is too small, and no bound at all, at {_at(strides, low)}: at "
            f"{strides[worst]} by a factor of {exact[worst] / paper[worst]:.2f}."
        )
    return words


def _at(strides: tuple[str, ...], holds: np.ndarray) -> str:
    return tally(strides, holds, "strides")


class LastLayer(NamedTuple):
    """What a network does to perturbations, from the image to the logits.

    Attributes:
        depth: Number of layers.
        first: Gain of adversarial over that of random perturbations at the first layer, median.
        last: The same at the logits.
        attained: Median adversarial gain over the product of norms.
        ratios: Gain of adversarial over that of random perturbations at each layer, medians.
        steps: From each layer to the next, 1 if that ratio rises over the images, -1 if it falls
            (Wilcoxon, p < 0.05 over the network's steps), 0 if neither is shown.
    """

    depth: int
    first: float
    last: float
    attained: float
    ratios: tuple[float, ...] = ()
    steps: tuple[int, ...] = ()


def stability_in_words(networks: Mapping[str, LastLayer]) -> str:
    """Return whether higher layers are less stable, step by step, with the numbers.

    Args:
        networks: The measurements of networks of several layers.

    Returns:
        The sentence.
    """
    names = list(networks)
    numbers = "; ".join(
        f"{name} {', '.join(f'{ratio:.1f}' for ratio in one.ratios)}"
        for name, one in networks.items()
    )
    steps = [step for one in networks.values() for step in one.steps]
    every = [min(one.steps) == 1 for one in networks.values()]
    return (
        f"Layer by layer it is {numbers}. From a layer to the next it rises in {steps.count(1)} of "
        f"{len(steps)} steps, falls in {steps.count(-1)}, and neither is shown in "
        f"{steps.count(0)}. That each higher layer is less stable than the one below it is shown "
        f"for {tally(names, every)}."
    )


def layers_in_words(networks: Mapping[str, LastLayer], inside: int) -> str:
    """Return what the gains show: of adversarial perturbations, of higher layers, of the bound.

    Args:
        networks: The measurements by name of the network.
        inside: Number of adversarial images inside the certified distances.

    Returns:
        The paragraph.
    """
    names = list(networks)
    every = list(networks.values())
    least, most = (choose(names, key=lambda name: networks[name].last) for choose in (min, max))
    deep = [name for name in names if networks[name].depth > 1]
    steps = ", ".join(f"{n} {networks[n].first:.1f} to {networks[n].last:.1f}" for n in deep)
    pairs = [(a, b) for a in every for b in every if a.depth < b.depth]
    looser = sum(b.attained < a.attained for a, b in pairs)
    attained = ", ".join(
        f"{name} {100 * one.attained:.2g} % ({one.depth} layers)" for name, one in networks.items()
    )
    words = (
        "The paper asks whether the instability is visible in the layers' norms, and notes that "
        "large bounds do not prove that adversarial examples exist. Measured: an adversarial "
        f"perturbation reaches the logits {networks[least].last:.1f} ({least}) to "
        f"{networks[most].last:.1f} ({most}) times as strong as a random one of its size, stronger "
        f"in {tally(names, [one.last > 1 for one in every])}. "
    )
    if deep:
        higher = [networks[name].last > networks[name].first for name in deep]
        words += (
            f"That ratio goes from the first layer to the last from {steps}: higher layers add to "
            f"the instability in {tally(deep, higher, 'networks of several layers')}. "
        )
    measured = [name for name in deep if networks[name].steps]
    if measured:
        words += f"{stability_in_words({name: networks[name] for name in measured})} "
    words += f"The product of norms is attained to: {attained}"
    if pairs:
        words += f"; the deeper is the looser in {looser} of {len(pairs)} pairs of other depth"
    return words + (
        ". No adversarial image was found inside a certified distance."
        if inside == 0
        else f". {inside} adversarial images were found inside a certified distance, which "
        "contradicts the bound: please report it."
    )
