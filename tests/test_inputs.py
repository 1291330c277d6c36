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
from tests.common import make, slow

KEY = jax.random.key(3)
ORDER = {"linf": 1, "l2": 2, "l1": np.inf}  # of the dual norm
# No search for the nearest mistake of a linear model: controls, single steps, smoothed gradients,
# other geometries.
ELSEWHERE = {
    "GaussianNoise",
    "UniformNoise",
    "Spatial",
    "StAdv",
    "ReColorAdv",
    "Wasserstein",
    "TIFGSM",
    "AdversarialPatch",
    "Repeated",
    "ILA",
    "FGM",
    "Masked",
    "SparseRS",
}
COARSE = {"MinimalEpsilon"}  # few halvings, few steps
QUICK_RANGES = {"PGD", "FMN", "DDN", "OnePixel", "JSMA", "NES", "BrendelBethge", "ZOO"}
BOXED = "bounds"  # what the error of an attack that needs a finite box names


class Kind(NamedTuple):
    """One way in which users' inputs differ from float32 images [N, H, W, C] between 0 and 1."""

    name: str
    shape: tuple[int, ...] = (2, 2, 3)
    images: str = "float32"
    weights: str = "float32"
    logits: str = "plain"  # "whole": integers; "off": one class at minus infinity
    bounds: Any = (0.0, 1.0)
    scale: Any = 1.0  # of the values: one, or a tuple of one each
    classes: int = 4
    count: int = 5
    x64: bool = False
    coarse: frozenset[str] = frozenset()  # attacks that find no near mistake in it


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


RANGES = np.geomspace(0.5, 20, 12)
RANGED = Kind(
    "a range for each feature",
    (12,),
    bounds=(0 * RANGES, RANGES),
    scale=tuple(RANGES),
    coarse=frozenset({"NewtonFool"}),  # its steps are fractions of the length of the whole input
)


def types(kind: Kind) -> Any:
    if not kind.x64:
        return nullcontext()
    return (jax if hasattr(jax, "enable_x64") else jax.experimental).enable_x64(True)


def answers(kind: Kind) -> Any:
    def apply(weights: Any, images: Any) -> Any:
        scale = kind.scale if np.ndim(kind.scale) == 0 else np.float32(kind.scale)
        flat = images.reshape(len(images), -1) / scale - 0.5
        logits = flat.astype(weights.dtype) @ weights
        if kind.logits == "whole":
            return (1e4 * logits).astype(jnp.int32)
        return logits.at[:, -1].set(-jnp.inf) if kind.logits == "off" else logits

    return apply


