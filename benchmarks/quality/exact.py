"""`python -m benchmarks.quality.exact`: minimum-norm attacks against proved minimal distances.

For the networks of the shared data (JAXADV_SHARED, or ../shared) with proved distances: the
distance found over the proved minimum, over all images that a solver finished (median, 90th and
99th percentile, worst, share within 0.1 %), of `ja.minimal_distance` at each effort and, with
`--attacks`, of every attack that knows the norm. With `--prove`, how many images `ja.prove` proves
a little below that minimum and breaks a little above it. A distance below the proved one by more
than 1e-4 of it is wrong, and so is a proof above it (exit status 1). linear: 784 entries, two
classes and random hyperplanes, where the minimum within the box is known in closed form, in every
norm.

With `--data`, a NAME is a folder of your own with its proved distances in the same files: NORM.npz
for each norm, `index` (the images' places in the test set, whose labels the network gets right) and
`distance`. The network is that of the folder, or of `--model`, as `jaxadv evaluate` takes it.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxadv as ja
from benchmarks.common import SHARED, arguments, load_own, minimum_norm_attacks, show
from jaxadv.models import from_torch_arrays
from jaxadv.models.definitions import get_definition
from jaxadv.protocols.portfolios import EFFORTS

NETWORKS = {"mlp40_standard": ("linf", "l1"), "mlp40_linf0.1": ("linf",)}


class Truth(NamedTuple):
    """A network, images, and the proved least distance of each."""

    title: str
    model: ja.Model
    images: np.ndarray
    labels: np.ndarray
    norm: str
    distance: np.ndarray


def proved() -> Iterator[Truth]:
    """The networks whose distances a mixed-integer solver proved."""
    data = ja.load_data("mnist", data_dir=SHARED / "mnist")
    for name, norms in NETWORKS.items():
        place = SHARED / "exact" / name
        network = get_definition("FC")(widths=(40,))
        model = from_torch_arrays(network, place / "weights.npz", image_shape=(28, 28, 1))
        for norm in norms:
            with np.load(place / f"{norm}.npz") as file:
                index, distance = file["index"], file["distance"]
            yield Truth(
                f"{name}, {norm}", model, data.images[index], data.labels[index], norm, distance
            )


def own(place: Path, options: argparse.Namespace) -> Iterator[Truth]:
    """A network of one's own, whose folder holds its proved distances."""
    files = {norm: place / f"{norm}.npz" for norm in ("linf", "l2", "l1", "l0")}
    files = {norm: file for norm, file in files.items() if file.is_file()}
    if not files:
        raise SystemExit(
            f"{place} has no proved distances: it must hold linf.npz, l2.npz, l1.npz or l0.npz as "
            "in data/exact of the shared data, with `index` (places in the test set) and `distance`"
        )
    model, _, data = load_own(options.model or str(place), options)
    row_of = {int(index): row for row, index in enumerate(data.ids)}
    for norm, file in files.items():
        with np.load(file) as arrays:
            index, distance = arrays["index"], arrays["distance"]
        rows = np.array([row_of.get(int(one), -1) for one in index])[: options.count]
        if (rows < 0).any():
            lost = index[: options.count][rows < 0][0]
            raise SystemExit(f"{file}: index {lost} is not in --data {options.data}")
        title, labels = f"{place.name}, {norm}", data.labels[rows]
        yield Truth(title, model, data.images[rows], labels, norm, distance[: options.count])


def linear(norm: str, count: int = 100, size: int = 784) -> Truth:
    """Hyperplanes through the middle of the box, and images on both sides.

    Nearest in L1 and L0: move the entries of largest weight (L0: of largest weight times room) all
    the way. In Linf and L2 each entry moves by one length, or in proportion to its weight, as far
    as the box lets it: the length is bisected in float64.
    """
    rng = np.random.default_rng(0)
    weight = rng.normal(size=size)
    images = rng.uniform(size=(count, size)).astype(np.float32)
    gap = (images.astype(float) - 0.5) @ weight
    labels = (gap < 0).astype(int)
    way = -np.sign(gap)[:, None] * np.sign(weight)
    room = np.where(way > 0, 1 - images.astype(float), images.astype(float))
    power, need = np.abs(weight), np.abs(gap)
    if norm in ("l1", "l0"):
        order = np.argsort(-(power * room if norm == "l0" else power + 0 * room), axis=1)
        gain = np.take_along_axis(power * room, order, 1)
        before = np.cumsum(gain, 1) - gain
        if norm == "l0":
            distance = (np.cumsum(gain, 1) < need[:, None]).sum(1) + 1.0
        else:
            part = np.clip((need[:, None] - before) / np.maximum(gain, 1e-30), 0, 1)
            distance = (part * np.take_along_axis(room, order, 1)).sum(1)
    else:
        low, high = np.zeros(count), np.full(count, 1e4)
        for _ in range(200):
            middle = (low + high) / 2
            move = np.minimum(middle[:, None] * (power if norm == "l2" else 1.0), room)
            enough = (move * power).sum(1) >= need
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        move = np.minimum(high[:, None] * (power if norm == "l2" else 1.0), room)
        distance = np.linalg.norm(move, np.inf if norm == "linf" else 2, axis=1)
    arrays = jnp.asarray(np.stack([weight, -weight], 1), jnp.float32)
    model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, arrays)
    return Truth(f"linear, {norm}", model, images.reshape(count, 28, 28, 1), labels, norm, distance)


