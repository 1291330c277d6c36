"""What fooling images show, in words."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from jaxadv.studies.wording import interval, side, tally, with_interval

NOTHING = (  # columns of the table of what the images resemble
    "images",
    "confidence %",
    "distance to its class",
    "far %",
    "nearest image of its class %",
    "sigmoid network says so %",
    "error of the autoencoder",
    "badly reconstructed %",
    "of nothing %",
    "of nothing, and sure %",
)


def nothing_in_words(names: Sequence[str], values: Float[np.ndarray, "R 10"]) -> str:
    """Return whether the images are of nothing by all that is measured, and fool all the same.

    Args:
        names: How the images were made.
        values: Their rows of the table, in columns `NOTHING`; the last row is of test images.

    Returns:
        The paragraph.
    """
    made, natural = values[: len(names)], values[-1]
    counts = made[:, 0].astype(int)
    shares = ", ".join(
        f"{with_interval(rate, count)} ({name})"
        for name, rate, count in zip(names, made[:, 8], counts, strict=True)
    )
    fooled = [interval(rate, count)[0] > 50 for rate, count in zip(made[:, 9], counts, strict=True)]
    alike = [interval(rate, count)[1] < 50 for rate, count in zip(made[:, 8], counts, strict=True)]
    return (
        f"By all of these measures the images are of nothing for {shares}, with 95 % intervals, "
        f"and the test images for {natural[8]:.1f} %. Beyond these intervals, more than half "
        f"resemble their class by some measure for {tally(names, alike, 'ways to make them')}; and "
        "more than half are of nothing while the network is as sure as of the median test image "
        f"for {tally(names, fooled, 'ways to make them')}."
    )


def fooling_in_words(
    natural: float, made: Mapping[str, float], elsewhere: Mapping[str, float], noise: float
) -> str:
    """Return where the network is more confident: on test images, or on what was made to fool it.

    Args:
        natural: Median confidence on test images.
        made: Median confidence on the fooling images, by method.
        elsewhere: Fraction of these to which another network gives the same class, by method;
            empty without one.
        noise: Fraction of images of uniform noise with a confidence above 99.99 %.

    Returns:
        The paragraph.
    """
    names = list(made)
    more = [confidence >= natural for confidence in made.values()]
    moved = [fraction > 0.5 for fraction in elsewhere.values()]
    another = "Another network gives more than half of the images the same class for "
    another = f"{another}{tally(names, moved, 'methods')}. " if elsewhere else ""
    return (
        f"The network's median confidence on test images is {100 * natural:.2f} %, on these "
        + ", ".join(f"{100 * confidence:.2f} ({name})" for name, confidence in made.items())
        + f": at least as high for {tally(names, more, 'methods')}. {another}The "
        f"confidence is above 99.99 % for {100 * noise:.1f} % of 1,000 images of uniform noise. "
        "Whether a person sees nothing in an image, the page does not measure; what the images "
        "resemble, the next table does."
    )


def retraining_in_words(rows: Float[np.ndarray, "R 5"], made: int) -> str:
    """Return whether a class for fooling images keeps out the next ones.

    Args:
        rows: Rows of the table of `retraining`, one for each network.
        made: Number of images made for each network.

    Returns:
        The paragraph.
    """
    first, last = rows[0], rows[-1]
    fewer = side(last[3], first[3], made) < 0
    verdict = (
        "fewer than fooled the first network, beyond their 95 % intervals: the rounds kept some out"
        if fewer
        else "not shown to be fewer than fooled the first network: to learn what fooled its "
        "predecessors did not save it"
    )
    return (
        f"After {len(rows)} rounds the network knows {int(last[4])} fooling images and rejects "
        f"{last[1]:.0f} % of them; of {made} new ones, made for it, {last[3]:.0f} % fool it "
        f"(of the first network {first[3]:.0f} %), at a median confidence of {last[2]:.2f} %. "
        f"That is {verdict}. It errs on {last[0]:.2f} % of the test images (the first on "
        f"{first[0]:.2f})."
    )
