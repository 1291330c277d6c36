"""Linear models with two classes: the exact distance is known, in every norm, and with the box too
(SciPy's linear programs; SLSQP for L2). Attacks must succeed just above it and never below."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxadv.attacks import MIFGSM
from jaxadv.attacks.gradient_based.apgd import APGD
from jaxadv.attacks.gradient_based.diverse import Diverse
from jaxadv.attacks.gradient_based.fgsm import FGM, FGSM
from jaxadv.attacks.gradient_based.pgd import BIM, PGD
from jaxadv.attacks.minimum_norm.fab import FAB
from jaxadv.attacks.noise import GaussianNoise, UniformNoise
from jaxadv.attacks.score_based.square import Square
from jaxadv.core.goals import Targeted, Untargeted
from jaxadv.core.model import Model
from jaxadv.core.norms import distance64
from jaxadv.engine.batch import drive_batch, make_table
from tests.common import QUICK, product, slow
from tests.linear import COUNT, SHAPE, SIZE, exact, free_distance, line, logits, problem


@functools.partial(jax.jit, static_argnames="targeted", compiler_options=QUICK)
def drive(attack, model, images, labels, epsilon, targeted):
    goal = Targeted(labels, 1 - labels) if targeted else Untargeted(labels)
    table = make_table(attack, model, images, goal, epsilon)
    found = drive_batch(attack, model, table, jax.random.key(0), keep="first").best
    return found.image, found.adversarial


def successes(attack, box, epsilon, targeted=False):
    """Whether each image falls; those returned are checked in float64."""
    weights, bias, images, labels = problem(box)
    model = Model(logits, (jnp.asarray(weights), jnp.asarray(bias)))
    shaped = jnp.asarray(images.reshape(COUNT, *SHAPE))
    epsilon = np.where(np.isfinite(epsilon), epsilon, SIZE).astype(np.float32)
    found, success = map(np.asarray, drive(attack, model, shaped, labels, epsilon, targeted))
    assert found.min() >= 0
    assert found.max() <= 1
    distances = distance64(attack.norm, found, images.reshape(COUNT, *SHAPE))
    inside = distances <= epsilon.astype(np.float64)
    assert inside[success | attack.asks_inside].all()  # others may return what lies outside
    flat = found.reshape(COUNT, -1).astype(np.float64)
    for x, label, fell in zip(flat, labels, success, strict=True):
        w, b = line(weights, bias, label)
        assert not fell or w @ x + b < 1e-6
    return success


def test_the_box_matters():
    # Else `box` would test nothing; and some image cannot be changed at all.
    for norm in ("linf", "l2"):
        weights, bias, images, labels = problem(True)
        shares = []
        for x, label, found in zip(images, labels, exact(norm, True), strict=True):
            w, b = line(weights, bias, label)
            shares.append(found / free_distance(norm, w, w @ x.astype(np.float64) + b))
        assert min(shares) >= 1 - 1e-6
        assert np.median(shares) > 1.2


@pytest.mark.parametrize("targeted", [False, True])
def test_fgsm_succeeds_exactly_above_the_distance(targeted):
    distance = exact("linf", False)
    assert successes(FGSM(), False, 1.001 * distance, targeted).all()
    assert not successes(FGSM(), False, 0.999 * distance, targeted).any()


def test_fgsm_in_the_box():
    # One signed step, clipped: each entry goes as far as ball and box allow. That is optimal.
    distance = exact("linf", True)
    possible = np.isfinite(distance)
    assert (successes(FGSM(), True, 1.002 * distance) == possible).all()
    assert not successes(FGSM(), True, 0.999 * distance).any()


def test_fgm_succeeds_exactly_above_the_distance():
    distance = exact("l2", False)
    assert successes(FGM(), False, 1.001 * distance).all()
    assert not successes(FGM(), False, 0.999 * distance).any()


@pytest.mark.parametrize(
    ("norm", "box", "targeted"),
    product(["linf", "l2", "l1"], [False, True], [False, True], slow={("l1", False, False)}),
)
def test_pgd_succeeds_just_above_the_distance_and_never_below(norm, box, targeted):
    if targeted and norm != "linf":
        pytest.skip("with two classes the targeted attack is the untargeted one")
    # A step of L1 moves one entry; how near it comes to the box's edge is a matter of its length.
    attack = PGD(norm=norm, steps=300, step_size=0.02 if norm == "l1" else 0.1)
    distance = exact(norm, box)
    fell = successes(attack, box, 1.02 * distance, targeted)
    np.testing.assert_array_equal(fell, np.isfinite(distance))
    assert not successes(attack, box, 0.999 * distance, targeted).any()


@pytest.mark.parametrize("box", [slow(False), True])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_apgd_succeeds_just_above_the_distance_and_never_below(norm, box):
    # Two classes: the likeliest wrong one is the only one, and DLR is the margin.
    distance = exact(norm, box)
    factor, restarts = (1.02, 5) if norm == "l1" else (1.01, 1)  # five, as AutoAttack in L1
    for settings in ({}, {"loss": "dlr", "targets": 9}):
        attack = APGD(norm=norm, restarts=restarts, **settings)
        fell = successes(attack, box, factor * distance)
        np.testing.assert_array_equal(fell, np.isfinite(distance))
    assert not successes(attack, box, 0.999 * distance).any()


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_diverse_starts_end_at_the_same_distance(norm):
    distance = exact(norm, True)
    for begin in ("stripes", "corner", "ball"):
        attack = Diverse(norm=norm, steps=60, final=0.01, begin=begin, restarts=3)
        fell = successes(attack, True, 1.01 * distance)
        np.testing.assert_array_equal(fell, np.isfinite(distance))
    assert not successes(attack, True, 0.999 * distance).any()


@pytest.mark.parametrize("norm", ["linf", slow("l2"), slow("l1")])
def test_square_never_succeeds_below_the_distance(norm):
    distance, attack = exact(norm, False), Square(norm=norm, steps=1000)
    if norm == "linf":  # bumps of 3 x 3 are too coarse for images of 4 x 3
        assert successes(attack, False, 1.01 * distance).all()
    assert not successes(attack, False, 0.999 * distance).any()


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_bim_without_a_random_start(loss):
    for norm in ("linf", "l2"):
        distance = exact(norm, False)
        attack = BIM(norm=norm, steps=30, loss=loss)
        assert successes(attack, False, 1.005 * distance).all()
        assert not successes(attack, False, 0.999 * distance).any()


@pytest.mark.slow
def test_mifgsm():
    distance = exact("linf", False)
    assert successes(MIFGSM(), False, 1.005 * distance).all()
    assert not successes(MIFGSM(), False, 0.999 * distance).any()


@pytest.mark.parametrize(
    ("norm", "box", "targeted"),
    product(
        ["linf", "l2", "l1"],
        [False, True],
        [False, True],
        slow={
            ("linf", False, False),
            ("linf", False, True),
            ("l2", False, False),
            ("l1", False, False),
        },
    ),
)
def test_fab_finds_the_distance(norm, box, targeted):
    if targeted and norm != "linf":
        pytest.skip("with two classes the targeted attack is the untargeted one")
    # Iterates are at most 5 % beyond the boundary; the final search leaves a hundredth of that. In
    # the box the nearest points for several distances are not on one ray from the image: a tenth.
    distance = exact(norm, box)
    most = 1.005 if box else 1.0005
    fell = successes(FAB(norm=norm, steps=20), box, most * distance, targeted)
    np.testing.assert_array_equal(fell, np.isfinite(distance))
    assert not successes(FAB(norm=norm, steps=20), box, 0.9999 * distance, targeted).any()


@pytest.mark.slow
def test_pgd_l0_from_the_middle_of_the_box():
    weights, bias, _, _ = problem(False)
    w, _ = line(weights, bias, 0)
    images = jnp.full((COUNT, *SHAPE), 0.5)
    # A bias each: fold it into the model by a shift that makes the margin run from 0.2 to 6.
    shift = np.linspace(0.2, 0.9 * np.abs(w).sum() / 2, COUNT)
    params = jnp.asarray(weights), jnp.zeros((COUNT, 2)).at[:, 0].set(shift - w.sum() / 2)
    counts = np.array([free_distance("l0", w, m) for m in shift])
    assert len(set(counts)) > 4
    attack = PGD(norm="l0", steps=60, step_size=1.0, random_start=False)
    labels = np.zeros(COUNT, np.int32)
    for less in (0, 1):
        epsilon = (counts - less).astype(np.float32)
        found, success = drive(attack, Model(logits, params), images, labels, epsilon, False)
        np.testing.assert_array_equal(success, np.full(COUNT, not less))
        distances = distance64("l0", np.asarray(found), np.asarray(images))
        assert (distances <= epsilon).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", slow("l0")])
@pytest.mark.parametrize("attack", [UniformNoise, GaussianNoise])
def test_noise_never_succeeds_below_the_distance(attack, norm):
    distance = exact(norm, True)
    below = distance - 1 if norm == "l0" else 0.999 * distance
    assert not successes(attack(norm=norm, draws=30), True, below).any()
