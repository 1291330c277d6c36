"""What the nearest mistakes of many kinds of classifiers show, in words."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxadv.studies.wording import tally

EQUAL = 5.0  # per cent: accuracies that differ by more are not called equal


NETWORK = "network, 100-100"


ENOUGH = 1000  # training images from which on a comparison is called one of enough data


def classifiers_in_words(
    names: Sequence[str], rows: Float[np.ndarray, "F C"], hows: Sequence[str]
) -> str:
    """Return whether the network's nearest mistakes are nearer than those of other classifiers.

    Args:
        names: The classifiers, the network as "network, 100-100" among them.
        rows: Their rows of the table: accuracy in the second column, the fraction of the way to
            another class in the fourth.
        hows: How the distance of each was computed.

    Returns:
        The paragraph.
    """
    place = list(names).index(NETWORK)
    ratio, accuracy = rows[:, 3], rows[:, 1]
    order = ", ".join(f"{names[i]} {ratio[i]:.3f}" for i in np.argsort(ratio))
    others = [i for i in range(len(names)) if i != place]
    titles = [names[i] for i in others]
    nearer = ratio[others] <= ratio[place]
    near = ratio[others] <= 2 * ratio[place]
    alone = "the network's alone" if not near.any() else "not the network's alone"
    words = (
        f"From near to far, in parts of the way to another class: {order}. The nearest mistake is "
        f"as near as the network's in {tally(titles, nearer, 'other classifiers')}, and within "
        f"twice its distance in {tally(titles, near, 'other classifiers')}: blind spots are "
        f"{alone}. The accuracies are {accuracy.min():.1f} to {accuracy.max():.1f} %"
    )
    if np.ptp(accuracy) > EQUAL:
        words += ", which is not equal: the page does not compare them at equal accuracy"
    least = int(rows[:, 0].min())
    if least < ENOUGH:
        words += (
            f". This equality has its price: {names[int(rows[:, 0].argmin())]} saw {least:,} "
            "images only; the next table is on equal data"
        )
    bounded = [how != "proved" for how in hows]
    if any(bounded):
        words += f". The distances of {tally(names, bounded, 'classifiers')} are upper bounds"
    return words + "."


def equal_data_in_words(names: Sequence[str], rows: Float[np.ndarray, "F C"]) -> str:
    """Return the comparison with those that the same data make as accurate as the network.

    Args:
        names: The classifiers.
        rows: Their rows of the table, all trained on equally many images.

    Returns:
        The paragraph.
    """
    place = list(names).index(NETWORK)
    others = [i for i in range(len(names)) if i != place]
    alike = [i for i in others if abs(rows[i, 1] - rows[place, 1]) <= EQUAL]
    size, ratio = int(rows[place, 0]), rows[:, 3]
    near = tally([names[i] for i in others], [i in alike for i in others], "other classifiers")
    words = (
        f"Trained on the same {size:,} images, {near} come within {EQUAL:g} % of the network's "
        f"accuracy of {rows[place, 1]:.1f} %"
    )
    if alike:
        titles = [names[i] for i in alike]
        as_near, twice = (
            tally(titles, ratio[alike] <= times * ratio[place], "classifiers") for times in (1, 2)
        )
        words += (
            f". Of these, the nearest mistake is as near as the network's ({ratio[place]:.3f} of "
            f"the way) in {as_near}, within twice its distance in {twice}"
        )
    if size < ENOUGH:
        words += f". {size:,} images are few"
    return words + "."


def corners_in_words(sure: float, natural: float, away: float, usual: float) -> str:
    """Return whether logistic regression is most confident where there is no data.

    Args:
        sure: Median confidence at the best corners of the box.
        natural: Median confidence on test images.
        away: Median L2 distance from these corners to the nearest training image.
        usual: Median L2 distance of training images to their nearest neighbour.

    Returns:
        The paragraph.
    """
    is_shown = sure > natural and away > usual
    return (
        f"At the corner of the box that suits a class best the median confidence of logistic "
        f"regression is {100 * sure:.2f} %, on test images {100 * natural:.2f} %; the corner lies "
        f"at an L2 distance of {away:.1f} from the nearest training image, training images have "
        f"their nearest neighbour at {usual:.1f}. It is {'' if is_shown else 'not '}shown to be "
        "more confident where there is no data."
    )
