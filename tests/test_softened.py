"""Softened derivatives against smooth functions in closed form, and what they break."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxadv as ja
from jaxadv.cpu.rewrite import rewrite_for_cpu

POINTS = jnp.linspace(-1, 1, 8)
WIDTH = 0.3
IMAGES = np.random.default_rng(0).random((3, 8, 8, 3), np.float32)


def s(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64) / WIDTH))


def softened(function, width=WIDTH):
    model = ja.softened(ja.Model(lambda _, x: function(x), ()), width)
    return lambda x: model.apply(model.params, x)


def total(outputs):
    return sum(leaf.sum() for leaf in jax.tree.leaves(outputs))


RAMPS = {  # function, derivative by the definition in the docstring
    "max": (lambda x: jnp.maximum(x, 0), s),
    "jax.nn.relu": (jax.nn.relu, s),
    "where": (lambda x: jnp.where(x > 0, x, 0), s),
    "where, at most": (lambda x: jnp.where(x <= 0, 0, x), s),
    "product": (lambda x: x * (x > 0), s),
    "leaky": (lambda x: jax.nn.leaky_relu(x, 0.2), lambda x: 0.2 + 0.8 * s(x)),
    "min": (lambda x: jnp.minimum(x, 0.5), lambda x: s(0.5 - x)),
    "two": (lambda x: jnp.maximum(x, 1 - x), lambda x: 2 * s(2 * x - 1) - 1),
    "clamp": (lambda x: jax.lax.clamp(-0.5, x, 0.5), lambda x: s(x + 0.5) * s(0.5 - x)),
    "checkpoint": (jax.checkpoint(jax.nn.relu), s),
    "branch": (lambda x: jax.lax.cond(x[0] < 0, jax.nn.relu, jnp.sin, x), s),
    "loop": (lambda x: jax.lax.scan(lambda c, y: (c, jax.nn.relu(y)), 0, x)[1], s),
    "infinite": (lambda x: jnp.maximum(x, -jnp.inf), np.ones_like),
}
UNCHANGED = {
    "ELU": jax.nn.elu,
    "GELU": jax.nn.gelu,
    "softplus": jax.nn.softplus,
    "root": lambda x: jnp.sqrt(jnp.maximum(x, 1e-6)),
    "logarithm": lambda x: jnp.log(jnp.clip(x, 0.1, 2.0)),
    "layer norm": lambda x: nn.LayerNorm().apply(
        {"params": {"scale": jnp.ones(8), "bias": jnp.ones(8)}}, x
    ),
    "straight through": lambda x: x + jax.lax.stop_gradient(jax.nn.relu(x) - x),
}


@pytest.mark.parametrize("name", RAMPS)
def test_derivatives_are_the_smooth_ones(name):
    function, slope = RAMPS[name]
    np.testing.assert_array_equal(softened(function)(POINTS), function(POINTS))
    gradient = jax.jit(jax.grad(lambda x: total(softened(function)(x))))(POINTS)
    np.testing.assert_allclose(gradient, slope(np.asarray(POINTS)), atol=1e-6)


@pytest.mark.parametrize("name", UNCHANGED)
def test_smooth_functions_and_guards_keep_their_derivative(name):
    function = UNCHANGED[name]
    gradients = [jax.grad(lambda x, f=f: (f(x) ** 2).sum()) for f in (function, softened(function))]
    np.testing.assert_allclose(gradients[1](POINTS), gradients[0](POINTS), rtol=1e-6)


def windows(image, size, strides, padding):
    """The entries of all windows in the last axis, -inf outside: written without jaxadv."""
    padded = jnp.pad(image, ((0, 0), *padding, (0, 0)), constant_values=-jnp.inf)
    counts = [(n - k) // d + 1 for n, k, d in zip(padded.shape[1:3], size, strides, strict=True)]
    rows, columns = (np.arange(c) * d for c, d in zip(counts, strides, strict=True))
    return jnp.stack(
        [padded[:, rows + i][:, :, columns + j] for i in range(size[0]) for j in range(size[1])], -1
    )


@pytest.mark.parametrize(
    ("size", "strides", "padding"),
    [
        ((2, 2), (2, 2), ((0, 0), (0, 0))),
        ((3, 3), (2, 1), ((1, 1), (1, 0))),
        ((2, 3), (1, 2), ((0, 1), (2, 2))),
    ],
)
def test_pooling_has_the_derivative_of_a_smooth_maximum(size, strides, padding):
    def pool(x):
        return nn.max_pool(x, size, strides, padding)

    def smooth(x):
        return WIDTH * jax.nn.logsumexp(windows(x, size, strides, padding) / WIDTH, -1)

    weights = np.random.default_rng(1).normal(size=pool(IMAGES).shape)
    soft = softened(pool)
    np.testing.assert_array_equal(soft(IMAGES), pool(IMAGES))
    expected = jax.grad(lambda x: (weights * smooth(x)).sum())(IMAGES)
    for wrap in (lambda f: f, rewrite_for_cpu):
        found = jax.jit(wrap(jax.grad(lambda x: (weights * soft(x)).sum())))(IMAGES)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_maxima_along_axes_have_the_derivative_of_a_softmax():
    found = jax.grad(lambda x: softened(lambda x: x.max((1, 2)))(x).sum())(jnp.asarray(IMAGES))
    expected = jax.nn.softmax(IMAGES / WIDTH, (1, 2))
    np.testing.assert_allclose(found, expected, atol=1e-6)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.max_pool(nn.relu(nn.Conv(4, (3, 3))(x)), (2, 2), (2, 2))
        return nn.Dense(4)(x.reshape(len(x), -1))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.norm, self.one, self.two = (
            nnx.BatchNorm(3, rngs=rngs),
            nnx.Linear(192, 8, rngs=rngs),
            nnx.Linear(8, 4, rngs=rngs),
        )

    def __call__(self, x):
        return self.two(nnx.relu(self.one(self.norm(x).reshape(len(x), -1))))


def from_linen():
    return ja.from_linen(Linen(), Linen().init(jax.random.key(0), IMAGES))


def from_torch():
    torch = pytest.importorskip("torch", reason="torch is an extra: pip install 'jaxadv[torch]'")
    layers = torch.nn
    module = layers.Sequential(
        layers.Conv2d(3, 4, 3),
        layers.ReLU(),
        layers.MaxPool2d(3, 2, 1),
        layers.Flatten(),
        layers.Linear(36, 4),
    )
    return ja.from_torch(module.eval(), (8, 8, 3))


def from_onnx():
    pytest.importorskip("onnx")
    from tests.onnx_graphs import flat, floats, node

    nodes = [
        node("Conv", "x", "w", outputs=["z"]),
        node("LeakyRelu", "z", outputs=["r"], alpha=0.1),
        node("MaxPool", "r", kernel_shape=[2, 2]),
    ]
    return ja.from_onnx(flat(nodes, [1, 3, 8, 8], {"w": floats(4, 3, 3, 3)}))


SOURCES = {
    "linen": from_linen,
    "nnx": lambda: ja.from_nnx(Nnx(nnx.Rngs(0))),
    "torch": from_torch,
    "onnx": from_onnx,
}


@pytest.mark.parametrize("source", SOURCES)
def test_models_of_every_source_keep_their_outputs(source):
    model = SOURCES[source]()
    outputs = [jax.jit(lambda m, x: m(x))(m, IMAGES) for m in (model, ja.softened(model))]
    np.testing.assert_array_equal(*outputs)
    slope = jax.jit(jax.grad(lambda x, m: m(x)[:, 0].sum()))
    plain, sharp, soft = (
        slope(IMAGES, m) for m in (model, ja.softened(model, 1e-7), ja.softened(model))
    )
    np.testing.assert_allclose(sharp, plain, atol=1e-4)
    assert abs(soft - plain).max() > 1e-2


def test_another_width_does_not_compile_and_widths_can_be_an_axis():
    model, traces = from_linen(), []

    @jax.jit
    def slope(model, x):
        traces.append(1)
        return jax.grad(lambda x: model(x)[:, 0].sum())(x)

    one, two = (slope(ja.softened(model, width), IMAGES) for width in (0.25, 0.5))
    assert len(traces) == 1
    again = ja.softened(ja.softened(model, 3.0), 0.5)
    np.testing.assert_array_equal(slope(again, IMAGES), two)
    both = jax.vmap(lambda width: slope(ja.softened(model, width), IMAGES))(jnp.array([0.25, 0.5]))
    np.testing.assert_allclose(both, jnp.stack([one, two]), atol=1e-6)


def test_units_that_are_off_hide_an_image_that_is_found_with_a_softened_derivative():
    # Class 1 wins where x > 0.7 alone, and the gradient is 0 where x <= 0.6.
    def apply(_, x):
        x = x.reshape(len(x), -1)
        return jnp.concatenate([0 * x + 0.1, jax.nn.relu(x - 0.6)], 1)

    model, image = ja.Model(apply, ()), np.full((1, 1, 1, 1), 0.3, np.float32)
    goal, attack = ja.Untargeted(np.zeros(1, int)), ja.BIM(steps=10, step_size=0.2)
    success = [
        ja.run(attack, m, image, goal, 0.5, key=jax.random.key(0), judge=model).success[0]
        for m in (model, ja.softened(model))
    ]
    assert success == [False, True]
    for entry, left in ((attack, [1, 1]), (ja.Softened(attack), [1, 0])):
        how = {"epsilons": [0.35, 0.5], "distances": False}
        report = ja.evaluate(model, image, [0], attacks={"BIM": entry}, **how)
        np.testing.assert_array_equal(report.robust_accuracy, left)


def test_rounds_of_a_softened_entry_draw_anew_and_a_random_model_is_attacked_as_it_is():
    images, weights = IMAGES[:, :2, :2], jnp.asarray(np.random.default_rng(2).normal(size=(12, 4)))
    model = ja.Model(lambda w, x: jax.nn.relu(x.reshape(len(x), -1) @ w), weights)
    noisy = ja.Model(lambda w, x, key: model.apply(w, x), weights, random=True)
    labels = np.asarray(model(images)).argmax(1)
    entries = {str(i): ja.Softened(ja.UniformNoise(draws=2), 0.5, i % 2) for i in range(3)}
    how = {"epsilons": [1e-3], "attacks": entries, "distances": False}
    for one in (model, noisy):
        first, second, third = (
            stage.result.images for stage in ja.evaluate(one, images, labels, **how).stages
        )
        np.testing.assert_array_equal(first, third)
        assert (first != second).any()


@pytest.mark.slow
def test_images_that_a_solver_broke_are_found(shared):
    from benchmarks.quality.networks import load
    from benchmarks.quality.softened import attacks, measure

    model, _, data = load("mnist_cnn_a_adv", "hard_mip_unsafe", 20)
    keys = jax.random.split(jax.random.key(0), 3)
    plain, soft = (
        measure(attacks(10)["diverse"], model, width, data, 0.3, keys) for width in (None, 0.25)
    )
    assert (soft.first | soft.refined).sum() > (plain.first | plain.refined).sum()


@pytest.mark.parametrize(
    ("model", "width", "named"),
    [
        (ja.Model(lambda p, x, key: x, (), random=True), 0.25, "draws at random"),
        (ja.from_function(np.asarray, differentiable=False), 0.25, "host function"),
        (ja.Model(lambda p, x: x, ()), 0.0, "width=0.0: pass a number above 0"),
        (ja.Model(lambda p, x: x, ()), np.ones(2), "width="),
    ],
)
def test_what_cannot_be_softened_is_refused(model, width, named):
    with pytest.raises(ValueError, match=named):
        ja.softened(model, width)
