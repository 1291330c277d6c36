"""Misclassified and not rejected: the goal against brute force, SciPy's programs and detectors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog, minimize
from scipy.special import log_softmax, logsumexp

import jaxadv as ja
from jaxadv.attacks import ATTACKS
from jaxadv.core.losses import LOSSES
from jaxadv.engine.result_store import fingerprint
from jaxadv.engine.verify import margins
from tests.common import EPSILON, KEY, make

ONE = {"devices": jax.devices()[:1], "lanes": 8, "key": KEY}
REJECTED = 2  # not the last one: nothing may depend on that


def cases(count=200, classes=6):
    rng = np.random.default_rng(0)
    for _ in range(count):
        label, rejected = rng.choice(classes, 2, replace=False)
        yield (3 * rng.normal(size=classes)).astype(np.float32), int(label), int(rejected)


def test_the_margin_by_brute_force():
    every = list(cases())
    for logits, label, rejected in every:
        goal = ja.Evading(np.int32(label), rejected)
        margin = float(goal.margin(jnp.asarray(logits)))
        assert (margin < 0) == (logits.argmax() not in (label, rejected))
        rest = np.delete(logits, [label, rejected])
        assert margin == pytest.approx(max(logits[label], logits[rejected]) - rest.max(), abs=1e-6)
        ahead = label if logits[label] >= logits[rejected] else rejected
        assert int(goal.left(jnp.asarray(logits))) == ahead
        batch = ja.Evading(np.array([label]), rejected)
        assert margins(batch, logits[None])[0] == pytest.approx(margin, abs=1e-6)
    assert ja.Evading(0, 1).ways(6) == 4


def test_losses_by_their_formulas():
    for logits, label, rejected in cases(15):
        goal, z = ja.Evading(np.int32(label), rejected), logits.astype(np.float64)
        ours = {name: float(loss(goal, jnp.asarray(logits))) for name, loss in LOSSES.items()}
        both, rest = [label, rejected], np.delete(z, [label, rejected])
        missed = -logsumexp(log_softmax(z)[both])  # of the two as one event
        assert ours["cross_entropy"] == pytest.approx(missed, abs=2e-5)
        assert ours["log_odds"] == pytest.approx(logsumexp(rest) - logsumexp(z[both]), abs=2e-5)
        assert ours["margin"] == pytest.approx(rest.max() - z[both].max(), abs=2e-5)
        assert ours["logit"] == pytest.approx(-z[both].max(), abs=2e-5)
        merged = np.sort(np.append(rest, z[both].max()))[::-1]
        wanted = (rest.max() - z[both].max()) / (merged[0] - merged[2])
        assert ours["dlr"] == pytest.approx(wanted, rel=1e-4)
        # Towards one natural class the rejecting one is to be left as well.
        target = next(k for k in range(6) if k not in both)
        aimed = LOSSES["dlr"](goal.towards(np.int32(target)), jnp.asarray(logits))
        scale = merged[0] - (merged[2] + merged[3]) / 2
        assert float(aimed) == pytest.approx((z[target] - z[both].max()) / scale, rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [3, 4, 6])
def test_no_loss_stands_still_or_runs_into_the_rejecting_class(name, classes):
    """A step along the gradient lessens the margin, whichever of the two is ahead."""
    slope = jax.jit(jax.grad(LOSSES[name], argnums=1))
    for logits, label, rejected in cases(15, classes):
        goal = ja.Evading(np.int32(label), rejected)
        found = np.asarray(slope(goal, jnp.asarray(logits)))
        ahead = int(goal.left(jnp.asarray(logits)))
        if logits.argmax() == ahead:
            assert found[ahead] < 0 or (name == "dlr" and abs(found).max() > 0)
            moved = jnp.asarray(logits + 1e-3 * found / np.abs(found).max())
            assert goal.margin(moved) < goal.margin(jnp.asarray(logits))
        if name != "log_odds" and name != "cross_entropy":
            behind = rejected if ahead == label else label
            assert found[behind] == 0


# A linear model of 3 natural classes and the one that rejects, which lies between them.
RNG = np.random.default_rng(5)
WEIGHTS = RNG.normal(size=(16, 4)).astype(np.float32)
WEIGHTS[:, REJECTED] = WEIGHTS[:, [0, 1, 3]].mean(1)
BIAS = np.float32([0.0, 0.0, 0.8, 0.0])
LINEAR = ja.Model(lambda p, x: (x.reshape(len(x), -1) - 0.5) @ p[0] + p[1], (WEIGHTS, BIAS))
IMAGES = np.asarray(RNG.random((12, 4, 4, 1)), np.float32)
LABELS = np.asarray(LINEAR(IMAGES))[:, [0, 1, 3]].argmax(1)
LABELS = np.array([0, 1, 3])[LABELS]
GOAL = ja.Evading(LABELS, REJECTED)


def nearest(image: np.ndarray, label: int, norm: str) -> float:
    """The least distance at which another natural class is ahead of label and rejecting class."""
    x, found = image.ravel().astype(np.float64), []
    for other in set(range(4)) - {label, REJECTED}:
        normals = np.stack([WEIGHTS[:, k] - WEIGHTS[:, other] for k in (label, REJECTED)])
        offsets = np.array([BIAS[k] - BIAS[other] for k in (label, REJECTED)])
        below = -(normals @ (x - 0.5) + offsets)  # normals @ d <= below
        box = np.stack([-x, 1 - x], 1)
        if norm == "linf":
            rows = np.hstack([np.vstack([np.eye(16), -np.eye(16)]), -np.ones((32, 1))])
            rows = np.vstack([rows, np.hstack([normals, np.zeros((2, 1))])])
            answer = linprog(
                np.eye(17)[16], rows, np.append(np.zeros(32), below), bounds=[*box, (0, None)]
            )
            found.append(answer.fun if answer.success else np.inf)
        else:
            answer = minimize(
                lambda d: d @ d,
                np.zeros(16),
                jac=lambda d: 2 * d,
                bounds=box,
                method="SLSQP",
                constraints={
                    "type": "ineq",
                    "fun": lambda d: below - normals @ d,
                    "jac": lambda d: -normals,
                },
                options={"ftol": 1e-14, "maxiter": 500},
            )
            found.append(np.sqrt(answer.fun) if answer.success else np.inf)
    return min(found)


def exact(norm: str) -> np.ndarray:
    wrong = ~np.isin(np.asarray(LINEAR(IMAGES)).argmax(1)[:, None], [REJECTED]).ravel()
    wrong &= np.asarray(LINEAR(IMAGES)).argmax(1) != LABELS
    assert not wrong.any()
    return np.array([nearest(x, y, norm) for x, y in zip(IMAGES, LABELS, strict=True)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "within"),
    [
        (ja.FAB(norm="l2", steps=100), 1.02),
        (ja.FAB(steps=100), 1.02),
        (ja.FMN(), 1.02),
        (ja.FMN(norm="l2"), 1.02),
        (ja.DDN(steps=300), 1.1),  # it swings at a corner
    ],
    ids=["FAB-l2", "FAB-linf", "FMN-linf", "FMN-l2", "DDN"],
)
def test_one_attack_reaches_the_nearest_evading_image(attack, within):
    """Two planes at once are to be crossed: SciPy's linear and quadratic programs say how far."""
    truth = exact(attack.norm)
    found = ja.run(attack, LINEAR, IMAGES, GOAL, **ONE)
    assert found.success.all()
    ratio = found.distance / truth
    print(f"median {np.median(ratio):.4f}, max {ratio.max():.4f}")
    assert ratio.min() >= 1 - 1e-5
    assert np.median(ratio) < within


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_nearest_evading_image_of_a_linear_model(norm):
    truth = exact(norm)
    plain = ja.minimal_distance(LINEAR, IMAGES, LABELS, norm, effort="fast", **ONE)
    found = ja.minimal_distance(LINEAR, IMAGES, GOAL, norm, **ONE)
    assert found.success.all()
    assert (np.asarray(LINEAR(found.images)).argmax(1) != REJECTED).all()
    np.testing.assert_allclose(found.distance, truth, rtol=1e-3)
    assert (found.distance >= truth * (1 - 1e-5)).all()
    assert (plain.distance < 0.9 * truth).any()  # to be rejected is nearer, and no success here


