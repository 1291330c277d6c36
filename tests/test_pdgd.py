"""PDGD, PDPGD, VFGA, FGA and JSMA: proximal operators and pairs against brute force, closed forms,
proved distances, and what is counted."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.attacks.jsma import salient_pair
from jaxadv.attacks.pdpgd import OPERATORS
from jaxadv.core.norms import distance64
from tests.test_attacks import GOAL, IMAGES, LABELS, MODEL
from tests.test_closed_forms import COUNT, SHAPE, exact, logits, problem
from tests.test_fab import drive

ACTIVE = np.arange(21) != 3  # the other one is misclassified from the start


def linear(attack, scale=1.0, box=True):
    """Distance over the least one, per image, for the linear model of test_closed_forms."""
    weights, bias, images, labels = problem(box)
    model = ja.Model(logits, (jnp.asarray(weights * scale), jnp.asarray(bias * scale)))
    images = images.reshape(COUNT, *SHAPE)
    found, success, _ = drive(attack, model, images, ja.Untargeted(labels))
    possible = np.isfinite(exact(attack.norm, box))
    np.testing.assert_array_equal(success, possible)
    distance = distance64(attack.norm, np.asarray(found), images)
    return (distance / exact(attack.norm, box))[possible]


PENALTY = {
    "l0": lambda z: (z != 0).sum(),
    "l2/3": lambda z: (np.abs(z) ** (2 / 3)).sum(),
    "l1": lambda z: np.abs(z).sum(),
    "l2": lambda z: np.sqrt((z**2).sum()),
    "linf": lambda z: np.abs(z).max(),
}


@pytest.mark.parametrize("name", list(OPERATORS))
def test_a_proximal_operator_minimises(name):
    """No other point has a smaller value: not on a grid, not nearby, not at 0."""
    rng, operator, penalty = np.random.default_rng(0), jax.jit(OPERATORS[name]), PENALTY[name]
    grid = np.linspace(-2, 2, 41)
    grid = np.array(list(itertools.product(grid, grid)))
    for _ in range(40):
        r, weight = rng.normal(size=2).astype(np.float32), np.float32(rng.exponential())
        found = np.asarray(operator(r, weight))

        def value(z, r=r, weight=weight):
            return ((z.astype(float) - r) ** 2).sum() / 2 + weight * penalty(z)

        near = found + rng.normal(size=(200, 2)) * 10.0 ** rng.uniform(-4, 0, (200, 1))
        others = [*grid, *near, np.zeros(2), r, r * [0, 1], r * [1, 0]]
        assert value(found) <= min(map(value, others)) + 1e-6
    for weight in (0.0, 1e-30, 1e30):
        for r in (np.zeros(3), np.full(3, 1e-20), np.full(3, 1.0)):
            found = np.asarray(operator(jnp.asarray(r, jnp.float32), jnp.float32(weight)))
            assert np.isfinite(found).all()
            np.testing.assert_allclose(found, 0 if weight > 1 else r, atol=1e-12)


def pairs_by_force(target, others, free):
    alpha = (target[:, None] + target).astype(np.float64)
    beta = (others[:, None] + others).astype(np.float64)
    score = np.where((alpha > 0) & (beta < 0) & free & free[:, None], -alpha * beta, 0)
    np.fill_diagonal(score, 0)
    return score


def test_the_salient_pair_is_the_best_of_all():
    find, rng = jax.jit(salient_pair), np.random.default_rng(3)
    for size in (2, 3, 8, 17):
        for trial in range(30):
            scale = 10.0 ** rng.integers(-25, 10)
            target, others = (rng.normal(size=(2, size)) * scale).astype(np.float32)
            free = rng.random(size) < (0.1, 0.5, 1.0)[trial % 3]
            if trial % 4 == 0:
                others = np.abs(others)  # nothing lowers the other classes
            score = pairs_by_force(target, others, free)
            p, q, found = map(int, find(target, others, free))
            assert found == (score.max() > 0)
            if found:
                assert p != q
                assert score[p, q] >= score.max() * (1 - 1e-5)
    assert not find(np.ones(1, np.float32), -np.ones(1, np.float32), np.ones(1, bool))[2]


def test_pdgd_finds_the_distance_to_a_hyperplane():
    for scale in (1.0, 30.0):  # the weights have no scale of their own, but they learn it
        ratio = linear(ja.PDGD(), scale)
        print(f"l2 scale {scale}: {ratio.min():.6f} {np.median(ratio):.5f} {ratio.max():.4f}")
        assert ratio.min() > 1 - 1e-5
        assert ratio.max() < 1.01


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_pdpgd_finds_the_distance_to_a_hyperplane(norm):
    ratio = linear(ja.PDPGD(norm=norm))
    print(f"{norm}: {ratio.min():.6f} {np.median(ratio):.5f} {ratio.max():.4f}")
    assert ratio.min() > 1 - 1e-5
    assert ratio.max() < {"linf": 1.02, "l2": 1.02, "l1": 1.02, "l0": 2.1}[norm]
