"""Further studies of universal perturbations (Moosavi-Dezfooli et al. 2016, arXiv 1610.08401).

Each study is one function: several perturbations of one network, the classes that images move to,
the geometry, other vectors of the same length, and perturbations without data. The networks are
those of `paper`.
"""

from typing import Any

import jax
import numpy as np

from jaxadv.data import Dataset
from jaxadv.studies.findings import Curves, Findings, Gallery, Part, Table, Text
from jaxadv.studies.fit import how_trained
from jaxadv.studies.networks import Network, names_of, network_of
from jaxadv.studies.setting import Setting
from jaxadv.studies.universal_paper import (
    METHODS,
    NETWORKS,
    control,
    perturbation_of,
    picture,
    radii,
    split,
)
from jaxadv.studies.universal_words import (
    data_free_in_words,
    diversity_in_words,
    geometry_in_words,
    labels_in_words,
    lengths_in_words,
)
from jaxadv.universal.data_free import data_free_perturbation
from jaxadv.universal.fooling import judge
from jaxadv.universal.geometry import (
    controls,
    dominant,
    in_subspace,
    least_changes,
    normals,
    of_length,
    random_columns,
    random_signs,
    similarity,
    singular_values,
)


def diversity(setting: Setting) -> Findings:
    """Several perturbations of one network: their cosine similarities and fooling rates."""
    data, held_out = split(setting)
    name, size = names_of(setting, NETWORKS)[0], 5
    network = network_of(setting, name)
    rows, tables, pictures = [], [], []
    signs = control(network.model, held_out.images, radii(setting)["linf"])
    methods = ("gradient ascent", "in batches")
    for how in methods:
        several = np.stack(
            [
                perturbation_of(setting, network, data.images, method=METHODS[how], seed=seed)
                for seed in range(size)
            ]
        )
        cosines = similarity(several)
        names = tuple(f"order {seed + 1}" for seed in range(size))
        tables.append(
            Table(
                f"Cosines between perturbations, {how}",
                names,
                names,
                cosines,
                None,
                None,
                ".2f",
                heat=True,
            )
        )
        fooling = [judge(network.model, held_out.images, v).rate for v in several]
        rows.append((100 * np.mean(fooling), 100 * np.std(fooling), signs, _largest(cosines)))
        pictures.append(np.stack([picture(v) for v in several]))
    published = np.full((2, 4), np.nan)
    published[:, 3] = 0.1
    parts: list[Part] = [
        Table(
            "Five perturbations of one network, from other orders of the images",
            methods,
            ("fooling rate %", "its spread", "random signs %", "largest cosine"),
            np.array(rows),
            None,
            published,
            (".1f", ".1f", ".1f", ".2f"),
            note="The paper's are below 0.1 for GoogLeNet, from other orders of the images.",
        ),
        Text(diversity_in_words(methods, np.array(rows), len(held_out.labels))),
        *tables,
        Gallery(
            "The perturbations",
            np.stack(pictures),
            methods,
            tuple(f"order {seed + 1}" for seed in range(size)),
        ),
    ]
    parts += how_trained(setting, (name,))
    return Findings("universal.diversity", "Many perturbations, not one", parts)


def _largest(cosines: np.ndarray) -> float:
    return float(np.abs(cosines[~np.eye(len(cosines), dtype=bool)]).max())


