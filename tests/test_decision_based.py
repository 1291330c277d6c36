"""Attacks by labels alone: hyperplanes, closed forms of their estimates, and exact counts."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.attacks.decision_based.hopskipjump import ESTIMATE
from jaxadv.core.attack import Needs, Problem, attack_key
from jaxadv.core.pytree import pytree, static
from tests.common import GOAL, IMAGES, KEY, LABELS, MODEL, on_the_host

ONE = jax.local_devices()[:1]
RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=36).astype(np.float32)
NEAR = 0.5 + 0.05 * RNG.normal(size=(5, 6, 6, 1)).astype(np.float32)
OFFSET = NORMAL @ NEAR.reshape(5, -1).T - RNG.uniform(0.4, 0.9, 5) * np.linalg.norm(NORMAL)


def plane(params: Any, images: Any) -> Any:
    """Class 0 where NORMAL . x exceeds the image's offset, which the last entry names."""
    values = images.reshape(len(images), -1) @ params
    return jnp.stack([values, jnp.zeros_like(values)], 1)


HYPERPLANE = ja.Model(
    lambda p, x: plane(p[0], x) - jnp.array([p[1], 0.0]),
    (jnp.asarray(NORMAL), jnp.float32(OFFSET.mean())),
)


@pytest.mark.parametrize(
    ("attack", "most"),
    [
        (ja.HopSkipJump(budget=4000), 1.02),
        (ja.HopSkipJump(norm="linf", budget=10_000), 1.05),
        (ja.Boundary(budget=4000), 1.02),
        (ja.GeoDA(budget=4000), 1.02),
        (ja.SignOPT(budget=2000), 1.005),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_distance_to_a_hyperplane(attack: Any, most: float) -> None:
    """|w . x - b| / ||w||_q, q the dual exponent; nowhere does the box come in."""
    goal = ja.Untargeted(np.zeros(5, int))
    result = ja.run(attack, HYPERPLANE, NEAR, goal, key=KEY, lanes=5, devices=ONE)
    gap = NORMAL @ NEAR.reshape(5, -1).T.astype(np.float64) - float(OFFSET.mean())
    dual = np.abs(NORMAL).sum() if attack.norm == "linf" else np.linalg.norm(NORMAL)
    assert result.success.all()
    assert (np.abs(result.images - 0.5) < 0.5).all()
    ratio = result.distance / (gap / dual)
    assert ratio.min() > 1 - 1e-4
    assert ratio.max() < most
    assert (result.queries <= attack.budget).all() and (result.queries > 0.97 * attack.budget).all()


def test_the_normal_is_estimated_as_well_as_the_paper_says() -> None:
    """The mean of B signed directions has cosine 1 / sqrt(1 + pi d / 2B) to the true normal."""
    attack, size = ja.HopSkipJump(batch=32), 36
    image, unit = np.full((6, 6, 1), 0.5, np.float32), NORMAL / np.linalg.norm(NORMAL)
    problem = Problem(
        jnp.asarray(image),
        ja.Untargeted(jnp.int32(0)),
        jnp.float32(jnp.inf),
        jnp.float32(0),
        jnp.float32(1),
        jnp.zeros(2),
        jnp.int32(0),
    )

    @jax.jit
    def cosines(key: Any) -> Any:
        state = attack.init(problem, key)
        known = attack.first(problem)._replace(radius=jnp.float32(0.01), wanted=jnp.int32(10**6))
        state = state._replace(own=known, phase=jnp.int32(ESTIMATE))

        def tick(state: Any, _: Any) -> Any:
            state = attack._aim(problem, state)
            along = (state.trial - image).reshape(attack.batch, -1) @ unit
            own = attack._learn(state, along < 0, jnp.ones(attack.batch, bool))
            state = state._replace(own=own, tick=state.tick + 1)
            return state, -(own.direction.ravel() @ unit)

        return jax.lax.scan(tick, state, length=64)[1]

    found = np.asarray(jax.vmap(cosines)(jax.random.split(KEY, 20))).mean(0)
    asked = attack.batch * np.arange(1, 65)
    np.testing.assert_allclose(found, 1 / np.sqrt(1 + np.pi * size / (2 * asked)), atol=0.03)
    assert found[-1] > 0.98


@pytest.mark.slow
def test_halving_is_counted_as_it_would_have_been_one_by_one() -> None:
    """A start and ten halvings bring the share of the way to within a thousandth: 11 answers."""
    goal, start = ja.Untargeted(np.zeros(5, int)), np.zeros_like(NEAR)
    values = (NEAR - np.sign(NORMAL).reshape(6, 6, 1) * 0.5).clip(0, 1)
    start[:] = values
    asked: list[int] = []

    def counted(images: np.ndarray) -> np.ndarray:
        asked.append(len(images))
        return np.asarray(HYPERPLANE(jnp.asarray(images)))

    model = ja.from_function(counted, differentiable=False)
    attack = ja.BlendedNoise()
    result = ja.run(attack, model, NEAR, goal, key=KEY, lanes=5, start=start, devices=ONE)
    np.testing.assert_array_equal(result.queries, 11)
    np.testing.assert_array_equal(result.forward, 12)
    np.testing.assert_array_equal(result.computed, 1 + 3 * attack.batch)  # 1, then 5 halvings twice
    whole = np.linalg.norm((start - NEAR).reshape(5, -1), axis=1)
    change = (start - NEAR).reshape(5, -1) @ NORMAL
    gap = NORMAL @ NEAR.reshape(5, -1).T - float(OFFSET.mean())
    share = result.distance / whole
    assert (share >= gap / -change - 1e-6).all()
    assert (share <= gap / -change + 1 / 1024 + 1e-6).all()
    assert sum(n for n in asked if n == 5 * attack.batch) == 5 * 3 * attack.batch


def set_back(image: np.ndarray, start: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, int]:
    """The pointwise attack as a loop that asks one image at a time, and the answers it needs."""
    point, asked, vain = start.ravel().copy(), 1, False
    while not vain:
        vain = True
        for entry in order[(point != image.ravel())[order]]:
            trial = point.copy()
            trial[entry] = image.ravel()[entry]
            asked += 1
            if int(np.asarray(HYPERPLANE(jnp.asarray(trial.reshape(1, 6, 6, 1)))).argmax()):
                point, vain = trial, False
    return point.reshape(image.shape), asked


@pytest.mark.slow
def test_what_is_set_back_is_what_a_loop_of_single_questions_sets_back() -> None:
    goal, attack = ja.Untargeted(np.zeros(5, int)), ja.Pointwise(batch=8)
    start = np.where(NORMAL.reshape(6, 6, 1) > 0, 0.0, 1.0).astype(np.float32) + 0 * NEAR
    result = ja.run(attack, HYPERPLANE, NEAR, goal, key=KEY, lanes=3, start=start, devices=ONE)
    for row in range(5):
        key = attack_key(attack, KEY, row, 0)
        image, asked = set_back(NEAR[row], start[row], np.asarray(jax.random.permutation(key, 36)))
        np.testing.assert_array_equal(result.images[row], image)
        assert result.queries[row] == asked
    # No fewer than the fewest entries whose whole way across the box leads to the other side.
    way = np.abs(NORMAL) * np.abs(start - NEAR).reshape(5, -1)
    gap = NORMAL @ NEAR.reshape(5, -1).T - float(OFFSET.mean())
    fewest = (np.cumsum(-np.sort(-way, 1), 1) < gap[:, None]).sum(1) + 1
    assert (result.distance >= fewest).all() and result.distance.mean() < 2 * fewest.mean()


@pytest.mark.slow
def test_salt_and_pepper_is_set_back_until_no_entry_can_be() -> None:
    goal = ja.Untargeted(np.zeros(5, int))
    result = ja.run(ja.Pointwise(), HYPERPLANE, NEAR, goal, key=KEY, lanes=5, devices=ONE)
    assert result.success.all() and (result.queries < 300).all()
    for image, original in zip(result.images, NEAR, strict=True):
        changed = np.flatnonzero(image != original)
        fewer = np.repeat(image.reshape(1, -1), len(changed), 0)
        fewer[np.arange(len(changed)), changed] = original.ravel()[changed]
        answers = np.asarray(HYPERPLANE(jnp.asarray(fewer.reshape(-1, 6, 6, 1)))).argmax(1)
        assert not answers.any()


@pytree
class AsksAhead(ja.Attack):
    """Asks four images, ever nearer, of which the first adversarial one ends the tick."""

    pullbacks: ClassVar[int] = 0
    queries: ClassVar[int] = 4
    needs_epsilon: ClassVar[bool] = False
    keep: ClassVar[str] = "distance"
    ticks: ClassVar[int] = 1
    norm: str = static(default="l2")

    def init(self, problem: Any, key: Any) -> Any:
        return jnp.int32(0)

    def ask(self, problem: Any, state: Any) -> Any:
        shares = jnp.array([0.1, 1.0, 0.9, 0.8]).reshape(4, 1, 1, 1)
        step = jnp.sign(jnp.asarray(NORMAL)).reshape(6, 6, 1) * 0.3
        return problem.image - shares * step

    def needs(self, problem: Any, state: Any) -> Needs:
        return Needs(jnp.ones(4, bool), jnp.zeros(4, bool))

    def used(self, problem: Any, state: Any, logits: Any, read: Any) -> Any:
        wrong = jax.vmap(problem.goal.margin)(logits) < 0
        return read & (jnp.cumsum(wrong) - wrong == 0)

    def tell(self, problem: Any, state: Any, answer: Any) -> Any:
        return state + 1

    def done(self, problem: Any, state: Any) -> Any:
        return state > 0


def test_what_is_asked_ahead_and_not_heard_is_neither_kept_nor_counted() -> None:
    goal = ja.Untargeted(np.zeros(5, int))
    result = ja.run(AsksAhead(), HYPERPLANE, NEAR, goal, key=KEY, devices=ONE)
    assert result.success.all()
    np.testing.assert_array_equal(result.queries, 2)
    np.testing.assert_array_equal(result.computed, 5)
    np.testing.assert_allclose(result.distance, 0.3 * 6, rtol=1e-5)


def steep(by: float) -> ja.Model:
    """The random network, its logits spread."""
    return ja.Model(_steep, MODEL.params | {"by": jnp.float32(by)})


def _steep(params: Any, images: Any) -> Any:
    return jnp.sinh(params["by"] * MODEL.apply(params, images))


@pytest.mark.slow
@pytest.mark.parametrize("attack", [ja.HopSkipJump(budget=400), ja.Boundary(budget=300)])
def test_only_the_label_is_seen(attack: Any) -> None:
    """Spread logits change no question; no query beyond the budget."""
    plain, other = (
        ja.run(attack, steep(by), IMAGES, GOAL, key=KEY, lanes=8, devices=ONE) for by in (1.0, 3.7)
    )
    for name in ("success", "queries", "computed"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(other, name))
    # Of the same questions the engine keeps another where one is not clearly across, by the logits.
    assert (plain.images == other.images).all((1, 2, 3)).mean() > 0.9
    assert plain.success.all() and (plain.queries <= attack.budget).all()


def test_without_a_start_it_has_failed() -> None:
    """A class that is everywhere: no image, let alone a black one, is a success."""
    everywhere = ja.Model(HYPERPLANE.apply, (jnp.asarray(NORMAL), jnp.float32(-1e4)))
    for attack in (ja.HopSkipJump(budget=4000), ja.Boundary(budget=4000)):
        goal = ja.Untargeted(np.zeros(5, int))
        result = ja.run(attack, everywhere, NEAR, goal, key=KEY, lanes=5, devices=ONE)
        assert (result.status == ja.Status.FAILED).all() and not result.success.any()
        np.testing.assert_array_equal(result.queries, attack.draws)


@pytest.mark.slow
def test_a_target_is_reached_from_a_start_of_that_class() -> None:
    targets = (LABELS + 1) % 4
    answers = np.asarray(MODEL(jnp.asarray(IMAGES))).argmax(1)
    start = np.stack([IMAGES[np.flatnonzero(answers == target)[0]] for target in targets])
    goal = ja.Targeted(LABELS, targets)
    result = ja.run(
        ja.HopSkipJump(budget=400), MODEL, IMAGES, goal, key=KEY, lanes=8, start=start, devices=ONE
    )
    np.testing.assert_array_equal(on_the_host(result.images).argmax(1), targets)
    begun = np.linalg.norm((start - IMAGES).reshape(21, -1), axis=1)
    wrong = answers != targets
    assert result.success.all() and (result.distance[wrong] < 0.7 * begun[wrong]).mean() > 0.9


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ja.HopSkipJump(budget=0), "budget"),
        (lambda: ja.HopSkipJump(norm="l1"), "l2, linf"),
        (lambda: ja.HopSkipJump(gamma=0), "gamma"),
        (lambda: ja.Boundary(rate=2), "rate"),
        (lambda: ja.Boundary(batch=1), "batch"),
        (lambda: ja.SignOPT(beta=0), "beta"),
        (lambda: ja.SignOPT(norm="linf"), "l2"),
        (lambda: ja.SignOPT(directions=0), "directions"),
        (lambda: ja.Pointwise(norm="l1"), "l0"),
    ],
)
def test_settings_that_cannot_be_meant(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
