"""What several tests share: the network and images of `ja.testing`, and every attack by name."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.attacks import ATTACKS
from jaxadv.testing import EPSILON, images_and_labels, network

__all__ = [
    "EPSILON",
    "GOAL",
    "IMAGES",
    "KEY",
    "LABELS",
    "MODEL",
    "QUICK",
    "SLOW",
    "drive",
    "make",
    "network",
    "on_the_host",
    "product",
    "slow",
]

KEY = jax.random.key(7)
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
MODEL = network()
IMAGES, LABELS = images_and_labels(MODEL)  # image 3 is misclassified from the start
GOAL = ja.Untargeted(LABELS)
INNER = {
    "Repeated": lambda norm: ja.Repeated(ja.PGD(norm=norm, steps=8), 2),
    "EachTarget": lambda norm: ja.EachTarget(ja.PGD(norm=norm, steps=8, loss="margin"), 2),
    "MinimalEpsilon": lambda norm: ja.MinimalEpsilon(ja.PGD(norm=norm, steps=8), rounds=5),
}
STEPS = {
    "CW": 100,
    "NES": 20,
    "OnePixel": 10,
    "SPSA": 20,
    "SimBA": 200,
    "SparseRS": 300,
    "Square": 300,
    "ZOO": 40,
}
SLOW = {
    # These take more than about six seconds (`pytest -m "" --durations=0` prints how long).
    *("Boundary", "BrendelBethge", "DIFGSM", "LBFGS", "MinimalEpsilon", "OnePixel", "Pointwise"),
    *("ReColorAdv", "SaltAndPepper", "SigmaZero", "SignOPT", "SimBA", "SparseFool", "SparseRS"),
    *("Spatial", "Square", "StAdv", "SuperDeepFool", "TrustRegion", "UniformNoise", "VFGA"),
    *("VNIFGSM", "Wasserstein", "ZOO"),
    # These are other settings of an attack that is tested anyway.
    *("NIFGSM", "SIFGSM", "SINIFGSM", "TIFGSM", "Transfer", "VMIFGSM"),
}
"""Attacks whose case in a test over all attacks runs with `-m slow` only."""


def slow(*values: Any, id: str | None = None) -> Any:
    """One case of a parametrised test, marked as slow."""
    return pytest.param(*values, id=id, marks=pytest.mark.slow)


def product(*axes: Sequence[Any], slow: set[tuple[Any, ...]]) -> list[Any]:
    """All combinations of the axes' values as cases of a parametrised test; `slow` are marked."""
    return [
        pytest.param(*case, marks=pytest.mark.slow if case in slow else [])
        for case in itertools.product(*axes)
    ]


def on_the_host(images: np.ndarray) -> np.ndarray:
    """The logits of `MODEL` in numpy."""
    hidden = np.tanh((images.reshape(len(images), -1) - 0.5) @ np.asarray(MODEL.params["a"]))
    return hidden @ np.asarray(MODEL.params["b"])


def make(name: str, norm: str, images: np.ndarray | None = None) -> ja.Attack:
    images = IMAGES if images is None else images
    if name == "Masked":
        mask = np.arange(images[0].size).reshape(images.shape[1:]) % 5 > 0
        return ja.Masked(ja.PGD(norm=norm, steps=8, loss="margin"), mask)
    if name == "AdversarialPatch":
        return ja.AdversarialPatch(size=images.shape[1] - 1)
    if name in INNER:
        return INNER[name](norm)
    if name == "LBFGS":
        return ja.LBFGS()
    if name == "Admix":
        return ja.Admix(norm=norm, mixed_images=images[:5], mixed_labels=np.arange(5) % 4)
    if name == "ILA":
        return ja.ILA(norm=norm, classes=3)  # the logits serve as features
    if name == "EAD":
        return ja.EAD(steps=100)
    if name in STEPS:
        return ATTACKS[name](norm=norm, steps=STEPS[name])  # type: ignore[call-arg]
    return ATTACKS[name](norm=norm)  # type: ignore[call-arg]


@functools.partial(jax.jit, static_argnames="keep", compiler_options=QUICK)
def drive(attack, model, images, goal, epsilon=None, keep="distance"):
    """Images, whether they are adversarial, and the counts."""
    table = ja.make_table(attack, model, images, goal, epsilon)
    found = ja.drive_batch(attack, model, table, KEY, keep=keep)
    return found.best.image, found.best.tier, found.totals(keep)[0]


def dense(sizes, seed=0, activation=lambda z: jnp.maximum(z, 0)):
    """A random network of dense layers on images [2, 3, 1]."""
    rng = np.random.default_rng(seed)
    weights = [
        jnp.asarray(rng.normal(size=pair) / np.sqrt(pair[0]), jnp.float32)
        for pair in itertools.pairwise(sizes)
    ]

    def apply(weights, x):
        x = x.reshape(len(x), -1)
        for weight in weights[:-1]:
            x = activation(x @ weight + 0.1)
        return x @ weights[-1]

    return ja.Model(apply, weights)
