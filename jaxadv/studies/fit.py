"""How well the networks of a study are trained: a table at the end of its page, and a sentence."""

from collections.abc import Callable, Sequence

import numpy as np

from jaxadv.studies.findings import Part, Table, Text
from jaxadv.studies.networks import PUBLISHED, Network, trained
from jaxadv.studies.setting import Setting
from jaxadv.studies.wording import fit_in_words

MOST = 10_000  # training images that the error is counted on


def how_trained(
    setting: Setting,
    names: Sequence[str],
    make: Callable[[Setting, str, int], Network] = trained,
    seeds: int = 1,
) -> list[Part]:
    """Return the errors of a study's networks, and which of them are not trained to the end.

    Args:
        setting: The setting, whose folder stores the networks.
        names: Names of the networks.
        make: Returns the network of a name and a seed.
        seeds: Number of seeds.

    Returns:
        A table and a paragraph.
    """
    given = setting.train.take(slice(MOST))
    errors = np.zeros((seeds, len(names), 2))
    for seed in range(seeds):
        for row, name in enumerate(names):
            network = make(setting, name, seed)
            errors[seed, row] = 100 * network.error(given), 100 * network.error(setting.test)
    mean, known = errors.mean(0), [PUBLISHED.get(name, (np.nan, np.nan)) for name in names]
    published = {n: pair[0] for n, pair in zip(names, known, strict=True) if n in PUBLISHED}
    return [
        Table(
            "How well the networks are trained",
            tuple(names),
            ("training error %", "test error %"),
            mean,
            errors.std(0),
            np.array([pair[:2] for pair in known]) if published else None,
            ".2f",
            note=f"The first {len(given.labels):,} training images.",
        ),
        Text(fit_in_words(dict(zip(names, map(float, mean[:, 0]), strict=True)), published)),
    ]
