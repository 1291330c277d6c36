"""Every attack meets every kind of input that people bring: right numbers, or one early error.

The model is linear, so a closed form in float64 says how near its boundary is: nothing nearer may
be claimed, and what lies well inside epsilon must be found.
"""

from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.attacks import ATTACKS
from jaxadv.core.shapes import image_shape
from tests.test_attacks import make

KEY = jax.random.key(3)
ORDER = {"linf": 1, "l2": 2, "l1": np.inf}  # of the dual norm
# No search for the nearest mistake of a linear model: controls, single steps, other geometries.
ELSEWHERE = {"GaussianNoise", "UniformNoise", "Spatial", "StAdv", "ReColorAdv", "Wasserstein",
             "AdversarialPatch", "Repeated", "ILA", "FGM", "Masked", "SparseRS"}  # fmt: skip
COARSE = {"MinimalEpsilon"}  # few halvings, few steps
BOXED = "bounds"  # what the error of an attack that needs a finite box names


class Kind(NamedTuple):
    """One way in which users' inputs differ from float32 images [N, H, W, C] between 0 and 1."""

    name: str
    shape: tuple[int, ...] = (2, 2, 3)
    images: str = "float32"
    weights: str = "float32"
    logits: str = "plain"  # "whole": integers; "off": one class at minus infinity
    bounds: tuple[float, float] = (0.0, 1.0)
    scale: float = 1.0  # of the values
    classes: int = 4
    count: int = 5
    x64: bool = False


KINDS = [
    Kind("float32 with 64-bit types on", x64=True),
    Kind("float64 vectors and weights", (12,), "float64", "float64", x64=True),
    Kind("grey half-precision images", (3, 4), "float16"),
    Kind("bfloat16 weights and video", (2, 1, 2, 3), weights="bfloat16", bounds=(-1.0, 1.0)),
    Kind("pixels up to 255, two classes", bounds=(0.0, 255.0), scale=255.0, classes=2),
    Kind("unbounded features", (12,), bounds=(-np.inf, np.inf)),
    Kind("one image in a wide box", bounds=(-1e5, 1e6), count=1),
    Kind("a class that is switched off", logits="off"),
    Kind("whole numbers as logits", logits="whole", classes=3),
]


def types(kind: Kind) -> Any:
    if not kind.x64:
        return nullcontext()
    return (jax if hasattr(jax, "enable_x64") else jax.experimental).enable_x64(True)


def answers(kind: Kind) -> Any:
    def apply(weights: Any, images: Any) -> Any:
        flat = images.reshape(len(images), -1) / kind.scale - 0.5
        logits = flat.astype(weights.dtype) @ weights
        if kind.logits == "whole":
            return (1e4 * logits).astype(jnp.int32)
        return logits.at[:, -1].set(-jnp.inf) if kind.logits == "off" else logits

    return apply


def material(kind: Kind) -> tuple[ja.Model, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Model, images, labels, and each image's distance from the nearest boundary in every norm."""
    rng = np.random.default_rng(5)
    weights = jnp.asarray(rng.normal(size=(12, kind.classes)), kind.weights)
    images = np.asarray(kind.scale * rng.uniform(0.4, 0.6, (kind.count, *kind.shape)), kind.images)
    w = np.asarray(weights, np.float64)
    used = kind.classes - (kind.logits == "off")
    z = (np.asarray(images, np.float64).reshape(kind.count, -1) / kind.scale - 0.5) @ w[:, :used]
    labels = z.argmax(1)
    away = {norm: np.full(kind.count, np.inf) for norm in ORDER}
    for row, label in enumerate(labels):
        for other in set(range(used)) - {label}:
            gap, normal = z[row, label] - z[row, other], (w[:, label] - w[:, other]) / kind.scale
            for norm, order in ORDER.items():
                near = gap / np.linalg.norm(normal, order)
                away[norm][row] = min(away[norm][row], near)
    return ja.Model(answers(kind), weights, kind.bounds), images, labels, away


def chosen(name: str, norm: str, kind: Kind, images: np.ndarray) -> ja.Attack:
    if name == "AdversarialPatch":
        return ja.AdversarialPatch(size=1)
    if name == "Repeated":
        return ja.Repeated(ja.PGD(norm=norm, steps=8), image_shape(kind.shape)[0])
    return make(name, norm, np.asarray(images, np.float32))


def refusal(attack: ja.Attack, kind: Kind) -> str | None:
    """The word that the error must have where this attack cannot take this kind of input."""
    if kind.logits == "whole" and attack.pullbacks:
        return "int32"
    without = attack.needs_box and not attack.needs_epsilon
    if kind.bounds[1] - kind.bounds[0] > 1000 and without:
        return BOXED
    return BOXED if np.isinf(kind.bounds).any() and attack.norm == "l0" else None


def check(name: str, norm: str, kind: Kind) -> None:
    with types(kind):
        model, images, labels, away = material(kind)
        attack = chosen(name, norm, kind, images)
        goal = ja.Untargeted(labels)
        near = away.get(norm, np.full(kind.count, 0.0))
        epsilon = None
        if attack.needs_epsilon:
            epsilon = 12.0 if norm == "l0" else float(3 * near.max())
        start = np.asarray(images[::-1], np.float32) if name == "ILA" else None

        def attacked() -> ja.Result:
            return ja.run(attack, model, images, goal, epsilon, key=KEY, lanes=8, start=start,
                          devices=jax.devices()[:1])  # fmt: skip

        if word := refusal(attack, kind):
            with pytest.raises(ValueError, match=word):
                attacked()
            return
        result = attacked()
    assert result.images.shape == images.shape
    assert result.images.dtype == np.float32
    assert np.isin(result.status, (ja.Status.SUCCESS, ja.Status.FAILED)).all()
    slack = 1e-2 if kind.weights == "bfloat16" else 1e-4  # the model's own rounding
    assert (result.distance[result.success] >= near[result.success] * (1 - slack) - 1e-6).all()
    if epsilon is not None:
        assert (result.distance <= epsilon).all()
    if name not in ELSEWHERE:
        assert result.success.all()
    exact = not attack.needs_epsilon and attack.pullbacks and norm in ORDER
    if exact and name not in ELSEWHERE | COARSE:
        assert (result.distance <= 4 * near + 1e-3 * kind.scale).all()


NAMES = sorted(ATTACKS)


@pytest.mark.filterwarnings("ignore::jaxadv.CheckWarning")
@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_every_attack_takes_another_kind_of_input(number: int) -> None:
    name = NAMES[number]
    check(name, ATTACKS[name].norms[number % len(ATTACKS[name].norms)], KINDS[number % len(KINDS)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::jaxadv.CheckWarning")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", NAMES)
def test_every_attack_takes_every_kind_of_input(name: str, kind: Kind) -> None:
    check(name, ATTACKS[name].norms[0], kind)
