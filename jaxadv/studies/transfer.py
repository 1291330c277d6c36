"""Table 2 of Szegedy et al. (2013, arXiv 1312.6199), section 4.2: transfer of examples.

Examples made for one network are classified by others, of other weights and other shapes. The same
is done with transfer attacks, from one network or from an ensemble.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxadv.attacks import (
    DIFGSM,
    MIFGSM,
    NIFGSM,
    SIFGSM,
    TIFGSM,
    VMIFGSM,
    Admix,
    Transfer,
)
from jaxadv.core.attack import Attack
from jaxadv.core.goals import Untargeted
from jaxadv.core.model import Model, ensemble
from jaxadv.core.result import Result
from jaxadv.data import Dataset
from jaxadv.engine.verify import predict
from jaxadv.studies.blind_spots import (
    distortion,
    examples_of,
    gaussian,
    nearest_mistakes,
)
from jaxadv.studies.findings import Findings, Part, Table, Text, spread
from jaxadv.studies.fit import how_trained
from jaxadv.studies.networks import SIX, Network, names_of, network_of, published
from jaxadv.studies.setting import Setting
from jaxadv.studies.wording import side, tally

PUBLISHED = np.array(
    [  # per cent; rows: made for, then two kinds of noise; columns: fed to
        [100, 11.7, 22.7, 2, 3.9, 2.7, 0.062],
        [87.1, 100, 35.2, 35.9, 27.3, 9.8, 0.1],
        [71.9, 76.2, 100, 48.1, 47, 34.4, 0.14],
        [28.9, 13.7, 21.1, 100, 6.6, 2, 0.058],
        [38.2, 14, 23.8, 20.3, 100, 2.7, 0.065],
        [23.4, 16, 24.8, 9.4, 6.6, 100, 0.086],
        [5.0, 10.1, 18.3, 0, 0, 0.8, 0.1],
        [15.6, 11.3, 22.7, 5, 4.3, 3.1, 0.3],
    ]
)


def cross_errors(
    networks: Sequence[Network], sets: Sequence[np.ndarray], labels: np.ndarray
) -> Float[np.ndarray, "S M"]:
    """Return the error of each network on each set of images, in per cent.

    All sets are classified in one batch, one call for each network.

    Args:
        networks: The M networks.
        sets: The S sets of images, each [N, H, W, C].
        labels: Labels [N] of the images in every set.

    Returns:
        The errors [S, M].
    """
    together = np.concatenate(sets)
    columns = []
    for network in networks:
        predicted = predict(network.model, together).argmax(1)
        columns.append((predicted.reshape(len(sets), -1) != labels).mean(1))
    return 100 * np.stack(columns, 1)


def between_networks(setting: Setting) -> Findings:
    """Table 2: the examples of each network, classified by all of them, and Gaussian noise."""
    data = examples_of(setting.test, setting.examples)
    names = names_of(setting, SIX)
    rows = (*names, "Gaussian noise 0.1", "Gaussian noise 0.3")
    values = np.zeros((setting.seeds, len(rows), len(names) + 1))
    is_papers = names == SIX and np.isfinite(published(setting, SIX[0])).all()
    for seed in range(setting.seeds):
        networks = [network_of(setting, name, seed) for name in names]
        made = [
            nearest_mistakes(setting, network, data, targeted=True, seed=seed).images
            for network in networks
        ]
        sets = [*made, gaussian(data.images, 0.1, seed), gaussian(data.images, 0.3, seed)]
        values[seed, :, :-1] = cross_errors(networks, sets, data.labels)
        values[seed, :, -1] = [distortion(images, data.images).mean() for images in sets]
    mean = values.mean(0)
    parts: list[Part] = [
        Table(
            "Table 2: error in per cent of networks (columns) on examples made for others (rows)",
            rows,
            (*names, "distortion"),
            mean,
            spread(values),
            PUBLISHED if is_papers else None,
            (*(".1f",) * len(names), ".3f"),
            heat=True,
            note=f"{len(data.labels)} test images, the target class drawn at random, mean over "
            f"{setting.seeds_in_words}. Errors are against the true label; "
            "images that a network gets wrong anyway count. The noise may leave the box.",
        ),
        Text(transfer_in_words(names, mean[:, :-1], len(data.labels))),
    ]
    parts += how_trained(setting, names, setting.seeds)
    return Findings("szegedy.transfer", "Examples made for one network, fed to another", parts)


def transfer_in_words(names: Sequence[str], errors: Float[np.ndarray, "S M"], count: int) -> str:
    """Return what Table 2 shows, and how much of it noise of standard deviation 0.1 does too.

    Args:
        names: The networks.
        errors: Their errors (columns) in per cent, on the examples for each and on two noises.
        count: Number of images.

    Returns:
        The paragraph.
    """
    size = len(names)
    if size == 1:
        return "There is one network, and so no transfer to another."
    off_diagonal, noise = ~np.eye(size, dtype=bool), errors[size]
    transfer = np.where(off_diagonal, errors[:size], np.nan)
    more = sum(
        side(float(transfer[row, column]), float(noise[column]), count) > 0
        for row in range(size)
        for column in range(size)
        if row != column
    )
    words = (
        f"Examples fed to another network than theirs are misclassified in "
        f"{np.nanmean(transfer):.1f} % on average, noise of standard deviation 0.1 in "
        f"{noise.mean():.1f} %: more than the noise, beyond their 95 % intervals, in {more} of "
        f"{off_diagonal.sum()} pairs of networks."
    )
    softmax = np.array([name.startswith("FC10(") for name in names])
    if softmax.all() or not softmax.any():
        return words
    both = [(np.nanmean(transfer[:, of]), noise[of].mean()) for of in (softmax, ~softmax)]
    return (
        f"{words} In the columns of the softmax regressions "
        f"{both[0][0]:.1f} % are misclassified, of which noise makes {both[0][1]:.1f}; in those of "
        f"the other networks {both[1][0]:.1f} %, of which noise makes {both[1][1]:.1f}. Softmax "
        f"regressions are {'more' if both[0][0] > both[1][0] else 'less'} often fooled by examples "
        f"of others, and {'mostly' if 2 * both[0][1] > both[0][0] else 'not mostly'} by what noise "
        "does too."
    )


SURROGATES = ("FC10(1e-4)", "FC100-100-10", "AE400-10")


def attacks_for(data: Dataset) -> dict[str, Attack]:
    """Return the transfer attacks; Admix mixes in images of `data`."""
    others = data.take(np.linspace(0, len(data.labels) - 1, 100).astype(int))
    return {
        "BIM": Transfer(),
        "MI": MIFGSM(),
        "NI": NIFGSM(),
        "DI": DIFGSM(diversity=0.7),
        "TI": TIFGSM(kernel=5),
        "SI": SIFGSM(),
        "VMI": VMIFGSM(neighbours=5),
        "Admix": Admix(mixed_images=others.images, mixed_labels=others.labels),
        "DI, SI, VMI together": Transfer(
            decay=1.0, diversity=0.7, scales=5, neighbours=5, nesterov=True
        ),
    }


def success_on(network: Network, images: np.ndarray, labels: np.ndarray, both: np.ndarray) -> float:
    """Return the percentage of images [N, H, W, C] in the mask `both` that are misclassified."""
    predicted = predict(network.model, images).argmax(1)
    return 100 * float((predicted != labels)[both].mean())


def attacks_between_networks(setting: Setting) -> Findings:
    """Success of transfer attacks on networks that they have not seen.

    Linf 0.1 (colour images: 10/255), 10 steps of a tenth of it. Of the images that surrogate and
    target both classify correctly, the tables show the percentage that the target then
    misclassifies.
    """
    data, epsilon = examples_of(setting.test, setting.examples), setting.radius(0.1)
    attacks = attacks_for(setting.train)
    chosen = names_of(setting, SURROGATES)
    count = len(chosen)
    single = np.zeros((setting.seeds, len(attacks), count, count))
    joint = np.zeros((setting.seeds, len(attacks), count))
    passes = np.zeros(len(attacks))
    for seed in range(setting.seeds):
        networks = [network_of(setting, name, seed) for name in chosen]
        right = [
            predict(network.model, data.images).argmax(1) == data.labels for network in networks
        ]

        def made(name: str, attack: Attack, title: str, model: Model) -> Result:
            return setting.run(
                f"{name} for {title}-{seed}",
                attack,
                model,
                data.images,
                Untargeted(data.labels),
                epsilon,
                ids=data.ids,
            )

        for row, (name, attack) in enumerate(attacks.items()):
            for i, surrogate in enumerate(networks):
                result = made(name, attack, surrogate.name, surrogate.model)
                passes[row] = result.backward.mean()
                for j, target in enumerate(networks):
                    both = right[i] & right[j]
                    single[seed, row, i, j] = success_on(target, result.images, data.labels, both)
            for j, target in enumerate(networks):
                others = [i for i in range(count) if i != j]
                model = ensemble([networks[i].model for i in others])
                result = made(name, attack, f"all but {target.name}", model)
                both = np.logical_and.reduce(right)
                joint[seed, row, j] = success_on(target, result.images, data.labels, both)
    off_diagonal = ~np.eye(count, dtype=bool)
    white = single[:, :, ~off_diagonal].mean(2)
    black = single[:, :, off_diagonal].mean(2)
    values = np.stack([white, black, joint.mean(2)], 2)
    names, best = tuple(attacks), int(black.mean(0).argmax())
    mean = values.mean(0)
    deviations = spread(np.pad(values, ((0, 0), (0, 0), (0, 1))))
    parts: list[Part] = [
        Table(
            "Success in per cent, by attack",
            names,
            ("on the surrogate", "on another network", "on another, from an ensemble", "gradients"),
            np.concatenate([mean, passes[:, None]], 1),
            deviations,
            formats=(".1f", ".1f", ".1f", ".0f"),
            note=f"{len(data.labels)} test images, Linf {epsilon:.3g}, 10 steps, "
            f"{setting.seeds_in_words}; of the images that both classify right. The ensemble is of "
            "the networks that are not the target, by the mean of their logits; it pays each "
            "gradient once for each of them.",
        ),
        Table(
            f"Success in per cent of {names[best]}, made for (rows), on (columns)",
            chosen,
            chosen,
            single[:, best].mean(0),
            spread(single[:, best]),
            formats=".1f",
            heat=True,
        ),
        Text(attacks_in_words(names, mean, len(data.labels))),
    ]
    parts += how_trained(setting, chosen, setting.seeds)
    return Findings("transfer.attacks", "Attacks that are made to transfer", parts)


def attacks_in_words(names: Sequence[str], success: Float[np.ndarray, "A 3"], count: int) -> str:
    """Return which attacks transfer further than plain iteration, which is the first.

    Args:
        names: The attacks.
        success: Success in per cent on the surrogate, on another network, and from an ensemble.
        count: Number of images.

    Returns:
        The paragraph.
    """
    best, others = int(success[:, 1].argmax()), names[1:]
    beyond = [side(rate, success[0, 1], count) for rate in success[1:, 1]]
    joint = [side(ensemble, one, count) > 0 for one, ensemble in success[:, 1:]]
    return (
        f"From one network to another {success[0, 1]:.1f} % of the examples of {names[0]} "
        f"transfer, and {success[best, 1]:.1f} % of {names[best]}'s; from an ensemble "
        f"{success[0, 2]:.1f} and {success[best, 2]:.1f} %. More than {names[0]}'s, beyond their "
        f"95 % intervals, transfer of {tally(others, [b > 0 for b in beyond], 'other attacks')}, "
        f"less of {tally(others, [b < 0 for b in beyond], 'other attacks')}. An ensemble adds "
        f"to {tally(names, joint, 'attacks')}."
    )
