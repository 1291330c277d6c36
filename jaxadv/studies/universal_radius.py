"""The fooling rate of one perturbation over its radius, beside random signs of the same size.

Moosavi-Dezfooli et al. (2016, arXiv 1610.08401) give it at one radius, 10 of 255; the study sets
radii below and above its own beside it, so that a claim does not hang on one of them.
"""

import numpy as np

from jaxadv.studies.findings import Curves, Findings, Part, Table, Text, spread
from jaxadv.studies.fit import how_trained
from jaxadv.studies.networks import names_of, network_of
from jaxadv.studies.setting import Setting
from jaxadv.studies.universal_paper import DRAWS, NETWORKS, control, perturbation_of, radii, split
from jaxadv.studies.universal_words import radii_in_words
from jaxadv.universal.fooling import judge

TIMES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # of the study's own radius
OWN = TIMES.index(1.0)


def over_radii(setting: Setting) -> Findings:
    """The fooling rate against the Linf radius, of a perturbation and of random signs."""
    data, held_out = split(setting)
    names, epsilons = names_of(setting, NETWORKS[:2]), radii(setting)["linf"] * np.array(TIMES)
    values = np.zeros((setting.seeds, len(names), 2, len(TIMES)))
    for seed in range(setting.seeds):
        for row, name in enumerate(names):
            network = network_of(setting, name, seed)
            for column, epsilon in enumerate(map(float, epsilons)):
                v = perturbation_of(setting, network, data.images, seed=seed, epsilon=epsilon)
                rate = judge(network.model, held_out.images, v, epsilon=epsilon).rate
                values[seed, row, 0, column] = 100 * rate
                values[seed, row, 1, column] = control(network.model, held_out.images, epsilon)
    mean = values.mean(0)
    rows = tuple(f"{name}{what}" for name in names for what in ("", ", random signs"))
    flat, deviations = mean.reshape(len(rows), -1), spread(values)
    parts: list[Part] = [
        Table(
            "Fooling rate in % on images held out, by the Linf radius",
            rows,
            tuple(f"{epsilon:.3g}" for epsilon in epsilons),
            flat,
            None if deviations is None else deviations.reshape(flat.shape),
            formats=".1f",
            note=f"{len(data.labels)} training images given, {len(held_out.labels)} test images "
            f"held out, {setting.seeds_in_words}, gradient ascent; {epsilons[OWN]:.3g} is the "
            f"radius of the other experiments. Random signs: mean of {DRAWS} of the same size.",
        ),
        Text(radii_in_words(names, epsilons, mean, len(held_out.labels))),
        Curves(
            "Fooling rate against the radius",
            "Linf radius",
            "fooling rate in %",
            {row: np.array([epsilons, line]) for row, line in zip(rows, flat, strict=True)},
            dashed=rows[1::2],
        ),
        *how_trained(setting, names, setting.seeds),
    ]
    return Findings("universal.radius", "How large one perturbation must be", parts)
