"""PDGD, PDPGD, VFGA, FGA and JSMA: proximal operators and pairs against brute force, closed forms,
proved distances, and what is counted."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.attacks.minimum_norm.jsma import salient_pair
from jaxadv.attacks.minimum_norm.pdpgd import OPERATORS
from jaxadv.attacks.minimum_norm.vfga import log_odds
from jaxadv.core.norms import distance64
from jaxadv.data import load_data
from jaxadv.models import from_torch_arrays
from jaxadv.models.definitions import get_definition
from tests.common import GOAL, IMAGES, LABELS, MODEL, drive, slow
from tests.linear import COUNT, SHAPE, exact, logits, problem


def linear(attack, scale=1.0, epsilon=np.inf, side=1.0):
    """Distance over the least one per image, distance, success and counts, for the linear model in
    its box; scale: of the logits, side: of the box."""
    weights, bias, images, labels = problem(True)
    params = jnp.asarray(weights * scale / side), jnp.asarray(bias * scale)
    model = ja.Model(logits, params, bounds=(0.0, side))
    images, epsilon = images.reshape(COUNT, *SHAPE) * side, np.full(COUNT, epsilon, np.float32)
    found, success, counts = drive(attack, model, images, ja.Untargeted(labels), epsilon)
    distance = distance64(attack.norm, np.asarray(found), images)
    if epsilon[0] == np.inf:
        np.testing.assert_array_equal(success, np.isfinite(exact(attack.norm, True)))
        assert (distance / exact(attack.norm, True) > (1 - 1e-5) * min(side, 1)).all()
    return distance / exact(attack.norm, True), distance, np.asarray(success), counts


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


def test_pdgd_comes_near_the_distance_to_a_hyperplane():
    # The weights know no scale: where the logits are large they, and Adam, begin far off.
    for scale, median, most in ((1.0, 1.02, 1.06), (30.0, 1.15, 1.3)):
        ratio, _, _, counts = linear(ja.PDGD(), scale)
        print(f"l2 scale {scale}: median {np.median(ratio):.5f}, most {ratio.max():.4f}")
        assert np.median(ratio) < median
        assert ratio.max() < most
        assert (counts.forward == 501).all() and (counts.backward == 500).all()


@pytest.mark.parametrize(
    ("norm", "median", "most"),
    [("linf", 1.01, 1.02), ("l2", 1.03, 1.06), ("l1", 1.04, 1.2), ("l0", 1.3, 3.1)],
)
def test_pdpgd_comes_near_the_distance_to_a_hyperplane(norm, median, most):
    ratio, _, _, counts = linear(ja.PDPGD(norm=norm))
    print(f"{norm}: median {np.median(ratio):.5f}, most {ratio.max():.4f}")
    assert np.median(ratio) < median
    assert ratio.max() < most
    assert (counts.forward == 501).all() and (counts.backward == 500).all()


def test_a_box_of_another_size_is_the_same_problem():
    ratio = linear(ja.PDPGD(norm="l1"))[0]
    np.testing.assert_allclose(linear(ja.PDPGD(norm="l1"), side=4.0)[0] / 4, ratio, rtol=0.02)


@pytest.mark.parametrize(
    ("name", "norm", "steps", "median"),
    [slow("mlp40_standard", "l1", 500, 1.03), ("mlp40_linf0.1", "linf", 200, 1.06)],
)
def test_never_below_a_proved_distance(shared, name, norm, steps, median):
    folder = shared / "data/exact" / name
    model = from_torch_arrays(
        get_definition("FC")(widths=(40,)), folder / "weights.npz", image_shape=(28, 28, 1)
    )
    with np.load(folder / f"{norm}.npz") as proved:
        index, distance = proved["index"][:15], proved["distance"][:15]
    data = load_data("mnist", data_dir=shared / "data/mnist")
    images, labels = data.images[index], data.labels[index]
    attack = ja.PDPGD(norm=norm, steps=steps)
    found, success, _ = drive(attack, model, images, ja.Untargeted(labels))
    assert success.all()
    ratio = distance64(norm, np.asarray(found), images) / distance
    print(name, norm, f"min {ratio.min():.6f}, median {np.median(ratio):.4f}")
    assert ratio.min() > 1 - 1e-4
    assert np.median(ratio) < median


def test_vfga_moves_as_few_entries_as_a_linear_model_needs():
    """Entries at the box, which have nowhere to go, are among them: they are never chosen."""
    ratio, distance, success, counts = linear(ja.VFGA())
    assert np.median(ratio[success]) == 1
    assert ratio[success].max() <= 2
    # One gradient an entry; a step ends at its first success.
    np.testing.assert_array_equal(counts.backward[success], distance[success])
    assert (counts.forward <= 21 * counts.backward).all()
    assert (counts.forward[success] < 21 * distance[success]).all()
    # Log-odds do not saturate where the label's probability is 1 in float32.
    _, sure, _, _ = linear(ja.VFGA(), scale=1e4)
    np.testing.assert_array_equal(sure, distance)
    # Only what is nearer than epsilon is looked for.
    _, nearer, fell, less = linear(ja.VFGA(), epsilon=2)
    np.testing.assert_array_equal(fell, success & (distance <= 2))
    np.testing.assert_array_equal(nearer[fell], distance[fell])
    assert (less.forward <= 2 * 21).all()


def test_log_odds_of_label_and_target():
    z = jnp.array([1.0, 3.0, -2.0, 0.5])
    p = np.asarray(jax.nn.softmax(z))
    odds = np.log(p / (1 - p))
    assert log_odds(ja.Untargeted(jnp.int32(1)), z) == pytest.approx(-odds[1], rel=1e-5)
    assert log_odds(ja.Targeted(jnp.int32(1), jnp.int32(2)), z) == pytest.approx(odds[2], rel=1e-5)


def saliency_run(weights, bias, image, label, aim, way, theta, most):
    """The paper's algorithm in numpy: (entries moved or infinity, images asked)."""
    x, asked, others = image.copy(), 0, weights.sum(1) - weights[:, aim]
    for _ in range(most + 1):
        asked += 1
        if (x @ weights + bias).argmax() != label:
            return (x != image).sum(), asked
        free = x < 1 if way > 0 else x > 0
        score = pairs_by_force(way * weights[:, aim], way * others, free)
        if score.max() == 0:
            break
        pair = list(np.unravel_index(score.argmax(), score.shape))
        x[pair] = np.clip(x[pair] + np.float32(way * theta), 0, 1)
    return np.inf, asked