def labels(setting: Setting) -> Findings:
    """The classes that fooled images move to, of which a few are dominant."""
    data, held_out = split(setting)
    classes, parts, rows = setting.train.classes, [], []
    names = names_of(setting, NETWORKS[:2])
    for name in names:
        network = network_of(setting, name)
        v = perturbation_of(setting, network, data.images)
        moves = judge(network.model, held_out.images, v).moves(len(classes))
        percentages = 100 * moves / np.maximum(moves.sum(1, keepdims=True), 1)
        few = [classes[k] for k in dominant(moves, 0.8)]
        signs = random_signs(data.images.shape[1:], radii(setting)["linf"])
        by_signs = judge(network.model, held_out.images, signs).moves(len(classes))
        fooled, by_chance = (100 * (1 - np.trace(m) / m.sum()) for m in (moves, by_signs))
        rows.append((fooled, len(few), by_chance, len(dominant(by_signs, 0.8))))
        parts += [
            Table(
                f"{name}: where images of each class go, in %",
                classes,
                classes,
                percentages,
                None,
                None,
                ".0f",
                heat=True,
                note="Rows: the answer to the clean image.",
            ),
            Text(
                f"{name}: {fooled:.0f} % are fooled, and 80 % of these go to {len(few)} of "
                f"{len(classes)} classes: {', '.join(few)}."
            ),
        ]
    parts += [
        Table(
            "Fooled images, and the classes that take 80 % of them",
            names,
            ("fooled, %", "classes", "by random signs, %", "their classes"),
            np.array(rows),
            formats=(".1f", ".0f", ".1f", ".0f"),
            note="Random signs: one perturbation of the same size.",
        ),
        Text(labels_in_words(names, np.array(rows), len(classes), len(held_out.labels))),
    ]
    parts += how_trained(setting, names)
    return Findings("universal.labels", "Dominant labels", parts)


