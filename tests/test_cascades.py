"""Cascades: AutoAttack's lists, each attack for the survivors of those before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.protocols.cached_run import attack_of
from jaxadv.protocols.cascades import CASCADES, get_cascade
from tests.common import IMAGES, LABELS, MODEL, slow
from tests.test_apgd import IMAGES as NOISY_IMAGES
from tests.test_apgd import RANDOM


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("name", CASCADES)
def test_every_cascade_can_be_had_in_every_norm(name: str, norm: str) -> None:
    for entry in get_cascade(name, norm).values():
        assert attack_of(entry).norm == norm


@pytest.mark.slow
def test_the_hardest_are_those_of_least_margin() -> None:
    few = ja.PGD(steps=5, step_size=0.25)
    long = ja.Hardest(ja.PGD(steps=40, restarts=2), 0.1, least=2)
    report = ja.evaluate(
        MODEL,
        IMAGES,
        LABELS,
        epsilons=[0.02, 0.03],
        attacks={"few": few, "long": long},
        distances=False,
        lanes=8,
        devices=jax.devices()[:1],
    )
    first, second = report.stages
    for level in range(2):
        mine, left = first.level == level, (first.level == level) & ~first.result.success
        margin = dict(zip(first.source[mine], first.result.margin[mine], strict=True))
        chosen = second.source[second.level == level]
        assert len(chosen) == min(3, left.sum())  # a tenth of 21 images
        others = set(first.source[left]) - set(chosen)
        assert max(margin[i] for i in chosen) <= min((margin[i] for i in others), default=np.inf)


def test_those_nearly_broken_are_chosen_each_by_itself() -> None:
    entries = {
        "few": ja.PGD(steps=2, step_size=0.1),
        "more": ja.PGD(steps=10, step_size=0.1),
        "long": ja.Nearly(ja.PGD(steps=40, restarts=2), 0.5),
    }

    def attacked(rows: slice) -> ja.Report:
        return ja.evaluate(
            MODEL,
            IMAGES[rows],
            LABELS[rows],
            epsilons=[0.02, 0.03],
            attacks=entries,
            ids=np.arange(len(IMAGES))[rows],
            distances=False,
            lanes=8,
            devices=jax.devices()[:1],
        )

    report = attacked(slice(None))
    logits = np.asarray(MODEL(IMAGES), np.float64)
    others = np.where(np.eye(logits.shape[1], dtype=bool)[LABELS], -np.inf, logits).max(1)
    clean = logits[np.arange(len(LABELS)), LABELS] - others
    counts = []
    for level in range(2):
        standing, least = clean > 0, clean
        for stage in report.stages[:2]:
            mine = stage.level == level
            rows, least = stage.source[mine], least.copy()
            least[rows] = np.minimum(least[rows], stage.result.margin[mine])
            standing[rows] &= ~stage.result.success[mine]
        worth = least <= 0.5 * clean
        last = report.stages[2]
        np.testing.assert_array_equal(
            np.sort(last.source[last.level == level]), np.flatnonzero(standing & worth)
        )
        counts.append((int((standing & worth).sum()), int((standing & ~worth).sum())))
    assert min(np.max(counts, 0)) > 0  # else nothing was chosen, or everything
    some = slice(3, 11)
    np.testing.assert_array_equal(attacked(some).broken_by, report.broken_by[:, some])


def test_a_refinement_begins_at_the_image_of_least_margin() -> None:
    first, second = ja.PGD(steps=3, step_size=0.1), ja.PGD(steps=3, step_size=0.1, loss="dlr")
    more = ja.PGD(steps=8, step_size=0.05)
    entries = {"first": first, "second": second, "more": ja.Nearly(ja.Refine(more), 0.9)}
    report = ja.evaluate(
        MODEL, IMAGES, LABELS, epsilons=[0.02, 0.03], attacks=entries, distances=False, lanes=8
    )
    last = report.stages[2]
    for level, epsilon in enumerate(report.epsilons):
        begin, least = IMAGES.copy(), np.full(len(IMAGES), np.inf)
        for stage in report.stages[:2]:
            rows, mine = stage.source[stage.level == level], stage.level == level
            nearer = stage.result.margin[mine] < least[rows]
            least[rows[nearer]] = stage.result.margin[mine][nearer]
            begin[rows[nearer]] = stage.result.images[mine][nearer]
        mine = last.level == level
        rows = last.source[mine]
        alone = ja.run(
            more,
            MODEL,
            IMAGES[rows],
            ja.Untargeted(LABELS[rows]),
            epsilon,
            lanes=8,
            start=begin[rows],
            ids=rows,
            key=jax.random.key(0),
        )
        assert len(rows) > 1
        np.testing.assert_array_equal(alone.images, last.result.images[mine])
        np.testing.assert_array_equal(alone.success, last.result.success[mine])
        assert (begin[rows] != IMAGES[rows]).any((1, 2, 3)).all()


def test_the_settings_of_autoattack() -> None:
    cross_entropy, targeted, *_, square = get_cascade("standard", "linf").values()
    assert isinstance(targeted, ja.APGD)
    assert (cross_entropy.ticks, cross_entropy.entries, targeted.entries) == (101, 1, 9)
    assert square.ticks == 5001
    cross_entropy, targeted, *_ = get_cascade("standard", "l1").values()
    assert (cross_entropy.entries, targeted.entries) == (5, 5)


@pytest.mark.slow
def test_standard_breaks_what_its_attacks_break_and_counts_what_survivors_paid() -> None:
    report = ja.evaluate(
        MODEL,
        IMAGES,
        LABELS,
        epsilons=[0.02, 0.05],
        attacks="standard",
        distances=False,
        lanes=8,
        devices=jax.devices()[:1],
    )
    alone = ja.run(
        ja.APGD(loss="dlr", targets=9),
        MODEL,
        IMAGES,
        ja.Untargeted(LABELS),
        0.05,
        key=jax.random.key(0),
        lanes=8,
    )
    survived = report.broken_by == -1
    assert not (survived[1] & alone.success).any()
    assert 0 < report.robust_accuracy[1] < report.robust_accuracy[0] < 1
    square = report.stages[-1].result  # 5,001 questions for each that nothing broke
    assert (square.forward[~square.success] == 5001).all()
    assert set(report.stages[-1].source[~square.success]) == set(np.flatnonzero(survived.any(0)))
    # Recomputed from the images returned: all are where and what they claim to be.
    for level, epsilon in enumerate(report.epsilons):
        broken = report.broken_by[level] >= 0
        found = report.adversarial[level]
        assert (np.asarray(MODEL(found)).argmax(1) != LABELS)[broken].all()
        assert np.abs(found.astype(np.float64) - IMAGES).max() <= epsilon


@pytest.mark.slow
def test_random_models_are_judged_on_fresh_draws() -> None:
    labels = np.asarray((NOISY_IMAGES.reshape(12, -1) @ RANDOM.params).argmax(1))
    model = ja.EOT(RANDOM, samples=10)
    report = ja.evaluate(
        model,
        NOISY_IMAGES,
        labels,
        epsilons=[0.2],
        attacks="rand",
        distances=False,
        lanes=4,
        devices=jax.devices()[:1],
    )
    stage = report.stages[0].result
    assert (stage.backward == 10 * 100).all()  # all steps: a first success may be luck
    fresh = np.asarray(ja.EOT(RANDOM, samples=5000)(report.adversarial[0])).argmax(1)
    broken = report.broken_by[0] >= 0
    assert (fresh != labels)[broken].mean() > 0.8  # but for those on the boundary


@pytest.mark.parametrize(
    ("attacks", "norm", "said"), [("best", "linf", "attacks='best'"), ("standard", "l0", "l0")]
)
def test_what_is_not_known_is_said(attacks: str, norm: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        get_cascade(attacks, norm)


def silent(weights, images):
    """Two classes; class 1 is raised by a ReLU alone that is off at, and around, black images."""
    unit = jnp.maximum(images.reshape(len(images), -1) @ weights - 1.0, 0.0)
    return jnp.stack([jnp.full_like(unit, 0.5), unit], 1)


@pytest.mark.parametrize("norm", ["linf", slow("l2"), slow("l1")])
def test_branch_and_bound_crosses_where_no_gradient_points(norm):
    """From a black image the unit turns on at 1, and class 1 wins at 1.5, along the dual norm."""
    weights = np.array([1.0, 2.0, 4.0, 0.5], np.float32)
    model = ja.Model(silent, jnp.asarray(weights))
    images, labels = np.zeros((1, 2, 2, 1), np.float32), np.zeros(1, int)
    exact = 1.5 / {"linf": weights.sum(), "l2": np.linalg.norm(weights), "l1": 4.0}[norm]
    blind = ja.PGD(norm=norm, steps=40, restarts=1, random_start=False)
    report = ja.evaluate(
        model,
        images,
        labels,
        epsilons=[0.99 * exact, 1.01 * exact],
        norm=norm,
        attacks={"PGD": blind, "branch and bound": ja.Branching(norm, subproblems=8)},
        distances=False,
        devices=jax.devices()[:1],
    )
    assert report.left_after(0).tolist() == [1, 1]
    assert report.robust_accuracy.tolist() == [1, 0] and report.complete
    assert report.distance[0] == pytest.approx(exact, rel=0.02)
    assert report.stages[1].result.backward.min() > 0


def test_branch_and_bound_leaves_out_what_cannot_be_proved(recwarn):
    """A model that draws at random, and goals with targets, have no proofs: nothing is run."""
    entries = {"branch and bound": ja.Branching(subproblems=8)}
    for model, labels in (
        (RANDOM, np.zeros(2, int)),
        (MODEL, ja.Targeted(LABELS[:2], (LABELS[:2] + 1) % 4)),
    ):
        images = NOISY_IMAGES[:2] if model is RANDOM else IMAGES[:2]
        report = ja.evaluate(
            model, images, labels, epsilons=[0.1], attacks=entries, distances=False
        )
        assert report.complete and len(report.stages[0].source) == 0