def test_evaluate_counts_what_is_misclassified_and_accepted(tmp_path):
    truth, predictions = exact("linf"), np.asarray(LINEAR(IMAGES)).argmax(1)
    refused, near = predictions == REJECTED, np.sort(truth)
    assert refused.sum() == 6
    gap = np.argmax(near[1:] / near[:-1])
    epsilons = [np.sqrt(near[gap] * near[gap + 1]), 1.2 * near[-1]]
    attacks = {"PGD": ja.PGD(steps=60, loss="margin", restarts=3)}
    how = {"attacks": attacks, "distances": False, "store": tmp_path, **ONE}
    report = ja.evaluate(LINEAR, IMAGES, GOAL, "linf", epsilons, **how)
    assert report.clean_accuracy == (~refused).mean()
    assert report.false_rejections == refused.mean()
    np.testing.assert_array_equal(
        report.broken_by == -1, ~refused & (truth > np.array(epsilons)[:, None])
    )
    found = np.asarray(LINEAR(report.adversarial[1, ~refused])).argmax(1)
    assert not np.isin(found, [REJECTED]).any()
    plain = ja.evaluate(LINEAR, IMAGES, LABELS, "linf", epsilons, **how)  # another goal's store
    assert plain.false_rejections is None
    assert plain.robust_accuracy[0] <= report.robust_accuracy[0]
    with pytest.raises(ValueError, match="not for ja.Evading"):
        ja.evaluate(LINEAR, IMAGES, GOAL, "linf", epsilons, prove="fast")


