"""ACG against conjugate gradients of SciPy, the paper's algorithm in numpy, and linear models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse.linalg import cg

import jaxadv as ja
from jaxadv.attacks.gradient_based.acg import Conjugate, conjugate_direction
from jaxadv.core.attack import Answer, Problem

KEY = jax.random.key(5)
SIZE, EPSILON = 6, 0.25
RNG = np.random.default_rng(1)
FACTOR = RNG.normal(size=(SIZE, SIZE))
MATRIX = FACTOR @ FACTOR.T + 0.1 * np.eye(SIZE)
TOP = 0.5 + 0.3 * RNG.normal(size=SIZE)  # where the loss is largest, in part outside of the ball


def test_with_an_exact_line_search_the_directions_are_those_of_conjugate_gradients():
    """On a quadratic, and so is every iterate; after as many steps as entries it is solved."""
    right = MATRIX @ TOP
    wanted: list[np.ndarray] = []
    cg(MATRIX, right, rtol=1e-12, maxiter=SIZE, callback=lambda x: wanted.append(x.copy()))
    x = np.zeros(SIZE)
    before = Conjugate(jnp.zeros(SIZE), jnp.zeros(SIZE))
    for solution in wanted[:4]:
        gradient = right - MATRIX @ x  # ascent on right @ x - x @ MATRIX @ x / 2
        direction, _ = conjugate_direction(jnp.float32(gradient), before)
        s = np.asarray(direction, np.float64)
        x = x + (gradient @ s) / (s @ MATRIX @ s) * s
        np.testing.assert_allclose(x, solution, atol=2e-3)
        before = Conjugate(jnp.float32(gradient), direction)


def test_beta_by_hand():
    # y = g' - g = (1, -2), <-g, y> = 4, <s', y> = 1 * 2 - 2 * 0.5 = 1: beta = 4, s = (8, 4).
    before = Conjugate(jnp.array([1.0, 0.0]), jnp.array([2.0, 0.5]))
    direction, beta = conjugate_direction(jnp.array([0.0, 2.0]), before)
    assert float(beta) == pytest.approx(4)
    np.testing.assert_allclose(direction, [8, 4], rtol=1e-6)
    # Any scale of the loss, down to squares that float32 does not hold.
    tiny = Conjugate(before.gradient * 1e-25, before.direction * 1e-25)
    scaled, beta = conjugate_direction(jnp.array([0.0, 2e-25]), tiny)
    assert float(beta) == pytest.approx(4)
    np.testing.assert_allclose(scaled, [8e-25, 4e-25], rtol=1e-6)
    # Equal gradients (0 / 0), and a negative beta: the gradient itself.
    for gradient in ([1.0, 0.0], [2.0, 0.0]):
        direction, beta = conjugate_direction(jnp.array(gradient), before)
        assert float(beta) == 0
        np.testing.assert_array_equal(direction, gradient)


def problem(image, epsilon=EPSILON, rank=0):
    return Problem(
        image=jnp.float32(image).reshape(SIZE, 1, 1),
        goal=ja.Untargeted(jnp.int32(0)),
        epsilon=jnp.float32(epsilon),
        lower=jnp.float32(0),
        upper=jnp.float32(1),
        clean_logits=jnp.array([5.0, 0.0]),
        rank=jnp.int32(rank),
    )


def loss_and_gradient(x):
    delta = x - TOP
    return -delta @ MATRIX @ delta / 2, -MATRIX @ delta


def numpy_iterates(image, steps):
    """Algorithm 1 of the paper, in float64, with the checkpoints of APGD's paper."""
    lower, upper = np.maximum(image - EPSILON, 0), np.minimum(image + EPSILON, 1)
    fractions = [0.0, 0.22]
    while fractions[-1] < 1:
        fractions.append(fractions[-1] + max(fractions[-1] - fractions[-2] - 0.03, 0.06))
    checks = [round(steps * fraction) for fraction in fractions]
    x, eta = (lower + upper) / 2, 2 * EPSILON
    loss, gradient = loss_and_gradient(x)
    old, s = gradient, gradient  # the gradient at the step before, and the direction
    best = (x, loss, gradient, None, None)
    before, iterates = None, [x]
    improved, best_at_check, halved = 0, loss, True
    for k in range(1, steps + 1):
        if before is not None:
            old, s = before
            y = old - gradient
            size = np.linalg.norm(s) * (np.linalg.norm(old) + np.linalg.norm(gradient))
            zero = abs(s @ y) <= 1e-6 * size  # it did not move, or moved to and fro
            beta = 0.0 if zero else max(0.0, -(gradient @ y) / (s @ y))
            s = gradient + beta * s
        else:
            s = gradient
        before = (gradient, s)
        x = np.clip(x + eta * np.sign(s), lower, upper)
        iterates.append(x)
        last, (loss, gradient) = loss, loss_and_gradient(x)
        improved += loss > last
        if loss > best[1]:
            best = (x, loss, gradient, *before)
        if k in checks:
            length = k - checks[checks.index(k) - 1]
            down = improved <= 0.75 * length or (not halved and best_at_check >= best[1])
            if down:
                eta, x, gradient = eta / 2, best[0], best[2]
                before = None if best[3] is None else (best[3], best[4])
            halved, best_at_check, improved = down, best[1], 0
    return np.array(iterates)


