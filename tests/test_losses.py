"""Losses and goals against SciPy and formulas written out in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from jaxadv.core import goals
from jaxadv.core.losses import LOSSES, cross_entropy, dlr, get_loss
from jaxadv.core.losses import margin as margin_loss

CLASSES = 6


def Untargeted(label):
    return goals.Untargeted(np.int32(label))


def Targeted(label, target):
    return goals.Targeted(np.int32(label), np.int32(target))


def cases(count=40, scale=3.0):
    rng = np.random.default_rng(0)
    for _ in range(count):
        label, target = rng.choice(CLASSES, 2, replace=False)
        yield (
            (scale * rng.normal(size=CLASSES)).astype(np.float32),
            np.int32(label),
            np.int32(target),
        )


def float64(logits):
    return np.asarray(logits, np.float64)


def ours(loss, goal, logits):
    return np.asarray(_losses[loss](goal, jnp.asarray(logits)), np.float64)


def gradient(loss, goal, logits):
    return np.asarray(_gradients[loss](goal, jnp.asarray(logits)), np.float64)


_losses = {name: jax.jit(loss) for name, loss in LOSSES.items()}
_gradients = {name: jax.jit(jax.grad(loss, argnums=1)) for name, loss in LOSSES.items()}


@pytest.mark.parametrize("scale", [0.1, 3.0, 20.0])
def test_cross_entropy_is_minus_log_softmax(scale):
    for logits, label, target in cases(scale=scale):
        logs = log_softmax(float64(logits))
        value = ours("cross_entropy", Untargeted(label), logits)
        np.testing.assert_allclose(value, -logs[label], rtol=2e-6, atol=2e-6)
        value = ours("cross_entropy", Targeted(label, target), logits)
        np.testing.assert_allclose(value, logs[target], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("gap", [0, 5, 17, 20, 30, 50, 80])
@pytest.mark.parametrize("sign", [1, -1])
def test_cross_entropy_gradient_does_not_cancel(gap, sign):
    # d/dz of -log softmax(z)[label] is softmax(z) - onehot(label). In float64 the label's entry
    # 1 - p would itself cancel: it is written as the sum of the other probabilities.
    rng = np.random.default_rng(gap)
    for label in range(3):
        logits = rng.normal(size=CLASSES).astype(np.float32)
        logits[label] = np.delete(logits, label).max() + sign * gap
        truth = np.exp(log_softmax(float64(logits)))
        truth[label] = -np.delete(truth, label).sum()
        assert np.abs(truth).max() > 0
        found = gradient("cross_entropy", Untargeted(label), logits)
        np.testing.assert_array_equal(np.sign(found), np.sign(truth))
        np.testing.assert_allclose(found, truth, rtol=3e-5)
        # Targeted at the same class, everything is negated.
        found = gradient("cross_entropy", Targeted((label + 1) % CLASSES, label), logits)
        np.testing.assert_allclose(found, -truth, rtol=3e-5)


def numpy_dlr(logits, label, target=None):
    """REFERENCE.md 5.4, as in fra31/auto-attack."""
    z, ordered = float64(logits), np.sort(float64(logits))[::-1]
    if target is None:
        return -(z[label] - np.delete(z, label).max()) / (ordered[0] - ordered[2] + 1e-12)
    scale = ordered[0] - 0.5 * (ordered[2] + ordered[3]) + 1e-12
    return -(z[label] - z[target]) / scale


@pytest.mark.parametrize("scale", [1e-3, 3.0, 1e3])
def test_dlr(scale):
    for logits, label, target in cases(scale=scale):
        value = ours("dlr", Untargeted(label), logits)
        np.testing.assert_allclose(value, numpy_dlr(logits, label), rtol=1e-5, atol=1e-6)
        value = ours("dlr", Targeted(label, target), logits)
        np.testing.assert_allclose(value, numpy_dlr(logits, label, target), rtol=1e-5, atol=1e-6)


def test_dlr_with_ties_at_the_top():
    logits = np.array([2.0, 2.0, 2.0, 1.0, 0.0, -1.0], np.float32)
    assert ours("dlr", Untargeted(3), logits) > 1e6  # z1 = z3, as the formula has it
    assert ours("dlr", Targeted(3, 0), logits) == pytest.approx(numpy_dlr(logits, 3, 0), rel=1e-6)


@pytest.mark.parametrize("loss", ["dlr", "margin"])
@pytest.mark.parametrize("aim", [False, True])
def test_gradient_is_the_difference_quotient(loss, aim):
    truth = {
        ("dlr", False): lambda z, y, t: numpy_dlr(z, y),
        ("dlr", True): numpy_dlr,
        ("margin", False): lambda z, y, t: np.delete(z, y).max() - z[y],
        ("margin", True): lambda z, y, t: z[t] - np.delete(z, t).max(),
    }[loss, aim]
    for logits, label, target in cases(10):
        goal = Targeted(label, target) if aim else Untargeted(label)
        found = gradient(loss, goal, logits)
        for entry, step in enumerate(1e-6 * np.eye(CLASSES)):
            plus, minus = (truth(float64(logits) + s, label, target) for s in (step, -step))
            assert found[entry] == pytest.approx((plus - minus) / 2e-6, rel=1e-3, abs=1e-5)
        np.testing.assert_allclose(found.sum(), 0, atol=1e-5)  # shifting all logits changes nothing


def paper_margin(logits, label, target=None):
    """arXiv 2411.15210: the difference of two probabilities, in float64."""
    p = softmax(float64(logits))
    if target is None:
        return np.delete(p, label).max() - p[label]
    return p[target] - np.delete(p, target).max()


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_probability_margin_has_the_value_and_direction_of_the_paper(scale):
    for logits, label, target in cases(20, scale):
        for goal, wrong in ((Untargeted(label), None), (Targeted(label, target), target)):
            value = ours("probability_margin", goal, logits)
            truth = paper_margin(logits, label, wrong)
            assert np.tanh(value / 2) == pytest.approx(truth, abs=2e-6)
            found = gradient("probability_margin", goal, logits)
            quotient = [
                paper_margin(logits + step, label, wrong)
                - paper_margin(logits - step, label, wrong)
                for step in 1e-5 * np.eye(CLASSES)
            ]
            unit = np.array(quotient) / np.linalg.norm(quotient)
            np.testing.assert_allclose(found / np.linalg.norm(found), unit, atol=1e-3)


@pytest.mark.parametrize("gap", [20, 90, 500, 3e4])
def test_probability_margin_does_not_level_off(gap):
    for goal, signs in (
        (Untargeted(2), (-1, 1)),
        (Targeted(2, 4), (-1, 1)),
        (Untargeted(4), (1, -1)),
        (Targeted(4, 2), (1, -1)),
    ):
        logits = np.float32([0, 1, gap, -3, 2, 0])  # class 2 is ahead of class 4 by far
        found = gradient("probability_margin", goal, logits)
        assert np.isfinite(found).all()
        assert found[[2, 4]] @ signs > 1
        np.testing.assert_array_equal(np.sign(found[[2, 4]]), signs)
        further = logits + np.float32([0, 0, 5, 0, 0, 0])
        higher = ours("probability_margin", goal, further) > ours(
            "probability_margin", goal, logits
        )
        assert higher == (signs[0] > 0)


def test_probability_margin_of_two_classes_is_the_margin():
    logits = np.float32([2.0, -1.5])
    for goal in (Untargeted(0), Untargeted(1), Targeted(0, 1)):
        assert ours("probability_margin", goal, logits) == ours("margin", goal, logits)


def test_margin_is_negative_exactly_when_adversarial():
    for logits, label, target in cases(100):
        untargeted = Untargeted(label).margin(jnp.asarray(logits))
        targeted = Targeted(label, target).margin(jnp.asarray(logits))
        assert bool(untargeted < 0) == (logits.argmax() != label)
        assert bool(targeted < 0) == (logits.argmax() == target)
        others = np.delete(float64(logits), label).max()
        assert float(untargeted) == pytest.approx(logits[label] - others, abs=1e-5)
        assert float(margin_loss(Untargeted(label), jnp.asarray(logits))) == -float(untargeted)


@pytest.mark.parametrize(("label", "target"), [(0, 1), (1, 0), (0, 2), (2, 0)])
def test_a_tie_is_not_adversarial(label, target):
    logits = jnp.array([3.0, 3.0, 3.0, 1.0])
    for goal in (Untargeted(label), Targeted(label, target)):
        assert float(goal.margin(logits)) == 0
        assert not bool(goal.margin(logits) < 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_logits(value):
    # One NaN, wherever it stands, and nothing is adversarial; infinities follow the arithmetic.
    for place in range(4):
        logits = np.array([1.0, 5.0, 2.0, 0.0], np.float32)
        logits[place] = value
        for goal in (Untargeted(0), Untargeted(1), Targeted(0, 1), Targeted(0, 2), Targeted(0, 3)):
            adversarial = bool(goal.margin(jnp.asarray(logits)) < 0)
            if np.isnan(value):
                assert not adversarial
            elif goal.targeted:
                assert adversarial == (logits.argmax() == goal.targets)
            else:
                assert adversarial == (logits.argmax() != goal.labels)
    everything = jnp.full(4, value)
    for goal in (Untargeted(0), Targeted(0, 1)):
        assert not bool(goal.margin(everything) < 0)


def test_two_classes():
    logits = jnp.array([2.0, -1.0])
    assert float(Untargeted(0).margin(logits)) == 3
    assert float(cross_entropy(Untargeted(0), logits)) == pytest.approx(np.log1p(np.exp(-3)))


def test_get_loss():
    assert get_loss("dlr") is dlr
    assert get_loss(max) is max
    with pytest.raises(ValueError, match="cross_entropy"):
        get_loss("hinge")
