"""Attacks against proofs: what verifiers proved robust is never broken, what is broken is found."""

import gzip
import re

import jax
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.attacks import ATTACKS

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from benchmarks.quality.instances import (
    attack,
    counterexamples,
    on_cube,
    read_instances,
    to_image,
)
from tests.common import slow

FOLDERS = ("mnist_fc_2022", "oval21_2022", "sri_resnet_a_2022")


@pytest.fixture(scope="module")
def instances(shared):
    return {name: read_instances(shared / "data/vnncomp" / name) for name in FOLDERS}


def make(name: str) -> ja.Attack | None:
    """The attack in Linf, or None where it has no such form."""
    if name == "Admix":
        return ja.Admix(
            mixed_images=np.eye(784, dtype=np.float32)[:10].reshape(10, 28, 28, 1),
            mixed_labels=np.arange(10),
        )
    for arguments in ({"norm": "linf"}, {}, {"attack": ja.PGD(steps=10)}):
        try:
            made = ATTACKS[name](**arguments)
        except (TypeError, ValueError):
            continue
        return made if made.norm == "linf" else None
    return None


def falls(instance, rounds: int) -> bool:
    device = jax.devices()[:1]
    return any(len(counterexamples(instance, attack(instance, r, device))) for r in range(rounds))


FAST = ("APGD", "PGD")  # the others with -m slow


@pytest.mark.parametrize(
    "name", [name if name in FAST else slow(name) for name in ja.list_attacks()]
)
def test_no_attack_breaks_what_is_proved(instances, name):
    made = make(name)
    if made is None:
        pytest.skip(f"{name} has no Linf form")
    proved = [i for i in instances["mnist_fc_2022"] if i.consensus == "unsat"]
    proved = [i for i in proved if "256x2" in i.network.name and "0.05" in i.name]
    assert len(proved) >= 6
    image = np.full((1, 28, 28, 1), 0.5, np.float32)
    epsilon = 0.5 if made.needs_epsilon else None
    start = np.full_like(image, 0.6) if name == "ILA" else None
    for instance in proved:
        goal = ja.Untargeted(np.array([instance.label]))
        result = ja.run(
            made,
            on_cube(instance),
            image,
            goal,
            epsilon,
            key=jax.random.key(0),
            devices=jax.devices()[:1],
            lanes=1,
            start=start,
        )
        assert not result.success.any()
        assert len(counterexamples(instance, result.images)) == 0


@pytest.mark.slow
def test_what_a_plain_attack_breaks_is_found(instances):
    broken = [i for i in instances["mnist_fc_2022"] if i.known and "256x2" in i.network.name]
    assert len(broken) == 9
    assert all(falls(instance, 4) for instance in broken)


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "count"), [*zip(FOLDERS, (18, 1, 12), strict=True)])
def test_all_that_is_broken_is_found(instances, folder, count):
    broken = [i for i in instances[folder] if i.consensus == "sat"]
    assert len(broken) == count
    missed = [i.name for i in broken if not falls(i, 10)]
    assert not missed


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "rounds"), [*zip(FOLDERS, (2, 1, 2), strict=True)])
def test_nothing_that_is_proved_breaks(instances, folder, rounds):
    proved = [i for i in instances[folder] if i.consensus == "unsat"]
    assert len(proved) >= 18
    assert not [i.name for i in proved if falls(i, rounds)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_boxes_are_those_of_the_property_files(instances, shared, folder):
    instance = instances[folder][0]
    path = shared / "data/vnncomp" / folder / "vnnlib" / f"{instance.name}.gz"
    text = gzip.decompress(path.read_bytes()).decode()
    for sign, expected in (("<=", instance.upper), (">=", instance.lower)):
        found = re.findall(rf"\(assert \({sign} X_(\d+) (\S+)\)\)", text)
        bounds = np.full(expected.size, np.nan)
        for index, value in found:
            bounds[int(index)] = float(value)
        np.testing.assert_array_equal(bounds, expected)
    assert set(re.findall(r"[<>]= Y_(\d) Y_(\d)", text)) <= {
        pair
        for other in range(10)
        for pair in ((str(instance.label), str(other)), (str(other), str(instance.label)))
    }


def test_a_known_counterexample_counts_and_the_centre_does_not(instances, shared):
    folder = shared / "data/vnncomp/oval21_2022"
    with np.load(folder / "instances.npz") as rows:
        name, witness = rows["vnnlib"][rows["counterexample_row"][0]], rows["counterexample"][0]
    instance = next(i for i in instances["oval21_2022"] if i.name == name)
    cube = (witness - instance.lower) / (instance.upper - instance.lower)
    images = np.stack([to_image(cube), to_image(np.full_like(cube, 0.5))])
    np.testing.assert_allclose(counterexamples(instance, images), witness[None], atol=1e-6)
