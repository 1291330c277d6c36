"""APGD and Square against the schedules of the papers; models that draw at random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.attacks.common.plan import checkpoints
from jaxadv.attacks.score_based.square import SquareState
from jaxadv.core.attack import Problem, runner_up_class
from jaxadv.core.losses import dlr

KEY = jax.random.key(3)


def test_the_checkpoints_are_those_of_the_paper() -> None:
    assert np.flatnonzero(checkpoints(100, "linf")).tolist() == [22, 41, 57, 70, 80, 87, 93, 99]
    assert np.flatnonzero(checkpoints(100, "l1")).tolist() == list(range(4, 101, 4))


def test_l1_spends_its_steps_on_three_two_and_one_epsilons() -> None:
    attack = ja.APGD(norm="l1")
    assert attack.stages == [(3.0, 30), (2.0, 30), (1.0, 40)]
    assert attack.plan.radius.tolist() == [3.0] * 31 + [2.0] * 31 + [1.0] * 41
    assert attack.ticks == 103
    assert ja.APGD(norm="l1", wide=False).stages == ja.APGD().stages == [(1.0, 100)]


def problem(clean_logits: list[float], label: int) -> Problem:
    return Problem(
        image=jnp.zeros((9, 7, 2)),
        goal=ja.Untargeted(jnp.int32(label)),
        epsilon=jnp.float32(0.3),
        lower=jnp.float32(-9),
        upper=jnp.float32(9),
        clean_logits=jnp.array(clean_logits),
        rank=jnp.int32(0),
    )


def test_targets_are_the_likeliest_wrong_classes() -> None:
    given = problem([0.5, 3.0, 2.0, -1.0, 1.0], 1)
    assert [int(runner_up_class(given, place, 4)) for place in range(4)] == [2, 4, 0, 3]
    for classes, targets in ((2, 1), (3, 2), (10, 9), (1000, 9)):
        attack = ja.APGD(targets=9, restarts=2).specialize(ja.Untargeted(np.zeros(1, int)), classes)
        assert isinstance(attack, ja.APGD)
        assert (attack.targets, attack.entries) == (targets, 2 * targets)


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_dlr_has_a_gradient_for_any_number_of_classes(classes: int) -> None:
    logits = jax.random.normal(KEY, (classes,))
    label, target = jnp.argmax(logits), jnp.argmin(logits)
    for goal in (ja.Untargeted(label), ja.Targeted(label, target)):
        value, slope = jax.value_and_grad(lambda z, goal=goal: dlr(goal, z))(logits)
        assert float(jnp.abs(slope).max()) > 0.01
        if classes > 3:  # whatever the scale and the offset of the logits
            assert dlr(goal, 7 * logits + 2) == pytest.approx(float(value), rel=1e-4)


@pytest.mark.slow
def test_one_of_nine_targets_is_enough() -> None:
    # Only the class that the clean image ranks last can be reached, and only from far away.
    bias = jnp.array([30.0, *[6.0] * 8, -10.0])
    images, goal = jnp.full((3, 4, 4, 1), 0.5), ja.Untargeted(np.zeros(3, int))
    attack = ja.APGD(loss="dlr", targets=9, steps=20)
    for slope, reached in ((4.9, False), (5.1, True)):  # at 5 * 16 * 0.5 = 40 the classes meet
        model = ja.Model(
            lambda p, x: (x.reshape(len(x), -1) - 0.5) @ p[0] + p[1],
            (jnp.zeros((16, 10)).at[:, 9].set(slope), bias),
        )
        result = ja.run(attack, model, images, goal, 0.5, key=KEY, lanes=2)
        assert (result.success == reached).all()
    assert (result.backward > 8 * 20).all()  # the other eight had their turns, and were paid for


def side(step: int, **settings: object) -> int:
    state = SquareState(None, None, None, None, jnp.int32(step))
    return int(ja.Square(**settings)._side(problem([0.0, 1.0], 1), state.step))  # type: ignore[arg-type]


def test_squares_shrink_as_in_the_paper() -> None:
    # 9 x 7 entries: p = 0.8 covers 50.4 of them, a side of 7.
    assert [side(step) for step in (0, 10, 11, 50, 51, 200, 201, 9999)] == [7, 7, 5, 5, 4, 4, 3, 1]
    assert side(5, steps=50, rescale=True) == side(1000)
    assert side(9999, norm="l2") == 3


def test_square_reaches_every_corner() -> None:
    """Every entry of a linear model's image matters: a perfect score needs them all."""
    weights = jax.random.choice(KEY, jnp.array([-1.0, 1.0]), (25,))
    logits = lambda w, x: jnp.stack([(x.reshape(len(x), -1) - 0.5) @ w, jnp.zeros(len(x))], 1)  # noqa: E731
    model = ja.Model(lambda w, x: logits(w, x) + jnp.array([24.9 * 0.1, 0.0]), weights)
    goal = ja.Untargeted(np.zeros(2, int))
    result = ja.run(
        ja.Square(steps=3000), model, jnp.full((2, 5, 5, 1), 0.5), goal, 0.1, key=KEY, lanes=2
    )
    assert result.success.all()
    assert not result.backward.any()


