"""The CPU rewrite changes no value and no derivative, of any order, of any kind of model.

The truth is jax's own, not rewritten; the slow forms are searched for in the rewritten jaxpr here,
not by the rewrite's own functions. Runs on every jax version that is supported.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from flax import linen, nnx
from jax import lax

from jaxadv.cpu import convolution
from jaxadv.cpu.hoist import hoisted
from jaxadv.cpu.rewrite import rewrite_for_cpu
from tests.common import slow

IMAGES = (2, 8, 8, 2)


def arrays(shape, seed=0, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def compiled(function):
    """A quick compilation."""
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function, compiler_options=options)


def subjaxprs(value):
    if hasattr(value, "eqns"):
        yield value
    elif hasattr(value, "jaxpr"):
        yield value.jaxpr
    elif isinstance(value, tuple | list):
        for item in value:
            yield from subjaxprs(item)


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in subjaxprs(value):
                yield from equations(inner)


def count(function, *args):
    """(all convolutions, ungrouped ones not NHWC x HWIO -> NHWC, pooling scatters) in the jaxpr."""
    convolutions = slow = scatters = 0
    for eqn in equations(jax.make_jaxpr(function)(*args).jaxpr):
        scatters += eqn.primitive.name == "select_and_scatter_add"
        if eqn.primitive.name != "conv_general_dilated":
            continue
        convolutions += 1
        image, kernel, out = eqn.params["dimension_numbers"]
        grouped = eqn.params["feature_group_count"] > 1 or eqn.params["batch_group_count"] > 1
        canonical = image == (0, 3, 1, 2) and kernel == (3, 2, 0, 1) and out == (0, 3, 1, 2)
        slow += not grouped and not canonical
    return convolutions, slow, scatters


def linen_model(build, shape=IMAGES):
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return build(x)

    net = Net()
    weights = jax.jit(net.init)(jax.random.key(0), jnp.zeros(shape))
    return lambda x: net.apply(weights, x)


def head(x):
    return linen.Dense(3)(jnp.tanh(x).reshape(len(x), -1))


def strided():
    return linen_model(
        lambda x: head(linen.Conv(4, (3, 3), 2, "VALID")(linen.tanh(linen.Conv(3, (4, 4), 2)(x))))
    )


def dilated():
    def build(x):
        x = linen.Conv(3, (3, 3), padding="VALID", kernel_dilation=2)(x)
        x = linen.ConvTranspose(2, (2, 2), strides=(2, 2))(linen.tanh(x))
        return head(linen.Conv(3, (3, 3), padding=((1, 2), (0, 1)), input_dilation=(2, 1))(x))

    return linen_model(build)


def max_pool(window, strides, padding="VALID"):
    def build(x):
        x = linen.tanh(linen.Conv(3, (3, 3))(x))
        return head(linen.max_pool(x, (window, window), (strides, strides), padding))

    return lambda: linen_model(build)


def remainder():
    def build(x):  # 7 x 7 by 2 x 2
        return head(linen.max_pool(linen.Conv(3, (2, 2), padding="VALID")(x), (2, 2), (2, 2)))

    return linen_model(build)


def average_pool():
    return linen_model(
        lambda x: head(linen.avg_pool(linen.tanh(linen.Conv(3, (3, 3))(x)), (2, 2), (2, 2)))
    )


def grouped():
    def build(x):
        x = linen.tanh(linen.Conv(4, (3, 3), feature_group_count=2)(x))  # two groups
        return head(linen.Conv(8, (3, 3), 2, feature_group_count=4)(x))  # depthwise

    return linen_model(build)


def batch_norm():
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.Conv(3, (3, 3), 2)(x)
            return head(linen.BatchNorm(use_running_average=False)(x))

    net = Net()
    weights = jax.jit(net.init)(jax.random.key(0), jnp.zeros(IMAGES))
    return lambda x: net.apply(weights, x, mutable=["batch_stats"])[0]


def nnx_net():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv1 = nnx.Conv(2, 3, (3, 3), strides=2, rngs=rngs)
            self.conv2 = nnx.Conv(3, 4, (2, 2), padding="VALID", rngs=rngs)
            self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
            self.out = nnx.Linear(36, 3, rngs=rngs)

        def __call__(self, x):
            x = nnx.max_pool(jnp.tanh(self.conv2(self.conv1(x))), (1, 1), (1, 1))
            return self.out(jnp.tanh(self.norm(x)).reshape(len(x), -1))

    graph, state = nnx.split(Net(nnx.Rngs(0)))
    return lambda x: nnx.merge(graph, state)(x)


def convolve(x, kernel, stride=1, numbers=("NHWC", "HWIO", "NHWC")):
    return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=numbers)


def channels_first():
    first, second = arrays((3, 2, 3, 3), 1), arrays((4, 3, 3, 3), 2)

    def net(x):
        x = x.transpose(0, 3, 1, 2)
        x = jnp.tanh(convolve(x, first, 2, ("NCHW", "OIHW", "NCHW")))
        x = convolve(x, second, 1, ("NCHW", "OIHW", "NCHW"))
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        return jnp.tanh(x).reshape(len(x), -1)[:, :3]

    return net


def mixed_layouts():
    kernel = arrays((2, 3, 3, 3), 1)

    def net(x):
        x = convolve(x, kernel, 2, ("NHWC", "IOHW", "HWNC"))
        return jnp.tanh(x).transpose(2, 3, 0, 1).reshape(len(IMAGES) - 2, -1)[:, :3]

    return net


def rematerialised():
    kernels = arrays((2, 3, 3, 2, 2), 1)

    def net(x):
        for kernel in kernels:
            x = jax.checkpoint(lambda k, x: jnp.tanh(convolve(x, k)))(kernel, x)
        return linen.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)[:, :3]

    return net


def scanned():
    kernels = arrays((3, 3, 3, 2, 2), 1) / 3

    def net(x):
        x, sums = lax.scan(lambda x, k: (jnp.tanh(convolve(x, k)), x.mean()), x, kernels)
        return x.reshape(len(x), -1)[:, :3] * sums.sum()

    return net


def branches():
    kernel = arrays((3, 3, 2, 2), 1) / 3

    def net(x):
        x = lax.cond(x.sum() > 1e9, lambda x: x, lambda x: jnp.tanh(convolve(x, kernel)), x)
        # The ternary selects a pooled branch; a fori_loop of a fixed length is differentiable.
        x = lax.fori_loop(0, 2, lambda _, x: jnp.tanh(convolve(x, kernel)), x)
        x = lax.switch(
            (x[0, 0, 0, 0] > -9).astype(int),
            [
                lambda x: x[:, ::2, ::2],
                lambda x: linen.max_pool(convolve(x, kernel), (2, 2), (2, 2)),
            ],
            x,
        )
        return x.reshape(len(x), -1)[:, :3]

    return net


def inner_while():
    # A while_loop has no reverse derivative: it stands behind a stop_gradient.
    kernel = arrays((3, 3, 2, 2), 1) / 3

    def net(x):
        nchw = ("NCHW", "HWIO", "NCHW")
        fixed = lax.stop_gradient(x).transpose(0, 3, 1, 2)
        _, fixed = lax.while_loop(
            lambda s: s[0] < 3,
            lambda s: (s[0] + 1, jnp.tanh(convolve(s[1], kernel, 1, nchw))),
            (0, fixed),
        )
        x = jnp.tanh(convolve(x, kernel)) * fixed.transpose(0, 2, 3, 1)
        return x.reshape(len(x), -1)[:, :3]

    return net


def own_vjp():
    kernel = arrays((3, 3, 2, 2), 1)

    @jax.custom_vjp
    def layer(x):
        return jnp.tanh(convolve(x, kernel))

    # Not the true gradient: straight through, and doubled.
    layer.defvjp(lambda x: (layer(x), None), lambda _, g: (2 * convolve(g, kernel, 1),))
    return lambda x: layer(convolve(x, kernel, 2)).reshape(len(x), -1)[:, :3]


def own_jvp():
    kernel = arrays((3, 3, 2, 2), 1)

    @jax.custom_jvp
    def layer(x):
        return convolve(x, kernel)

    @layer.defjvp
    def _(primals, tangents):
        return layer(*primals), 3 * convolve(tangents[0], kernel)

    return lambda x: jnp.tanh(0.1 * layer(jax.nn.relu(layer(x)))).reshape(len(x), -1)[:, :3]


def jitted():
    kernel = arrays((3, 3, 2, 2), 1)

    @jax.jit
    def layer(x):
        return jnp.tanh(convolve(x, kernel))

    return lambda x: layer(layer(x)).reshape(len(x), -1)[:, :3]


MODELS = {
    "strided": strided,
    "dilated": dilated,
    "pool_2_by_2": max_pool(2, 2),
    "pool_3_by_2": max_pool(3, 2),
    "pool_3_by_2_same": max_pool(3, 2, "SAME"),
    "pool_3_by_3_same": max_pool(3, 3, "SAME"),
    "pool_remainder": remainder,
    "average_pool": average_pool,
    "grouped": grouped,
    "batch_norm": batch_norm,
    "nnx": nnx_net,
    "channels_first": channels_first,
    "mixed_layouts": mixed_layouts,
    "checkpoint": rematerialised,
    "scan": scanned,
    "branches": branches,
    "while": inner_while,
    "custom_vjp": own_vjp,
    "custom_jvp": own_jvp,
    "jit": jitted,
}
FAST = {"custom_vjp", "mixed_layouts"}  # the others take more than six seconds each


@functools.cache
def model(name):
    return MODELS[name]()


LEFT_ALONE = {"pool_3_by_2", "pool_3_by_2_same", "pool_3_by_3_same"}  # windows that do not tile


def loss(net):
    return lambda x: jnp.sum(net(x) * jnp.array([1.0, -2.0, 0.5])) + jnp.sum(net(x) ** 2)


def derivatives(net):
    """Name -> function of (images, direction)."""
    gradient = jax.grad(loss(net))
    return {
        "value": lambda x, v: net(x),
        "grad": lambda x, v: gradient(x),
        "jvp": lambda x, v: jax.jvp(net, (x,), (v,)),
        "forward_over_reverse": lambda x, v: jax.jvp(gradient, (x,), (v,)),
        "reverse_over_reverse": lambda x, v: jax.grad(lambda y: jnp.vdot(gradient(y), v))(x),
        "vmap_grad": lambda x, v: jax.vmap(gradient)(jnp.stack([x, v])),
        "jacrev": lambda x, v: jax.jacrev(lambda y: net(y)[:1])(x),
        "scan_grad": lambda x, v: lax.scan(lambda c, _: (c + 0.1 * gradient(c), ()), x, length=2),
    }


@pytest.mark.parametrize("name", [name if name in FAST else slow(name) for name in MODELS])
def test_values_and_derivatives_are_the_same(name):
    net = model(name)
    x, v = arrays(IMAGES, 3), arrays(IMAGES, 4)
    functions = derivatives(net)
    if name == "custom_vjp":  # has no forward mode
        functions = {k: f for k, f in functions.items() if "jvp" not in k and "forward" not in k}
    truth = compiled(lambda x, v: {k: f(x, v) for k, f in functions.items()})(x, v)
    ours = compiled(lambda x, v: {k: rewrite_for_cpu(f)(x, v) for k, f in functions.items()})(x, v)
    for key in functions:
        for a, b in zip(jax.tree.leaves(ours[key]), jax.tree.leaves(truth[key]), strict=True):
            assert a.shape == b.shape
            assert a.dtype == b.dtype
            scale = float(jnp.abs(b).max())
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(scale, 1), err_msg=key)
    for key, function in functions.items():
        before, after = count(function, x, v), count(rewrite_for_cpu(function), x, v)
        assert after[0] <= before[0], key  # some of few channels become matrix products
        assert after[1] == 0, key  # none is slow
        assert after[2] == (before[2] if name in LEFT_ALONE else 0), key


# (kernel's side and width, input and output channels, padding): one for each form, and their edges.
CONVOLUTIONS = {
    "few outputs": ((3, 3, 8, 1), ((2, 2), (2, 2))),
    "few outputs, uneven": ((4, 2, 5, 3), ((0, 3), (2, 1))),
    "few channels": ((3, 3, 1, 6), ((1, 1), (1, 1))),
    "few channels, uneven": ((5, 4, 12, 9), ((3, 0), (0, 2))),
    "few channels, nothing padded": ((3, 5, 16, 16), ((0, 0), (0, 0))),
    "three channels": ((5, 5, 3, 32), ((2, 2), (2, 2))),
    "nothing padded": ((3, 2, 32, 8), ((0, 0), (0, 0))),
    "cut off": ((3, 3, 16, 32), ((-1, -2), (-1, 0))),
    "as it is": ((3, 3, 32, 16), ((1, 1), (1, 1))),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_every_form_of_a_convolution_gives_the_same_sums(name):
    # The truth is SciPy's, in float64.
    shape, padding = CONVOLUTIONS[name]
    image, kernel = arrays((2, 13, 15, shape[2]), 1), arrays(shape, 2)
    cut = [
        slice(max(-low, 0), size - max(-high, 0))
        for size, (low, high) in zip(image.shape[1:3], padding, strict=True)
    ]
    edges = [(0, 0), *[(max(low, 0), max(high, 0)) for low, high in padding], (0, 0)]
    padded = np.pad(np.asarray(image, np.float64)[:, cut[0], cut[1]], edges)
    truth = np.stack(
        [
            np.concatenate(
                [
                    scipy.signal.correlate(
                        one, np.asarray(kernel[..., d], np.float64), "valid", "direct"
                    )
                    for d in range(shape[3])
                ],
                -1,
            )
            for one in padded
        ]
    )
    for gradients in (False, True):
        ours = jax.jit(convolution.convolve, static_argnums=(2, 3))(
            image, kernel, padding, gradients
        )
        assert ours.shape == truth.shape
        np.testing.assert_allclose(ours, truth, atol=1e-5 * np.abs(truth).max())


def test_forms_of_convolutions_are_really_other_forms():
    def forms(name, gradients):
        shape, padding = CONVOLUTIONS[name]
        made = jax.make_jaxpr(lambda x, k: convolution.convolve(x, k, padding, gradients))(
            arrays((2, 13, 15, shape[2])), arrays(shape)
        )
        eqns = [e for e in equations(made.jaxpr) if e.primitive.name == "conv_general_dilated"]
        return [(e.invars[1].aval.shape[2:], e.params["padding"]) for e in eqns]

    assert forms("few outputs", True) == []
    assert forms("few channels", False) == [((4, 24), ((1, 1), (0, 0)))]
    assert forms("few channels, nothing padded", False) == [((32, 32), ((0, 0), (1, 0)))]
    assert forms("nothing padded", True) == [((32, 8), ((0, 0), (1, 0)))]
    assert forms("nothing padded", False) == [((32, 8), ((0, 0), (0, 0)))]
    assert forms("as it is", True) == [((32, 16), ((1, 1), (1, 1)))]


def test_the_models_need_the_rewrite():
    # Else the test above would show nothing: the gradients as they are do hold the slow forms.
    x = arrays(IMAGES)
    for name in ("strided", "dilated", "nnx", "channels_first", "scan", "checkpoint", "jit"):
        assert count(jax.grad(loss(model(name))), x)[1] > 0
    for name in ("pool_2_by_2", "pool_remainder", "channels_first", *LEFT_ALONE):
        assert count(jax.grad(loss(model(name))), x)[2] > 0


@pytest.mark.slow
def test_grouped_convolutions_are_left_as_they_are():
    x = arrays(IMAGES)
    gradient = jax.grad(loss(grouped()))
    assert str(jax.make_jaxpr(rewrite_for_cpu(gradient))(x)) == str(jax.make_jaxpr(gradient)(x))


@pytest.mark.parametrize("shape", [(1, 4, 4, 1), (2, 7, 7, 3), (1, 5, 8, 2)])
def test_a_tie_gives_the_gradient_to_the_first_maximum(shape):
    # The truth in numpy: row by row, the first maximal entry of each window takes it all.
    rng = np.random.default_rng(0)
    image = rng.integers(0, 2, shape).astype(np.float32)  # full of ties
    image[..., :2, :] = 1
    weights = rng.normal(size=(shape[0], shape[1] // 2, shape[2] // 2, shape[3]))
    weights = weights.astype(np.float32)
    truth = np.zeros(shape, np.float32)
    for n, i, j, c in np.ndindex(weights.shape):
        window = image[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        a, b = np.unravel_index(window.argmax(), (2, 2))
        truth[n, 2 * i + a, 2 * j + b, c] = weights[n, i, j, c]
    gradient = jax.grad(lambda x: (linen.max_pool(x, (2, 2), (2, 2)) * weights).sum())
    np.testing.assert_array_equal(jax.jit(rewrite_for_cpu(gradient))(image), truth)
    np.testing.assert_array_equal(jax.jit(gradient)(image), truth)
    assert count(rewrite_for_cpu(gradient), image)[2] == 0


@pytest.mark.parametrize("name", ["strided", "pool_2_by_2", "channels_first"])
def test_bfloat16_precision(name):
    gradient = jax.grad(loss(model(name)))

    def half(x):
        with jax.default_matmul_precision("bfloat16"):
            return gradient(x)

    x = arrays(IMAGES)
    ours, truth = jax.jit(rewrite_for_cpu(half))(x), jax.jit(half)(x)
    assert ours.dtype == truth.dtype
    ours, truth = np.asarray(ours, np.float32), np.asarray(truth, np.float32)
    assert np.linalg.norm(ours - truth) <= 0.02 * np.linalg.norm(truth)


def test_bfloat16_convolutions_and_pooling():
    kernel = arrays((3, 3, 2, 2), 1, jnp.bfloat16)

    def gradient(x):
        def f(x):
            x = linen.max_pool(jnp.tanh(convolve(x, kernel, 1)), (2, 2), (2, 2))
            return convolve(x, kernel, 2).astype(jnp.float32).sum()

        return jax.grad(f)(x)

    x = arrays(IMAGES, 0, jnp.bfloat16)
    assert count(gradient, x)[1:] == (2, 1)
    assert count(rewrite_for_cpu(gradient), x)[1:] == (0, 0)
    ours, truth = jax.jit(rewrite_for_cpu(gradient))(x), jax.jit(gradient)(x)
    assert ours.dtype == truth.dtype == jnp.bfloat16
    ours, truth = np.asarray(ours, np.float32), np.asarray(truth, np.float32)
    assert np.linalg.norm(ours - truth) <= 0.02 * np.linalg.norm(truth)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 3])
def test_convolutions_of_other_ranks(rank):
    net = linen_model(lambda x: head(linen.Conv(3, (3,) * rank, 2)(x)), (2, *(6,) * rank, 2))
    x = arrays((2, *(6,) * rank, 2))
    gradient = jax.grad(loss(net))
    np.testing.assert_allclose(rewrite_for_cpu(gradient)(x), gradient(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_weight_gradient_and_training_step():
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return head(linen.max_pool(linen.Conv(4, (3, 3), 1)(x), (2, 2), (2, 2)))

    net, x = Net(), arrays(IMAGES)
    weights = net.init(jax.random.key(0), x)
    step = jax.grad(lambda w, x: (net.apply(w, x) ** 2).sum(), argnums=(0, 1))
    ours, truth = rewrite_for_cpu(step)(weights, x), step(weights, x)
    assert jax.tree.structure(ours) == jax.tree.structure(truth)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(truth), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert count(rewrite_for_cpu(step), weights, x)[1:] == (0, 0)


@pytest.mark.slow
def test_the_rewritten_function_can_itself_be_transformed():
    net = pool = max_pool(2, 2)()
    x, v = arrays(IMAGES, 3), arrays(IMAGES, 4)
    value, gradient = rewrite_for_cpu(loss(net)), rewrite_for_cpu(jax.grad(loss(pool)))
    truth = jax.grad(loss(net))
    np.testing.assert_allclose(jax.grad(value)(x), truth(x), rtol=1e-4, atol=1e-5)
    both = jnp.stack([x, v])
    np.testing.assert_allclose(
        jax.vmap(gradient)(both), jax.vmap(truth)(both), rtol=1e-4, atol=1e-5
    )
    ours = jax.jvp(gradient, (x,), (v,))[1]
    np.testing.assert_allclose(ours, jax.jvp(truth, (x,), (v,))[1], rtol=1e-3, atol=1e-4)


def test_structures_and_dead_arguments():
    def f(tree, unused, number):
        return {"a": convolve(tree["x"], tree["k"], 1, ("NCHW", "OIHW", "NCHW")), "b": number + 1}

    tree = {"x": arrays((1, 2, 5, 5)), "k": arrays((2, 2, 3, 3))}
    ours, truth = rewrite_for_cpu(f)(tree, None, 2), f(tree, None, 2)
    assert ours.keys() == truth.keys()
    assert int(ours["b"]) == 3
    np.testing.assert_allclose(ours["a"], truth["a"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("window", "left"), [slow(8, 0), (16, 1)])
def test_pooling_over_large_windows_is_left_alone(window, left):
    x = arrays((1, 16, 16, 2))
    gradient = jax.grad(lambda x: linen.max_pool(x, (window,) * 2, (window,) * 2).sum())
    assert count(rewrite_for_cpu(gradient), x)[2] == left
    np.testing.assert_array_equal(rewrite_for_cpu(gradient)(x), gradient(x))


SHAPES = [  # size, kernel, strides, padding, channels in and out
    ((7, 9), (3, 3), (2, 2), "SAME", (1, 3)),
    ((8, 8), (4, 4), (2, 2), ((1, 1), (1, 1)), (2, 5)),
    ((9, 8), (5, 2), (3, 2), "VALID", (3, 2)),
    ((8, 7), (1, 1), (2, 3), "VALID", (4, 2)),
    ((6, 11), (2, 3), (4, 1), ((0, 3), (2, 0)), (20, 1)),
    ((10, 10), (7, 7), (2, 2), ((3, 3), (4, 2)), (3, 4)),
    ((8, 8), (3, 3), (2, 2), ((-1, 2), (0, -2)), (2, 2)),
]


@pytest.mark.parametrize(("size", "window", "strides", "padding", "channels"), SHAPES)
def test_strides_are_gone_and_change_nothing(size, window, strides, padding, channels):
    kernel, x = arrays((*window, *channels), 1), arrays((2, *size, channels[0]), 2)

    def forward(x):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers)

    v = arrays(jax.eval_shape(forward, x).shape, 3)
    backward = lambda v: jax.linear_transpose(forward, x)(v)[0]  # noqa: E731
    for function, given in ((forward, x), (backward, v)):
        truth, found = compiled(function)(given), compiled(rewrite_for_cpu(function))(given)
        np.testing.assert_allclose(found, truth, rtol=1e-5, atol=1e-4)
        inner = [
            e.params
            for e in equations(jax.make_jaxpr(rewrite_for_cpu(function))(given).jaxpr)
            if e.primitive.name == "conv_general_dilated"
        ]
        few = np.prod(window) * channels[0] <= 64 and all(np.less_equal(strides, window))
        assert len(inner) <= 1  # or a matrix product
        for params in inner:
            assert params["lhs_dilation"] == (1, 1)
            assert (function is forward and not few) or params["window_strides"] == (1, 1)


@pytest.mark.parametrize("shape", [(3, 28, 28, 1), (2, 100), (784,), (4, 2, 16, 8)])
def test_reductions_are_those_of_numpy(shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    last = tuple(range(min(1, len(shape) - 1), len(shape)))
    negative = np.copysign(np.float32(np.nan), np.float32(-1))  # what processors make of 0 / 0
    rows = [values, -np.abs(values), np.zeros_like(values)]
    for odd in (np.inf, -np.inf, np.nan, negative):
        rows.append(values.copy())
        rows[-1][..., 0] = odd
    for given in rows:
        for ours, truth in ((jnp.sum, np.sum), (jnp.max, np.max), (jnp.min, np.min)):
            function = functools.partial(ours, axis=last)
            found = rewrite_for_cpu(function)(given)
            with np.errstate(invalid="ignore"):
                np.testing.assert_allclose(found, truth(given, axis=last), rtol=1e-5, atol=1e-4)
            assert str(jax.make_jaxpr(rewrite_for_cpu(function))(given)) != str(
                jax.make_jaxpr(function)(given)
            ) or (ours is jnp.sum and np.prod([shape[axis] for axis in last]) % 128 == 0)


@pytest.mark.parametrize("reduction", [jnp.sum, jnp.max, jnp.min])
def test_what_is_rewritten_still_has_its_derivatives(reduction):
    values = arrays((3, 100)).at[0, :2].set(9.0)  # with a tie
    kernel = arrays((3, 3, 1, 4), 1)

    def function(x):
        x = convolve(jnp.square(x).reshape(3, 10, 10, 1), kernel, 2)
        return reduction(x.reshape(3, -1), axis=1).sum()

    for derivative in (jax.grad, jax.hessian):
        ours, truth = derivative(rewrite_for_cpu(function))(values), derivative(function)(values)
        np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=1e-4)


def test_what_only_rearranges_weights_is_done_before_the_loop():
    """A kernel in PyTorch's order is transposed once, and the loop's values are the same."""
    kernel, image = arrays((3, 3, 5, 4)), arrays((2, 9, 9, 3), 1)  # out, in, height, width

    def convolve(kernel: jax.Array, image: jax.Array) -> jax.Array:
        numbers = ("NHWC", "OIHW", "NHWC")
        return jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=numbers
        )

    def loop(kernel: jax.Array, image: jax.Array, before: bool) -> jax.Array:
        step = rewrite_for_cpu(lambda image: jnp.tanh(convolve(kernel, image)))
        step = hoisted(step, image) if before else step
        return jax.lax.fori_loop(0, 3, lambda _, image: step(image), image)

    def transposes(before: bool) -> tuple[int, int]:
        outer = jax.make_jaxpr(lambda kernel, image: loop(kernel, image, before))(kernel, image)
        inner = [str(eqn) for eqn in outer.eqns if eqn.primitive.name in ("scan", "while")]
        count = "".join(inner).count("= transpose[")
        return str(outer).count("= transpose[") - count, count

    assert transposes(before=False)[1] > transposes(before=True)[1] == 0
    assert transposes(before=True)[0] > 0
    expected = image
    for _ in range(3):
        expected = jnp.tanh(convolve(kernel, expected))
    for before in (False, True):
        found = jax.jit(loop, static_argnums=2)(kernel, image, before)
        np.testing.assert_allclose(found, expected, atol=1e-5)
