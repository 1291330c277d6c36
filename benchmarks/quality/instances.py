"""`python -m benchmarks.quality.instances`: attacks against proofs.

Instances of the neural network verification competition (VNN-COMP 2022): a network, a box of inputs
and a label, and whether the box holds an input that another class wins: "sat" (one was seen),
"unsat" (two tools or more proved that there is none; "unsat_1tool": one) or unknown. All are
attacked alike, for `--seconds` a folder, in rounds: first PGD on the margin with restarts, then,
towards every other class, PGD on the margin or the cross-entropy that begins along a random
direction of the logits (Tashiro, Song and Ermon 2020, arXiv 2003.07878). Nothing counts but an
input inside the box, in float64, that onnxruntime classifies wrongly. An attack that breaks an
unsat instance is wrong: exit status 1. Needs onnxruntime and the shared data (JAXADV_SHARED, or
../shared).

A NAME is a folder in the form of the competition's; with `--data` and `--epsilon`, any model that
`jaxadv evaluate --model` takes: its instances, of which nothing is known, are the Linf balls around
`--count` test images that it classifies right, and the model itself says what is wrong.
"""

import argparse
import functools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxadv as ja
from benchmarks.common import SHARED, Published, arguments, load_own, show
from jaxadv.core.losses import cross_entropy, margin
from jaxadv.core.parse import parse_number
from jaxadv.core.pytree import pytree, static
from jaxadv.engine.checks import count_classes
from jaxadv.engine.verify import predict


class Instance(NamedTuple):
    """network: an ONNX file, or a model; lower, upper: the box, float64 [D] in the file's input and
    order, or in the form of the model's images; label: the class that no other may beat; consensus:
    "sat", "unsat", "unsat_1tool" or "unknown"; known: whether a plain PGD of 100 steps and 5 starts
    is on record as having broken it."""

    network: Path | ja.Model
    name: str
    lower: np.ndarray
    upper: np.ndarray
    label: int
    consensus: str
    known: bool


def read_instances(folder: Path) -> list[Instance]:
    """The instances of a competition folder, sorted by network."""
    results = np.genfromtxt(
        folder / "results.csv", dtype=None, names=True, delimiter=",", encoding="utf-8"
    )
    with np.load(folder / "instances.npz") as rows:
        found = [
            Instance(
                folder / "onnx" / str(network),
                str(name),
                lower,
                upper,
                int(label),
                str(consensus),
                bool(known),
            )
            for network, name, lower, upper, label, consensus, known in zip(
                rows["network"],
                rows["vnnlib"],
                rows["lower"],
                rows["upper"],
                rows["label"],
                rows["consensus"],
                results["our_pgd"],
                strict=True,
            )
        ]
    return sorted(found, key=lambda instance: str(instance.network))


def balls(network: Published, epsilon: float) -> list[Instance]:
    """The Linf balls around those images that the network classifies right."""
    model, _, data = network
    right = predict(model, data.images).argmax(1) == data.labels
    low, high = model.bounds
    return [
        Instance(
            model,
            f"image {data.ids[row]}",
            np.clip(data.images[row].astype(np.float64) - epsilon, low, high),
            np.clip(data.images[row].astype(np.float64) + epsilon, low, high),
            int(data.labels[row]),
            "unknown",
            False,
        )
        for row in np.flatnonzero(right)
    ]


def to_image(values: np.ndarray) -> np.ndarray:
    """Inputs [D] in the order of these networks (C, H, W) as an image [H, W, C]."""
    side = {784: 28, 3072: 32}[values.size]
    return values.reshape(-1, side, side).transpose(1, 2, 0)


def box_of(instance: Instance) -> tuple[np.ndarray, np.ndarray]:
    """Its box in the form of the model's images."""
    lower, upper = instance.lower, instance.upper
    if isinstance(instance.network, Path):
        return to_image(lower), to_image(upper)
    return lower, upper


@pytree
class _Cube:
    """The network on the unit cube: its box is the Linf ball of radius 0.5 around the centre."""

    apply: Any = static()

    def __call__(self, params: Any, images: Any) -> Any:
        weights, lower, upper = params
        return self.apply(weights, lower + images * (upper - lower))


@functools.lru_cache
def network(path: Path) -> ja.Model:
    return ja.from_onnx(path)


def on_cube(instance: Instance) -> ja.Model:
    """The instance's network as a model of images in [0, 1]: 0 is `lower`, 1 is `upper`."""
    model = instance.network
    if isinstance(model, Path):
        model = network(model)
    box = (v.astype(np.float32) for v in box_of(instance))
    return ja.Model(_Cube(model.apply), (model.params, *box))