def test_only_an_image_in_its_target_class_counts():
    model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.eye(4))
    values = [[0.9, 0.7, 0, 0], [0.9, 0.7, 0, 0], [0, 0.1, 0.9, 0.2], [0.2, 0.8, 0.3, 0.3]]
    images, labels = np.array(values, np.float32).reshape(4, 2, 2, 1), np.array([0, 0, 1, 1])
    targets = np.array([2, 2, 2, 0])  # at 0.45, 0.45, from the start, and at 0.3
    report = ja.evaluate(
        model,
        images,
        ja.Targeted(labels, targets),
        epsilons=[0.2, 0.4, 0.5],
        attacks={"PGD": ja.PGD(steps=20, loss="margin")},
        **ONE,
    )
    assert report.clean_accuracy == 0.75
    assert report.attacked.tolist() == [True, True, False, True]
    assert report.robust_accuracy.tolist() == [0.75, 0.5, 0]
    np.testing.assert_allclose(report.distance, [0.45, 0.45, 0, 0.3], rtol=0.02)
    found = np.asarray(model(report.adversarial[2])).argmax(1)
    assert found.tolist() == targets.tolist()
    with pytest.raises(ValueError, match="targeted"):
        ja.report.as_robustbench(report, 0.2, name="", dataset="")


NAMES = [  # the others share their gradients and steps with these
    *("ALMA", "APGD", "CW", "DDN", "DeepFool", "FAB", "FMN", "HopSkipJump"),
    *("JSMA", "PGD", "Square", "TrustRegion"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_attack_evades(name):
    """A success is another natural class, by numpy; gradients know their way past the planes."""
    norm = ATTACKS[name].norms[0]
    attack = make(name, norm, IMAGES)
    epsilon = min(3 * EPSILON[norm], IMAGES[0].size) if attack.needs_epsilon else None
    keep = "first" if attack.keep == "last" else None
    start = np.clip(IMAGES + 0.03, 0, 1) if name == "ILA" else None
    result = ja.run(attack, LINEAR, IMAGES, GOAL, epsilon, keep=keep, start=start, **ONE)
    answers = np.asarray(LINEAR(result.images)).argmax(1)
    np.testing.assert_array_equal(result.success, (answers != LABELS) & (answers != REJECTED))
    assert not result.rejected
    print(name, norm, result.success.mean())
    bounded = getattr(attack, "bounded_by", "") or name in ("FGSM", "FGM", "NewtonFool")
    if attack.pullbacks and norm in ("linf", "l2") and not bounded:
        assert result.success.mean() > 0.6


def test_attacks_that_choose_a_class_do_not_choose_the_rejecting_one():
    goal = ja.Evading(LABELS, REJECTED)
    assert ja.APGD(targets=9).specialize(goal, 4).targets == 2
    assert ja.FAB().specialize(goal, 4).pullbacks == 2
    assert ja.DeepFool().specialize(goal, 4).pullbacks == 2


@pytest.mark.slow
def test_losses_that_aim_leave_the_rejecting_class_too():
    for attack in (ja.APGD(loss="dlr", targets=9), ja.EachTarget(ja.PGD(loss="dlr"))):
        result = ja.run(attack, LINEAR, IMAGES, GOAL, 0.6, **ONE)
        assert result.success.mean() > 0.9


@pytest.mark.slow
def test_a_detector_is_a_class_more():
    """A linear classifier and a quadratic detector; what the joint model says, by their parts."""
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(16, 3)).astype(np.float32)
    model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w - 7, weights)  # all below 0
    varies = ja.Model(
        lambda t, x: jnp.stack([jnp.zeros(len(x)), x.reshape(len(x), -1).var(1) - t], 1), 0.1
    )
    joint = ja.with_detector(model, varies)
    images = rng.random((300, 4, 4, 1)).astype(np.float32)
    refused = images.reshape(300, -1).var(1) > np.float32(0.1)
    assert 0.05 < refused.mean() < 0.95
    wanted = np.where(refused, 3, np.asarray(model(images)).argmax(1))
    np.testing.assert_array_equal(np.asarray(joint(images)).argmax(1), wanted)
    strict = ja.with_detector(model, varies, threshold=-1.0)
    assert (np.asarray(strict(images)).argmax(1) == 3).all()

    calm = images[~refused][:12]
    labels = np.asarray(model(calm)).argmax(1)
    attack, keep = ja.PGD(loss="margin", steps=60, restarts=3), {"epsilon": 0.25, **ONE}
    seen = ja.run(attack, joint, calm, ja.Evading(labels, rejected=3), **keep)
    answers = np.asarray(model(seen.images)).argmax(1)
    flagged = seen.images.reshape(12, -1).astype(np.float64).var(1) > 0.1
    np.testing.assert_array_equal(seen.success, (answers != labels) & ~flagged)
    assert seen.success.any()
    blind = ja.run(attack, joint, calm, ja.Untargeted(labels), **keep)
    assert (np.asarray(joint(blind.images)).argmax(1) == 3).any()  # found out, counted as success
    assert seen.forward[0] % 2 == 0  # two models, two passes


