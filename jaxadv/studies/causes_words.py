"""What the study of causes says of its tables, in sentences."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from jaxadv.studies.similarity import Fit
from jaxadv.studies.wording import tally


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