def counterexamples(instance: Instance, images: np.ndarray) -> np.ndarray:
    """Those of the images [N, H, W, C] of the cube that break the instance: network inputs [M, D],
    float32, inside the box in float64 and lost to another class in onnxruntime, or in the model."""
    inputs = images.astype(np.float64)
    if isinstance(instance.network, Path):
        inputs = inputs.transpose(0, 3, 1, 2).reshape(len(images), -1)
    inputs = instance.lower + inputs * (instance.upper - instance.lower)
    inputs = np.clip(inputs, instance.lower, instance.upper).astype(np.float32)
    inputs = np.where(inputs < instance.lower, np.nextafter(inputs, np.float32(np.inf)), inputs)
    inputs = np.where(inputs > instance.upper, np.nextafter(inputs, np.float32(-np.inf)), inputs)
    inside = (
        ((inputs >= instance.lower) & (inputs <= instance.upper)).reshape(len(inputs), -1).all(1)
    )
    if isinstance(instance.network, Path):
        run = runs_in_onnxruntime(instance.network)
        (entry,) = run.get_inputs()
        logits = np.concatenate(
            [run.run(None, {entry.name: x.reshape(entry.shape)})[0] for x in inputs]
        )
    else:
        logits = predict(instance.network, inputs)
    others = np.delete(logits, instance.label, 1).max(1)
    return inputs[inside & (others >= logits[:, instance.label])]


@functools.lru_cache
def runs_in_onnxruntime(path: Path) -> Any:
    """The network in onnxruntime, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])


@pytree
class Diverse(ja.PGD):
    """PGD whose first steps climb along a random direction of the logits, another in each round.

    round: int32; odd rounds maximise the margin, even ones the cross-entropy.
    """

    round: Any = np.int32(0)
    spread: int = static(default=5)

    def objective(self, goal: Any, logits: Any) -> Any:
        return jnp.where(self.round % 2 == 1, margin(goal, logits), cross_entropy(goal, logits))

    def cotangents(self, problem: Any, state: Any, logits: Any) -> Any:
        key = jax.random.key(self.round)
        direction = jax.random.uniform(key, logits.shape[-1:], minval=-1, maxval=1)
        return jnp.where(
            state.step < self.spread, direction, super().cotangents(problem, state, logits)
        )


def attack(instance: Instance, number: int, devices: Any = None) -> np.ndarray:
    """The images [N, H, W, C] that round `number` ends with, whatever it thinks of them."""
    devices = devices or jax.local_devices()
    parts = len(devices)
    if number == 0:  # the restarts of one image share a device: so an image for each
        attack = ja.PGD(steps=50, step_size=0.05, loss="margin", restarts=4)
        goal, lanes = ja.Untargeted(np.full(parts, instance.label)), 4
    else:
        attack = Diverse(steps=55, step_size=0.25, round=np.int32(number))
        classes = count_classes(on_cube(instance), box_of(instance)[0].shape)
        others = np.delete(np.arange(classes), instance.label)
        goal = ja.Targeted(np.full(classes - 1, instance.label), others)
        lanes = -(-len(others) // parts)
    shape = (len(goal.labels), *box_of(instance)[0].shape)
    images, key = np.full(shape, 0.5, np.float32), jax.random.key(number)
    return ja.run(
        attack, on_cube(instance), images, goal, 0.5, key=key, devices=devices, lanes=lanes
    ).images


def fall(instances: list[Instance], seconds: float) -> Iterator[tuple[Instance, int]]:
    """The instances that fall and the round in which they do, until the time is up."""
    began = time.perf_counter()
    standing, number = list(instances), 0
    while standing:
        for instance in list(standing):
            if time.perf_counter() - began > seconds:
                return
            if len(counterexamples(instance, attack(instance, number))):
                standing.remove(instance)
                yield instance, number
        number += 1


def instances_of(name: str, options: argparse.Namespace) -> list[Instance]:
    """The instances of a folder of the competition, or of a model of one's own."""
    if options.data is None:
        place = Path(name) if Path(name).is_dir() else SHARED / "vnncomp" / name
        if not (place / "instances.npz").is_file():
            raise SystemExit(
                f"{name} is no folder with instances.npz: pass --data and --epsilon with a model"
            )
        return read_instances(place)
    if options.epsilon is None:
        raise SystemExit(f"{name} is in no folder of the competition: pass its --epsilon too")
    return balls(load_own(name, options, options.count), options.epsilon)


def main() -> None:
    parser = arguments(
        __doc__,
        names="folders of the competition (default: all of the shared data)",
        count=20,
        own=True,
    )
    parser.add_argument("--epsilon", type=parse_number, help="of models of your own")
    parser.add_argument("--seconds", type=float, default=60, help="for each folder")
    options = parser.parse_args()
    ja.use_cpu_cores()
    kinds = ("sat", "unsat", "unsat_1tool", "unknown")
    rows, wrong = [], 0
    for name in options.names or sorted(map(str, (SHARED / "vnncomp").iterdir())):
        instances = instances_of(name, options)
        began, broken = time.perf_counter(), []
        for instance, number in fall(instances, options.seconds):
            broken.append(instance.consensus)
            if instance.consensus != "sat":
                file = instance.network
                where = f"{file.stem if isinstance(file, Path) else name} {instance.name}"
                print(f"{instance.consensus}: {where} broken in round {number}")
        counts = [f"{broken.count(k)}/{sum(i.consensus == k for i in instances)}" for k in kinds]
        wrong += broken.count("unsat")
        rows.append([Path(name).name, *counts, f"{time.perf_counter() - began:.0f}"])
    show(
        f"Instances broken, {options.seconds:g} s for each folder",
        ["folder", "sat", "unsat (must be 0)", "unsat by 1 tool", "unknown", "s"],
        rows,
    )
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