def test_jsma_is_the_papers_algorithm():
    rng = np.random.default_rng(5)
    weights, bias = rng.normal(size=(12, 3)).astype(np.float32), np.zeros(3, np.float32)
    images = rng.choice([0.0, 0.25, 0.5, 1.0], (COUNT, 12)).astype(np.float32)
    labels = (images @ weights).argmax(1)
    model = ja.Model(logits, (jnp.asarray(weights), jnp.asarray(bias)))
    fallen = 0
    for theta, gamma in ((1.0, 1.0), (0.5, 0.6)):
        attack = ja.JSMA(theta=theta, gamma=gamma, direction="both")
        shaped = images.reshape(COUNT, *SHAPE)
        found, success, counts = drive(attack, model, shaped, ja.Untargeted(labels))
        distance = distance64("l0", np.asarray(found), shaped)
        for n, (image, label) in enumerate(zip(images, labels, strict=True)):
            runs = [
                saliency_run(weights, bias, image, label, aim, way, theta, int(6 * gamma + 1e-6))
                for aim in range(3)
                for way in (1, -1)
                if aim != label
            ]
            least = min(moved for moved, _ in runs)
            assert success[n] == np.isfinite(least)
            assert not success[n] or distance[n] == least
            assert counts.forward[n] == sum(asked for _, asked in runs)
            assert counts.backward[n] <= 2 * counts.forward[n]
        fallen += success.sum()
    assert fallen > COUNT


@pytest.mark.parametrize(
    ("attack", "most"),
    [(ja.JSMA(gamma=1.0, direction="both"), 2 * (36 // 2 + 1)), (ja.VFGA(samples=3), 36 * 7)],
)
def test_the_target_of_a_goal_is_reached(attack, most):
    targets = (LABELS + 1) % 4
    found, success, counts = drive(attack, MODEL, IMAGES, ja.Targeted(LABELS, targets))
    reached = np.asarray(MODEL(found)).argmax(1) == targets
    np.testing.assert_array_equal(reached, success)
    assert success.mean() > 0.5
    assert (counts.forward <= most).all()


@pytest.mark.parametrize(
    "attack",
    [
        ja.PDGD(),
        ja.PDPGD(),
        ja.PDPGD(norm="l2"),
        ja.PDPGD(norm="l1"),
        ja.PDPGD(norm="l0"),
        ja.VFGA(),
        ja.FGA(direction="down"),
        ja.JSMA(),
    ],
)
def test_gradients_of_zero_and_of_nan(attack):
    """Without a gradient a run stays sane; one that is NaN shows in what is asked next."""
    goal = ja.Untargeted(jnp.int32(0))
    attack = attack.specialize(goal, 3)
    zero, one = jnp.float32(0), jnp.float32(1)
    image, logits = jnp.asarray(IMAGES[0]), jnp.array([2.0, 1.0, 0.0])
    problem = ja.Problem(image, goal, zero + jnp.inf, zero, one, logits, jnp.int32(0))

    @jax.jit
    def two_ticks(gradient):
        no, yes = jnp.zeros(1, bool), jnp.ones(1, bool)
        gradients = jnp.full((1, attack.pullbacks, *image.shape), gradient)
        answer = ja.Answer(logits[None], gradients, no, yes)
        state = attack.tell(problem, attack.init(problem, jax.random.key(0)), answer)
        return state.image, attack.tell(problem, state, answer).image

    for asked in two_ticks(0.0):
        assert asked.min() >= 0
        assert asked.max() <= 1  # not NaN either
    assert np.isnan(two_ticks(np.nan)[0]).any()


@pytest.mark.parametrize(
    ("attack", "arguments"),
    [
        (ja.PDGD, {"norm": "l1"}),
        (ja.PDGD, {"steps": 0}),
        (ja.PDGD, {"step_size": 0.0}),
        (ja.PDGD, {"average": 1.0}),
        (ja.PDGD, {"least_ratio": 0.0}),
        (ja.PDPGD, {"norm": "l3"}),
        (ja.PDPGD, {"operator": "l1/2"}),
        (ja.PDPGD, {"inner": 0}),
        (ja.VFGA, {"samples": 0}),
        (ja.VFGA, {"norm": "l1"}),
        (ja.FGA, {"direction": "both"}),
        (ja.JSMA, {"direction": "left"}),
        (ja.JSMA, {"theta": 0.0}),
        (ja.JSMA, {"gamma": 1.5}),
        (ja.JSMA, {"restarts": 2}),
        (ja.JSMA, {"targets": -1}),
    ],
)
def test_settings_that_cannot_be_meant(attack, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        attack(**arguments)


def test_targets_of_its_own_and_of_the_goal():
    with pytest.raises(ValueError, match="targets=3"):
        ja.JSMA(targets=3).specialize(ja.Targeted(LABELS, (LABELS + 1) % 4), 4)
    assert ja.JSMA().specialize(GOAL, 4).entries == 3
    assert ja.JSMA(direction="both").specialize(GOAL, 100).entries == 18