def geometry(setting: Setting) -> Findings:
    """Singular values of the boundary's normals, and random vectors of their leading subspace."""
    data, held_out = split(setting)
    name = names_of(setting, NETWORKS)[0]
    network = network_of(setting, name)
    columns = normals(_changes(setting, network, data))
    size, count = columns.shape
    values = {
        "normals": singular_values(columns),
        "random": singular_values(random_columns(size, count)),
    }
    places = np.arange(1, len(values["normals"]) + 1)
    length, dimensions = radii(setting)["l2"], min(100, count // 5)
    draws = 20
    fooled = {
        "subspace": [in_subspace(columns, dimensions, seed) for seed in range(draws)],
        "space": [random_columns(size, 1, seed)[:, 0] for seed in range(draws)],
        "signs": [random_signs((size,), 1.0, "l2", seed) for seed in range(draws)],
    }
    shape = data.images.shape[1:]
    rate = {
        name: 100
        * np.array(
            [
                judge(network.model, held_out.images, of_length(v, length).reshape(shape)).rate
                for v in vectors
            ]
        )
        for name, vectors in fooled.items()
    }
    half = {
        name: int((np.cumsum(v**2) < 0.9 * (v**2).sum()).sum()) + 1 for name, v in values.items()
    }
    parts: list[Part] = [
        Curves(
            "Singular values",
            "number",
            "singular value",
            {name: np.array([places, v]) for name, v in values.items()},
            log="y",
            dashed=("random",),
        ),
        Table(
            f"Fooling rate in % of a random vector of length {length:.3g} (L2)",
            (f"in the first {dimensions} singular vectors", "in the whole space", "random signs"),
            ("fooling rate", "the largest"),
            np.array([[rate[name].mean(), rate[name].max()] for name in fooled]),
            None,
            np.array([[38, np.nan], [10, np.nan], [np.nan, np.nan]]),
            ".1f",
            note=f"Mean and largest of {draws}; the paper: CaffeNet, length 2,000 of 255, 100 "
            "dimensions.",
        ),
        Text(
            geometry_in_words(
                (half["normals"], half["random"]),
                min(size, count),
                np.array([rate[name].mean() for name in fooled]),
                len(held_out.labels),
            )
        ),
    ]
    parts += how_trained(setting, (name,))
    return Findings("universal.geometry", "Normals that lie together", parts)


def _changes(setting: Setting, network: Network, data: Dataset) -> np.ndarray:
    setting.progress("least changes", 0, 1)
    kept = setting.keep(
        f"universal/least-changes-{network.name}",
        (network.model.params, data.images),
        lambda: {"changes": least_changes(network.model, data.images)},
    )
    return kept["changes"]


def _data_free(
    setting: Setting,
    network: Network,
    shape: tuple[int, int, int],
    epsilon: float,
    objective: str,
    seed: int,
) -> np.ndarray:
    """Make a perturbation without an image, or load the one that is stored."""

    def compute() -> dict[str, Any]:
        made = data_free_perturbation(
            network.model,
            shape,
            epsilon,
            objective=objective,
            key=jax.random.key(seed),
            background=0.0,
        )
        return {"perturbation": made}

    same = network.model.params, shape, epsilon, objective, seed
    kept = setting.keep(f"universal/{network.name}-{objective}-{seed}", same, compute)
    return kept["perturbation"]


def lengths(setting: Setting) -> Findings:
    """Figure 8: the fooling rate against the length, of the perturbation and of five controls."""
    data, held_out = split(setting)
    name = names_of(setting, NETWORKS)[0]
    network = network_of(setting, name)
    changes = _changes(setting, network, data)
    lengths = radii(setting)["l2"] * np.array([1, 2, 4, 6, 8, 12, 16]) / 12
    lines: dict[str, list[float]] = {}
    for radius in lengths:
        vectors = controls(data.images, changes, radius)
        vectors["random signs"] = random_signs(data.images.shape[1:], float(radius), "l2")
        vectors = {
            "universal": perturbation_of(setting, network, data.images, "l2", epsilon=float(radius))
        } | vectors
        for kind, v in vectors.items():
            rate = judge(network.model, held_out.images, v).rate
            lines.setdefault(kind, []).append(100 * rate)
    at = 5  # the study's own
    published = np.full((len(lines), 1), np.nan)
    published[0], published[1] = 85, 10
    parts: list[Part] = [
        Curves(
            "Fooling rate against the length",
            "length (L2)",
            "fooling rate in %",
            {kind: np.array([lengths, line]) for kind, line in lines.items()},
            dashed=tuple(kind for kind in lines if kind != "universal"),
        ),
        Table(
            f"Fooling rate in % at length {lengths[at]:.3g}",
            tuple(lines),
            ("fooling rate",),
            np.array([[line[at]] for line in lines.values()]),
            None,
            published,
            ".1f",
            note="The paper: CaffeNet at 2,000 of 255, as read off its figure 8; there too the "
            "sum and the others stay far below.",
        ),
        Text(
            lengths_in_words(
                float(lengths[at]),
                {kind: line[at] for kind, line in lines.items()},
                len(held_out.labels),
            )
        ),
    ]
    parts += how_trained(setting, (name,))
    return Findings("universal.controls", "Other vectors of the same length", parts)


def data_free(setting: Setting) -> Findings:
    """Perturbations made without images, from the activations of all layers, and from images."""
    data, held_out = split(setting)
    ways = ("random signs", "fast feature fool", "GD-UAP", "with images")
    epsilon, shape = radii(setting)["linf"], data.images.shape[1:]
    names = names_of(setting, NETWORKS[:3])  # the linear one has no layer to excite
    values, pictures = np.zeros((setting.seeds, len(names), len(ways))), []
    for seed in range(setting.seeds):
        for row, name in enumerate(names):
            network = network_of(setting, name, seed)
            vectors = [random_signs(shape, epsilon, seed=seed).astype(np.float32)]
            for objective in ("mean", "l2"):
                setting.progress(f"data-free {name}", len(vectors), len(ways))
                vectors.append(_data_free(setting, network, shape, epsilon, objective, seed))
            vectors.append(perturbation_of(setting, network, data.images, seed=seed))
            for column, v in enumerate(vectors):
                values[seed, row, column] = 100 * judge(network.model, held_out.images, v).rate
            if seed == 0:
                pictures.append(np.stack([picture(v) for v in vectors]))
    rows = (*names, "CaffeNet (ImageNet)")
    empty = np.full((1, len(ways)), np.nan)
    published = np.full((len(rows), len(ways)), np.nan)
    published[-1] = (np.nan, 80.9, 87, 93.3)
    parts: list[Part] = [
        Table(
            f"Fooling rate in %, Linf {epsilon:.3g}",
            rows,
            ways,
            np.concatenate([values.mean(0), empty]),
            None if setting.seeds == 1 else np.concatenate([values.std(0), empty]),
            published,
            ".1f",
            note=f"{len(held_out.labels)} images held out, {setting.seeds_in_words}. Mopuri et al. "
            "2017 (arXiv 1707.05572) and 2018 (arXiv 1801.08092); here on a black background.",
        ),
        Text(data_free_in_words(names, ways, values.mean(0), len(held_out.labels))),
        Gallery("The perturbations", np.stack(pictures), names, ways),
    ]
    parts += how_trained(setting, names, setting.seeds)
    return Findings("universal.data_free", "Perturbations without data", parts)
