"""What distortions and noise show, in words."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxadv.studies.wording import fit_in_words, interval, side, tally

NOISES = (0.06, 0.1, 0.3, 1.0)  # standard deviations; at 1 the paper's digits are barely readable


def seen_in_words(names: Sequence[str], seen: Float[np.ndarray, "N 9"]) -> str:
    """Return whether the nearest mistakes are more visible than noise of the same distortion.

    Args:
        names: Names of the networks.
        seen: Rows of the networks, columns of `SEEN`.

    Returns:
        The paragraph.
    """
    spans = [interval(rate, round(count)) for count, rate in seen[:, [0, 4]]]
    clearer = tally(names, [low > 50 for low, _ in spans])
    fainter = tally(names, [high < 50 for _, high in spans])
    further = tally(names, seen[:, 7] > seen[:, 8])
    return (
        f"The structural similarity of the nearest mistakes with their originals is "
        f"{seen[:, 2].min():.3f} to {seen[:, 2].max():.3f}, of noise of the same distortion "
        f"{seen[:, 3].min():.3f} to {seen[:, 3].max():.3f}. For more than half of the images, "
        f"beyond 95 % intervals, the noise is more similar in {clearer}, the mistake in {fainter}. "
        f"In the layers of the attacked network the mistakes lie further from their originals than "
        f"the noise in {further}."
    )


def audit_in_words(failures: Sequence[str], attacks: int) -> str:
    """Return whether each of the attacks found an adversarial example, and which did not."""
    claim = "The claim that there is an adversarial example for every image of every network"
    if not failures:
        return f"{claim} holds here: all {attacks:,} attacks succeeded, and each was verified."
    names = "; ".join(failures[:20])
    return f"{claim} is not shown: {len(failures)} of {attacks:,} attacks failed ({names})."


def order_in_words(
    names: Sequence[str],
    measured: np.ndarray,
    errors: np.ndarray,
    known: Float[np.ndarray, "M 2"],
) -> str:
    """Return the order of the networks by their distortions, beside the published one.

    Args:
        names: The networks.
        measured: Their distortions.
        errors: Their training errors in per cent.
        known: The published distortions and training errors, nan where there is none.

    Returns:
        The paragraph.
    """
    order = ", ".join(f"{names[i]} {measured[i]:.4f}" for i in map(int, np.argsort(measured)))
    words = f"From the nearest to the furthest: {order}. "
    both = [i for i, distortion in enumerate(known[:, 0]) if np.isfinite(distortion)]
    if len(both) > 1:
        ours, theirs = measured[both], known[both, 0]
        squares = np.square(np.argsort(np.argsort(ours)) - np.argsort(np.argsort(theirs))).sum()
        correlation = 1 - 6 * squares / (len(both) * (len(both) ** 2 - 1))  # Spearman's
        paper = ", ".join(
            f"{names[i]} {known[i, 0]:.3f}" for i in sorted(both, key=lambda i: known[i, 0])
        )
        words += (
            f"In the paper: {paper}. Rank correlation {correlation:.2f}; the distortion is smaller "
            f"than the paper's in {tally([names[i] for i in both], ours < theirs)}. "
        )
    fitted = {names[i]: float(known[i, 1]) for i in both}
    return words + fit_in_words(dict(zip(names, map(float, errors), strict=True)), fitted)


def noise_in_words(names: Sequence[str], mean: Float[np.ndarray, "M C"], count: int) -> str:
    """Return whether random noise finds what the attack finds.

    Args:
        names: The networks.
        mean: Their errors in per cent, in the columns of the table of `noise`.
        count: Number of images.

    Returns:
        The paragraph.
    """
    attacked, clean, loud = mean[:, 0], mean[:, 1], mean[:, 1 + len(NOISES)]
    one, search = mean[:, -2], mean[:, -1]

    def above(rates: np.ndarray, controls: np.ndarray) -> str:
        pairs = zip(rates, controls, strict=True)
        return tally(names, [side(*pair, count) > 0 for pair in pairs])

    missed = [side(*pair, count) > 0 for pair in zip(attacked, search, strict=True)]
    blind = "random directions miss them" if all(missed) else "random directions find others"
    return (
        f"The attack succeeds on {attacked.min():.1f} to {attacked.max():.1f} % of the images. At "
        "its distance one random draw makes more errors than there are without noise, beyond their "
        f"95 % intervals, in {above(one, clean)}; a random search with as many passes as the "
        f"attack in {above(search, clean)}. The attack finds more than that search in "
        f"{tally(names, missed)}: of the blind spots that it finds {blind}. Under noise of "
        f"standard deviation {NOISES[-1]:g} the networks get {100 - loud.max():.0f} to "
        f"{100 - loud.min():.0f} % right (the paper: 51 %)."
    )
