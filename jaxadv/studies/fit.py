"""How well the networks of a study are trained: a table at the end of its page, and a sentence."""

from collections.abc import Sequence

import numpy as np

from jaxadv.studies.findings import Part, Table, Text, spread
from jaxadv.studies.networks import network_of, published
from jaxadv.studies.setting import Setting
from jaxadv.studies.wording import fit_in_words

MOST = 10_000  # training images that the error is counted on


def how_trained(setting: Setting, names: Sequence[str], seeds: int = 1) -> list[Part]:
    """Return the errors of a study's networks, and which of them are not trained to the end.

    Args:
        setting: The setting, whose folder stores the networks.
        names: Names of the networks.
        seeds: Number of seeds.

    Returns:
        A table and a paragraph.
    """
    given = setting.train.take(slice(MOST))
    errors = np.zeros((seeds, len(names), 2))
    for seed in range(seeds):
        for row, name in enumerate(names):
            network = network_of(setting, name, seed)
            errors[seed, row] = 100 * network.error(given), 100 * network.error(setting.test)
    mean, known = errors.mean(0), np.array([published(setting, name)[:2] for name in names])
    fitted = {name: error for name, (error, _) in zip(names, known, strict=True) if error == error}
    return [
        Table(
            "How well the networks are trained",
            tuple(names),
            ("training error %", "test error %"),
            mean,
            spread(errors),
            known if fitted else None,
            ".2f",
            note=f"The first {len(given.labels):,} training images.",
        ),
        Text(fit_in_words(dict(zip(names, map(float, mean[:, 0]), strict=True)), fitted)),
    ]