def material(kind: Kind) -> tuple[ja.Model, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Model, images, labels, and in every norm a distance within which nothing is misclassified.

    It is the distance from the nearest boundary, less what rounding to bfloat16 can move that: the
    inputs of a logit and the logit itself, by half a unit in the last of 8 binary digits each.
    """
    rng = np.random.default_rng(5)
    weights = jnp.asarray(rng.normal(size=(12, kind.classes)), kind.weights)
    scale = np.asarray(kind.scale)
    images = np.asarray(scale * rng.uniform(0.4, 0.6, (kind.count, *kind.shape)), kind.images)
    w = np.asarray(weights, np.float64)
    used = kind.classes - (kind.logits == "off")
    inputs = np.asarray(images, np.float64).reshape(kind.count, -1) / scale - 0.5
    z = inputs @ w[:, :used]
    unit = 2.0**-8 if kind.weights == "bfloat16" else 0.0
    rounding = unit * (np.abs(inputs) @ np.abs(w[:, :used]) + np.abs(z))
    labels = z.argmax(1)
    away = {norm: np.full(kind.count, np.inf) for norm in ORDER}
    for row, label in enumerate(labels):
        for other in set(range(used)) - {label}:
            gap, normal = z[row, label] - z[row, other], (w[:, label] - w[:, other]) / scale
            gap -= rounding[row, label] + rounding[row, other]
            for norm, order in ORDER.items():
                near = gap / np.linalg.norm(normal, order)
                away[norm][row] = min(away[norm][row], near)
    return ja.Model(answers(kind), weights, kind.bounds), images, labels, away


def chosen(name: str, norm: str, kind: Kind, images: np.ndarray) -> ja.Attack:
    if name == "AdversarialPatch":
        return ja.AdversarialPatch(size=1)
    if name == "JSMA":  # by default it changes at most one of so few entries
        return ja.JSMA(gamma=1.0)
    if name == "Repeated":
        return ja.Repeated(ja.PGD(norm=norm, steps=8), image_shape(kind.shape)[0])
    return make(name, norm, np.asarray(images, np.float32))


def refusal(attack: ja.Attack, kind: Kind) -> str | None:
    """The word that the error must have where this attack cannot take this kind of input."""
    if kind.logits == "whole" and attack.pullbacks:
        return "int32"
    without = attack.needs_box and not attack.needs_epsilon
    if np.max(kind.bounds[1] - kind.bounds[0]) > 1000 and without:
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
            return ja.run(
                attack,
                model,
                images,
                goal,
                epsilon,
                key=KEY,
                lanes=8,
                start=start,
                devices=jax.devices()[:1],
            )

        if word := refusal(attack, kind):
            with pytest.raises(ValueError, match=word):
                attacked()
            return
        result = attacked()
    assert result.images.shape == images.shape
    assert result.images.dtype == np.float32
    assert np.isin(result.status, (ja.Status.SUCCESS, ja.Status.FAILED)).all()
    assert (result.distance[result.success] >= near[result.success] * (1 - 1e-4) - 1e-6).all()
    if epsilon is not None:
        assert (result.distance <= epsilon).all()
    if name not in ELSEWHERE:
        assert result.success.all()
    exact = not attack.needs_epsilon and attack.pullbacks and norm in ORDER
    if exact and name not in ELSEWHERE | COARSE | kind.coarse:
        assert (result.distance <= 4 * near + 1e-3 * np.mean(kind.scale)).all()


NAMES = sorted(ATTACKS)


@pytest.mark.filterwarnings("ignore::jaxadv.CheckWarning")
@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_every_attack_takes_another_kind_of_input(number: int) -> None:
    name = NAMES[number]
    check(name, ATTACKS[name].norms[number % len(ATTACKS[name].norms)], KINDS[number % len(KINDS)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::jaxadv.CheckWarning")
@pytest.mark.parametrize("shift", [3, 6])
@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_every_attack_takes_more_kinds_of_input(number: int, shift: int) -> None:
    name = NAMES[number]
    check(name, ATTACKS[name].norms[0], KINDS[(number + shift) % len(KINDS)])


@pytest.mark.filterwarnings("ignore::jaxadv.CheckWarning")
@pytest.mark.parametrize("name", [n if n in QUICK_RANGES else slow(n) for n in NAMES])
def test_every_attack_takes_a_range_for_each_feature(name: str) -> None:
    check(name, ATTACKS[name].norms[0], RANGED)


def linear(bounds: tuple[float, float] = (0.0, 1.0), hidden: float = 0.0) -> ja.Model:
    """Three classes on [2, 2, 3]; what `hidden` is not 0 for replaces the third logit."""

    def apply(weights: Any, images: Any) -> Any:
        logits = images.reshape(len(images), -1) @ weights
        return jnp.asarray(logits).at[:, 2].set(hidden) if hidden else logits

    weights = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    return ja.Model(apply, weights, bounds)


IMAGES = np.random.default_rng(1).uniform(0.4, 0.6, (6, 2, 2, 3)).astype(np.float32)
ONE = {"key": KEY, "lanes": 8, "devices": jax.devices()[:1]}


def test_a_wider_box_makes_no_attack_weaker() -> None:
    labels = np.asarray(linear()(IMAGES)).argmax(1)
    for attack in (ja.PGD(steps=3), ja.NES(steps=2)):
        in_boxes = [
            ja.run(attack, linear(bounds), IMAGES, ja.Untargeted(labels), 0.1, **ONE).success
            for bounds in ((0.0, 1.0), (-1e6, 1e6), (-np.inf, np.inf), (0.0, np.inf))
        ]
        assert in_boxes[0].any()
        for success in in_boxes[1:]:
            np.testing.assert_array_equal(success, in_boxes[0])


def test_a_class_at_minus_infinity_is_one_that_never_wins() -> None:
    low, off = linear(hidden=-1e4), linear(hidden=-np.inf)
    labels = np.asarray(low(IMAGES)).argmax(1)
    for attack, epsilon in ((ja.PGD(steps=5, loss="dlr"), 0.1), (ja.DeepFool(), None)):
        results = [
            ja.run(attack, model, IMAGES, ja.Untargeted(labels), epsilon, **ONE)
            for model in (low, off)
        ]
        np.testing.assert_array_equal(results[0].success, results[1].success)
        # -1e4 makes the threshold of rounding wide, and overshoots by it.
        assert (results[1].distance <= results[0].distance + 1e-6).all()


def test_nan_is_no_right_answer() -> None:
    model = ja.Model(lambda p, x: jnp.where(x[:, 0, 0, :2] > 0.5, jnp.nan, x[:, 0, 0, :2]), ())
    images = np.array([0.6, 0.4], np.float32)[:, None, None, None] + np.zeros((2, 2, 2, 3), "f")
    with pytest.warns(ja.CheckWarning, match="NaN"):
        report = ja.evaluate(
            model, images, [0, 0], epsilons=[0.0], distances=False, attacks={"FGSM": ja.FGSM()}
        )
    assert report.clean_accuracy == 0.5


def test_what_float32_cannot_resolve_is_said() -> None:
    model, goal = linear((-np.inf, np.inf)), ja.Untargeted([0] * 6)
    with pytest.raises(ValueError, match="epsilon=0.001 is small against values as large as 1e"):
        ja.run(ja.FGSM(), model, IMAGES + np.float32(1e6), goal, 1e-3, **ONE)
    with pytest.warns(ja.CheckWarning, match="cannot move by less than"):
        ja.run(ja.FGSM(), model, IMAGES + np.float32(1e3), goal, 1e-3, **ONE)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"key": 0}, "key=0: pass a JAX random key"),
        ({"key": None}, "key=None: pass a JAX random key"),
        ({"attack": ja.FGSM}, "attack is the class FGSM: pass ja.FGSM"),
        ({"attack": "fgsm"}, "attack is 'fgsm': pass an attack"),
        ({"model": lambda images: images}, "model is of type function: pass a ja.Model"),
        ({"judge": "model"}, "judge is of type str"),
        ({"images": [[1.0, 2.0], [3.0]]}, "images have different shapes"),
        ({"goal": [0] * 6}, "goal is list: pass ja.Untargeted"),
    ],
)
def test_arguments_of_the_wrong_kind(changed: dict[str, Any], words: str) -> None:
    given = {
        "attack": ja.FGSM(),
        "model": linear(),
        "images": IMAGES,
        "goal": ja.Untargeted([0] * 6),
        "epsilon": 0.1,
        **ONE,
    }
    with pytest.raises(ValueError, match=words):
        ja.run(**{**given, **changed})
