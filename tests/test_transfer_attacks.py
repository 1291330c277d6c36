"""Transfer attacks against numpy, SciPy and closed forms: each option alone, and what they cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import jaxadv as ja
from jaxadv.attacks.transfer.views import FORMS, profile, resize_and_pad, smooth
from jaxadv.core.attack import Problem

KEY = jax.random.key(3)
EPSILON = 0.1
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.2, 0.8, (9, 6, 6, 1)).astype(np.float32)
CURVE = RNG.normal(size=(36, 36))
CURVE = ((CURVE + CURVE.T) / 12).astype(np.float32)
SLOPE = RNG.normal(size=36).astype(np.float32)
GOAL = ja.Untargeted(np.zeros(9, np.int32))


def quadratic(params, images):
    """Two logits, 0 and x.A.x / 2 + b.x: the gradient of the second is A x + b."""
    curve, slope = params
    x = images.reshape(len(images), -1)
    value = ((x @ curve) * x).sum(1) / 2 + x @ slope
    return jnp.stack([jnp.zeros(len(x)), value], 1)


def rise(goal, logits):
    """The loss whose gradient is known: the second logit itself."""
    return logits[1]


MODEL = ja.Model(quadratic, (CURVE, SLOPE))


def slope_at(image):
    """The gradient of the loss at one image, in float64."""
    flat = CURVE.astype(np.float64) @ image.ravel().astype(np.float64) + SLOPE
    return flat.reshape(6, 6, 1)


def steps_of(attack, image):
    """Drive one image by hand: yields (problem, state before the tick, images asked)."""
    problem = Problem(
        jnp.asarray(image),
        ja.Untargeted(jnp.int32(0)),
        jnp.float32(EPSILON),
        jnp.float32(0),
        jnp.float32(1),
        MODEL(image[None])[0],
        jnp.int32(0),
    )
    state = attack.init(problem, KEY)
    ask = jax.jit(attack.ask)
    tell = jax.jit(attack.tell)
    for _ in range(attack.steps):
        asked = ask(problem, state)
        yield problem, state, np.asarray(asked)
        logits, pull_back = jax.vjp(MODEL, asked)
        cotangents = attack.cotangents(problem, state, logits)
        gradients = pull_back(cotangents[:, 0])[0][:, None]
        used = attack.needs(problem, state).answers
        state = tell(problem, state, ja.Answer(logits, gradients, used, used))
    yield problem, state, np.asarray(ask(problem, state))


def run(attack, model=MODEL, **settings):
    settings = {"key": KEY, "lanes": 4, "devices": jax.devices()[:1], **settings}
    return ja.run(attack, model, IMAGES, GOAL, EPSILON, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_with_every_option_off_it_is_the_basic_iterative_method(norm):
    drive = jax.jit(
        lambda attack: ja.perturb(attack, MODEL, IMAGES, GOAL, 0.1, key=KEY, keep="last")
    )
    plain, same = drive(ja.BIM(norm=norm)), drive(ja.Transfer(norm=norm))
    np.testing.assert_array_equal(plain, same)
    assert (np.abs(same - IMAGES).max((1, 2, 3)) > 0).all()


def test_momentum_looked_ahead_by_hand():
    # NI-FGSM in numpy: the gradient at x + alpha mu g, normalised by its mean absolute entry.
    attack = ja.NIFGSM(decay=0.7, loss=rise, steps=5)
    alpha, low, high = 0.1 * EPSILON, IMAGES[0] - EPSILON, IMAGES[0] + EPSILON
    x, g = IMAGES[0].astype(np.float64), np.zeros((6, 6, 1))
    for _, state, asked in steps_of(attack, IMAGES[0]):
        np.testing.assert_allclose(state.image, x, atol=1e-6)
        np.testing.assert_allclose(state.momentum, g, rtol=1e-4, atol=1e-5)
        ahead = x + alpha * 0.7 * g
        if state.step < 5:
            np.testing.assert_allclose(asked[0], ahead, atol=1e-6)
        slope = slope_at(ahead)
        g = 0.7 * g + slope / np.abs(slope).mean()
        x = np.clip(x + alpha * np.sign(g), low, high)
    np.testing.assert_array_equal(asked[0], state.image)  # the last iterate itself is judged


def test_scaled_copies_of_a_linear_model_and_of_a_quadratic_one():
    # d/dx of the mean over i of f(x / 2^i), f(x) = x.A.x / 2 + b.x: mean of A x / 4^i + b / 2^i.
    attack = ja.Transfer(scales=4, decay=1.0, loss=rise, steps=1)
    (_, _, asked), (_, state, _) = steps_of(attack, IMAGES[1])
    halves = 0.5 ** np.arange(4)
    np.testing.assert_allclose(asked, halves.reshape(-1, 1, 1, 1) * IMAGES[1], rtol=1e-6)
    curve = CURVE.astype(np.float64) @ IMAGES[1].ravel()
    expected = (halves**2).mean() * curve + halves.mean() * SLOPE
    expected = expected / np.abs(expected).mean()
    np.testing.assert_allclose(np.ravel(state.momentum), expected, rtol=1e-4, atol=1e-5)


def test_variance_by_hand_on_a_quadratic_model():
    # v = A (mean of the neighbours - x), and the next g takes in the gradient plus v.
    attack = ja.VMIFGSM(neighbours=6, neighbourhood=1.5, decay=0.9, loss=rise, steps=3)
    g, v = np.zeros((6, 6, 1)), np.zeros((6, 6, 1))
    for _, state, asked in steps_of(attack, IMAGES[2]):
        np.testing.assert_allclose(state.momentum, g, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(state.variance, v, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(asked[0], state.image)
        if state.step == 3:
            break
        apart = np.abs(asked[1:] - asked[0])
        assert 0.13 < apart.max() <= 0.15 + 1e-6  # uniform within 1.5 epsilons
        assert abs(apart.mean() - 0.075) < 0.01
        total = slope_at(asked[0]) + v
        g = 0.9 * g + total / np.abs(total).mean()
        v = (CURVE.astype(np.float64) @ (asked[1:].mean(0) - asked[0]).ravel()).reshape(6, 6, 1)
    assert np.abs(v).max() > 0.01


def test_neighbours_lie_around_the_iterate_also_where_the_gradient_looks_ahead():
    attack = ja.VNIFGSM(neighbours=5, loss=rise, steps=4)
    *_, (_, state, asked), _ = steps_of(attack, IMAGES[2])
    assert np.abs(asked[0] - np.asarray(state.image)).max() > 1e-3
    assert np.abs(asked[1:] - np.asarray(state.image)).max() <= 1.5 * EPSILON + 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_translation_invariance_is_scipys_convolution(form):
    gradient = RNG.normal(size=(9, 12, 3)).astype(np.float32)
    for size in (3, 7, 15):  # the last is larger than the image
        line = profile(size, form)
        assert abs(line.sum() - 1) < 1e-12 and line.argmax() in (0, size // 2)
        kernel = np.outer(line, line)[:, :, None]
        expected = ndimage.convolve(gradient.astype(np.float64), kernel, mode="constant")
        np.testing.assert_allclose(smooth(jnp.asarray(gradient), line), expected, atol=1e-6)
    # The kernel of Dong et al.: a normal density at len points of [-3, 3].
    normal = np.exp(-(np.linspace(-3, 3, 15) ** 2) / 2)
    np.testing.assert_allclose(profile(15, "gaussian"), normal / normal.sum())


def test_the_kernel_smooths_what_the_momentum_takes_in():
    attack = ja.TIFGSM(kernel=5, loss=rise, steps=1)
    (_, _, _), (_, state, _) = steps_of(attack, IMAGES[3])
    line = profile(5, "gaussian")
    kernel = np.outer(line, line)[..., None]
    smoothed = ndimage.convolve(slope_at(IMAGES[3]), kernel, mode="constant")
    expected = smoothed / np.abs(smoothed).mean()
    np.testing.assert_allclose(state.momentum, expected, rtol=1e-4, atol=1e-5)


def test_resize_and_pad_is_a_resize_and_a_pad():
    image = RNG.uniform(0.5, 1, (12, 12, 2)).astype(np.float32)  # not black: the border is seen
    seen = set()
    moved = jax.jit(lambda x, draws, often: resize_and_pad(x, draws, often, 0.6))
    for _ in range(60):
        view = np.asarray(moved(image, RNG.random(4, np.float32), 1.0))
        rows, columns = (np.flatnonzero((view[..., 0] != 0).any(axis)) for axis in (1, 0))
        size, top, left = len(rows), rows[0], columns[0]
        assert len(columns) == size and 7 <= size < 12
        small = jax.image.resize(image, (size, size, 2), "bilinear", antialias=False)
        padded = np.pad(small, ((top, 12 - size - top), (left, 12 - size - left), (0, 0)))
        np.testing.assert_allclose(view, padded, atol=1e-6)
        seen.add((size, top, left))
    assert {size for size, _, _ in seen} == {7, 8, 9, 10, 11}
    assert len(seen) > 25
    never = moved(image, np.zeros(4, np.float32), 0.0)
    np.testing.assert_array_equal(never, image)
    draws = RNG.random((200, 4), np.float32)
    changed = [(np.asarray(moved(image, four, 0.3)) != image).any() for four in draws]
    assert 0.2 < np.mean(changed) < 0.4


def test_the_gradient_goes_back_through_resize_and_pad():
    attack = ja.DIFGSM(diversity=1.0, resize=0.5, loss=rise, steps=1)
    (_, _, asked), (_, state, _) = steps_of(attack, IMAGES[4])
    rows, columns = (np.flatnonzero((asked[0, ..., 0] != 0).any(axis)) for axis in (1, 0))
    size, top, left = len(rows), rows[0], columns[0]

    def of(image):
        small = jax.image.resize(image, (size, size, 1), "bilinear", antialias=False)
        padded = jnp.pad(small, ((top, 6 - size - top), (left, 6 - size - left), (0, 0)))
        return MODEL(padded[None])[0, 1]

    slope = np.asarray(jax.grad(of)(jnp.asarray(IMAGES[4])))
    np.testing.assert_allclose(state.momentum, slope / np.abs(slope).mean(), rtol=1e-4, atol=1e-5)
    assert size < 6


def test_admix_adds_a_portion_of_images_of_other_classes():
    others = np.stack([np.full((6, 6, 1), value, np.float32) for value in (0.1, 0.2, 0.4, 0.8)])
    attack = ja.Admix(
        mixed_images=others,
        mixed_labels=np.array([0, 1, 0, 1]),
        mixed=3,
        scales=2,
        portion=0.5,
        loss=rise,
        steps=6,
    )
    used = set()
    for _, state, asked in list(steps_of(attack, IMAGES[5]))[:-1]:
        first, second = asked.reshape(2, 3, 6, 6, 1)
        np.testing.assert_allclose(second, first / 2, rtol=1e-6)
        added = (first - np.asarray(state.image)) / 0.5
        np.testing.assert_allclose(added.std((1, 2, 3)), 0, atol=1e-5)
        used |= {round(float(value), 3) for value in added.mean((1, 2, 3))}
    assert used == {0.2, 0.8}  # the others are of the image's own class


COSTS = {  # forward and backward passes: the clean image and the last iterate are one forward each
    "MIFGSM": ja.MIFGSM(steps=4),
    "everything": ja.Transfer(
        steps=4,
        decay=1.0,
        nesterov=True,
        diversity=0.7,
        kernel=3,
        scales=2,
        neighbours=2,
        mixed=2,
        mixed_images=IMAGES[:3],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COSTS)
def test_every_pass_is_counted_and_no_image_sees_another(name):
    attack = COSTS[name]
    views = {"MIFGSM": 1, "everything": 3 * 4}[name]
    result = run(attack)
    assert (result.forward == 2 + 4 * views).all()
    assert (result.backward == 4 * views).all()
    assert attack.passes == 8 * views + 1
    order = RNG.permutation(9)
    again = ja.run(
        attack,
        MODEL,
        IMAGES[order],
        GOAL,
        EPSILON,
        key=KEY,
        ids=order,
        lanes=4,
        devices=jax.devices()[:1],
    )
    np.testing.assert_array_equal(result.images[order], again.images)


@pytest.mark.slow
def test_what_is_kept_is_the_last_iterate_judged_on_the_other_model():
    attack = ja.SINIFGSM(steps=3, loss=rise)
    by_hand = np.stack([list(steps_of(attack, image))[-1][1].image for image in IMAGES])
    bar = np.float32(np.median(MODEL(by_hand)[:, 1]) + 1e-3)  # fooled by four of the nine
    other = ja.Model(lambda p, x: quadratic(p[:2], x) - p[2] * jnp.arange(2), (CURVE, SLOPE, bar))
    result = run(attack, judge=other)
    np.testing.assert_allclose(result.images, by_hand, atol=2e-6)
    answers = np.asarray(other(result.images)).argmax(1)
    np.testing.assert_array_equal(result.success, answers != 0)
    assert result.success.sum() == 4


@pytest.mark.slow
def test_an_ensemble_is_a_mean_of_logits_of_probabilities_or_of_losses():
    weights = RNG.normal(size=(3, 36, 4)).astype(np.float32)
    shares = np.array([0.5, 0.3, 0.2])

    def linear(w, images):
        return images.reshape(len(images), -1) @ w

    models = [ja.Model(linear, w) for w in weights]
    logits = np.stack([np.asarray(model(IMAGES), np.float64) for model in models])
    softmax = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    mean = lambda values: np.einsum("m,mnk->nk", shares, values)  # noqa: E731
    for of, expected in (
        ("logits", mean(logits)),
        ("probabilities", np.log(mean(softmax))),
        ("log-probabilities", mean(np.log(softmax))),
    ):
        model = ja.ensemble(models, weights=10 * shares, of=of)
        np.testing.assert_allclose(model(IMAGES), expected, rtol=1e-4, atol=1e-4)
        assert model.samples == 3
    # The mean of the losses: its gradient by hand is sum_m share_m W_m (softmax_m - e_label).
    attack = ja.Transfer(loss="logit", steps=1)
    goal = ja.Untargeted(jnp.int32(1))
    answers, pull_back = jax.vjp(model, jnp.asarray(IMAGES))
    (slope,) = pull_back(jax.vmap(jax.grad(lambda z: attack.objective(goal, z)))(answers))
    wanted = np.einsum("m,mdk,mnk->nd", shares, weights, softmax - np.eye(4)[1])
    np.testing.assert_allclose(np.reshape(slope, (9, 36)), wanted, rtol=1e-3, atol=1e-4)
    counted = run(ja.MIFGSM(steps=2), ja.ensemble(models))
    assert (counted.backward == 6).all() and (counted.forward == 12).all()


@pytest.mark.slow
def test_ila_climbs_along_the_change_of_the_features():
    # Linear features: f(x) = F x, so the gradient is F^T F (start - image), at every step.
    layer, top = RNG.normal(size=(36, 5)).astype(np.float32), RNG.normal(size=(5, 3)).astype("f4")
    model = ja.from_features(
        lambda p, x: x.reshape(len(x), -1) @ p[0], lambda p, f: f @ p[1], (layer, top)
    )
    labels = np.asarray((IMAGES.reshape(9, 36) @ layer @ top).argmax(1))
    np.testing.assert_array_equal(model(IMAGES).argmax(1), labels)
    start = np.clip(IMAGES + RNG.uniform(-0.05, 0.05, IMAGES.shape), 0, 1).astype(np.float32)
    result = ja.run(
        ja.ILA(classes=3, steps=20),
        model,
        IMAGES,
        ja.Untargeted(labels),
        EPSILON,
        start=start,
        key=KEY,
        lanes=4,
        devices=jax.devices()[:1],
    )
    along = (start - IMAGES).reshape(9, 36) @ layer @ layer.T
    clear = np.abs(along) > 1e-4
    change = (result.images - IMAGES).reshape(9, 36)
    np.testing.assert_allclose(change[clear], EPSILON * np.sign(along[clear]), atol=1e-5)
    np.testing.assert_array_equal(
        result.success, (result.images.reshape(9, 36) @ layer @ top).argmax(1) != labels
    )
    with pytest.raises(ValueError, match="start"):
        run(ja.ILA())


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel": 4},
        {"kernel": -1},
        {"scales": 0},
        {"neighbours": -1},
        {"mixed": 2},
        {"kernel_form": "box"},
        {"resize": 1.0},
        {"diversity": 1.5},
        {"nesterov": True},
    ],
)
def test_settings_that_cannot_be_meant(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ja.Transfer(**arguments)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (([],), "models"),
        (([MODEL], [-1]), "weights"),
        (([MODEL], None, "votes"), "of="),
        (([MODEL, ja.Model(quadratic, MODEL.params, (-1, 1))],), "bounds"),
    ],
)
def test_ensembles_that_cannot_be_meant(arguments, named):
    with pytest.raises(ValueError, match=named):
        ja.ensemble(*arguments)


@pytest.mark.slow
def test_words_are_added_and_nothing_else_and_the_filter_judges():
    from jaxadv.studies.spam import AddWords, add_words
    from jaxadv.studies.spam_corpus import corpus

    messages = corpus(40, seed=3, words=30).messages
    weight = RNG.normal(size=30)

    def stopped(messages):  # the filter: on the host, labels only
        return (messages.reshape(len(messages), -1) @ weight < 0).astype(int)

    asked = ja.from_function(stopped, differentiable=False, classes=2)
    spam = messages[stopped(messages) == 1][:12]
    surrogate = ja.Model(
        lambda w, x: jnp.stack([x.reshape(len(x), -1) @ w, jnp.zeros(len(x))], 1),
        np.float32(weight),
    )
    attack = add_words(3)
    assert isinstance(attack, AddWords)
    result = ja.run(
        attack,
        surrogate,
        spam,
        ja.Untargeted(np.ones(12, np.int32)),
        3.0,
        key=KEY,
        lanes=12,
        devices=jax.devices()[:1],
        judge=asked,
    )
    assert np.isin(result.images, (0.0, 1.0)).all()
    assert (result.images >= spam).all()
    assert (result.distance == 3).all()
    # On a linear model the best three words are the three largest weights that are missing.
    best = np.sort(np.where(spam.reshape(12, -1) > 0, -np.inf, weight), 1)[:, -3:].sum(1)
    gained = (result.images - spam).reshape(12, -1) @ weight
    np.testing.assert_allclose(gained, best, rtol=1e-6)
    np.testing.assert_array_equal(result.success, stopped(result.images) == 0)
    assert result.success.any()