def compare(truth: Truth, efforts: list[str], attacks: bool, only: list[str]) -> bool:
    """Print the table of one network and norm; whether nothing was below the truth."""
    goal, key = ja.Untargeted(truth.labels), jax.random.key(0)
    rows: list[list[Any]] = []
    sound = True

    def enter(name: str, found: Any, seconds: float) -> None:
        nonlocal sound
        ratio = np.where(found.success, found.distance / truth.distance, np.inf)
        # Float32 images of a float64 optimum: L0 is a count, and its truth here a bound above.
        sound &= bool(ratio.min() > 1 - 1e-4) or truth.norm == "l0"
        numbers = [np.median(ratio), *np.quantile(ratio, [0.9, 0.99], method="higher"), ratio.max()]
        passes = (found.forward + found.backward).mean()
        rows.append(
            [
                name,
                f"{ratio.min():.5f}",
                *(f"{x:.4f}" for x in numbers),
                f"{100 * (ratio < 1.001).mean():.0f}",
                int((~found.success).sum()),
                f"{passes:.0f}",
                f"{seconds:.1f}",
            ]
        )

    for effort in efforts:
        begin = time.perf_counter()
        found = ja.minimal_distance(
            truth.model, truth.images, goal, truth.norm, effort=effort, key=key
        )
        enter(f"minimal_distance, {effort}", found, time.perf_counter() - begin)
    for name, attack in minimum_norm_attacks(truth.norm).items() if attacks else ():
        if only and name.split(",")[0] not in only:
            continue
        begin = time.perf_counter()
        result = ja.run(attack, truth.model, truth.images, goal, key=key)
        enter(name, result, time.perf_counter() - begin)
    show(
        f"{truth.title}: distance found over the proved minimum, {len(truth.labels)} images",
        ["", "least", "median", "90 %", "99 %", "worst", "within 0.1 %", "failed", "passes", "s"],
        rows,
    )
    return sound


def prove(truth: Truth) -> bool:
    """Print what is proved below the minimum and broken above it; whether nothing is wrong."""
    rows, sound = [], True
    for arithmetic in ("real", "float32"):
        for share in (0.99, 0.999, 0.9999, 1.0001, 1.001):
            begin = time.perf_counter()
            proof = ja.prove(
                truth.model,
                truth.images,
                truth.labels,
                share * truth.distance,
                truth.norm,
                effort="strong",
                arithmetic=arithmetic,
                attacks={},
            )
            sound &= not (proof.broken if share < 1 - 1e-4 else proof.proved & (share > 1)).any()
            seconds = f"{(time.perf_counter() - begin) / len(truth.labels):.2f}"
            rows.append(
                [
                    arithmetic,
                    f"{share:g}",
                    f"{100 * proof.proved.mean():.1f}",
                    f"{100 * proof.broken.mean():.1f}",
                    f"{proof.subproblems.mean():.0f}",
                    f"{proof.subproblems.max()}",
                    seconds,
                ]
            )
    show(
        f"{truth.title}: proofs around the minimum, {len(truth.labels)} images",
        ["arithmetic", "of it", "proved %", "broken %", "subproblems", "most", "s an image"],
        rows,
    )
    return sound


def main() -> None:
    parser = arguments(__doc__, names="such as mlp40_linf0.1 or linear (default: all)", own=True)
    parser.add_argument("--model", help="the network whose distances a folder of yours holds")
    parser.add_argument("--count", type=int, help="images of such a folder (default: all)")
    parser.add_argument("--norm", action="append", help="of these norms only")
    parser.add_argument("--efforts", default=",".join(EFFORTS), help="of minimal_distance")
    parser.add_argument("--attacks", action="store_true", help="each single attack too")
    parser.add_argument("--only", default="", help="of the single attacks these, with commas")
    parser.add_argument("--prove", action="store_true", help="proofs too, of the first networks")
    options = parser.parse_args()
    ja.use_cpu_cores()
    if options.data is None:
        truths = [*proved(), *map(linear, ("linf", "l2", "l1", "l0"))]
    else:
        truths = [truth for name in options.names for truth in own(Path(name), options)]
    known = {truth.title.split(",")[0] for truth in truths}
    names, sound = {Path(name).name for name in options.names}, True
    if not names <= known:
        raise SystemExit(f"{min(names - known)} is not one of {sorted(known)}: pass its --data too")
    for truth in truths:
        wanted = not names or truth.title.split(",")[0] in names
        if wanted and (not options.norm or truth.norm in options.norm):
            efforts = [effort for effort in options.efforts.split(",") if effort]
            only = [name for name in options.only.split(",") if name]
            if efforts or options.attacks or only:
                sound &= compare(truth, efforts, options.attacks or bool(only), only)
            if options.prove and not truth.title.startswith("linear"):
                sound &= prove(truth)
    sys.exit(not sound)


if __name__ == "__main__":
    main()