def test_what_is_kept_on_disk_is_of_one_goal():
    labels = np.arange(4)
    kinds = [
        ja.Untargeted(labels),
        *(ja.Evading(labels, k) for k in (4, 5)),
        ja.Targeted(labels, labels),
        ja.Targeted(labels, labels, 5),
    ]
    assert len({fingerprint(goal) for goal in kinds}) == len(kinds)


def test_one_goal_compiles_once_and_runs_under_jit():
    def loss(goal, logits):
        return jax.vmap(lambda g, z: g.margin(z))(goal, logits)

    logits = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    for labels in (np.array([0, 1, 3, 0, 1]), np.array([3, 3, 3, 0, 1])):
        goal = ja.Evading(labels, REJECTED)
        np.testing.assert_allclose(jax.jit(loss)(goal, logits), margins(goal, logits), rtol=1e-6)
    assert dataclasses.replace(goal, labels=labels + 0).rejected == REJECTED


@pytest.mark.parametrize(
    ("goal", "match"),
    [
        (ja.Evading(LABELS, 4), "rejected=4: pass one of the model's 4 classes"),
        (ja.Evading(LABELS, -1), "rejected=-1"),
        (ja.Evading(LABELS, 1.0), "rejected=1.0"),
        (ja.Evading(LABELS, 1), "labels are 1 for"),
        (ja.Evading(LABELS[:3], REJECTED), "labels has shape"),
        (ja.Targeted(LABELS, np.full(12, REJECTED), REJECTED), "targets are 2 for 12 images"),
    ],
)
def test_goals_that_cannot_be_meant(goal, match):
    with pytest.raises(ValueError, match=match):
        ja.run(ja.PGD(), LINEAR, IMAGES, goal, 0.1, **ONE)


def test_models_that_do_not_fit():
    two = ja.Model(lambda w, x: x.reshape(len(x), -1)[:, :2], ())
    with pytest.raises(ValueError, match="no natural one is left"):
        ja.run(ja.PGD(), two, IMAGES, ja.Evading(np.zeros(12, int), 1), 0.1, **ONE)
    with pytest.raises(ValueError, match="detector has bounds"):
        ja.with_detector(LINEAR, dataclasses.replace(two, bounds=(0.0, 2.0)))
    with pytest.raises(ValueError, match="draws at random"):
        ja.with_detector(LINEAR, ja.Model(lambda w, x, key: x[:, 0, :2, 0], (), random=True))
    with pytest.raises(ValueError, match="detector has 4 classes"):
        ja.with_detector(two, LINEAR)(IMAGES)