def test_the_iterates_are_those_of_the_paper():
    image, steps = 0.2 + 0.6 * RNG.uniform(size=SIZE), 100
    attack, given = ja.ACG(steps=steps), problem(image)
    state = attack.init(given, KEY)
    tell = jax.jit(attack.tell)
    wanted, found = numpy_iterates(image, steps), []
    for _ in range(steps + 1):
        x = np.asarray(attack.ask(given, state)[0], np.float64).ravel()
        found.append(x)
        loss, gradient = loss_and_gradient(x)
        answer = Answer(
            logits=jnp.float32([[0.0, loss - 9]]),  # never adversarial
            gradients=jnp.float32(gradient).reshape(1, 1, SIZE, 1, 1),
            adversarial=jnp.zeros(1, bool),
            used=jnp.ones(1, bool),
        )
        state = tell(given, state, answer)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert float(state.length) < 0.2  # the step size was halved several times


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.25)])
def test_a_linear_model_is_broken_exactly_where_its_best_point_crosses(norm, epsilon):
    """The margin rises by epsilon times the dual norm of the weights, and by no more."""
    weights = RNG.normal(size=SIZE).astype(np.float32)
    gain = epsilon * np.linalg.norm(weights, 1 if norm == "linf" else 2)

    def logits(params, x):
        slope, bias = params
        return jnp.stack([bias - (x.reshape(len(x), -1) - 0.5) @ slope, jnp.zeros(len(x))], 1)

    images, goal = jnp.full((2, SIZE, 1, 1), 0.5), ja.Untargeted(np.zeros(2, int))
    for factor, broken in ((0.999, True), (1.001, False)):
        model = ja.Model(logits, (jnp.asarray(weights), jnp.float32(factor * gain)))
        result = ja.run(ja.ACG(norm=norm, steps=20), model, images, goal, epsilon, key=KEY, lanes=2)
        assert (result.success == broken).all()


def test_the_first_run_begins_at_the_centre():
    image = np.array([0.0, 0.1, 0.4, 0.5, 0.9, 1.0])
    centre = [0.125, 0.175, 0.4, 0.5, 0.825, 0.875]
    attack = ja.ACG(restarts=2)
    starts = [attack.init(problem(image, rank=rank), KEY).image.ravel() for rank in range(3)]
    np.testing.assert_allclose(starts[0], centre, atol=1e-6)
    np.testing.assert_allclose(starts[2], centre, atol=1e-6)  # the next target's first run
    random = ja.ACG(random_start=True).init(problem(image), KEY).image.ravel()
    for start in (starts[1], random):
        assert np.abs(start - np.array(centre)).max() > 0.01
        assert np.abs(start - image).max() <= EPSILON + 1e-6


@pytest.mark.parametrize("settings", [{"norm": "l1"}, {"steps": 0}, {"loss": "hinge"}])
def test_bad_settings(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ja.ACG(**settings)
