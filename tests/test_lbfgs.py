"""L-BFGS held against SciPy's L-BFGS-B, dense BFGS matrices and the exact distance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq, minimize
from scipy.special import log_softmax, logsumexp, softmax

import jaxadv as ja
from jaxadv.attacks.common.penalty_bracket import Bracket
from jaxadv.attacks.common.quasi_newton import Memory
from tests.common import GOAL, IMAGES, KEY, LABELS, MODEL
from tests.linear import COUNT, SHAPE, exact, logits, problem

TARGETS = ja.Targeted(LABELS, (LABELS + 1) % 4)


def attack(model, images, goal, keep=None, **settings):
    return ja.run(ja.LBFGS(**settings), model, images, goal, key=KEY, keep=keep, lanes=8)


# ---- the exact distance -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "penalty"), [(False, "squared"), (True, "squared"), (True, "norm")]
)
def test_two_linear_classes_to_the_tolerance(box, penalty):
    """The minimisers at the two ends of the search are shorter and longer than the exact answer.

    The failing one's objective exceeds its least value by at most tolerance / 10 of c |r|^2 (c is
    half the curvature, so the residual bounds it), hence |r_high| <= exact / (1 - tolerance / 10);
    the ends agree to `tolerance`. Far from the boundary the loss is a straight line, and so is the
    paper's penalty c |r|: its minimiser jumps as c changes, and only the median is held to that.
    """
    weights, bias, images, labels = problem(box)
    tolerance = 1e-3
    model = ja.Model(logits, (jnp.asarray(weights), jnp.asarray(bias)))
    images = images.reshape(COUNT, *SHAPE)
    distance = exact("l2", box)
    for goal in (ja.Untargeted(labels), ja.Targeted(labels, 1 - labels)):
        result = attack(model, images, goal, tolerance=tolerance, penalty=penalty)
        np.testing.assert_array_equal(result.success, np.isfinite(distance))
        ratio = result.distance[result.success] / distance[result.success]
        assert ratio.min() > 1 - 1e-6
        worst = ratio.max() if penalty == "squared" else np.median(ratio)
        assert worst < (1 + tolerance) / (1 - tolerance / 10) + 1e-6


# ---- SciPy ------------------------------------------------------------------------------------


def bisected(value_and_gradient, adversarial, image):
    """The plain procedure: c by factors of 10, then bisections of log c; each from the image."""
    shape, x0 = image.shape, image.ravel().astype(np.float64)
    low, high, found, c = 0.0, np.inf, None, 1.0
    for _ in range(40):

        def objective(x, c=c):
            value, gradient = value_and_gradient(x.reshape(shape))
            return c * np.square(x - x0).sum() + value, 2 * c * (x - x0) + gradient.ravel()

        x = minimize(
            objective,
            x0,
            jac=True,
            method="L-BFGS-B",
            bounds=[(0, 1)] * x0.size,
            options={"ftol": 1e-13, "gtol": 1e-8, "maxiter": 1000},
        ).x
        if adversarial(x.reshape(shape)):
            low, found = c, x
        else:
            high = c
        if high <= low * (1 + 1e-5):
            break
        c = 10 * c if high == np.inf else c / 10 if low == 0 else (low * high) ** 0.5
    assert found is not None
    return np.linalg.norm(found - x0)


@pytest.fixture
def precision(request):
    jax.config.update("jax_enable_x64", request.param == "float64")
    yield request.param
    jax.config.update("jax_enable_x64", False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-3), ("float64", 1e-5)], indirect=["precision"]
)
def test_convex_distortions_equal_those_of_scipy(precision, tolerance):
    """Softmax regression: one minimiser for each c, so image by image the same answer."""
    rng = np.random.default_rng(3)
    weights, images = rng.normal(size=(36, 5)) * 2, IMAGES[:6]
    labels = (images.reshape(6, -1) @ weights).argmax(1)
    targets = (labels + 1 + np.arange(6) % 4) % 5

    def distance(i):
        def value_and_gradient(x):
            z, t = x.ravel() @ weights, targets[i]
            return -log_softmax(z)[t], weights @ (softmax(z) - np.eye(5)[t])

        return bisected(
            value_and_gradient, lambda x: (x.ravel() @ weights).argmax() == targets[i], images[i]
        )

    reference = np.array([distance(i) for i in range(6)])
    model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, weights.astype(precision))
    goal = ja.Targeted(labels, targets)
    settings = {"tolerance": tolerance, "precision": precision}
    result = attack(model, images, goal, keep="last", **settings)
    assert result.success.all()
    np.testing.assert_allclose(result.distance, reference, rtol=tolerance + 1e-5)
    # Points asked on the way may be nearer: the least loss is not the least distance.
    nearest = attack(model, images, goal, **settings)
    assert (nearest.distance <= result.distance * (1 + 1e-6)).all()


@pytest.mark.slow
@pytest.mark.parametrize("goal", [GOAL, TARGETS], ids=["untargeted", "targeted"])
def test_distortions_of_a_network_are_no_larger_than_those_of_scipy(goal):
    result = attack(MODEL, IMAGES, goal)
    assert result.success.all()

    @jax.jit
    def value_and_gradient(x, goal):
        def loss(x):
            z = jax.nn.log_softmax(MODEL(x[None])[0])
            if goal.targeted:
                return -z[goal.targets]
            return -jnp.log(-jnp.expm1(z[goal.labels]))

        return jax.value_and_grad(loss)(x)

    ratios = []
    for i in range(6):
        one = jax.tree.map(lambda leaf, i=i: np.int32(leaf[i]), goal)
        if result.status[i] == ja.Status.MISCLASSIFIED:
            continue
        margin = jax.jit(lambda x, one=one: one.margin(MODEL(x[None])[0]))
        reference = bisected(
            lambda x, one=one: [
                np.float64(a) for a in value_and_gradient(x.astype(np.float32), one)
            ],
            lambda x, margin=margin: margin(x.astype(np.float32)) < 0,
            IMAGES[i],
        )
        ratios.append(result.distance[i] / reference)
    assert np.median(ratios) < 1.001  # the tolerance of the search
    assert max(ratios) < 1.02


# ---- the parts --------------------------------------------------------------------------------


def test_newton_steps_are_those_of_dense_bfgs_matrices():
    """On the free variables, from the pairs in the ring alone, at a curvature known only later."""
    rng = np.random.default_rng(0)
    size, pairs, curvature = 12, 3, 0.7
    root = rng.normal(size=(size, 2))
    hessian = root @ root.T  # the loss's
    free = rng.random(size) < 0.7
    memory = Memory.empty(pairs, jnp.zeros(size, jnp.float32))
    steps = rng.normal(size=(5, size))
    for step in steps:
        memory = memory.add(jnp.float32(step), jnp.float32(hessian @ step))
        memory = memory.add(jnp.zeros(size), jnp.float32(step))  # no step, no pair
    inverse = np.eye(free.sum()) / curvature
    for step in steps[-pairs:]:
        s, y = step[free], (hessian @ step + curvature * step)[free]
        if s @ y <= 0.1 * curvature * s @ s:
            continue
        left = np.eye(len(s)) - np.outer(s, y) / (s @ y)
        inverse = left @ inverse @ left.T + np.outer(s, s) / (s @ y)
    gradient = rng.normal(size=size)
    expected = np.zeros(size)
    expected[free] = inverse @ gradient[free]
    found = memory.newton(jnp.float32(gradient), jnp.asarray(free), jnp.float32(curvature))
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5)


def test_newton_steps_descend_whatever_the_memory_holds():
    rng = np.random.default_rng(1)
    memory = Memory.empty(5, jnp.zeros(8, jnp.float32))
    for _ in range(20):
        memory = memory.add(*jnp.float32(rng.normal(size=(2, 8)) * 10.0 ** rng.normal(size=(2, 1))))
        gradient, free = jnp.float32(rng.normal(size=8)), jnp.asarray(rng.random(8) < 0.8)
        step = memory.newton(gradient, free, jnp.float32(0.5))
        assert not step[~free].any()
        assert step @ gradient > 0 or not free.any()


@pytest.mark.parametrize("begin", [1e-3, 1.0, 500.0])
def test_the_bracket_finds_the_root_that_scipy_finds(begin):
    def margin(log_c):
        return np.arctan(3 * (log_c - 1.3)) + 0.2 * np.sin(log_c) + 0.05

    root = np.exp(brentq(margin, -10, 10))
    bracket = Bracket.begin(jnp.float32(begin))
    while not bracket.converged(1e-4) and bracket.round < 60:
        value = margin(float(jnp.log(bracket.c)))
        bracket = bracket.after(value < 0, jnp.float32(value), bracket.c**-0.5)
    assert bracket.low <= root * (1 + 1e-6) and bracket.high >= root * (1 - 1e-6)
    assert bracket.low == pytest.approx(root, rel=3e-4)
    assert bracket.round < 30


def test_the_bracket_closes_in_on_a_jump():
    bracket = Bracket.begin(jnp.float32(1))
    while not bracket.converged(1e-3) and bracket.round < 60:
        below = bracket.c < 7.7
        bracket = bracket.after(below, jnp.where(below, -1, 2), jnp.where(below, 5, 1))
    assert bracket.low <= 7.7 <= bracket.high <= bracket.low * 1.001
    assert bracket.round < 30


# ---- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float64"], indirect=True)
def test_float64_follows_scipy_further(precision):
    """Softmax regression again: at the answer the objective's gradient is c times the distance's,
    more exactly than float32 shows."""
    rng = np.random.default_rng(3)
    weights, images = rng.normal(size=(36, 5)) * 2, IMAGES[:4]
    labels = (images.reshape(4, -1) @ weights).argmax(1)
    goal = ja.Targeted(labels, (labels + 1) % 5)
    model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, weights)
    result = attack(model, images, goal, keep="last", tolerance=1e-8, precision=precision)
    assert result.success.all() and result.images.dtype == np.float32
    x = result.images.reshape(4, -1).astype(np.float64)
    r, z = x - images.reshape(4, -1), x @ weights
    p = np.exp(z - logsumexp(z, axis=1, keepdims=True))
    gradient = (p - np.eye(5)[goal.targets]) @ weights.T
    for i in range(4):
        free = (x[i] > 0) & (x[i] < 1)
        c = -(gradient[i, free] @ r[i, free]) / (2 * r[i, free] @ r[i, free])
        residual = gradient[i, free] + 2 * c * r[i, free]
        assert np.abs(residual).max() < 1e-4 * np.abs(gradient[i]).max()


@pytest.mark.parametrize(
    "arguments",
    [
        {"penalty": "l1"},
        {"loss": "dlr"},
        {"memory": 0},
        {"rounds": 0},
        {"iterations": 0},
        {"tolerance": 0.0},
        {"initial_c": -1.0},
        {"precision": "float16"},
        {"precision": "float64"},
    ],
)
def test_settings_that_cannot_be_meant(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ja.LBFGS(**arguments)