def noisy(weights: jax.Array, images: jax.Array, key: jax.Array) -> jax.Array:
    images = images + 0.5 * jax.random.normal(key, images.shape)
    return images.reshape(len(images), -1) @ weights


RANDOM = ja.Model(noisy, jax.random.normal(KEY, (16, 3)), random=True)
IMAGES = jax.random.uniform(KEY, (12, 4, 4, 1))


def test_a_random_model_answers_an_image_alike_in_any_company() -> None:
    whole = RANDOM(IMAGES)
    np.testing.assert_allclose(RANDOM(IMAGES[5:8]), whole[5:8], rtol=1e-5)
    assert float(jnp.abs(RANDOM.fresh()(IMAGES) - whole).max()) > 0.1
    moved = RANDOM(IMAGES + 1e-6)  # another image, another draw
    assert float(jnp.abs(moved - whole).max()) > 0.1


def test_eot_is_the_mean_and_so_is_its_gradient() -> None:
    model = ja.EOT(RANDOM, samples=400)
    plain = IMAGES.reshape(12, -1) @ RANDOM.params
    np.testing.assert_allclose(model(IMAGES), plain, atol=0.6)  # 5 standard errors
    gradient = jax.grad(lambda x: model(x)[:, 1].sum())(IMAGES)
    expected = np.broadcast_to(RANDOM.params[:, 1].reshape(4, 4, 1), IMAGES.shape)
    np.testing.assert_allclose(gradient, expected, atol=1e-4)


@pytest.mark.slow
def test_one_lucky_draw_is_no_success() -> None:
    """The mean never errs within epsilon; single draws do, and are refused on fresh ones."""
    weights = jnp.zeros((16, 2)).at[:, 0].set(1.0)
    model = ja.Model(noisy, weights, random=True)
    images, goal = jnp.full((40, 4, 4, 1), 0.3), ja.Untargeted(np.zeros(40, int))
    one = ja.run(ja.PGD(steps=30), model, images, goal, 0.1, key=KEY, lanes=8)
    assert one.rejected.get("REJECTED_LABEL", 0) > 5
    mean = ja.EOT(model, samples=50)
    many = ja.run(ja.PGD(steps=5), mean, images, goal, 0.1, key=KEY, keep="loss", lanes=8)
    assert not many.success.any()
    assert (many.forward == 50 * 7).all()
    assert (many.backward == 50 * 5).all()


def test_eot_of_a_model_that_draws_nothing() -> None:
    with pytest.raises(ValueError, match="random=True"):
        ja.EOT(ja.Model(lambda w, x: x, ()))
    with pytest.raises(ValueError, match="samples=0"):
        ja.EOT(RANDOM, samples=0)
